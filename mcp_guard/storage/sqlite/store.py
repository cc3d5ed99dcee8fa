"""The ledger file: SQLite in WAL mode, `synchronous=FULL`. Statements only; `ledger/` decides what they mean.

Writes are compare-and-set and check that one row changed. Nothing here begins or ends a transaction but `begin`,
`commit` and `rollback`.
"""

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.rates import RecordedUse
from mcp_guard.core.tlog.merkle import TILE_WIDTH
from mcp_guard.storage.rows import PAYLOADS, SALT_BYTES, ReceiptRow, TreeHead
from mcp_guard.storage.sqlite import schema
from mcp_guard.storage.sqlite.approvals import ApprovalQueries
from mcp_guard.storage.sqlite.errors import FAILURES, explain
from mcp_guard.storage.sqlite.file_location import FileLocation
from mcp_guard.storage.sqlite.identities import IdentityQueries
from mcp_guard.storage.sqlite.keys import KeyQueries
from mcp_guard.storage.sqlite.payloads import PayloadQueries
from mcp_guard.storage.sqlite.pins import PinQueries

BUSY_SECONDS = 2.0
CACHE_KIB = 512
"""Page cache. A call touches some 40 pages of 4 KiB, mostly the same ones."""
LAST_TOTAL = "SELECT total FROM rate_use WHERE counter = ?1 AND key = ?2 ORDER BY at DESC, id DESC LIMIT 1"


class SqliteStore(ApprovalQueries, IdentityQueries, KeyQueries, PayloadQueries, PinQueries):
    """One connection to the ledger file. Implements `storage.contract.Store`."""

    failures = FAILURES

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.path = path
        self.name = str(path)
        self.location = FileLocation(path)

    def explain(self, failure: Exception) -> LedgerError:
        return explain(failure, self.path)

    @contextmanager
    def reading(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise explain(error, self.path) from None

    def begin(self) -> None:
        self._run("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """INVARIANT: what is durable when this returns is in the file of this name.

        Raises: LedgerError, sqlite3.Error.
        """
        self.location.check()
        self._run("COMMIT")
        self.location.check()

    def version(self) -> int:
        """Differs if another connection has written since."""
        return int(self._run("PRAGMA data_version").fetchone()[0])

    def rollback(self) -> None:
        if self._db.in_transaction:
            self._run("ROLLBACK")

    def close(self) -> None:
        self._db.close()

    def copy_to(self, target: sqlite3.Connection) -> None:
        """Write what is committed now to another database, in place of what is in it."""
        self._db.backup(target)

    # Receipts

    def head(self) -> TreeHead:
        row = self._run("SELECT size, edge, key FROM head").fetchone()
        if row is None or not isinstance(row[1], bytes):
            raise sqlite3.DatabaseError("the ledger has no head")
        return TreeHead(*row)

    def advance_head(self, before: int, after: TreeHead, checkpoint: str) -> None:
        cursor = self._run(
            "UPDATE head SET size = ?, edge = ?, checkpoint = ?, key = ? WHERE one = 0 AND size = ?",
            (after.size, bytearray(after.edge), checkpoint, after.key, before),
        )
        self._one_row(cursor, "the head of the ledger")

    def leaf(self, seq: int) -> bytes | None:
        row = self._run("SELECT leaf FROM receipt WHERE seq = ?", (seq,)).fetchone()
        return bytes(row[0]) if row else None

    def last_time(self) -> int:
        """Of the last receipt; 0 if there is none."""
        row = self._run("SELECT at FROM receipt ORDER BY seq DESC LIMIT 1").fetchone()
        return int(row[0]) if row else 0

    def checkpoint(self) -> str:
        return str(self._run("SELECT checkpoint FROM head").fetchone()[0])

    def add_receipt(self, row: ReceiptRow) -> None:
        seq, kind, at, call, body, signature, leaf = row
        values = (seq, kind, at, call, bytearray(body), bytearray(signature), bytearray(leaf))
        self._run("INSERT INTO receipt VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def add_node(self, level: int, index: int, hash: bytes) -> None:
        """The root of a complete subtree of 256**level receipts."""
        self._run("INSERT INTO node VALUES (?, ?, ?)", (level, index, hash))

    def tile(self, level: int, n: int) -> list[bytes]:
        """The hashes of a tile (core/tlog/merkle.py) that exist now: up to 256."""
        span = (n * TILE_WIDTH, (n + 1) * TILE_WIDTH)
        if level == 0:
            rows = self._run("SELECT CAST(leaf AS BLOB) FROM receipt WHERE seq >= ? AND seq < ? ORDER BY seq", span)
        else:
            sql = "SELECT CAST(hash AS BLOB) FROM node WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx"
            rows = self._run(sql, (level, *span))
        return [hash for (hash,) in rows]

    def entries(self, first: int, end: int) -> list[tuple[int, bytes, bytes]]:
        """Number, document and signature of the receipts from `first` up to `end`, in order."""
        cells = "seq, CAST(body AS BLOB), CAST(signature AS BLOB)"
        sql = f"SELECT {cells} FROM receipt WHERE seq >= ? AND seq < ? ORDER BY seq"
        return self._run(sql, (first, end)).fetchall()

    def cells(self, first: int, end: int) -> Iterator[tuple[int, dict[str, tuple[bytes, bytes]]]]:
        """The payloads still kept of the receipts from `first` up to `end`, each as its salt and its bytes."""
        sql = f"SELECT seq, {', '.join(PAYLOADS)} FROM payload WHERE seq >= ? AND seq < ? ORDER BY seq"
        for seq, *row in self._run(sql, (first, end)):
            kept = {name: cell for name, cell in zip(PAYLOADS, row, strict=True) if cell and len(cell) > SALT_BYTES}
            yield seq, {name: (cell[:SALT_BYTES], cell[SALT_BYTES:]) for name, cell in kept.items()}

    def add_payloads(self, seq: int, cells: Mapping[str, bytearray]) -> None:
        """The payloads of one receipt by name (of `PAYLOADS`), each with its salt before it."""
        sql = f"INSERT INTO payload (seq, {', '.join(cells)}) VALUES (?{', ?' * len(cells)})"
        self._run(sql, (seq, *cells.values()))

    def receipt(self, seq: int) -> ReceiptRow | None:
        row = self._run("SELECT * FROM receipt WHERE seq = ?", (seq,)).fetchone()
        return ReceiptRow(*row) if row else None

    def receipts_of(self, call: str) -> list[ReceiptRow]:
        return [ReceiptRow(*row) for row in self._run("SELECT * FROM receipt WHERE call = ? ORDER BY seq", (call,))]

    def receipts_after(self, seq: int) -> Iterator[ReceiptRow]:
        """In order, read lazily."""
        for row in self._run("SELECT * FROM receipt WHERE seq > ? ORDER BY seq", (seq,)):
            yield ReceiptRow(*row)

    def receipts_back(self) -> Iterator[ReceiptRow]:
        """The latest first, read lazily."""
        for row in self._run("SELECT * FROM receipt ORDER BY seq DESC"):
            yield ReceiptRow(*row)

    def payloads(self, seq: int) -> dict[str, bytes | None]:
        """The payloads of a receipt; None where it was hashed and not kept. Erased ones are left out."""
        sql = "SELECT request, facts, material, response, subject FROM payload WHERE seq = ?"
        row = self._run(sql, (seq,)).fetchone()
        cells = zip(PAYLOADS, row or (), strict=False)
        return {name: cell[SALT_BYTES:] or None for name, cell in cells if cell is not None}

    # Calls without outcome

    def open_call(self, intent: int, guard: str) -> None:
        self._run("INSERT INTO open_call VALUES (?, ?)", (intent, guard))

    def close_call(self, intent: int) -> None:
        self._one_row(self._run("DELETE FROM open_call WHERE intent = ?", (intent,)), f"the open call {intent}")

    def is_open_call(self, intent: int) -> bool:
        return self._run("SELECT 1 FROM open_call WHERE intent = ?", (intent,)).fetchone() is not None

    def open_calls(self) -> list[tuple[int, str]]:
        return self._run("SELECT intent, guard FROM open_call ORDER BY intent").fetchall()

    # Rates

    def sum_uses(self, counter: str, key: str, since: int) -> int:
        """The amounts after `since`, however many: what the first of them adds to, from what the last comes to."""
        within = (
            "SELECT total, amount FROM rate_use WHERE counter = ?1 AND key = ?2 AND at > ?3 ORDER BY at, id LIMIT 1"
        )
        row = self._run(f"SELECT ({LAST_TOTAL}), total, amount FROM ({within})", (counter, key, since)).fetchone()
        return int(row[0]) - int(row[1]) + int(row[2]) if row else 0

    def _total(self, counter: str, key: str) -> int:
        row = self._run(LAST_TOTAL, (counter, key)).fetchone()
        return int(row[0]) if row else 0

    def add_use(self, counter: str, key: str, at: int, amount: int) -> RecordedUse:
        """INVARIANT: not before the last one, as no receipt is."""
        values = (counter, key, at, amount, str(self._total(counter, key) + amount))
        cursor = self._run("INSERT INTO rate_use (counter, key, at, amount, total) VALUES (?, ?, ?, ?, ?)", values)
        assert cursor.lastrowid is not None
        return RecordedUse(cursor.lastrowid, counter, key, at, amount)

    def remove_use(self, use: RecordedUse) -> None:
        """Take back a use, unless it has been forgotten. No sum of others changes.

        What is counted is the difference between totals, so either those before it rise or those after it fall: the
        fewer of them.
        """
        deleted = "DELETE FROM rate_use WHERE id = ? AND counter = ? AND key = ? AND at = ?"
        if not self._run(deleted, (use.id, use.counter, use.key, use.at)).rowcount:
            return
        sides = []
        for sign, order in ((1, "<"), (-1, ">")):
            where = f"FROM rate_use WHERE counter = ? AND key = ? AND (at, id) {order} (?, ?)"
            count = self._run(f"SELECT COUNT(*) {where}", (use.counter, use.key, use.at, use.id)).fetchone()[0]
            sides.append((count, sign, where))
        _, sign, where = min(sides)
        rows = self._run(f"SELECT id, total {where}", (use.counter, use.key, use.at, use.id)).fetchall()
        totals = [(str(int(total) + sign * use.amount), id) for id, total in rows]
        self._db.executemany("UPDATE rate_use SET total = ? WHERE id = ?", totals)

    def forget_uses(self, counter: str, key: str, before: int) -> None:
        self._run("DELETE FROM rate_use WHERE counter = ? AND key = ? AND at <= ?", (counter, key, before))

    # What agents' runs did

    def keep_run(self, agent: str, at: int, instance: str, acts: bytes) -> None:
        self._run("INSERT OR IGNORE INTO agent_run VALUES (?, ?, ?, ?)", (agent, at, instance, acts))

    def runs(self, agent: str, most: int) -> list[tuple[str, bytes]]:
        """The latest runs of an agent by instance."""
        query = "SELECT instance, acts FROM agent_run WHERE agent = ? ORDER BY at DESC LIMIT ?"
        return self._run(query, (agent, most)).fetchall()

    def forget_runs(self, agent: str, most: int) -> None:
        """All but the latest."""
        kept = "SELECT at FROM agent_run WHERE agent = ? ORDER BY at DESC LIMIT 1 OFFSET ?"
        self._run(f"DELETE FROM agent_run WHERE agent = ? AND at <= ({kept})", (agent, agent, most))

    def remembered(self, name: str, value: str) -> str:
        """The value stored under this name, which is `value` if there was none."""
        self._run("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))
        return str(self._run("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])

    def noted(self, name: str) -> str | None:
        """The value noted under this name, if there is one."""
        row = self._run("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def note(self, name: str, value: str) -> None:
        self._run("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    # Policies

    def keep_policy(self, version: str, material: bytes) -> None:
        self._run("INSERT OR IGNORE INTO policy_version VALUES (?, ?)", (version, material))

    def has_policy(self, version: str) -> bool:
        return self._run("SELECT 1 FROM policy_version WHERE version = ?", (version,)).fetchone() is not None

    def policy(self, version: str) -> bytes | None:
        row = self._run("SELECT material FROM policy_version WHERE version = ?", (version,)).fetchone()
        return bytes(row[0]) if row else None


def open_store(path: Path, unsafe_skip_fsync: bool = False, create: bool = True) -> SqliteStore:
    """Open the ledger file, making it if it is not there (mode 0600).

    Raises: LedgerError.
    """
    if not create and not path.exists():
        raise LedgerError(f"no ledger at `{path}`", "run the guard once, or name the file: --ledger FILE")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():  # SQLite would make it readable by others
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=256)
    except (*FAILURES, OSError) as error:
        raise explain(error, path) from None
    try:
        _check_is_ours(connection, path, create)
        _log_ahead(connection)
        connection.execute(f"PRAGMA synchronous = {'OFF' if unsafe_skip_fsync else 'FULL'}")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        _create(connection, path)
        return SqliteStore(path, connection)
    except BaseException as error:
        connection.close()
        if isinstance(error, FAILURES):
            raise explain(error, path) from None
        raise


def _check_is_ours(connection: sqlite3.Connection, path: Path, create: bool) -> None:
    """Check that the file is a ledger, or may become one, before anything is written to it. Raises: LedgerError."""
    has_tables = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
    version = connection.execute("PRAGMA user_version").fetchone()[0]  # read last: both appear in one transaction
    if version == 0 and (has_tables or not create):
        raise LedgerError(f"`{path}` is not a ledger", "name the ledger: --ledger FILE", LedgerFault.NOT_A_LEDGER)


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Turn the write-ahead log on. SQLite does not wait while another process does so in a new file, so this does."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.005)


def _create(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables, in the first process that opens the file.

    Raises: LedgerError for a file that is no ledger of this version.
    """
    connection.execute("BEGIN IMMEDIATE")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        for statement in schema.TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {schema.VERSION}")
    connection.execute("COMMIT")
    if version not in (0, schema.VERSION):
        older = "use the version that wrote it, or start a new ledger in another state_dir"
        hint = "update mcp-guard" if version > schema.VERSION else older
        raise LedgerError(f"the ledger has format {version}; this version reads {schema.VERSION}", hint)
    schema.check_schema(connection, path)
