"""What a server said before it ended, and which variables it may have lacked, for the operator.

INVARIANT: none of this reaches an agent or a receipt: a server may print secrets of its own, which the guard does not
know. What it printed of the guard's secrets has been scrubbed (promise P10).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from mcp_guard.core.visible_text import VisibleText, say

MAX_LINE_LENGTH = 300
MAX_NAMES = 8
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_CLOSING = re.compile(r"\W*\Z|Node\.js v[0-9.]+\Z|npm (?:error|ERR!)(?: A complete log of this run.*| [\s/].*)?\Z")
"""Lines that come after the message: brackets, and what runtimes print at the very end."""
_FAILURE = re.compile(r"error|exception|fatal|fail|panic|cannot|can't|not found|denied|missing|required", re.IGNORECASE)
_OF_THE_SESSION = re.compile(
    r"_|PWD|OLDPWD|SHLVL|PS[0-9]|PROMPT.*|LS_COLORS|COLOR.*|CLICOLOR.*|TERM_.*|WINDOWID|EDITOR|VISUAL|PAGER|LESS.*|MANPATH"
    r"|INFOPATH|HIST.*|MAIL|HOST|HOSTNAME|HOSTTYPE|OSTYPE|MACHTYPE|LANGUAGE|LC_.*|SSH_(?:CLIENT|CONNECTION|TTY)|GDMSESSION"
    r"|XDG_(?:SESSION|SEAT|VTNR|MENU|CURRENT).*|DESKTOP_.*|GNOME_.*|KDE_.*|INVOCATION_ID|JOURNAL_STREAM|MANAGERPID"
    r"|NOTIFY_SOCKET|SYSTEMD_.*|VSCODE_.*|CURSOR_.*|CLAUDE.*|ELECTRON_.*|ORIGINAL_.*|MCP_GUARD_.*"
)
"""Variables of a terminal, a desktop session or the host, on which no server depends."""


def lines_of(stderr: bytes) -> tuple[str, ...]:
    """The lines that are not blank, without colours."""
    text = _COLOUR.sub("", stderr.decode(errors="replace"))
    return tuple(line.rstrip() for line in text.splitlines() if line.strip())


@dataclass(frozen=True, slots=True)
class LastWords:
    """Why it ended; the last lines of its stderr; what to do.

    `mentioned` are names of variables that are set here, that it did not get and that its stderr mentions; `withheld`
    are the others that it did not get.
    """

    reason: str
    lines: Sequence[str] = ()
    mentioned: Sequence[str] = ()
    withheld: Sequence[str] = ()
    hint: str = ""

    @classmethod
    def of_start(
        cls, reason: str, server: str, lines: Sequence[str], ours: Mapping[str, str], passed: Collection[str]
    ) -> Self:
        """Of a server that ended while it started. `ours` is the guard's environment, `passed` are the names in its."""
        mentioned, others = withheld_variables(lines, ours, passed)
        name = mentioned[0] if mentioned else "NAME"
        hint = f'pass what it needs by name: [upstreams.{server}] env = {{ {name} = {{ env = "{name}" }} }}'
        return cls(reason, lines, mentioned, others, hint if mentioned or others else "")

    @property
    def message(self) -> str:
        return telling_line(self.lines)[:MAX_LINE_LENGTH].rstrip()

    @property
    def lacked(self) -> str:
        """The names of the variables, for a sentence; empty if there are none."""
        named = [*self.mentioned, *(() if self.mentioned else self.withheld)][:MAX_NAMES]
        more = len(self.mentioned) + len(self.withheld) - len(named)
        return ", ".join(named) + (f" and {more} more" if more else "")

    @property
    def summary(self) -> str:
        """The reason, and what it said, in one sentence."""
        return f"{self.reason}; its stderr ends: {self.message}" if self.message else self.reason

    def report(self, server: str) -> VisibleText:
        """The text for the operator, of up to three lines; empty if nothing is known."""
        parts = []
        if self.message:
            parts.append(say("its stderr ends: {}", self.message))
        if self.lacked:
            parts.append(say("set in the guard's environment and not passed to it: {}", self.lacked))
        if not parts and self.hint:
            return say("upstream `{}`: {}", server, self.hint)
        hint = [say("hint: {}", self.hint)] if self.hint else []
        return VisibleText("\n".join([*(say("upstream `{}`: {}", server, part) for part in parts), *hint]))


def telling_line(lines: Sequence[str]) -> str:
    """The line that says most about the end: the last one, but for what runtimes print after the message.

    Stack traces and details are indented, so a line that is not is preferred. Where the last one is a mere word, such
    as the name of a field in pydantic's errors, the last line that speaks of a failure is taken.
    """
    candidates = [line for line in lines if not _CLOSING.match(line)] or list(lines)
    outer = [line for line in candidates if not line[0].isspace()] or candidates
    if not outer:
        return ""
    if len(outer[-1].split()) == 1 and (failures := [line for line in outer if _FAILURE.search(line)]):
        return failures[-1].strip()
    return outer[-1].strip()


def withheld_variables(
    lines: Sequence[str], ours: Mapping[str, str], passed: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of variables that are set here and that a server did not get: those its stderr mentions, and the others."""
    withheld = sorted(name for name in ours if name not in passed and not _OF_THE_SESSION.fullmatch(name))
    words = set(re.findall(r"\w+", "\n".join(lines)))
    return tuple(name for name in withheld if name in words), tuple(name for name in withheld if name not in words)
