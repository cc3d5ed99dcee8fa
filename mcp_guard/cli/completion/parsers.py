"""Every command with its argparse parser, as the commands themselves make them: nothing is written twice."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mcp_guard.cli import COMMANDS, dispatch


@dataclass(frozen=True, slots=True)
class Command:
    """`words` name it, none for `mcp-guard` itself; `parser` is None if it does nothing but lead to others."""

    words: tuple[str, ...]
    about: str
    parser: argparse.ArgumentParser | None


class Made(Exception):
    """The parser that a command was about to use."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


@contextmanager
def _instead_of_parsing() -> Iterator[None]:
    """Within this, a parser that is asked to parse is raised as `Made`."""

    def hand_over(parser: argparse.ArgumentParser, *_: Any) -> argparse.Namespace:
        raise Made(parser)

    usual = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = hand_over  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_args = usual  # type: ignore[method-assign]


def parser_of(handler: dispatch.Handler) -> argparse.ArgumentParser:
    """That of its module's function `parse`, or of the handler, which then begins with parsing."""
    with _instead_of_parsing():
        try:
            getattr(sys.modules[handler.__module__], "parse", handler)([])
        except Made as made:
            return made.parser
    raise AssertionError(f"{handler.__module__} does not begin with parsing its arguments")


def subparsers(parser: argparse.ArgumentParser) -> "argparse._SubParsersAction[argparse.ArgumentParser] | None":
    return next((each for each in parser._actions if isinstance(each, argparse._SubParsersAction)), None)


def commands() -> Iterator[Command]:
    """All of them, each before those below it."""
    yield Command((), "", None)
    yield from _below((), COMMANDS)


def _below(words: tuple[str, ...], listed: dispatch.Commands) -> Iterator[Command]:
    for name, (_, about) in listed.items():
        handler, path = dispatch.load_handler(listed, name), (*words, name)
        if further := getattr(sys.modules[handler.__module__], "COMMANDS", None):
            yield Command(path, about, None)
            yield from _below(path, further)
            continue
        parser = parser_of(handler)
        verbs = subparsers(parser)
        if verbs is None:
            yield Command(path, about, parser)
            continue
        yield Command(path, about, None)
        for verb in verbs._choices_actions:
            yield Command((*path, verb.dest), verb.help or "", verbs.choices[verb.dest])
