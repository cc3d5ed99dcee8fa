"""Options that several commands share. argparse, not click: the guard starts with every client session (see 0008)."""

import argparse
import os
import pwd
from pathlib import Path
from typing import NoReturn

CONFIG_VARIABLE = "MCP_GUARD_CONFIG"


class Parser(argparse.ArgumentParser):
    """What is wrong with a command line is said as every other error is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nhint: {self.prog} --help\n")


def make_parser(command: str, about: str) -> argparse.ArgumentParser:
    """A parser with `--config`."""
    made = Parser(prog=f"mcp-guard {command}", description=about)
    add_config(made)
    return made


def add_config(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--config",
        type=Path,
        default=Path(os.environ.get(CONFIG_VARIABLE, "mcp-guard.toml")),
        metavar="FILE",
        help=f"the configuration (default: ${CONFIG_VARIABLE}, else ./mcp-guard.toml)",
    )


def add_json(made: argparse.ArgumentParser) -> None:
    made.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_launch(made: argparse.ArgumentParser) -> None:
    """What a new instance is launched with."""
    made.add_argument("--agent", metavar="AGENT", help="the enrolled agent (default: the only one)")
    made.add_argument("--ticket", metavar="TICKET", help="the ticket this run works on")
    made.add_argument("--reason", metavar="TEXT", help="why this run is started")
    made.add_argument("--on-behalf-of", metavar="USER", help="the user it acts for (default: the configured one)")
    task = made.add_mutually_exclusive_group()
    task.add_argument("--task", metavar="TEXT", help="the user's request; policies may trust values it mentions")
    task.add_argument("--task-file", type=Path, metavar="FILE", help="a file with the user's request")


def launch_words(options: argparse.Namespace) -> list[str]:
    """The same options again, for `mcp-guard run`."""
    given = {
        name: getattr(options, name) for name in ("agent", "ticket", "reason", "on_behalf_of", "task", "task_file")
    }
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]


# Who runs a command, for receipts: the account that the system knows, which no environment variable can change.


def account() -> str:
    """Its name, or its number where it has none, as in a container."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
