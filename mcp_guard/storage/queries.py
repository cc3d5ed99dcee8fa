"""What every group of statements shares: the connection, and the check of a compare-and-set."""

import sqlite3


class ChangedElsewhere(Exception):
    """A compare-and-set found another value than expected; the transaction must be rolled back."""


class Queries:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._run = connection.execute

    def _one_row(self, cursor: sqlite3.Cursor, name: str) -> None:
        """Raises: ChangedElsewhere unless the statement changed one row. `name` says what it should have changed."""
        if cursor.rowcount != 1:
            raise ChangedElsewhere(name)
