"""Options that several commands share. argparse, not click: the guard starts with every client session (see 0008)."""

import argparse
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mcp_guard.core.visible_text import say, visible_line

CONFIG_VARIABLE = "MCP_GUARD_CONFIG"


class Parser(argparse.ArgumentParser):
    """Reports usage errors in the form of all other errors, with a hint."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, say("{0}: {1}\nhint: {0} --help\n", self.prog, visible_line(message)))


def make_parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser with `--config`."""
    parser = Parser(prog=f"mcp-guard {command}", description=description)
    add_config(parser)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(os.environ.get(CONFIG_VARIABLE, "mcp-guard.toml")),
        metavar="FILE",
        help=f"the configuration (default: ${CONFIG_VARIABLE}, else ./mcp-guard.toml)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def whole_number(minimum: int) -> Callable[[str], int]:
    """A type for `add_argument`: an integer of at least this."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise argparse.ArgumentTypeError(f"`{text}` is not a whole number of at least {minimum}")
        return number

    return read


def add_launch(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe the new instance."""
    parser.add_argument("--agent", metavar="AGENT", help="the enrolled agent (default: the only one)")
    parser.add_argument("--ticket", metavar="TICKET", help="the ticket this run works on")
    parser.add_argument("--reason", metavar="TEXT", help="the reason for this run")
    parser.add_argument("--on-behalf-of", metavar="USER", help="the user it acts for (default: the configured one)")
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--task", metavar="TEXT", help="the user's request; policies can trust values that it mentions")
    task.add_argument("--task-file", type=Path, metavar="FILE", help="a file with the user's request")


def launch_words(options: argparse.Namespace) -> list[str]:
    """The options of `add_launch` as arguments for `mcp-guard run`."""
    given = {
        name: getattr(options, name) for name in ("agent", "ticket", "reason", "on_behalf_of", "task", "task_file")
    }
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]


def account() -> str:
    """Who runs this command, for receipts: the account's name, or its number if it has none, as in some containers.

    It comes from the system, not from environment variables, which anybody can set.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
