"""What every group of statements shares: the connection, and the check of a compare-and-set.

On the path of a call blobs are bound as `bytearray`, because `sqlite3` first looks for an adapter of each `bytes` and
each None, which costs more than many a statement.
"""

import sqlite3

from mcp_guard.storage.errors import ChangedElsewhere


class Queries:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._run = connection.execute

    def _one_row(self, cursor: sqlite3.Cursor, name: str) -> None:
        """Raises: ChangedElsewhere unless the statement changed one row. `name` says what it should have changed."""
        if cursor.rowcount != 1:
            raise ChangedElsewhere(name)
