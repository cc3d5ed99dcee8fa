"""How this process's upstreams stand, in a small file beside its lock, for `mcp-guard status` to read.

A file and not the ledger: that an upstream comes and goes is no evidence, and must not cost a receipt; see
docs/decisions/0033. It is written a moment after a change, and never while a call waits for it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import orjson

from mcp_guard.core.model import Json
from mcp_guard.files import replace_file

DELAY_SECONDS = 0.1
"""Changes of one moment are written together."""


@dataclass(frozen=True, slots=True)
class UpstreamStatus:
    """Of one connection. Times are Unix seconds; `next_try` is when it is started again, if it is down."""

    is_up: bool
    since: float
    why: str = ""
    next_try: float = 0


class StatusSource(Protocol):
    """Whoever has connections to upstreams."""

    on_circuit: Callable[[], None]
    is_closed: bool

    def circuits(self) -> dict[str, UpstreamStatus]: ...


class StatusFile:
    """The circuits of all sessions of one process. Needs a running loop from the first change on."""

    def __init__(self, path: Path, note: Callable[[str], None]) -> None:
        self._path, self._note = path, note
        self._watched: dict[str, list[StatusSource]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, instance: str, group: StatusSource) -> None:
        self._watched.setdefault(instance, []).append(group)
        group.on_circuit = self._changed

    def _changed(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY_SECONDS, self._write)

    def _write(self) -> None:
        self._timer = None
        open_ones = {
            instance: [each for each in groups if not each.is_closed] for instance, groups in self._watched.items()
        }
        self._watched = {instance: groups for instance, groups in open_ones.items() if groups}
        rows = [
            {"instance": instance, "upstream": name, **asdict(circuit)}
            for instance, groups in self._watched.items()
            for group in groups
            for name, circuit in group.circuits().items()
        ]
        try:
            replace_file(self._path, orjson.dumps(rows), durable=False)
        except OSError as error:  # nobody's call depends on it
            self._note(f"cannot write `{self._path}`: {error.strerror}")

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._path.unlink(missing_ok=True)


def status_path(guards: Path, guard: str) -> Path:
    return guards / f"{guard}.upstreams"


def read_statuses(guards: Path, guard: str) -> list[Json]:
    """What this guard wrote last; nothing if it has not, or is of another version."""
    try:
        rows = orjson.loads(status_path(guards, guard).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return []
    wanted = {"instance", "upstream", "is_up", "since", "why", "next_try"}
    return [row for row in rows if isinstance(row, dict) and wanted <= row.keys()] if isinstance(rows, list) else []
