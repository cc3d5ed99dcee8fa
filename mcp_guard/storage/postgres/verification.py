"""How the verifier reads an origin: the rows are the database's word, and the verifier takes none of them on trust."""

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import Connection

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import connect
from mcp_guard.storage.postgres.dialect import translate
from mcp_guard.storage.postgres.errors import explain
from mcp_guard.storage.postgres.migrations import check_format
from mcp_guard.storage.postgres.schema import read_format
from mcp_guard.verifier import UnusableInput
from mcp_guard.verifier.sources import Row
from mcp_guard.verifier.sources.tables import FoundRows, TablesReader

PAGE = 128
"""Receipts that are read at once, with their payloads."""
PATIENT = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0"
"""What reads a whole ledger takes as long as it takes."""
OTHER_RELATIONS = """SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident(current_schema()))
AND (relkind NOT IN ('r', 'i', 'S') OR relrowsecurity OR relhasrules OR relhastriggers OR relhassubclass) LIMIT 1"""
"""What the guard does not make: views, rules, triggers and policies would compute what is read."""


def connect_patiently(database: Database) -> "Connection[Any]":
    """A connection to a ledger of the format of this version, for what reads all of it.

    Raises: LedgerError, psycopg.Error.
    """
    connection = connect(database)
    try:
        check_format(read_format(connection, database), str(database))
        connection.execute(PATIENT.encode())
        connection.answer_seconds = None
    except BaseException:
        connection.close()
        raise
    return connection


class DatabaseReader(TablesReader):
    """Implements `SourceReader`, in one transaction over a snapshot, or in one of its maker that is not committed."""

    def __init__(self, connection: "Connection[Any]", is_open: bool = False) -> None:
        self._connection = connection
        self._is_open = is_open

    def _query(self, sql: str, values: Sequence[object] = ()) -> FoundRows:
        # never prepared: a plan for any range of receipts would read whole tables for each
        return self._connection.execute(translate(sql), values, prepare=False, binary=True)

    def check_file(self) -> str | None:
        row = self._query(OTHER_RELATIONS).fetchone()
        return f"`{row[0]}` is not a plain table as a guard makes it" if row else None

    def snapshot(self) -> str:
        if not self._is_open:
            self._connection.execute("ROLLBACK")
            self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return f"{self.checkpoint()}\n{self.size()}"

    def rows(self, first: int, stop: int) -> Iterator[Row]:
        for start in range(first, stop, PAGE):
            yield from super().rows(start, min(stop, start + PAGE))

    def close(self) -> None:
        if not self._is_open:
            self._connection.close()


class DatabaseSource:
    """An origin. Implements `ReceiptSource`. Each process has a connection of its own."""

    scope = "ledger"
    failures: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self) -> DatabaseReader:
        try:
            return DatabaseReader(connect_patiently(self._database))
        except (psycopg.Error, LedgerError) as error:
            refused = error if isinstance(error, LedgerError) else explain(error, str(self._database))
            raise UnusableInput(f"{refused.full}; {refused.hint}") from None

    def holds_payloads(self) -> bool:
        return True

    def unknown_files(self) -> list[str]:
        return []


class UncommittedSource(DatabaseSource):
    """The same, within the transaction that makes it: for one process."""

    def __init__(self, database: Database, connection: "Connection[Any]") -> None:
        super().__init__(database)
        self._reader = DatabaseReader(connection, is_open=True)

    def open(self) -> DatabaseReader:
        return self._reader
