"""The part of the storage contract that speaks of rates (`storage/contract.py`)."""

from typing import Protocol

from mcp_guard.core.model import Micros
from mcp_guard.core.rates import RecordedUse


class RateStore(Protocol):
    """The uses of rates, by counter and key. Consistency: sums are exact, of whatever size, and their cost does not
    depend on the number of uses. Only in a transaction does a sum include every use that may come before."""

    def sum_uses(self, counter: str, key: str, since: Micros) -> int:
        """Of the amounts after `since`."""

    def add_use(self, counter: str, key: str, at: Micros, amount: int) -> RecordedUse:
        """INVARIANT: not before the last one, as no receipt is."""

    def remove_use(self, use: RecordedUse) -> None:
        """Take back a use, unless it has been forgotten. No sum of others changes."""

    def forget_uses(self, counter: str, key: str, before: Micros) -> None:
        """Those up to and at this time."""
