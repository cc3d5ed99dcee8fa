"""The clock of a guard: the machine's clock, which may be set back, and the time that this process knows."""

import time
from collections.abc import Callable

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.model import Micros
from mcp_guard.core.receipt import format_time
from mcp_guard.ports import Clock

TOLERATED: Micros = 5_000_000
"""How far the machine's clock may be behind the latest known time: ordinary clock adjustments stay within it."""


class SteadyClock:
    """Implements `ports.Clock`. Its time never advances more slowly than the monotonic clock."""

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        ticks: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall, self._ticks = wall, ticks
        self._latest, self._ticks_then = wall(), ticks()

    def wall(self) -> Micros:
        return self._wall() // 1000

    def now(self) -> Micros:
        """INVARIANT: never less than before in this process, so that nothing that has expired becomes valid again."""
        ticks = self._ticks()
        self._latest = max(self._wall(), self._latest + ticks - self._ticks_then)
        self._ticks_then = ticks
        return self._latest // 1000


CLOCK = SteadyClock()
"""Of this process."""


def receipt_time(clock: Clock, last: Micros) -> Micros:
    """The time of the receipt after one of time `last`: never earlier.

    Raises: LedgerError if the machine's clock is far behind the latest known time: expiry cannot be judged then.
    """
    known, wall = max(clock.now(), last), clock.wall()
    if known - wall > TOLERATED:
        raise LedgerError.public(
            f"the clock was set back: it reads {format_time(wall)}, and it is {format_time(known)} or later "
            f"(the last receipt is of {format_time(last)})",
            "correct the clock (timedatectl); calls are refused until then",
            LedgerFault.CLOCK_SET_BACK,
        )
    return known
