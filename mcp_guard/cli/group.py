"""A list of commands, one module each, of which only the one that is run is imported."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

Commands = Mapping[str, tuple[str, str]]
"""Name: module below `mcp_guard.cli` (its function `main(arguments)` returns the exit code) and help."""
OK, USAGE = 0, 2
HELP = ("-h", "--help", "help")


def usage(prog: str, commands: Commands) -> str:
    rows = [f"  {name:<10} {text}" for name, (_, text) in commands.items()]
    return "\n".join([f"usage: {prog} COMMAND …   ({prog} COMMAND --help)", "", *rows])


def module_of(commands: Commands, name: str) -> ModuleType:
    return importlib.import_module(f"mcp_guard.cli.{commands[name][0]}")


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
    main: Callable[[list[str]], int] = module_of(commands, words[0]).main
    return main(list(words[1:]))


def nearest(prog: str, commands: Commands, word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, commands, 1)
    return f"did you mean {prog} {near[0]}? {prog} --help lists them" if near else f"{prog} --help"
