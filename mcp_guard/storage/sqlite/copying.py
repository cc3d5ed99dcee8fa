"""Copies ledgers from and to files. Others may be writing to a file that is copied."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from mcp_guard.storage.rows import TreeHead
from mcp_guard.storage.snapshot import Check, OnRows, Snapshot, counted
from mcp_guard.storage.sql.columns import COLUMNS
from mcp_guard.storage.sql.schema import TABLES, VERSION
from mcp_guard.storage.sqlite.errors import FAILURES, explain
from mcp_guard.storage.sqlite.inspection import open_reader
from mcp_guard.storage.sqlite.store import SqliteStore, open_store
from mcp_guard.verifier.sources.sqlite import LedgerSource


class SqliteSnapshot:
    """A ledger file within a transaction. Implements `storage.snapshot.Snapshot`."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store

    def head(self) -> TreeHead:
        with self.store.reading():
            return self.store.head()

    def checkpoint(self) -> str:
        with self.store.reading():
            return self.store.checkpoint()

    def count(self, table: str) -> int:
        with self.store.reading():
            return int(self.store.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        with self.store.reading():
            yield from self.store.execute(f"SELECT {', '.join(COLUMNS[table])} FROM {table}")


@contextmanager
def open_snapshot(path: Path, locked: bool) -> Iterator[SqliteSnapshot]:
    """A file as it is now; nobody can write to it meanwhile if it is `locked`. Raises: LedgerError."""
    with closing(open_store(path, create=False) if locked else open_reader(path)) as store:
        with store.reading():
            store.execute("BEGIN IMMEDIATE" if locked else "BEGIN")
        try:
            yield SqliteSnapshot(store)
        finally:
            with suppress(*FAILURES):
                store.rollback()


def import_from(path: Path, snapshot: Snapshot, on_rows: OnRows, check: Check) -> None:
    """Make a ledger file that is not there; whole, or not at all, unless the process dies, so in a folder of its own.

    Raises: LedgerError, OSError, and what `check` raises.
    """
    try:
        if isinstance(snapshot, SqliteSnapshot):
            copy_ledger(snapshot.store, path)
        else:
            _fill(path, snapshot, on_rows)
        check(LedgerSource(path))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def copy_ledger(store: SqliteStore, target: Path) -> None:
    """Write the last committed state of this ledger to a new file (mode 0600), durable when this returns.

    Guards can write meanwhile (https://sqlite.org/backup.html: one step copies one snapshot). The copy has no
    write-ahead log: it is a single file. Raises: LedgerError, OSError.
    """
    with _new_file(target) as copy, store.reading():
        store.copy_to(copy)
        copy.execute("PRAGMA journal_mode = DELETE")


def _fill(path: Path, snapshot: Snapshot, on_rows: OnRows) -> None:
    """A new file with the rows of another engine's ledger. Raises: LedgerError, OSError."""
    with _new_file(path) as db:
        db.execute("BEGIN")
        for statement in TABLES.split(";"):
            db.execute(statement)
        db.execute("DELETE FROM head")
        for table, columns in COLUMNS.items():
            into = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
            db.executemany(into, counted(snapshot.rows(table), on_rows))
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")


@contextmanager
def _new_file(path: Path) -> Iterator[sqlite3.Connection]:
    """A new file of mode 0600, which is durable afterwards. Raises: LedgerError, OSError."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            yield db
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except FAILURES as error:
        raise explain(error, path) from None


def empty_log(path: Path) -> None:
    """Move the write-ahead log of a ledger that nobody uses into its file, so that this alone has every commit. A log
    that is damaged stays as it is."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
