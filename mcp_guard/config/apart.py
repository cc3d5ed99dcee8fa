"""Checks the configuration in another process. What checks it takes a fifth of a guard's memory and a third of its
start-up time, and is not needed afterwards.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mcp_guard.config.cache import Checked, as_json, from_json
from mcp_guard.core.errors import ConfigError
from mcp_guard.core.visible_text import VisibleText


def check_apart(text: str, path: Path, meanwhile: Callable[[], object]) -> Checked | None:
    """As `file.check_and_report`, in a copy of this process, which must have no threads. `meanwhile` is called here.

    Returns: None if the fork failed or the copy did not answer: check it in this process then.

    Raises: ConfigError.
    """
    reading, writing = os.pipe()
    try:
        copy = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        return None
    if copy == 0:
        os.close(reading)
        _answer(writing, text, path)
    os.close(writing)
    with open(reading, "rb") as pipe:
        meanwhile()
        answer = pipe.read()
    try:
        _, status = os.waitpid(copy, 0)
    except ChildProcessError:  # SIGCHLD was ignored at the start, so the status is lost
        status = 0
    if status or not answer.endswith(b"]"):
        return None
    problem, may_be_kept, values = json.loads(answer)
    if problem is not None:
        message, is_visible, hint = problem
        raise ConfigError(VisibleText(message) if is_visible else message, hint)
    return Checked(from_json(values), may_be_kept)


def _answer(writing: int, text: str, path: Path) -> NoReturn:
    try:
        from mcp_guard.config import file

        answer: tuple[tuple[str, bool, str] | None, bool, str | None]
        try:
            checked = file.check_and_report(text, path)
            answer = (None, checked.may_be_kept, as_json(checked.settings))
        except ConfigError as error:
            answer = ((error.message, isinstance(error.message, VisibleText), error.hint), False, None)
        with open(writing, "wb") as pipe:
            pipe.write(json.dumps(answer).encode())
    except BaseException:  # the guard then checks it itself, and reports the failure
        os._exit(1)
    os._exit(0)
