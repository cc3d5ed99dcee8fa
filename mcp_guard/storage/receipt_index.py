"""The contract of the index by which people search receipts and count calls.

It is derived from the ledger and kept beside it, so it may be deleted at any time, is no evidence, and is in no backup.
Its entries are calls and the receipts that belong to none (`core/receipt_terms.py`), under the number of their first
receipt. Not for an event loop: it reads and writes at once.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mcp_guard.core.model import Micros
from mcp_guard.core.receipt_terms import Pair

MAX_TERMS = 1000
"""What a pattern may match: each term is another place to look at."""


class IndexPosition(NamedTuple):
    """How far the ledger is indexed: the number of receipts, and the leaf hash of the last one."""

    size: int
    leaf: bytes


@dataclass(frozen=True, slots=True)
class IndexedReceipt:
    """What the index takes from one receipt. `first_counts` and `totals` are counted, in its hour and over all
    times, if it is the first one of its entry."""

    seq: int
    at: Micros
    call: str | None
    terms: Collection[Pair]
    counts: Sequence[Pair]
    first_counts: Sequence[Pair]
    totals: Sequence[Pair] = ()
    takes_back: "IndexedReceipt | None" = None
    """An earlier receipt that is counted no more: the first of a drill, which this one says was of no call."""


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Entries, the latest first. `next` is what comes after them: search on below this number; None at the end.

    `is_partial`: the time for the search was over before the page was full.
    """

    entries: tuple[int, ...]
    next: int | None
    is_partial: bool = False


class ReceiptIndex(Protocol):
    """One connection, for one thread at a time. Every method raises LedgerError."""

    def position(self) -> IndexPosition: ...

    def add(self, receipts: Sequence[IndexedReceipt], before: IndexPosition, after: IndexPosition) -> bool:
        """Add the receipts that follow `before`. False, and without effect, if another process has moved it."""

    def clear(self) -> None:
        """Forget everything, because it is of another ledger."""

    def find_terms(self, kind: str, patterns: Iterable[str], seconds: float) -> list[int] | None:
        """The terms of a kind that match one of the patterns, in which `*` stands for any characters. None if they are
        more than `MAX_TERMS`, or are not found in so many seconds."""

    def find_entries(
        self, groups: Sequence[Sequence[int]], below: int, floor: int, count: int, seconds: float
    ) -> EntryPage:
        """Entries from `floor` up to `below` that have a term of every group, for at most so many seconds."""

    def first_entry_at(self, at: Micros) -> int:
        """The first entry that began at this time or later; beyond the last one if there is none."""

    def values(self, kind: str, count: int) -> list[tuple[str, int]]:
        """The values of a kind in the most entries, with the number of these."""

    def numbers(self, kind: str, values: Collection[str]) -> dict[str, int]:
        """Of these values: how many calls were counted in total."""

    def counts(self, since: Micros, until: Micros, step: int) -> list[tuple[int, str, str, int]]:
        """What was counted from the hour of `since` up to `until`: the step of so many hours since the first one, kind,
        value and number."""

    def close(self) -> None: ...
