"""The clock of a guard: the machine's, which may be set back, beside what this process knows of the time by itself."""

import time
from collections.abc import Callable

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Micros
from mcp_guard.core.receipt import format_time
from mcp_guard.ports import Clock

TOLERATED: Micros = 5_000_000
"""How far the machine's clock may be behind the latest time known: the steps of ordinary time keeping."""


class SteadyClock:
    """Implements `ports.Clock`. Its time goes on at least as fast as the processor's, whatever the clock is set to."""

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        ticks: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall, self._ticks = wall, ticks
        self._said, self._at = wall(), ticks()

    def wall(self) -> Micros:
        return self._wall() // 1000

    def now(self) -> Micros:
        """INVARIANT: never less than before in this process, so that nothing that has expired comes back to life."""
        ticks = self._ticks()
        self._said = max(self._wall(), self._said + ticks - self._at)
        self._at = ticks
        return self._said // 1000


def receipt_time(clock: Clock, last: Micros) -> Micros:
    """The time of a receipt that follows one of time `last`: never before it.

    Raises: LedgerError if the machine's clock is far behind what is known; nothing may be decided by such a clock.
    """
    known, wall = max(clock.now(), last), clock.wall()
    if known - wall > TOLERATED:
        raise LedgerError(
            f"the clock was set back: it says {format_time(wall)}, and it is {format_time(known)} or later "
            f"(the last receipt is of {format_time(last)})",
            "set the clock right (timedatectl); calls are refused until then",
        )
    return known
