"""Every command with its argparse parser, as the command's own module builds it."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from mcp_guard.cli import COMMANDS, dispatch


@dataclass(frozen=True, slots=True)
class CliCommand:
    """`words` name the command; they are empty for `mcp-guard` itself. `parser` is None for a group of commands."""

    words: tuple[str, ...]
    help: str
    parser: argparse.ArgumentParser | None


def list_commands() -> Iterator[CliCommand]:
    """All commands, each before its subcommands."""
    yield CliCommand((), "", None)
    yield from _list_group((), COMMANDS)


def _list_group(group: tuple[str, ...], commands: dispatch.Commands) -> Iterator[CliCommand]:
    for name, (handler, help) in commands.items():
        words = (*group, name)
        if subcommands := dispatch.load_group(handler):
            yield CliCommand(words, help, None)
            yield from _list_group(words, subcommands)
            continue
        parser = dispatch.load_parser(handler)
        verbs = next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)
        if verbs is None:
            yield CliCommand(words, help, parser)
            continue
        yield CliCommand(words, help, None)
        for verb in verbs._choices_actions:
            yield CliCommand((*words, verb.dest), verb.help or "", verbs.choices[verb.dest])
