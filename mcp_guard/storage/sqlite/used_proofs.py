"""Remembers which proofs of possession were used, for all guards on one ledger and over their restarts.

A file of its own beside the ledger: nothing here is evidence, and no request waits for a disk. A system that loses
power may forget the last of them; the proofs expire within two minutes.
"""

import os
import sqlite3
from pathlib import Path

from mcp_guard.storage.sqlite.errors import FAILURES, explain
from mcp_guard.storage.used_proofs import proof_digest

BUSY_SECONDS = 1.0


class UsedProofsFile:
    """One connection to the file, which is made if it is not there. Implements `storage.used_proofs.UsedProofs`: it
    answers at once, without a turn of the event loop."""

    def __init__(self, path: Path, most: int) -> None:
        """Raises: LedgerError."""
        self._path = path
        self._most = most
        try:
            if not path.exists():
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("PRAGMA trusted_schema = OFF")
            table = "used_proof (id BLOB PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID"
            self._connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")
            self._connection.execute("CREATE INDEX IF NOT EXISTS used_proof_until ON used_proof (until)")
            self._count = self._number()
        except (*FAILURES, OSError) as error:
            raise explain(error, path) from None

    def _number(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM used_proof").fetchone()[0])

    async def use(self, key: str, id: str, now: int, until: int) -> bool:
        digest = proof_digest(key, id)
        try:
            dropped = self._connection.execute("DELETE FROM used_proof WHERE until < ?", (now,)).rowcount
            self._count -= dropped
            if self._count >= self._most:  # it is only an estimate: other processes add and drop, too
                self._count = self._number()
                if self._count >= self._most:
                    return False
            added = self._connection.execute("INSERT OR IGNORE INTO used_proof VALUES (?, ?)", (digest, until))
        except FAILURES as error:
            raise explain(error, self._path) from None
        self._count += added.rowcount
        return added.rowcount == 1

    async def close(self) -> None:
        self._connection.close()
