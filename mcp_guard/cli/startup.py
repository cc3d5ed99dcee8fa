"""Work done in a process of its own, while this one imports the rest of the guard.

Reading the arguments and the configuration takes pydantic and argparse: 14 MB and 100 ms. A guard lives with every
client session, so it forks, lets the child read, and takes over the plain result; see docs/decisions/0008.
"""

import os
import pickle
import sys
from collections.abc import Callable
from typing import BinaryIO, NoReturn, TypeVar

from mcp_guard.core.errors import ConfigError

Result = TypeVar("Result")
EXITS = (0, 2)
"""How argparse ends the child when it has printed the help, or what is wrong with the arguments."""


def begin_apart(work: Callable[[], Result]) -> Callable[[], Result]:
    """Begin the work; the function given back waits for its result, or ends this process as argparse ended the child.

    Raises (the function): ConfigError, as the work does.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(work, os.fdopen(writing, "wb"))
    os.close(writing)

    def wait() -> Result:
        with os.fdopen(reading, "rb") as answer:
            data = answer.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if not data and code in EXITS:
            sys.exit(code)
        if not data:
            hint = "mcp-guard policy validate shows its error"
            raise ConfigError("the process that read the configuration died", hint)
        result: Result | ConfigError = pickle.loads(data)  # noqa: S301 - written by our own child
        if isinstance(result, ConfigError):
            raise result
        return result

    return wait


def _answer(work: Callable[[], Result], answer: BinaryIO) -> NoReturn:
    """In the child: work, answer, and end without running anything of the parent's."""
    code = 1
    try:
        try:
            result: Result | ConfigError = work()
        except ConfigError as error:
            result = error
        answer.write(pickle.dumps(result))
        answer.close()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
    finally:
        os._exit(code)
