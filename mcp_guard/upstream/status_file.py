"""The state of this process's upstreams in a small file beside its lock, for `mcp-guard status` to read.

It is a file and not the ledger because an upstream that comes and goes is no evidence, and must not cost a receipt; see
docs/decisions/0033. It is written shortly after a change, and never while a call waits for it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import orjson

from mcp_guard.core.model import Json
from mcp_guard.files import replace_file
from mcp_guard.storage.presence import UPSTREAMS

DELAY_SECONDS = 0.1
"""Changes within this time are written together."""


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """Of one connection. Times are Unix seconds; `next_try` is the time of the next restart of one that is down."""

    is_up: bool
    since: float
    why: str = ""
    next_try: float = 0


class StatusSource(Protocol):
    """The upstreams of one session."""

    is_closed: bool

    def statuses(self) -> dict[str, UpstreamStatus]: ...


class StatusFile:
    """The upstreams of all sessions of one process. Needs a running event loop from the first change on."""

    def __init__(self, path: Callable[[], Path], note: Callable[[str], None]) -> None:
        """`path` is where it is now: it moves with the lock that it is beside."""
        self._path, self._note = path, note
        self._sources: dict[str, list[StatusSource]] = {}
        """By instance."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, instance: str, source: StatusSource) -> None:
        """Include these upstreams until they are closed. `on_change` must be called when their status changes."""
        self._sources.setdefault(instance, []).append(source)

    def on_change(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY_SECONDS, self._write)

    def _write(self) -> None:
        self._timer = None
        open_sources = {
            instance: [source for source in sources if not source.is_closed]
            for instance, sources in self._sources.items()
        }
        self._sources = {instance: sources for instance, sources in open_sources.items() if sources}
        rows = [
            {"instance": instance, "upstream": name, **asdict(status)}
            for instance, sources in self._sources.items()
            for source in sources
            for name, status in source.statuses().items()
        ]
        path = self._path()
        try:
            replace_file(path, orjson.dumps(rows), durable=False)
        except OSError as error:  # no call depends on it
            self._note(f"cannot write `{path}`: {error.strerror}")

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._path().unlink(missing_ok=True)


def status_path(guards: Path, guard: str) -> Path:
    return guards / f"{guard}{UPSTREAMS}"


def read_statuses(guards: Path, guard: str) -> list[Json]:
    """The rows that this guard wrote last; empty if there are none, or another version wrote them."""
    try:
        rows = orjson.loads(status_path(guards, guard).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return []
    members = {"instance", "upstream", "is_up", "since", "why", "next_try"}
    return [row for row in rows if isinstance(row, dict) and members <= row.keys()] if isinstance(rows, list) else []
