"""Copies a ledger file that others may be writing to."""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from mcp_guard.storage.sqlite.errors import FAILURES, explain
from mcp_guard.storage.sqlite.store import SqliteStore


def copy_ledger(store: SqliteStore, target: Path) -> None:
    """Write the last committed state of this ledger to a new file (mode 0600), durable when this returns.

    Guards can write meanwhile (https://sqlite.org/backup.html: one step copies one snapshot). The copy has no
    write-ahead log: it is a single file. Raises: LedgerError, OSError.
    """
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with store.reading(), closing(sqlite3.connect(target, isolation_level=None)) as copy:
            store.copy_to(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
        with target.open("rb") as file:
            os.fsync(file.fileno())
    except FAILURES as error:
        raise explain(error, target) from None


def empty_log(path: Path) -> None:
    """Move the write-ahead log of a ledger that nobody uses into its file, so that this alone has every commit. A log
    that is damaged stays as it is."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
