"""What running guards were started with, and how that differs from the configuration and the program of now."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mcp_guard import __version__
from mcp_guard.core.model import Micros
from mcp_guard.core.receipt import format_time
from mcp_guard.settings import Settings
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.place import Place


@dataclass(frozen=True, slots=True)
class StartedGuard:
    """A guard process as its `guard.started` receipt has it. `version` is empty if its receipt names none."""

    name: str
    mode: str
    version: str
    started: str
    """The time of the receipt, RFC 3339 in UTC with microseconds."""


@dataclass(frozen=True, slots=True)
class InstalledGuard:
    """What a guard that was started now would have. `changed` is when the configuration file was written last."""

    mode: str
    version: str
    changed: Micros


def installed_guard(settings: Settings) -> InstalledGuard:
    """What a guard that was started now would have."""
    return InstalledGuard(str(settings.mode), __version__, settings.path.stat().st_mtime_ns // 1000)


def read_started(place: Place, names: Sequence[str]) -> tuple[StartedGuard, ...]:
    """Those of these guards that have a receipt, in this order; without a name, the one started last.

    Raises: LedgerError.
    """
    receipts = [json.loads(body) for body in find_engine(place).receipts_of_starts(names)]
    started = {
        receipt["guard"]: StartedGuard(
            receipt["guard"], receipt.get("mode", ""), receipt.get("version", ""), receipt["time"]
        )
        for receipt in receipts
    }
    return tuple(started[name] for name in (names or started) if name in started)


def differences(guard: StartedGuard, now: InstalledGuard) -> list[str]:
    """How the running guard differs from one that was started now; empty if it does not."""
    found = []
    if guard.mode and guard.mode != now.mode:
        found.append(f"guard {guard.name} runs in mode {guard.mode}, and the configuration has mode {now.mode}")
    elif guard.started < format_time(now.changed):
        found.append(f"the configuration was changed after guard {guard.name} had started")
    if guard.version != now.version:
        runs = f"version {guard.version} of mcp-guard" if guard.version else "an earlier version of mcp-guard"
        found.append(f"guard {guard.name} runs {runs}, and version {now.version} is installed")
    return found
