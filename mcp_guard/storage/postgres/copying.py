"""Copies ledgers from and to a database, with COPY."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from psycopg import Connection

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import ServerCheck, connect
from mcp_guard.storage.postgres.errors import explain
from mcp_guard.storage.postgres.schema import make_tables, taken
from mcp_guard.storage.postgres.verification import PATIENT, UncommittedSource, connect_patiently
from mcp_guard.storage.rows import TreeHead
from mcp_guard.storage.snapshot import Check, OnRows, Snapshot, counted
from mcp_guard.storage.sql.columns import COLUMNS
from mcp_guard.storage.sql.receipts import CHECKPOINT, HEAD_ROW

IDENTITIES = """SELECT table_name, column_name FROM information_schema.columns
WHERE table_schema = current_schema() AND is_identity = 'YES'"""
TYPES = {"INTEGER": "int8", "TEXT": "text", "BLOB": "bytea"}
"""Of the database, by those of `sql/schema.py`."""


class DatabaseSnapshot:
    """An origin within a transaction. Implements `storage.snapshot.Snapshot`."""

    def __init__(self, connection: "Connection[Any]", name: str) -> None:
        self._connection = connection
        self._name = name

    def _one(self, sql: str) -> tuple[Any, ...]:
        try:
            row = self._connection.execute(sql.encode(), binary=True).fetchone()
        except psycopg.Error as error:
            raise explain(error, self._name) from None
        if row is None:
            raise LedgerError(f"the ledger in `{self._name}` has lost its head", "mcp-guard verify")
        return tuple(row)

    def head(self) -> TreeHead:
        return TreeHead(*self._one(HEAD_ROW))

    def checkpoint(self) -> str:
        return str(self._one(CHECKPOINT)[0])

    def count(self, table: str) -> int:
        return int(self._one(f"SELECT count(*) FROM {table}")[0])

    def rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        columns = COLUMNS[table]
        query = f"COPY {table} ({', '.join(columns)}) TO STDOUT (FORMAT BINARY)"
        try:
            with self._connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
                copy.set_types([TYPES[type] for type in columns.values()])
                yield from copy.rows()
        except psycopg.Error as error:
            raise explain(error, self._name) from None


@contextmanager
def open_snapshot(database: Database) -> Iterator[DatabaseSnapshot]:
    """Raises: LedgerError."""
    name = str(database)
    try:
        connection = connect_patiently(database)
        try:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        except BaseException:
            connection.close()
            raise
    except psycopg.Error as error:
        raise explain(error, name) from None
    with closing(connection):
        yield DatabaseSnapshot(connection, name)


def import_from(database: Database, snapshot: Snapshot, on_rows: OnRows, check: Check) -> None:
    """Make the ledger of an origin, in one transaction. Raises: LedgerError, and what `check` raises."""
    try:
        with closing(connect(database)) as connection:
            ServerCheck(database).check_through(connection)
            connection.execute(PATIENT.encode())
            connection.answer_seconds = None
            with connection.transaction():
                if not make_tables(connection, database, lambda: _fill(connection, snapshot, on_rows)):
                    raise taken(database)
                _go_on_counting(connection)
                connection.execute(f"ANALYZE {', '.join(COLUMNS)}".encode())
                check(UncommittedSource(database, connection))
    except psycopg.Error as error:
        raise explain(error, str(database)) from None


def _fill(connection: "Connection[Any]", snapshot: Snapshot, on_rows: OnRows) -> None:
    """Raises: LedgerError, psycopg.Error."""
    connection.execute("DELETE FROM head")
    for table, columns in COLUMNS.items():
        query = f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT BINARY)"
        with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
            copy.set_types([TYPES[type] for type in columns.values()])
            for row in counted(snapshot.rows(table), on_rows):
                copy.write_row(row)


def _go_on_counting(connection: "Connection[Any]") -> None:
    """Let new rows be numbered after those that were copied with their numbers."""
    for table, column in connection.execute(IDENTITIES.encode()).fetchall():
        next_number = f"SELECT coalesce(max({column}), 0) + 1 FROM {table}"
        sequence = f"pg_get_serial_sequence('{table}', '{column}')"
        connection.execute(f"SELECT setval({sequence}, ({next_number}), false)".encode())
