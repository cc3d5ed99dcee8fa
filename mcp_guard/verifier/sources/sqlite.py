"""Reads a ledger file (SQLite). It never writes to it, and guards may go on writing meanwhile."""

import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from ..report import UnusableInput
from .tables import TablesReader

TABLES = {
    "receipt": """CREATE TABLE receipt (
  seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, at INTEGER NOT NULL, call TEXT, body BLOB NOT NULL,
  signature BLOB NOT NULL, leaf BLOB NOT NULL
)""",
    "receipt_call": "CREATE INDEX receipt_call ON receipt (call) WHERE call IS NOT NULL",
    "node": """CREATE TABLE node (
  level INTEGER NOT NULL, idx INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (level, idx)
) WITHOUT ROWID""",
    "head": """CREATE TABLE head (
  one INTEGER PRIMARY KEY CHECK (one = 0), size INTEGER NOT NULL, edge BLOB NOT NULL, checkpoint TEXT NOT NULL,
  key TEXT NOT NULL
)""",
    "guard_key": "CREATE TABLE guard_key (id INTEGER PRIMARY KEY, since INTEGER NOT NULL, verifier TEXT NOT NULL)",
    "payload": """CREATE TABLE payload (
  seq INTEGER PRIMARY KEY, request BLOB, facts BLOB, material BLOB, response BLOB, subject BLOB
)""",
    "policy_version": "CREATE TABLE policy_version (version TEXT PRIMARY KEY, material BLOB NOT NULL) WITHOUT ROWID",
}
"""The tables that are read, and every index on them, exactly as the guard makes them (`storage/sql/schema.py`)."""
OTHER_OBJECT = re.compile(r"CREATE (TABLE|(UNIQUE )?INDEX) [a-z_]+ ")
MAX_FIELD = 64 << 20
"""Bytes of one text or blob."""
STEPS_BETWEEN_CHECKS, FREE_STEPS = 100_000, 20_000_000
"""Of SQLite's virtual machine. A query over an honest file takes fewer steps than the file has bytes."""


class LedgerSource:
    """A ledger file. Raises: UnusableInput if it does not exist, or SQLite would read it in more than one way."""

    scope = "ledger"
    failures: tuple[type[Exception], ...] = (sqlite3.Error, OSError)

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UnusableInput(f"no ledger at `{path}`")
        journal = path.with_name(f"{path.name}-journal")
        if journal.exists() and (not journal.is_file() or journal.stat().st_size):
            raise UnusableInput(
                f"`{journal}` holds a transaction that was not finished: a reader that applies it sees another ledger"
            )
        self.path = path

    def open(self) -> "LedgerReader":
        try:
            return LedgerReader(connect_read_only(self.path), self.path.stat().st_size)
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise UnusableInput(f"cannot read `{self.path}`: {error}") from None

    def holds_payloads(self) -> bool:
        return True

    def unknown_files(self) -> list[str]:
        return []


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Connect read-only. On a read-only medium SQLite must be told that the file cannot change (`immutable`)."""
    address = path.absolute().as_uri()
    try:
        db = _harden(sqlite3.connect(f"{address}?mode=ro", uri=True, isolation_level=None))
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise
        db = _harden(sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, isolation_level=None))
    return db


def _harden(db: sqlite3.Connection) -> sqlite3.Connection:
    """Settings for a file of unknown origin (sqlite.org/security.html)."""
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "query_only = ON"):
        db.execute(f"PRAGMA {pragma}")
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_FIELD)
    db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    return db


class LedgerReader(TablesReader):
    """Reads in one transaction, so that receipts appended meanwhile are not seen.

    INVARIANT: the tables are plain tables with exactly the known text, so that a query reads what they store and ends.
    """

    def __init__(self, db: sqlite3.Connection, size: int) -> None:
        self._db = db
        self._steps, self._max_steps = 0, FREE_STEPS + size
        db.set_progress_handler(self._count_steps, STEPS_BETWEEN_CHECKS)
        try:
            self._check_schema()
        except BaseException:
            db.close()
            raise

    def _count_steps(self) -> bool:
        """Whether to interrupt the query, because it takes longer than reading the whole file."""
        self._steps += STEPS_BETWEEN_CHECKS
        return self._steps > self._max_steps

    def _query(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        self._steps = 0
        return self._db.execute(sql, values)

    def _check_schema(self) -> None:
        """Raises: UnusableInput."""
        (encoding,) = self._query("PRAGMA encoding").fetchone()
        if encoding != "UTF-8":
            raise UnusableInput(f"not a ledger: its texts are stored as {encoding}")
        known = dict(TABLES)
        for kind, name, table, sql in self._query("SELECT type, name, tbl_name, sql FROM sqlite_master"):
            if sql is None and kind == "index" and str(name).startswith("sqlite_autoindex_"):
                continue
            is_ours = name in TABLES or table in TABLES
            if not isinstance(sql, str) or not OTHER_OBJECT.match(sql) or (is_ours and known.pop(name, None) != sql):
                raise UnusableInput(f"not a ledger as a guard makes it: the {kind} `{name}` is another one")
        if known:
            raise UnusableInput(f"not a ledger as a guard makes it: `{next(iter(known))}` is missing")

    def check_file(self) -> str | None:
        """A problem of the file itself: pages used twice or not at all, or an index that does not list its table."""
        for table in (name for name, sql in TABLES.items() if sql.startswith("CREATE TABLE")):
            (problem,) = self._query(f"PRAGMA integrity_check({table})").fetchone()
            if problem != "ok":
                return f"the file is damaged: table `{table}`: {str(problem).strip()}"
        return None

    def snapshot(self) -> str:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._db.execute("BEGIN")
        return f"{self.checkpoint()}\n{self.size()}"

    def format_4_end(self) -> int:
        return self.size() if self._query("PRAGMA user_version").fetchone() == (4,) else super().format_4_end()

    def close(self) -> None:
        self._db.close()
