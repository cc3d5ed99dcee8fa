"""How fast one upstream is read and written to."""

import asyncio
from collections.abc import Callable

from mcp_guard.upstream.budget import UpstreamBudget

PRESSURE_SECONDS = 2.0
"""How long the client is kept waiting for an upstream that is slow to read."""


class ReadingPace:
    """Stops reading from an upstream while the client is slow, while a long message is searched for secrets, and while
    the upstream has overspent its budget.

    `throttle` stops its transport from reading (True) or lets it go on. `on_overspent` is called the first time.
    """

    def __init__(
        self, budget: UpstreamBudget, throttle: Callable[[bool], None], on_overspent: Callable[[], None]
    ) -> None:
        self._budget = budget
        self._throttle = throttle
        self._on_overspent = on_overspent
        self._client_is_slow = self._is_searching = self._is_overspent = self._was_overspent = False

    def set_client_slow(self, slow: bool) -> None:
        self._client_is_slow = slow
        self.apply()

    def set_searching(self, searching: bool) -> None:
        self._is_searching = searching
        self.apply()

    def apply(self) -> None:
        """Tell the transport what holds now; a new one does not know."""
        self._throttle(self._client_is_slow or self._is_searching or self._is_overspent)

    def charge(self, cost: int) -> None:
        loop = asyncio.get_running_loop()
        if (seconds := self._budget.charge(cost, loop.time())) > 0 and not self._is_overspent:
            self._is_overspent = True
            self.apply()
            loop.call_later(seconds, self._on_restored)
            if not self._was_overspent:
                self._was_overspent = True
                self._on_overspent()

    def _on_restored(self) -> None:
        loop = asyncio.get_running_loop()
        if (seconds := self._budget.charge(0, loop.time())) > 0:
            loop.call_later(seconds, self._on_restored)
        else:
            self._is_overspent = False
            self.apply()


class WritingPace:
    """How fast one upstream reads. The client is kept waiting for a slow one, but not for long.

    `on_pressure` is called when the client has to wait (True), and when it may go on.
    """

    def __init__(self, on_pressure: Callable[[bool], None]) -> None:
        self._on_pressure = on_pressure
        self.is_slow = False
        self._release: asyncio.TimerHandle | None = None
        self.unread_bytes = 0
        """Bytes that were written since it is slow to read."""

    def set_slow(self, slow: bool) -> None:
        """It reads too slowly, or has caught up."""
        if slow == self.is_slow:
            return
        self.is_slow, self.unread_bytes = slow, 0
        if self._release is not None:
            self._release.cancel()
            self._release = None
        if slow:
            self._release = asyncio.get_running_loop().call_later(PRESSURE_SECONDS, self._on_pressure, False)
        self._on_pressure(slow)

    def may_write(self, size: int, limit: int) -> bool:
        """Whether a frame of so many bytes may be written, if at most `limit` bytes may be unread."""
        self.unread_bytes += size if self.is_slow else 0
        return self.unread_bytes <= limit
