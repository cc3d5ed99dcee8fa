"""A table of commands. Only the module of the command that runs is imported."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mcp_guard.cli.output import print_lines, print_text
from mcp_guard.core.visible_text import say

if TYPE_CHECKING:
    import argparse

Commands = Mapping[str, tuple[str, str]]
"""Name of a command: its handler and its one-line help.

A handler is a module below `mcp_guard.cli`, followed by a colon and the name of the function if that is not `main`. The
function takes the arguments and returns the exit code. Its parser is what `build_parser` of the same module returns, or
`build_tail_parser` for a function called `tail`.
"""
Handler = Callable[[list[str]], int]
OK, USAGE = 0, 2
HELP = ("-h", "--help", "help")


def usage(prog: str, commands: Commands) -> str:
    rows = [f"  {name:<10} {text}" for name, (_, text) in commands.items()]
    return "\n".join([f"usage: {prog} COMMAND …   ({prog} COMMAND --help)", "", *rows])


def module_of(handler: str) -> str:
    return f"mcp_guard.cli.{handler.partition(':')[0]}"


def load_handler(commands: Commands, name: str) -> Handler:
    """Import the module of this command, and no other."""
    handler = commands[name][0]
    function: Handler = getattr(importlib.import_module(module_of(handler)), handler.partition(":")[2] or "main")
    return function


def load_parser(handler: str) -> "argparse.ArgumentParser":
    """The parser of the command with this handler, which must not be a group of commands."""
    function = handler.partition(":")[2]
    name = f"build_{function}_parser" if function else "build_parser"
    parser: argparse.ArgumentParser = getattr(importlib.import_module(module_of(handler)), name)()
    return parser


def load_group(handler: str) -> Commands | None:
    """The subcommands, if this is the handler of a group of commands."""
    commands: Commands | None = getattr(importlib.import_module(module_of(handler)), "COMMANDS", None)
    return commands


def run(prog: str, commands: Commands, words: Sequence[str]) -> int:
    """Run the command that the first word names. Returns its exit code."""
    if not words:
        print_lines(usage(prog, commands).splitlines(), file=sys.stderr)
        return USAGE
    if words[0] in HELP:
        print_lines(usage(prog, commands).splitlines())
        return OK
    if words[0] not in commands:
        unknown = f"{prog} {words[0]}".removeprefix("mcp-guard ")
        text = say("mcp-guard: no command `{}`\nhint: {}", unknown, suggest(prog, commands, words[0]))
        print_text(text, file=sys.stderr)
        return USAGE
    return load_handler(commands, words[0])(list(words[1:]))


def suggest(prog: str, commands: Commands, word: str) -> str:
    import difflib

    close = difflib.get_close_matches(word, commands, 1)
    return f"did you mean {prog} {close[0]}? {prog} --help lists them all" if close else f"{prog} --help"
