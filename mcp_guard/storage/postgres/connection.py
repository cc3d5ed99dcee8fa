"""Connections to the database of an origin: how they are made, checked and made again."""

import hashlib
import logging
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.storage.place import Database

logging.getLogger("psycopg").setLevel(logging.ERROR)
"""It warns of each pipeline that fails, which is raised as well: nothing for the operator to read."""
PREPARED = 2
"""After how many executions a statement is prepared on the server."""
MAX_IDENTIFIER_BYTES = 63
DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "application_name": "mcp-guard",
}
"""Unless the URL says otherwise; the last of them but one in milliseconds."""
SESSION = (
    "SET lock_timeout = '2s'; SET statement_timeout = '10s'; SET idle_in_transaction_session_timeout = '5s'; "
    "SET TimeZone = 'UTC'; SET default_transaction_isolation = 'read committed'"
)
"""A gateway that is paused in a transaction loses it after five seconds, so that others can go on."""
DURABLE = {"synchronous_commit": ("on", "remote_apply"), "fsync": ("on",), "full_page_writes": ("on",)}
"""Settings of the server without which a commit might be lost, and the values that are safe."""


def schema_of(database: Database) -> str:
    """The schema of the origin: each has its own."""
    name = f"mcp-guard {database.origin}"
    if len(name.encode()) > MAX_IDENTIFIER_BYTES:
        name = f"mcp-guard {hashlib.sha256(database.origin.encode()).hexdigest()[:40]}"
    return name


def quoted_schema(database: Database) -> str:
    """As it stands in a statement."""
    return '"{}"'.format(schema_of(database).replace('"', '""'))


def _conninfo(database: Database) -> str:
    given = conninfo_to_dict(database.url)
    return make_conninfo(database.url, **{name: value for name, value in DEFAULTS.items() if name not in given})


def _setup(database: Database) -> bytes:
    """What a connection is told first."""
    return f"SET search_path = {quoted_schema(database)}; {SESSION}".encode()


def connect(database: Database) -> "Connection[Any]":
    """Raises: psycopg.Error."""
    connection = psycopg.connect(_conninfo(database), autocommit=True)
    connection.prepare_threshold = PREPARED
    connection.execute(_setup(database))
    return connection


async def connect_on_loop(database: Database) -> "AsyncConnection[Any]":
    """Raises: psycopg.Error."""
    connection = await psycopg.AsyncConnection.connect(_conninfo(database), autocommit=True)
    connection.prepare_threshold = PREPARED
    await connection.execute(_setup(database))
    return connection


def check_durability(connection: "Connection[Any]", database: Database) -> None:
    """Raises: LedgerError if what the server calls committed could be lost with its power."""
    for name, safe in DURABLE.items():
        row = connection.execute(f"SHOW {name}".encode()).fetchone()
        if row is None or row[0] not in safe:
            value = "" if row is None else row[0]
            raise LedgerError(
                f"`{database}` has `{name} = {value}`, so that receipts could be lost with its power",
                f"set {name} = on for the guard's role or the server: ALTER ROLE NAME SET {name} = on",
                LedgerFault.OTHER,
            )
