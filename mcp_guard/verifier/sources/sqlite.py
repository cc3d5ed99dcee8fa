"""Reads a ledger file (SQLite). It never writes to it, and guards may go on writing meanwhile."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ..merkle import TILE
from ..notes import REPLACED, ROTATED
from ..report import UnusableInput, VerificationFailed
from ..signatures import PAYLOADS
from . import IndexColumns, Row, TreeEnd

PAYLOAD_COLUMNS = ", ".join(f"payload.{name}" for name in PAYLOADS)
ROWS = f"""SELECT receipt.seq, kind, at, call, body, signature, leaf, {PAYLOAD_COLUMNS} FROM receipt
LEFT JOIN payload ON payload.seq = receipt.seq WHERE receipt.seq >= ? AND receipt.seq < ? ORDER BY receipt.seq"""


class LedgerSource:
    """A ledger file. Raises: UnusableInput if it does not exist."""

    scope = "ledger"

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise UnusableInput(f"no ledger at `{path}`")
        self.path = path

    def open(self) -> "LedgerReader":
        try:
            return LedgerReader(_connect(self.path))
        except sqlite3.Error as error:
            raise UnusableInput(f"cannot read `{self.path}`: {error}") from None

    def holds_payloads(self) -> bool:
        return True


def _connect(path: Path) -> sqlite3.Connection:
    """Connect read-only. On a read-only medium SQLite must be told that the file cannot change (`immutable`)."""
    address = path.absolute().as_uri()
    try:
        db = sqlite3.connect(f"{address}?mode=ro", uri=True, isolation_level=None)
        db.execute("SELECT size FROM head")
    except sqlite3.OperationalError:
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise
        db = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, isolation_level=None)
    return db


class LedgerReader:
    """Reads in one transaction, so that receipts appended meanwhile are not seen."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        self._has_nodes, self._has_keys = ("node",) in tables, ("guard_key",) in tables

    def snapshot(self) -> str:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._db.execute("BEGIN")
        return f"{self.checkpoint()}\n{self.size()}"

    def size(self) -> int:
        last = self._db.execute("SELECT max(seq) FROM receipt").fetchone()[0]
        return 0 if last is None else int(last) + 1

    def checkpoint(self) -> str:
        row = self._db.execute("SELECT checkpoint FROM head").fetchone()
        return str(row[0]) if row else ""

    def rows(self, first: int, stop: int) -> Iterator[Row]:
        for seq, kind, at, call, body, signature, leaf, *payloads in self._db.execute(ROWS, (first, stop)):
            if not (type(body) is bytes and type(signature) is bytes and type(leaf) is bytes):
                raise VerificationFailed(seq, "not stored as bytes")
            yield Row(seq, IndexColumns(kind, at, call), body, signature, leaf, payloads)

    def stored(self, level: int, first: int, stop: int) -> list[bytes] | None:
        if level and not self._has_nodes:
            return None
        query = "SELECT seq, leaf FROM receipt WHERE seq >= ?2 AND seq < ?3 AND ?1 = 0 ORDER BY seq"
        if level:
            query = "SELECT idx, hash FROM node WHERE level = ?1 AND idx >= ?2 AND idx < ?3 ORDER BY idx"
        return [hash for _, hash in self._db.execute(query, (level, first, stop))]

    def first_with_payload(self, first: int, last: int) -> int | None:
        row = self._db.execute("SELECT min(seq) FROM payload WHERE seq BETWEEN ? AND ?", (first, last)).fetchone()
        return None if row[0] is None else int(row[0])

    def policy(self, version: str) -> bytes | None:
        row = self._db.execute("SELECT material FROM policy_version WHERE version = ?", (version,)).fetchone()
        return row[0] if row and isinstance(row[0], bytes) else None

    def key_receipts(self) -> list[int]:
        query = "SELECT seq FROM receipt WHERE kind IN (?, ?) ORDER BY seq"
        return [int(row[0]) for row in self._db.execute(query, (ROTATED, REPLACED))]

    def key_hints(self) -> list[str]:
        """The old key of the first change of keys."""
        query = "SELECT json_extract(body, '$.old') FROM receipt WHERE kind IN (?, ?) ORDER BY seq LIMIT 1"
        return [str(row[0]) for row in self._db.execute(query, (ROTATED, REPLACED))]

    def strays(self, end: TreeEnd) -> tuple[int | None, str] | None:
        """Rows outside the range of receipts, surplus or missing nodes, or a head or keys that do not match."""
        size = end.size
        head = self._db.execute("SELECT * FROM head").fetchone()
        if tuple(head)[1:3] != (size, b"".join(end.edge)):
            return None, "the stored head, to which the next receipt would be appended, belongs to another tree"
        if len(head) > 4 and head[4] != end.keys[-1]:
            return None, "the stored head names another key than the one in use"
        if self._has_keys:
            keys = [line for (line,) in self._db.execute("SELECT verifier FROM guard_key ORDER BY id")]
            if keys != end.keys:
                return None, "the table of the guard's keys does not list the keys that signed the receipts"
        for table in ("receipt", "payload"):
            query = f"SELECT seq FROM {table} WHERE seq < 0 OR seq >= ? LIMIT 1"
            if row := self._db.execute(query, (size,)).fetchone():
                return row[0], f"a row of table `{table}` belongs to no receipt of the tree"
        if self._has_nodes:
            levels = range(1, (size.bit_length() + TILE - 1) // TILE + 1)
            expected = {level: size >> TILE * level for level in levels if size >> TILE * level}
            counts = dict(self._db.execute("SELECT level, count(*) FROM node GROUP BY level").fetchall())
            if counts != expected:
                return None, f"the stored nodes are {counts} (level: count), but this tree has {expected}"
        return None

    def close(self) -> None:
        self._db.close()
