"""The search index in a file of its own in the state folder, for ledgers of every engine.

A posting is an entry under a term. An entry that matches several filters is found by leaping: each filter in turn names
the latest entry that is not above the one before it, until all name the same one (Veldhuizen, "Leapfrog Triejoin").
"""

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mcp_guard.core.model import HOUR, Micros
from mcp_guard.core.receipt_terms import Pair
from mcp_guard.storage.receipt_index import MAX_TERMS, EntryPage, IndexedReceipt, IndexPosition
from mcp_guard.storage.sqlite.errors import FAILURES, explain
from mcp_guard.storage.sqlite.store import log_ahead

FORMAT = 2
BUSY_SECONDS = 5.0
CACHE_KIB = 32 * 1024
MAX_KNOWN_TERMS = 50_000
INSTRUCTIONS_PER_LOOK = 10_000
"""Of SQLite's machine, between two looks at the clock: some tenths of a millisecond."""
BEYOND = 1 << 62
NOTHING = IndexPosition(0, b"")
TABLES = (
    "place (one INTEGER PRIMARY KEY CHECK (one = 0), size INTEGER NOT NULL, leaf BLOB NOT NULL)",
    "entry (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, call TEXT)",
    "term (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, value TEXT NOT NULL, entries INTEGER NOT NULL)",
    "posting (term INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (term, seq)) WITHOUT ROWID",
    "tally (hour INTEGER NOT NULL, kind TEXT NOT NULL, value TEXT NOT NULL, number INTEGER NOT NULL,"
    " PRIMARY KEY (hour, kind, value)) WITHOUT ROWID",
    "total (kind TEXT NOT NULL, value TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (kind, value)) WITHOUT ROWID",
)
INDEXES = (
    "UNIQUE INDEX entry_call ON entry (call) WHERE call IS NOT NULL",
    "INDEX entry_at ON entry (at)",
    "UNIQUE INDEX term_value ON term (kind, value)",
    "INDEX term_entries ON term (kind, entries)",
)
SEEK = "SELECT seq FROM posting WHERE term = ? AND seq <= ? ORDER BY seq DESC LIMIT 1"
ADD_TOTAL = "INSERT INTO total VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET number = number + excluded.number"
ADD_TALLY = "INSERT INTO tally VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET number = number + excluded.number"


class ReceiptIndexFile:
    """One connection to the file, which is made if it is not there. Implements `storage.receipt_index.ReceiptIndex`."""

    def __init__(self, path: Path) -> None:
        """Raises: LedgerError."""
        self._path = path
        self._known: dict[Pair, int] = {}
        try:
            if not path.exists():
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            log_ahead(self._db)
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            self._make_tables()
        except (*FAILURES, OSError) as error:
            raise explain(error, path) from None

    def _has_tables(self) -> bool:
        return bool(self._db.execute("PRAGMA user_version").fetchone()[0] == FORMAT)

    def _make_tables(self) -> None:
        """Also in place of those of another version."""
        if self._has_tables():
            return
        with self._writing():
            if self._has_tables():
                return
            for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                self._db.execute(f'DROP TABLE "{name}"')
            for table in TABLES:
                self._db.execute(f"CREATE TABLE {table}")
            for index in INDEXES:
                self._db.execute(f"CREATE {index}")
            self._db.execute("INSERT INTO place VALUES (0, ?, ?)", NOTHING)
            self._db.execute(f"PRAGMA user_version = {FORMAT}")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            self._known.clear()
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, FAILURES):
                raise explain(error, self._path) from None
            raise

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise explain(error, self._path) from None

    def close(self) -> None:
        self._db.close()

    # Building

    def position(self) -> IndexPosition:
        with self._reading():
            return IndexPosition(*self._db.execute("SELECT size, leaf FROM place").fetchone())

    def clear(self) -> None:
        with self._writing():
            for table in ("entry", "term", "posting", "tally", "total"):
                self._db.execute(f"DELETE FROM {table}")
            self._db.execute("UPDATE place SET size = ?, leaf = ?", NOTHING)
            self._known.clear()

    def add(self, receipts: Sequence[IndexedReceipt], before: IndexPosition, after: IndexPosition) -> bool:
        with self._writing():
            moved = "UPDATE place SET size = ?, leaf = ? WHERE size = ? AND leaf = ?"
            if self._db.execute(moved, (*after, *before)).rowcount != 1:
                return False
            tally: Counter[tuple[int, str, str]] = Counter()
            totals: Counter[Pair] = Counter()
            entries: list[tuple[int, Micros, str | None]] = []
            of_calls: dict[str, int] = {}
            postings: set[tuple[int, int]] = set()
            for receipt in receipts:
                hour = receipt.at // HOUR
                counts = list(receipt.counts)
                if receipt.terms:
                    entry = self._entry_of(receipt.call, of_calls)
                    if entry is None:
                        entry = receipt.seq
                        entries.append((entry, receipt.at, receipt.call))
                        if receipt.call is not None:
                            of_calls[receipt.call] = entry
                        counts += receipt.first_counts
                        totals.update(receipt.totals)
                    postings.update((self._term_id(term), entry) for term in receipt.terms)
                tally.update((hour, *pair) for pair in counts)
                if (drill := receipt.takes_back) is not None:
                    tally.subtract((drill.at // HOUR, *pair) for pair in (*drill.counts, *drill.first_counts))
                    totals.subtract(drill.totals)
            self._db.executemany("INSERT INTO entry VALUES (?, ?, ?)", entries)
            self._add_postings(postings, {entry for entry, _, _ in entries})
            self._db.executemany(ADD_TALLY, [(*key, number) for key, number in sorted(tally.items())])
            self._db.executemany(ADD_TOTAL, [(*pair, number) for pair, number in sorted(totals.items())])
            return True

    def _entry_of(self, call: str | None, of_calls: dict[str, int]) -> int | None:
        if call is None:
            return None
        if call in of_calls:
            return of_calls[call]
        row = self._db.execute("SELECT seq FROM entry WHERE call = ?", (call,)).fetchone()
        if row is not None:
            of_calls[call] = row[0]
        return row[0] if row else None

    def _term_id(self, term: Pair) -> int:
        if (id := self._known.get(term)) is not None:
            return id
        row = self._db.execute("SELECT id FROM term WHERE kind = ? AND value = ?", term).fetchone()
        if row is None:
            insert = "INSERT INTO term (kind, value, entries) VALUES (?, ?, 0) RETURNING id"
            row = self._db.execute(insert, term).fetchone()
        if len(self._known) >= MAX_KNOWN_TERMS:
            self._known.clear()
        self._known[term] = row[0]
        return int(row[0])

    def _add_postings(self, postings: set[tuple[int, int]], new_entries: set[int]) -> None:
        """An entry that was there before may have some of its terms already."""
        old = {posting for posting in postings if posting[1] not in new_entries}
        insert = "INSERT OR IGNORE INTO posting VALUES (?, ?)"
        added: Counter[int] = Counter()
        for posting in old:
            added[posting[0]] += self._db.execute(insert, posting).rowcount
        new = sorted(postings - old)
        self._db.executemany(insert, new)
        added.update(term for term, _ in new)
        update = "UPDATE term SET entries = entries + ? WHERE id = ?"
        self._db.executemany(update, [(number, term) for term, number in added.items() if number])

    # Searching

    def find_terms(self, kind: str, patterns: Iterable[str], seconds: float) -> list[int] | None:
        ids: dict[int, None] = {}
        with self._reading(), self._time_limit(seconds) as is_over:
            try:
                for pattern in patterns:
                    if "*" in pattern:
                        literal = pattern.replace("[", "[[]").replace("?", "[?]")
                        query, wanted = "SELECT id FROM term WHERE kind = ? AND value GLOB ? LIMIT ?", literal
                    else:
                        query, wanted = "SELECT id FROM term WHERE kind = ? AND value = ? LIMIT ?", pattern
                    ids |= dict.fromkeys(id for (id,) in self._db.execute(query, (kind, wanted, MAX_TERMS + 1)))
            except sqlite3.OperationalError:
                if not is_over():
                    raise
                return None
        return list(ids) if len(ids) <= MAX_TERMS else None

    @contextmanager
    def _time_limit(self, seconds: float) -> Iterator[Callable[[], bool]]:
        """Interrupt what is asked of the database after so long. Yields whether the time is over."""
        end = time.monotonic() + seconds
        self._db.set_progress_handler(lambda: time.monotonic() > end, INSTRUCTIONS_PER_LOOK)
        try:
            yield lambda: time.monotonic() > end
        finally:
            self._db.set_progress_handler(None, 0)

    def find_entries(
        self, groups: Sequence[Sequence[int]], below: int, floor: int, count: int, seconds: float
    ) -> EntryPage:
        with self._reading():
            if not groups:
                query = "SELECT seq FROM entry WHERE seq < ? AND seq >= ? ORDER BY seq DESC LIMIT ?"
                rows = [seq for (seq,) in self._db.execute(query, (below, floor, count + 1))]
                return _page(rows, count)
            return self._leap([_Union(self._db, ids) for ids in groups], below, floor, count, seconds)

    def _leap(self, unions: "list[_Union]", below: int, floor: int, count: int, seconds: float) -> EntryPage:
        rows: list[int] = []
        end, at = time.monotonic() + seconds, below - 1
        while len(rows) <= count and at >= floor:
            lowest = at
            for union in unions:
                if (entry := union.latest(lowest)) is None or entry < floor:
                    return _page(rows, count)
                lowest = entry
            if lowest == at or len(unions) == 1 or all(union.latest(lowest) == lowest for union in unions):
                rows.append(lowest)
                at = lowest - 1
            else:
                at = lowest
            if len(rows) <= count and time.monotonic() > end:
                return EntryPage(tuple(rows[:count]), at + 1, is_partial=True)
        return _page(rows, count)

    def first_entry_at(self, at: Micros) -> int:
        with self._reading():
            row = self._db.execute("SELECT seq FROM entry WHERE at >= ? ORDER BY at, seq LIMIT 1", (at,)).fetchone()
            return int(row[0]) if row else self.position().size

    def values(self, kind: str, count: int) -> list[tuple[str, int]]:
        query = "SELECT value, entries FROM term WHERE kind = ? ORDER BY entries DESC LIMIT ?"
        with self._reading():
            return [(value, entries) for value, entries in self._db.execute(query, (kind, count))]

    def numbers(self, kind: str, values: Collection[str]) -> dict[str, int]:
        query = "SELECT number FROM total WHERE kind = ? AND value = ?"
        with self._reading():
            rows = {value: self._db.execute(query, (kind, value)).fetchone() for value in values}
        return {value: row[0] if row else 0 for value, row in rows.items()}

    def counts(self, since: Micros, until: Micros, step: int) -> list[tuple[int, str, str, int]]:
        first, last = since // HOUR, until // HOUR
        query = (
            "SELECT (hour - ?) / ?, kind, value, sum(number) FROM tally WHERE hour >= ? AND hour <= ? GROUP BY 1, 2, 3"
        )
        with self._reading():
            return self._db.execute(query, (first, step, first, last)).fetchall()


class _Union:
    """The entries that have one of several terms."""

    def __init__(self, db: sqlite3.Connection, ids: Sequence[int]) -> None:
        self._db = db
        self._latest: dict[int, int | None] = dict.fromkeys(ids, BEYOND)
        """By term: the latest entry that was found."""

    def latest(self, at: int) -> int | None:
        """The latest entry that is not above `at`, which never grows."""
        best: int | None = None
        for id, known in self._latest.items():
            entry = known
            if known is not None and known > at:
                row = self._db.execute(SEEK, (id, at)).fetchone()
                self._latest[id] = entry = row[0] if row else None
            if entry is not None and (best is None or entry > best):
                best = entry
        return best


def _page(rows: list[int], count: int) -> EntryPage:
    """Of one row more than were asked for, if there are so many."""
    return EntryPage(tuple(rows[:count]), rows[count - 1] if len(rows) > count else None)
