"""The log of a running guard, on stderr: lines of text, or JSON for programs that collect logs.

A note is a sentence for the operator, and always logged. An event also has a name and members; events are logged if the
operator asks for them (`--log-level`, `--log-format json`).

INVARIANT: one message is one line, whatever text of others is in it. No argument, result or token is in any event.
"""

import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Protocol, TextIO

from mcp_guard.core.model import Call, Decision, Execution, Instance
from mcp_guard.core.note_limiter import NoteLimiter
from mcp_guard.core.receipt import Draft
from mcp_guard.core.visible_text import quote, say, visible_line

FORMATS = ("text", "json")
MAX_NAME_LENGTH = 200
"""Characters of a name that an agent has chosen."""


class LogLevel(IntEnum):
    """How much an event matters. A note has no level of its own: it is written as `NOTICE`."""

    DEBUG = 10
    INFO = 20
    NOTICE = 25
    WARNING = 30
    ERROR = 40
    NOTHING = 99
    """Only notes are logged."""


LEVELS: Mapping[str, LogLevel] = {
    level.name.lower(): level for level in (LogLevel.DEBUG, LogLevel.INFO, LogLevel.WARNING)
}
"""What an operator can ask for."""


class _StandardError:
    """Stderr, for which nothing waits for long: what cannot be written is left out, and counted. Threads take turns."""

    def __init__(self) -> None:
        self._turn = threading.RLock()
        self._left_out = 0
        self._is_within_line = False
        self._patience, self._waited_at = PATIENCE_SECONDS, 0.0

    def write(self, line: str, tell: Callable[[int], str]) -> None:
        """`tell` makes the line that says how many were left out before this one."""
        try:
            descriptor = sys.stderr.fileno()
        except (OSError, ValueError):  # not a file
            print(line, file=sys.stderr, flush=True)
            return
        with self._turn:
            if self._left_out and self._put(descriptor, tell(self._left_out)):
                self._left_out = 0
            if self._left_out or not self._put(descriptor, line):
                self._left_out += 1

    def _put(self, descriptor: int, line: str) -> bool:
        """Write a line, and end one before it that was cut off. Returns whether all of it was written."""
        start = "\n" if self._is_within_line else ""
        rest = f"{start}{line}\n".encode(errors="backslashreplace")
        with suppress(OSError):  # nobody can read it any more
            while rest and self._takes_more(descriptor):
                written = os.write(descriptor, rest[: select.PIPE_BUF])
                self._is_within_line, rest = not rest[:written].endswith(b"\n"), rest[written:]
        return not rest

    def _takes_more(self, descriptor: int) -> bool:
        """Whether `PIPE_BUF` bytes can be written without waiting for a reader."""
        poller = select.poll()
        poller.register(descriptor, select.POLLOUT)
        began = time.monotonic()
        patience = min(PATIENCE_SECONDS, self._patience + PATIENT_SHARE * (began - self._waited_at))
        takes_more = bool(poller.poll(0 if self._left_out else patience * 1000))
        self._waited_at = time.monotonic()
        self._patience = max(0.0, patience - (self._waited_at - began))
        return takes_more


PATIENCE_SECONDS, PATIENT_SHARE = 0.05, 0.05
"""For a reader that is only slow: at once, and of all time after that."""
STDERR = _StandardError()


class ServerLog:
    """Writes to `out`, or to stderr. Without a `level`, text has notes only, and JSON events of `INFO` and above."""

    def __init__(self, format: str = "text", level: str | None = None, out: TextIO | None = None) -> None:
        self.format, self.level_name = format, level
        self._is_json = format == "json"
        default = LogLevel.INFO if self._is_json else LogLevel.NOTHING
        self.level = default if level is None else LEVELS[level]
        self._out = out

    def takes(self, level: LogLevel) -> bool:
        """Whether events of this level are logged."""
        return level >= self.level

    def note(self, text: str) -> None:
        """Log a sentence for the operator."""
        self._write(LogLevel.NOTICE, "note", text, {})

    def event(self, level: LogLevel, name: str, message: str, **members: Any) -> None:
        """Log an event, if it is of a level that is logged. JSON leaves out members that are None or empty."""
        if self.takes(level):
            self._write(level, name, message, members)

    def error(self, message: str, hint: str) -> None:
        """Log why the guard ends, as JSON, whatever else is logged."""
        self._write(LogLevel.ERROR, "error", message, {"hint": hint})

    def _write(self, level: LogLevel, name: str, message: str, members: Mapping[str, Any]) -> None:
        line = self._format(level, name, message, members)
        if self._out is None:
            STDERR.write(line, self._format_left_out)
        else:
            print(line, file=self._out, flush=True)

    def _format_left_out(self, count: int) -> str:
        message = f"{count} message{'s are' if count > 1 else ' is'} left out: nobody read standard error"
        return self._format(LogLevel.WARNING, "log.left_out", message, {})

    def _format(self, level: LogLevel, name: str, message: str, members: Mapping[str, Any]) -> str:
        if not self._is_json:
            return f"mcp-guard: {visible_line(message)}"
        at = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        head = {"time": at, "level": level.name.lower(), "event": name, "message": message}
        return json.dumps(head | {key: value for key, value in members.items() if value not in (None, "", [])})


def note(text: str) -> None:
    """Print a message for the operator, where no log was asked for."""
    ServerLog().note(text)


# What is logged of each part of the guard


class LoggedStatus(Protocol):
    """See `upstream.status_file`."""

    @property
    def is_up(self) -> bool: ...

    @property
    def why(self) -> str: ...


class LoggedStatusSource(Protocol):
    """The upstreams of one session, or those that all sessions share."""

    @property
    def is_closed(self) -> bool: ...

    def statuses(self) -> Mapping[str, Any]: ...


class SessionLog:
    """Logs the begin and the end of a session, and what becomes of the upstreams with these `names` meanwhile.

    For upstreams that all sessions share, `instance` is None, and there is no session.
    """

    def __init__(self, log: ServerLog, instance: Instance | None, names: frozenset[str]) -> None:
        self._log, self._names = log, names
        self._members: dict[str, Any] = {}
        self._was_up: dict[str, bool] = {}
        self._is_over = False
        if instance is not None:
            self._members = {
                "instance": instance.id, "agent": instance.agent.name, "on_behalf_of": instance.on_behalf_of,
            }  # fmt: skip
            log.event(LogLevel.INFO, "session.opened", self._say("session opened"), **self._members)

    def on_status(self, source: LoggedStatusSource) -> None:
        """To be called when the status of an upstream has changed, or all have been closed."""
        if self._is_over or not self._log.takes(LogLevel.WARNING):
            return
        if source.is_closed:
            self._is_over = True
            self._log.event(LogLevel.INFO, "session.ended", self._say("session ended"), **self._members)
            return
        for name, status in source.statuses().items():
            if name in self._names and status.is_up != self._was_up.get(name, False):
                self._was_up[name] = status.is_up
                self._tell(name, status)

    def _tell(self, name: str, status: LoggedStatus) -> None:
        members = {**self._members, "upstream": name}
        if status.is_up:
            self._log.event(LogLevel.INFO, "upstream.up", say("upstream `{}` is up", name), **members)
        else:
            message = say("upstream `{}` is down: {}", name, status.why)
            self._log.event(LogLevel.WARNING, "upstream.down", message, **members, reason=status.why)

    def _say(self, what: str) -> str:
        return say("{}: {} of agent {}", what, self._members["instance"], quote(self._members["agent"]))


class TokenLog:
    """Logs refused tokens, unless there are too many: anybody can send one. The reason quotes no token."""

    def __init__(self, log: ServerLog) -> None:
        self._log, self._limiter = log, NoteLimiter()

    def on_refused(self, reason: str, client: str, instance: str) -> None:
        """`instance` is the one that a verified token was issued for, or empty."""
        if (
            self._log.takes(LogLevel.WARNING)
            and (reason_now := self._limiter.limit(reason, time.monotonic())) is not None
        ):
            message = say("token refused: {}", reason_now)
            self._log.event(
                LogLevel.WARNING, "token.refused", message, reason=reason_now, client=client, instance=instance
            )


class CallLog:
    """Logs calls that were refused, and how the others ended. Why is in their receipts: reasons may quote arguments."""

    def __init__(self, log: ServerLog) -> None:
        self._log = log

    def on_refused(self, call: Call, decision: Decision, receipt: int) -> None:
        message = say(
            "call refused: {} by {}, receipt {}", quote(call.name[:MAX_NAME_LENGTH]), call.instance.id, receipt
        )
        members = {"outcome": str(decision.outcome), "policies": list(decision.policies)}
        self._log.event(LogLevel.INFO, "call.refused", message, **_members_of(call), **members, receipt=receipt)

    def on_concluded(self, call: Call, execution: Execution, receipt: int | None) -> None:
        name = quote(call.name[:MAX_NAME_LENGTH])
        message = say("call ended: {} by {}: {}", name, call.instance.id, execution.status)
        ending = str(execution.status)
        self._log.event(LogLevel.DEBUG, "call.ended", message, **_members_of(call), ending=ending, receipt=receipt)

    def on_commit(self, step: str, seconds: float) -> None:
        """Nothing: what takes how long is measured, not logged."""


def _members_of(call: Call) -> dict[str, Any]:
    return {
        "call": call.id,
        "trace": call.trace,
        "purpose": None if call.purpose == "call" else call.purpose,
        "instance": call.instance.id,
        "agent": call.instance.agent.name,
        "upstream": call.tool.server if call.tool else None,
        "tool": call.name[:MAX_NAME_LENGTH],
    }


class UnloggedPolicyReceipts(Protocol):
    """See `policy.reload`."""

    async def note(self, *drafts: Draft, policy: tuple[str, Callable[[], bytes]] | None = None) -> list[int]: ...


class LoggedPolicyReceipts:
    """Logs policies that are loaded or rejected, once their receipts are written."""

    def __init__(self, receipts: UnloggedPolicyReceipts, log: ServerLog) -> None:
        self._receipts, self._log = receipts, log

    async def note(self, *drafts: Draft, policy: tuple[str, Callable[[], bytes]] | None = None) -> list[int]:
        receipts = await self._receipts.note(*drafts, policy=policy)
        for draft, receipt in zip(drafts, receipts, strict=True):
            is_loaded, version = draft.kind == "policy.loaded", draft.fields.get("policy_version")
            what = say("policies loaded: version {}", version) if is_loaded else "policies rejected"
            shadow = draft.fields.get("shadow")
            self._log.event(
                LogLevel.INFO if is_loaded else LogLevel.WARNING, draft.kind, f"{what}, receipt {receipt}",
                policy_version=version, reasons=draft.fields.get("reasons"), shadow=shadow, receipt=receipt,
            )  # fmt: skip
        return receipts
