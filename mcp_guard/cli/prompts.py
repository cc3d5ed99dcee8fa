"""Questions on the terminal. Ctrl-C ends the command, and so does Ctrl-D where an answer is needed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from mcp_guard.cli.output import print_text


class PromptEnded(KeyboardInterrupt):
    """Somebody pressed Ctrl-C or Ctrl-D instead of answering."""


def confirm(question: str, file: TextIO | None = None) -> bool:
    """Whether the answer is yes; Ctrl-D says no. Raises: PromptEnded for Ctrl-C."""
    try:
        return read_line(f"{question} [y/N] ", file).lower() in ("y", "yes")
    except EOFError:
        print_text("", file=file)
        return False


def ask(question: str, default: str) -> str:
    """The answer, without spaces around it; empty for the default. Raises: PromptEnded."""
    with _answered():
        return read_line(f"{question} [{default}] ")


def ask_secret(prompt: str) -> str:
    """The secret that is typed; the terminal does not show it. Raises: PromptEnded."""
    import getpass

    with _answered():
        return getpass.getpass(prompt)


def read_line(prompt: str, file: TextIO | None = None) -> str:
    """Raises: EOFError for Ctrl-D; PromptEnded for Ctrl-C."""
    print_text(prompt, end="", file=file)
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        raise PromptEnded from None
    if not line:
        raise EOFError
    return line.strip()


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except (EOFError, KeyboardInterrupt):
        raise PromptEnded from None
