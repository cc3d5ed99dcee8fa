"""Brings the search index up to the ledger, and searches it. Blocks: for a thread of its own, not for an event loop."""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import orjson

from mcp_guard.core.model import Micros
from mcp_guard.core.receipt_filters import MIN_VERSION_LENGTH
from mcp_guard.core.receipt_terms import DRILL, ENTRY, MAX_VALUE, OTHER, counts_of, first_counts_of, terms_of, totals_of
from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import Engine, open_receipt_index
from mcp_guard.storage.receipt_index import MAX_TERMS, EntryPage, IndexedReceipt, IndexPosition, ReceiptIndex
from mcp_guard.storage.rows import ReceiptRow

T = TypeVar("T")
BATCH = 2000
"""Receipts that are added in one transaction."""
SEARCH_SECONDS = 0.15
"""A search that finds less in this time says how far it came."""
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for: by filter, the values of which one must match; from `since` up to and at `until`. `below` is
    where a page before has ended."""

    wanted: Mapping[str, Sequence[str]]
    since: Micros | None = None
    until: Micros | None = None
    below: int | None = None


@dataclass(frozen=True, slots=True)
class FoundReceipts:
    """A page of entries. `unknown` are the filters and values that nothing in the ledger has, `too_broad` those that
    too much has."""

    page: EntryPage
    unknown: tuple[tuple[str, str], ...] = ()
    too_broad: tuple[tuple[str, str], ...] = ()


def index_receipt(row: ReceiptRow) -> IndexedReceipt:
    """What the index takes from it. Of what is not a receipt, only the kind of its row."""
    try:
        receipt = orjson.loads(row.body)
        return IndexedReceipt(
            row.seq,
            row.at,
            row.call,
            terms_of(receipt),
            counts_of(receipt),
            first_counts_of(receipt),
            totals_of(receipt),
        )
    except MALFORMED:
        return IndexedReceipt(row.seq, row.at, None, {("kind", row.kind[:MAX_VALUE]), (ENTRY, OTHER)}, (), ())


def _index_with_drill(row: ReceiptRow, store: Store) -> IndexedReceipt:
    indexed = index_receipt(row)
    if DRILL not in indexed.counts:
        return indexed
    return replace(indexed, takes_back=index_receipt(store.receipts_with_calls([row.seq])[0]))


def catch_up(index: ReceiptIndex, store: Store, seconds: float, is_stopped: Callable[[], bool]) -> bool:
    """Add what the ledger has and the index lacks, for about so long. What is of another ledger is forgotten first.

    Returns: whether the index has all that the ledger had.

    Raises: LedgerError.
    """
    end = time.monotonic() + seconds
    while True:
        position = index.position()
        if position.size and store.leaf(position.size - 1) != position.leaf:
            index.clear()
            position = index.position()
        size = store.head().size
        rows = list(islice(store.receipts_after(position.size - 1), min(BATCH, size - position.size)))
        if not rows:
            return True
        after = IndexPosition(rows[-1].seq + 1, bytes(rows[-1].leaf))
        index.add([_index_with_drill(row, store) for row in rows], position, after)
        if time.monotonic() > end or is_stopped():
            return after.size == size


class ReceiptSearch:
    """The index of one ledger. One thread at a time adds to it, and another one searches."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._adding, self._reading = threading.Lock(), threading.Lock()
        self._stopped = threading.Event()
        self._to_add: ReceiptIndex | None = None
        self._to_read: ReceiptIndex | None = None

    def catch_up(self, seconds: float) -> bool:
        """Returns: whether the index has all that the ledger had. False at once while another thread adds to it.

        Raises: LedgerError.
        """
        if not self._adding.acquire(blocking=False):
            return False
        try:
            with closing(self._engine.open_unchecked()) as store, store.reading():
                self._to_add = self._to_add or open_receipt_index(self._folder)
                return catch_up(self._to_add, store, seconds, self._stopped.is_set)
        finally:
            self._adding.release()

    def read(self, query: Callable[[ReceiptIndex], T]) -> T:
        """Raises: LedgerError."""
        with self._reading:
            self._to_read = self._to_read or open_receipt_index(self._folder)
            return query(self._to_read)

    def stop(self) -> None:
        """What is being added ends with its batch."""
        self._stopped.set()

    def close(self) -> None:
        self.stop()
        with self._adding, self._reading:
            for index in (self._to_add, self._to_read):
                if index is not None:
                    index.close()
            self._to_add = self._to_read = None


def find(index: ReceiptIndex, search: Search, count: int, seconds: float) -> FoundReceipts:
    """The latest entries that match, at most so many. Raises: LedgerError."""
    end = time.monotonic() + seconds
    groups: list[Sequence[int]] = []
    unknown: list[tuple[str, str]] = []
    too_broad: list[tuple[str, str]] = []
    for name, values in search.wanted.items():
        group: list[int] = []
        for value in values:
            ids = index.find_terms(name, _patterns(name, value[:MAX_VALUE]), end - time.monotonic())
            if ids is None or len(group) + len(ids) > MAX_TERMS:
                too_broad.append((name, value))
            elif not ids:
                unknown.append((name, value))
            else:
                group += ids
        groups.append(group)
    if too_broad or not all(groups):
        return FoundReceipts(EntryPage((), None), tuple(unknown), tuple(too_broad))
    below = index.position().size if search.until is None else index.first_entry_at(search.until + 1)
    if search.below is not None:
        below = min(below, search.below)
    floor = 0 if search.since is None else index.first_entry_at(search.since)
    return FoundReceipts(index.find_entries(groups, below, floor, count, end - time.monotonic()), tuple(unknown))


def _patterns(name: str, value: str) -> list[str]:
    """A policy version can be given by the beginning of its hash."""
    digits = value.removeprefix("sha256:")
    is_version = name == "policy" and re.fullmatch(f"[0-9a-f]{{{MIN_VERSION_LENGTH},64}}", digits)
    return [value, f"sha256:{digits}*"] if is_version else [value]
