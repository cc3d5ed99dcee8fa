"""Reads a ledger file (SQLite). It never writes to it, and guards may go on writing meanwhile."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..files import parse_json
from ..format_4 import MIGRATED
from ..merkle import TILE
from ..notes import REPLACED, ROTATED
from ..report import UnusableInput, VerificationFailed
from ..signatures import PAYLOADS
from . import IndexColumns, Row, TreeEnd

PAYLOAD_COLUMNS = ", ".join(f"payload.{name}" for name in PAYLOADS)
ROWS = f"""SELECT receipt.seq, kind, at, call, body, signature, leaf, {PAYLOAD_COLUMNS} FROM receipt
LEFT JOIN payload ON payload.seq = receipt.seq WHERE receipt.seq >= ? AND receipt.seq < ? ORDER BY receipt.seq"""


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
"""The tables that are read, and every index on them, exactly as the guard makes them (`storage/sqlite/schema.py`)."""
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


class LedgerReader:
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

    def size(self) -> int:
        last = self._query("SELECT max(seq) FROM receipt").fetchone()[0]
        return 0 if last is None else int(last) + 1

    def checkpoint(self) -> str:
        row = self._query("SELECT checkpoint FROM head").fetchone()
        return str(row[0]) if row else ""

    def rows(self, first: int, stop: int) -> Iterator[Row]:
        for seq, kind, at, call, body, signature, leaf, *payloads in self._query(ROWS, (first, stop)):
            if not (type(body) is bytes and type(signature) is bytes and type(leaf) is bytes):
                raise VerificationFailed(seq, "not stored as bytes")
            yield Row(seq, IndexColumns(kind, at, call), body, signature, leaf, payloads)

    def stored(self, level: int, first: int, stop: int) -> list[bytes] | None:
        query = "SELECT seq, leaf FROM receipt WHERE seq >= ?2 AND seq < ?3 AND ?1 = 0 ORDER BY seq"
        if level:
            query = "SELECT idx, hash FROM node WHERE level = ?1 AND idx >= ?2 AND idx < ?3 ORDER BY idx"
        return [hash for _, hash in self._query(query, (level, first, stop))]

    def first_with_payload(self, first: int, last: int) -> int | None:
        row = self._query("SELECT min(seq) FROM payload WHERE seq BETWEEN ? AND ?", (first, last)).fetchone()
        return None if row[0] is None else int(row[0])

    def policy(self, version: str) -> bytes | None:
        row = self._query("SELECT material FROM policy_version WHERE version = ?", (version,)).fetchone()
        return row[0] if row and isinstance(row[0], bytes) else None

    def key_receipts(self) -> list[int]:
        query = "SELECT seq FROM receipt WHERE kind IN (?, ?) ORDER BY seq"
        return [int(row[0]) for row in self._query(query, (ROTATED, REPLACED))]

    def format_4_end(self) -> int:
        if self._query("PRAGMA user_version").fetchone() == (4,):
            return self.size()
        row = self._query("SELECT seq FROM receipt WHERE kind = ? ORDER BY seq LIMIT 1", (MIGRATED,)).fetchone()
        return row[0] + 1 if row else 0

    def key_hints(self) -> list[str]:
        """The old key of the first change of keys."""
        query = "SELECT body FROM receipt WHERE kind IN (?, ?) ORDER BY seq LIMIT 1"
        try:
            return [str(parse_json(bytes(row[0]))["old"]) for row in self._query(query, (ROTATED, REPLACED))]
        except (ValueError, KeyError, TypeError):
            return []

    def strays(self, end: TreeEnd) -> tuple[int | None, str] | None:
        """Rows outside the range of receipts, surplus or missing nodes, or a head or keys that do not match."""
        size = end.size
        head = self._query("SELECT * FROM head").fetchone()
        if tuple(head)[1:3] != (size, b"".join(end.edge)):
            return None, "the stored head, to which the next receipt would be appended, belongs to another tree"
        if head[4] != end.keys[-1]:
            return None, "the stored head names another key than the one in use"
        keys = [line for (line,) in self._query("SELECT verifier FROM guard_key ORDER BY id")]
        if keys != end.keys:
            return None, "the table of the guard's keys does not list the keys that signed the receipts"
        for table in ("receipt", "payload"):
            query = f"SELECT seq FROM {table} WHERE seq < 0 OR seq >= ? LIMIT 1"
            if row := self._query(query, (size,)).fetchone():
                return row[0], f"a row of table `{table}` belongs to no receipt of the tree"
        levels = range(1, (size.bit_length() + TILE - 1) // TILE + 1)
        expected = {level: size >> TILE * level for level in levels if size >> TILE * level}
        counts = dict(self._query("SELECT level, count(*) FROM node GROUP BY level").fetchall())
        if counts != expected:
            return None, f"the stored nodes are {counts} (level: count), but this tree has {expected}"
        return None

    def close(self) -> None:
        self._db.close()
