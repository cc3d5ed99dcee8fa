"""Options that several commands share. argparse, not click: the guard starts with every client session (see 0008)."""

import argparse
import os
import pwd
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from mcp_guard.cli import output, same_config
from mcp_guard.core.errors import ConfigError, IdentityError
from mcp_guard.core.visible_text import say, visible_line

if TYPE_CHECKING:
    from mcp_guard.settings import Settings

CONFIG_VARIABLE = "MCP_GUARD_CONFIG"
MAX_DIGITS = 18
"""More do not fit in SQLite's integers."""
OTHER_NAMES = {"--on-behalf-of": "--user", "--user": "--on-behalf-of"}
"""What one command calls a thing that others name differently: they act for a user, or select one."""


class Parser(argparse.ArgumentParser):
    """Reports usage errors in the form of all other errors, with a hint."""

    _verbs: "argparse._SubParsersAction[Parser] | None" = None
    _elsewhere: Mapping[str, str] = {}

    @property
    def verbs(self) -> "Mapping[str, Parser]":
        """The parser of each verb, if the command has verbs."""
        return self._verbs.choices if self._verbs is not None else {}

    def error(self, message: str) -> NoReturn:
        self._refuse(message, f"{self.prog} --help")

    def _refuse(self, message: str, hint: str) -> NoReturn:
        self.exit(2, say("{}: {}\nhint: {}\n", self.prog, visible_line(message), visible_line(hint)))

    def add_subparsers(  # type: ignore[override]
        self, *, elsewhere: Mapping[str, str] = {}, **members: Any
    ) -> "argparse._SubParsersAction[Parser]":
        """`elsewhere` has, for verbs that are looked for here, the command that has them."""
        self._verbs, self._elsewhere = super().add_subparsers(**members), elsewhere
        return self._verbs

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """The options. For a verb or an option that does not exist, the error names the nearest one that does."""
        words, parser = list(sys.argv[1:] if args is None else args), self
        if self._verbs is not None and words and not words[0].startswith("-"):
            if words[0] not in self._verbs.choices:
                near = _nearest(words[0], self._verbs.choices)
                meant = self._elsewhere.get(words[0], near and f"{self.prog} {near}")
                help = f"{self.prog} --help"
                self._refuse(f"no command `{words[0]}`", f"did you mean {meant}? {help} lists all" if meant else help)
            parser = self._verbs.choices[words[0]]
        options, unknown = self.parse_known_args(words, namespace)
        if unknown:
            parser._refuse_unknown(unknown[0])
        return options

    def _refuse_unknown(self, word: str) -> NoReturn:
        if not word.startswith("-"):
            self._refuse(f"unexpected argument `{word}`", f"{self.prog} --help")
        name, options = word.partition("=")[0], re.findall(r"(?<![\w-])--[a-z][a-z-]*", self.format_help())
        same = OTHER_NAMES.get(name)
        near = same if same in options else _nearest(name, options)
        hint = f"did you mean {near}? {self.prog} --help lists all" if near else f"{self.prog} --help"
        self._refuse(f"no option `{word}`", hint)


def _nearest(name: str, names: Iterable[str]) -> str:
    from mcp_guard.core.nearest import nearest  # only errors need it

    return nearest(name, names)


def duration(text: str) -> int:
    """The `type` of an option that takes a time, in seconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    count, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    if not count.isascii() or not count.isdecimal() or len(count) > MAX_DIGITS // 2 or int(count) == 0:
        raise argparse.ArgumentTypeError(f"`{text}` is not a duration; write 900, 30m, 1h or 2d")
    return int(count) * unit


def lifetime(text: str) -> int:
    """The `type` of an option that takes the lifetime of a credential, in seconds."""
    from mcp_guard.settings import MAX_CREDENTIAL_DAYS  # `run --help` needs no settings

    if (seconds := duration(text)) > MAX_CREDENTIAL_DAYS * 86400:
        raise argparse.ArgumentTypeError(f"`{text}` is too long; write at most {MAX_CREDENTIAL_DAYS}d")
    return seconds


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """The `type` of an option with these `choices`."""

    def read(text: str) -> str:
        if text not in names:
            near = _nearest(text, names)
            meant = f"did you mean `{near}`?" if near else f"write one of: {', '.join(names)}"
            raise argparse.ArgumentTypeError(f"`{text}` is not possible here; {meant}")
        return text

    return read


def make_parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser with `--config`."""
    parser = Parser(prog=f"mcp-guard {command}", description=description)
    add_config(parser)
    return parser


class _KeepConfig(argparse.Action):
    """Stores the configuration that was named, and names it in the commands that are printed from now on."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values)
        output.complete_commands(lambda text: same_config.add_config(text, values))


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        action=_KeepConfig,
        type=Path,
        default=Path(os.environ.get(CONFIG_VARIABLE, "mcp-guard.toml")),
        metavar="FILE",
        help=f"the configuration (default: ${CONFIG_VARIABLE}, else ./mcp-guard.toml)",
    )


def add_log(parser: argparse.ArgumentParser) -> None:
    """Add the options for the log of a guard (`server_log`)."""
    parser.add_argument(
        "--log-format", type=one_of(("text", "json")), default="text", metavar="FORMAT",
        help="format of what is logged on stderr: text (default) or json, an object on each line",
    )  # fmt: skip
    parser.add_argument(
        "--log-level", type=one_of(("debug", "info", "warning")), metavar="LEVEL",
        help="also log events from this level on: debug, info (default for json) or warning; notes always are",
    )  # fmt: skip


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def whole_number(minimum: int) -> Callable[[str], int]:
    """A type for `add_argument`: an integer of at least this."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or len(text) > MAX_DIGITS or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"`{text}` is not a whole number of at least {minimum}")
        return int(text)

    return read


def add_launch(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe the new instance."""
    parser.add_argument("--agent", metavar="AGENT", help="the enrolled agent (default: the only one)")
    parser.add_argument("--ticket", metavar="TICKET", help="the ticket this run works on")
    parser.add_argument("--reason", metavar="TEXT", help="the reason for this run")
    parser.add_argument(
        "--on-behalf-of", metavar="USER", help="the user it acts for, on your word (default: the configured one)"
    )
    add_task(parser)


def add_task(parser: argparse.ArgumentParser) -> None:
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--task", metavar="TEXT", help="the user's request; policies can trust values that it mentions")
    task.add_argument("--task-file", type=Path, metavar="FILE", help="a file with the user's request")


def read_task(options: argparse.Namespace) -> str | None:
    """The text of the user's task, if one is given. Raises: ConfigError."""
    path: Path | None = options.task_file
    if path is None:
        return cast(str | None, options.task)
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the task `{path}`: {why}", "name a text file: --task-file FILE") from None


def read_ticket(options: argparse.Namespace, settings: "Settings") -> str | None:
    """The ticket of the launch, if one is given. Raises: IdentityError."""
    ticket, pattern = cast(str | None, options.ticket), settings.ticket_pattern
    if ticket is None or pattern is None or re.fullmatch(pattern, ticket):
        return ticket
    raise IdentityError(f"`{ticket}` does not match guard.ticket_pattern, `{pattern}`", "--ticket ID")


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
