"""A list of commands, one module each, of which only the one that is run is imported."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence

Commands = Mapping[str, tuple[str, str]]
"""Name: handler and help.

A handler is a module below `mcp_guard.cli`, and after a colon the name of its function if that is not `main`. The
function takes the arguments and returns the exit code.
"""
Handler = Callable[[list[str]], int]
OK, USAGE = 0, 2
HELP = ("-h", "--help", "help")


def usage(prog: str, commands: Commands) -> str:
    rows = [f"  {name:<10} {text}" for name, (_, text) in commands.items()]
    return "\n".join([f"usage: {prog} COMMAND …   ({prog} COMMAND --help)", "", *rows])


def load_handler(commands: Commands, name: str) -> Handler:
    """Import the module of this command, and of no other."""
    module, _, function = commands[name][0].partition(":")
    handler: Handler = getattr(importlib.import_module(f"mcp_guard.cli.{module}"), function or "main")
    return handler


def run(prog: str, commands: Commands, words: Sequence[str]) -> int:
    """Run the command that the first word names. Returns its exit code."""
    if not words:
        print(usage(prog, commands), file=sys.stderr)
        return USAGE
    if words[0] in HELP:
        print(usage(prog, commands))
        return OK
    if words[0] not in commands:
        wanted = f"{prog} {words[0]}".removeprefix("mcp-guard ")
        print(f"mcp-guard: no command `{wanted}`\nhint: {nearest(prog, commands, words[0])}", file=sys.stderr)
        return USAGE
    return load_handler(commands, words[0])(list(words[1:]))


def nearest(prog: str, commands: Commands, word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, commands, 1)
    return f"did you mean {prog} {near[0]}? {prog} --help lists them" if near else f"{prog} --help"
