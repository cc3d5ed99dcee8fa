"""Reading the configuration in a process of its own, while this one imports the rest of the guard.

pydantic checks the configuration and takes 13 MB and 100 ms to do so. A guard lives with every client session, so it
forks, lets the child check, and takes over the plain result; see docs/decisions/0008.
"""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from mcp_guard.core.errors import ConfigError
from mcp_guard.settings import Settings


def load_apart(path: Path) -> Callable[[], Settings]:
    """Begin to read the configuration; the function given back waits for it.

    Raises (the function): ConfigError, as `config.load` does.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(path, os.fdopen(writing, "wb"))
    os.close(writing)

    def wait() -> Settings:
        with os.fdopen(reading, "rb") as answer:
            data = answer.read()
        os.waitpid(child, 0)
        if not data:
            raise ConfigError(f"the process that read `{path}` died", "mcp-guard policy validate shows its error")
        result: Settings | tuple[str, str] = pickle.loads(data)  # noqa: S301 - written by our own child
        if isinstance(result, tuple):
            raise ConfigError(*result)
        return result

    return wait


def _answer(path: Path, answer: BinaryIO) -> None:
    """In the child: read, answer, and end without running anything of the parent's."""
    code = 1
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # looking for them takes a tenth of the time
    try:
        from mcp_guard.config import load

        try:
            result: Settings | tuple[str, str] = load(path)
        except ConfigError as error:
            result = error.message, error.hint
        answer.write(pickle.dumps(result))
        answer.close()
        code = 0
    finally:
        os._exit(code)
