"""`mcp-guard completion`: print a completion script built from the commands' parsers, or the names of a kind.

The script contains every word that does not change. Pressing Tab starts `mcp-guard completion NAMES` only where a name
is expected.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from mcp_guard.cli.completion.names import KINDS, names
from mcp_guard.cli.options import make_parser, one_of
from mcp_guard.cli.output import print_lines

SHELLS = {"bash": "'\\''", "zsh": "'\\''", "fish": "\\'"}
"""The supported shells, each with its way to write a quote within quotes."""
NAMED = {
    "AGENT": "agents", "APPROVER": "approvers", "CLIENT": "clients", "ID": "approvals", "INSTANCE": "instances",
    "ROUTE": "routes", "TOOL": "tools", "TOOL[@HASH]": "tools", "UPSTREAM": "upstreams", "WITNESS": "witnesses",
}  # fmt: skip
"""The metavars of arguments that are current names, with the kind of name."""


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    if options.what in SHELLS:
        print_lines(script(options.what).splitlines())
    else:
        print_lines(names(options.what, options.config))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("completion", "Print a shell completion script, or the current names of a kind, one per line.")
    parser.add_argument(
        "what",
        type=one_of((*SHELLS, *KINDS)),
        choices=(*SHELLS, *KINDS),
        metavar="SHELL|NAMES",
        help=", ".join((*SHELLS, *KINDS)),
    )
    return parser


def script(shell: str) -> str:
    """The template of this shell, filled with one case for each command."""
    from mcp_guard.cli.completion.parsers import CliCommand, list_commands

    every = list(list_commands())

    def row(command: CliCommand) -> str:
        below = [entry for entry in every if entry.words[:-1] == command.words and entry.words]
        lines = [f"{entry.words[-1]}|command|{entry.help}" for entry in below]
        lines += [] if command.parser is None else arguments_of(command.parser)
        return case(shell, " ".join(command.words), "\n".join(lines).replace("'", SHELLS[shell]))

    text = Path(__file__).with_name(f"script.{shell}").read_text()
    return text.replace("@CASES@", "\n".join(map(row, every))).rstrip()


def case(shell: str, words: str, rows: str) -> str:
    return f"    case '{words}'\n      echo '{rows}'" if shell == "fish" else f"    '{words}') rows='{rows}' ;;"


def arguments_of(make_parser: argparse.ArgumentParser) -> Iterator[str]:
    """`WORD|TAKES|ABOUT` for each option; for other arguments WORD is the position, or `*` for all that follow."""
    position = 0
    for action in make_parser._actions:
        about = (action.help or "").replace("%%", "%").replace("\n", " ")
        if not action.option_strings:
            position += 1
            yield f"{'*' if action.nargs in ('*', '+') else position}|{takes(action)}|{about}"
        for word in action.option_strings:
            if word.startswith("--"):
                yield f"{word}|{takes(action)}|{about}"


def takes(action: argparse.Action) -> str:
    """`flag` for nothing, `=A B` for one of these words, `@KIND` for names, `file`, `folder`, or `any`."""
    if action.nargs == 0:
        return "flag"
    if action.choices is not None:
        return f"={' '.join(map(str, action.choices))}"
    if action.metavar in NAMED:
        return f"@{NAMED[action.metavar]}"
    if action.type is Path or action.metavar == "PATH":
        return "folder" if action.metavar == "DIR" else "file"
    return "any"
