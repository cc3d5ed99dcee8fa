"""Makes the tables of an origin, in a schema of its own."""

from collections.abc import Callable
from typing import Any

from psycopg import Connection

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import quoted_schema, schema_of
from mcp_guard.storage.postgres.dialect import ONE_ROW, tables
from mcp_guard.storage.postgres.items import MAKE_ITEM
from mcp_guard.storage.sql.schema import VERSION

MAKING = 0x6D6370
"""With the name of the schema, the advisory lock of whoever makes or migrates it."""

MAKE_FORMAT = "CREATE TABLE format (number BIGINT NOT NULL)"
FORMAT = "SELECT coalesce((SELECT number FROM format), 0)"
SEES_TABLES = "SELECT to_regclass('format') IS NOT NULL"
HAS_TABLES = """SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace AS schema ON schema.oid = relnamespace
WHERE relname = 'format' AND nspname = %s)"""
"""Also for a role that may not use them, and by the rows as they are now: `to_regclass` answers by what the session
found before it had waited for a lock."""


def has_tables(connection: "Connection[Any]", database: Database) -> bool:
    """Raises: psycopg.Error."""
    return connection.execute(HAS_TABLES, (schema_of(database),)).fetchone() == (True,)


def taken(database: Database) -> LedgerError:
    """Why no other ledger of this origin can be made."""
    aside = f"ALTER SCHEMA {quoted_schema(database)} RENAME TO unused"
    hint = f"use another database, or stop every gateway and move that ledger aside: {aside}"
    return LedgerError(f"there is a ledger already: `{database}`", hint)


def missing(name: str) -> LedgerError:
    """Why nothing can be read in the database `name`."""
    hint = "run the guard once, or correct `guard.origin`"
    return LedgerError.public("no ledger of this origin in the database", hint, LedgerFault.NOT_A_LEDGER, f"`{name}`")


def read_format(connection: "Connection[Any]", database: Database) -> int:
    """Raises: LedgerError if there is no ledger, psycopg.Error."""
    if not has_tables(connection, database):
        raise missing(str(database))
    row = connection.execute(FORMAT).fetchone()
    assert row is not None
    return int(row[0])


def make_tables(connection: "Connection[Any]", database: Database, fill: Callable[[], None] | None = None) -> bool:
    """Make the tables in a transaction, with `fill` before there are indexes. False if another process has made them;
    those of an origin are made by one at a time. Raises: psycopg.Error, and what `fill` raises."""
    connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (MAKING, schema_of(database)))
    if has_tables(connection, database):
        return False
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted_schema(database)}".encode())
    statements = (*tables(), ONE_ROW, MAKE_FORMAT, *MAKE_ITEM)
    indexes = [statement for statement in statements if " INDEX " in statement]
    connection.execute(";".join(statement for statement in statements if statement not in indexes).encode())
    connection.execute("INSERT INTO format VALUES (%s)", (VERSION,))
    if fill is not None:
        fill()
    connection.execute(";".join(indexes).encode())
    return True
