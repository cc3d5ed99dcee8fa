"""What the pages share, in a file of its own in the state folder. No request waits for a disk."""

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcp_guard.core.model import Micros
from mcp_guard.storage.items import COLUMNS, INDEXES, Item
from mcp_guard.storage.sqlite.errors import FAILURES, explain

BUSY_SECONDS = 2.0
TABLE = """CREATE TABLE IF NOT EXISTS item (kind TEXT NOT NULL, key TEXT NOT NULL, owner TEXT NOT NULL,
value BLOB NOT NULL, expires INTEGER NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID"""


class ItemsFile:
    """One connection to the file, which is made if it is not there. Implements `storage.items.Items`: it answers at
    once, without a turn of the event loop."""

    def __init__(self, path: Path) -> None:
        """Raises: LedgerError."""
        self._path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            for setting in ("journal_mode = WAL", "synchronous = NORMAL", "trusted_schema = OFF"):
                self._connection.execute(f"PRAGMA {setting}")
            for statement in (TABLE, *INDEXES):
                self._connection.execute(statement)
        except (*FAILURES, OSError) as error:
            raise explain(error, path) from None

    async def check(self) -> None:
        self._execute("SELECT count(*) FROM item", ())

    async def put(self, item: Item, now: Micros) -> None:
        self._execute("DELETE FROM item WHERE expires <= ?", (now,))
        row = (item.kind, item.key, item.owner, item.value, item.expires)
        self._execute(f"INSERT OR REPLACE INTO item ({COLUMNS}) VALUES (?, ?, ?, ?, ?)", row)

    async def get(self, kind: str, key: str, now: Micros) -> Item | None:
        where = "kind = ? AND key = ? AND expires > ?"
        row = self._execute(f"SELECT {COLUMNS} FROM item WHERE {where}", (kind, key, now)).fetchone()
        return Item(*row) if row else None

    async def find_all(self, kind: str, owner: str | None, now: Micros) -> list[Item]:
        condition, values = ("", ()) if owner is None else (" AND owner = ?", (owner,))
        query = f"SELECT {COLUMNS} FROM item WHERE kind = ? AND expires > ?{condition} ORDER BY key"
        return [Item(*row) for row in self._execute(query, (kind, now, *values)).fetchall()]

    async def swap(self, old: Item, new: Item) -> bool:
        update = "UPDATE item SET owner = ?, value = ?, expires = ? WHERE kind = ? AND key = ? AND value = ?"
        values = (new.owner, new.value, new.expires, old.kind, old.key, old.value)
        return self._execute(update, values).rowcount == 1

    async def delete(self, kind: str, key: str) -> bool:
        return self._execute("DELETE FROM item WHERE kind = ? AND key = ?", (kind, key)).rowcount == 1

    def _execute(self, statement: str, values: Sequence[Any]) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except FAILURES as error:
            raise explain(error, self._path) from None

    async def close(self) -> None:
        self._connection.close()
