"""Which guards run on a ledger that is a file: those that hold their lock in the state folder."""

import math
from collections.abc import Set
from pathlib import Path

from mcp_guard.storage.contract import Store
from mcp_guard.storage.presence import MachineLock, has_ended, is_running


class LockPresence:
    """Implements `Presence` for a ledger that only processes of one machine use: by its lock in the state folder."""

    renew_seconds = None

    def __init__(self, folder: Path, guard: str) -> None:
        """Raises: LedgerError."""
        self.guard = guard
        self._folder = folder
        self._lock = MachineLock(folder, guard)

    def seconds_left(self) -> float:
        return math.inf

    def check(self) -> None:
        pass

    async def renew(self) -> bool:
        return True

    async def take(self, guard: str) -> None:
        raise NotImplementedError("a lock is never lost")

    def adopt(self) -> None:
        raise NotImplementedError("a lock is never lost")

    def find_dead(self, store: Store, guards: Set[str]) -> set[str]:
        return {guard for guard in guards if not is_running(self._folder, guard)}

    def end_dead(self, store: Store, guards: Set[str]) -> set[str]:
        return {guard for guard in guards if has_ended(self._folder, guard)}

    def release(self) -> None:
        self._lock.release()
