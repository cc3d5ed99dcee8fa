"""What one upstream may cost: the memory that it makes the guard hold, and the work that nobody asked it for.

Each connection has one budget. Each reader charges it before keeping anything, so what an upstream overspends is its
own: a message is dropped, a call fails, or reading pauses. See docs/decisions/0046.
"""

from types import TracebackType
from typing import Self

MESSAGE_COST = 4096
"""What a message that answers no request is charged, beside its size: it takes work however short it is."""
BURST_COST = 4 * 1024 * 1024
"""What may be spent at once: about a thousand short notifications."""
COST_PER_SECOND = 4 * 1024 * 1024
MAX_DEBT_SECONDS = 30.0
"""How long reading pauses at most for what has been read already."""
HELD_BYTES = 16 * 1024 * 1024
"""What may be held beside two messages of the largest size."""


class WorkMeter:
    """Pays for work: `burst` may be spent at once, and so much comes back each second."""

    def __init__(self, burst: int, per_second: int) -> None:
        self._burst, self._per_second = burst, per_second
        self._credit = float(burst)
        self._updated_at = 0.0

    def charge(self, cost: int, now: float) -> float:
        """Returns for how many seconds nothing more should be read; `now` is in seconds, monotonic."""
        earned = (now - self._updated_at) * self._per_second
        self._credit = min(self._credit + earned, self._burst) - cost
        self._credit = max(self._credit, -MAX_DEBT_SECONDS * self._per_second)
        self._updated_at = now
        return max(-self._credit / self._per_second, 0.0)


class UpstreamBudget:
    """`held` is the number of bytes that are held for the upstream now."""

    def __init__(self, max_message_bytes: int) -> None:
        self.limit = 2 * max_message_bytes + HELD_BYTES
        self.held = 0
        self._work = WorkMeter(BURST_COST, COST_PER_SECOND)

    def hold(self) -> "Holding":
        """A part of the held bytes, empty at first."""
        return Holding(self)

    def resize(self, change: int) -> bool:
        """Hold so many bytes more, or less. False, and nothing changes, if that would be over the limit."""
        if change > 0 and self.held + change > self.limit:
            return False
        self.held += change
        return True

    def charge(self, cost: int, now: float) -> float:
        """Pay for work. Returns for how many seconds nothing more should be read; `now` is in seconds, monotonic."""
        return self._work.charge(cost, now)


class Holding:
    """Bytes held for one purpose; as a context manager it releases them at the end."""

    def __init__(self, budget: UpstreamBudget) -> None:
        self._budget = budget
        self.size = 0

    def resize(self, size: int) -> bool:
        """Hold this many bytes instead. False, and nothing changes, if the budget does not allow it."""
        if not self._budget.resize(size - self.size):
            return False
        self.size = size
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.resize(0)
