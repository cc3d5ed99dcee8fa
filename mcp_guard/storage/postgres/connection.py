"""Connections to the database of an origin: how they are made, checked and made again."""

import asyncio
import hashlib
import logging
import os
import re
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.storage.place import Database

logging.getLogger("psycopg").setLevel(logging.ERROR)
"""It warns of failures that are raised as well: nothing for the operator to read."""
ANSWER_SECONDS = 8.0
"""How long an event loop waits for an answer before it takes the connection for lost."""
COMMAND_SECONDS = 15.0
"""How long a command waits for an answer, a half longer than a statement may take."""
PREPARED = 2
"""After how many executions a statement is prepared on the server."""
MAX_IDENTIFIER_BYTES = 63
ADVISORY_LOCK = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
ADVISORY_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"
POOLER_PROBES = 5
"""How often each of two connections is asked, because a pooler in use may happen to keep them apart."""
OLDEST_SERVER = 140000
"""Before that, nothing waits for the end of another connection."""
SERVER_ADDRESS = r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(:[0-9]*)?"
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
    "SET lock_timeout = '2s'",
    "SET statement_timeout = '10s'",
    "SET idle_in_transaction_session_timeout = '5s'",
    "SET TimeZone = 'UTC'",
    "SET default_transaction_isolation = 'read committed'",
)
"""A gateway that is paused in a transaction loses it after five seconds, so that others can go on."""
SYNCED = """SELECT set_config('synchronous_commit',
CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)"""
"""Has each commit of a session wait until it is durable, however the server is set then or later."""
DURABLE = ("fsync", "full_page_writes")
"""Settings of the server alone that must be on, or a commit might be lost."""


def schema_of(database: Database) -> str:
    """The schema of the origin: each has its own."""
    name = f"mcp-guard {database.origin}"
    if len(name.encode()) > MAX_IDENTIFIER_BYTES:
        name = f"mcp-guard {hashlib.sha256(database.origin.encode()).hexdigest()[:40]}"
    return name


def quoted_schema(database: Database) -> str:
    """As it stands in a statement."""
    return '"{}"'.format(schema_of(database).replace('"', '""'))


def check_url(database: Database) -> None:
    """Raises: LedgerError for a URL that may be read in another way than it is meant. It shows nothing of it, because
    that may be a part of a password."""
    try:
        parts = urlsplit(database.url)
        role, _, servers = parts.netloc.rpartition("@")
        is_plain = not parts.fragment and "@" not in f"{role}{parts.path}{parts.query}"
        is_plain &= all(re.fullmatch(SERVER_ADDRESS, server) for server in servers.split(","))
        conninfo_to_dict(database.url)
    except (ValueError, psycopg.ProgrammingError):
        is_plain = False
    if not is_plain:
        raise LedgerError(
            "the URL of the database cannot be read (`ledger.database`)",
            "write postgresql://ROLE:PASSWORD@HOST:PORT/DATABASE, with %40 for `@`, %3A for `:`, %2F for `/`, %3F for "
            "`?` and %23 for `#` in the password, and only options of PostgreSQL after a `?`",
        )


def _conninfo(database: Database) -> str:
    given = conninfo_to_dict(database.url)
    return make_conninfo(database.url, **{name: value for name, value in DEFAULTS.items() if name not in given})


def session(database: Database, writes: bool = True, unsafe_skip_fsync: bool = False) -> list[str]:
    """The statements that a connection begins with."""
    reading = [] if writes else ["SET default_transaction_read_only = on"]
    synced = [] if unsafe_skip_fsync else [SYNCED]
    return [f"SET search_path = {quoted_schema(database)}", *SESSION, *synced, *reading]


def _setup(database: Database) -> bytes:
    return "; ".join(session(database)).encode()


class CommandConnection(Connection[Any]):
    """Takes itself for lost without an answer in `answer_seconds`, because a server can be there and not answer."""

    answer_seconds: float | None = COMMAND_SECONDS

    def wait(self, *arguments: Any, **options: Any) -> Any:
        if self.answer_seconds is None:
            return super().wait(*arguments, **options)
        late = threading.Timer(self.answer_seconds, shut_down, [self])
        late.daemon = True
        late.start()
        try:
            return super().wait(*arguments, **options)
        finally:
            late.cancel()


def open_blank(database: Database) -> CommandConnection:
    """A connection without its session's settings. Raises: psycopg.Error."""
    connection = CommandConnection.connect(_conninfo(database), autocommit=True)
    connection.prepare_threshold = PREPARED
    return connection


async def open_blank_on_loop(database: Database, seconds: float = ANSWER_SECONDS) -> "AsyncConnection[Any]":
    """A connection without its session's settings. Raises: psycopg.Error."""
    try:
        async with asyncio.timeout(seconds):
            connection = await psycopg.AsyncConnection.connect(_conninfo(database), autocommit=True)
    except TimeoutError:
        raise psycopg.OperationalError("the database does not answer") from None
    connection.prepare_threshold = PREPARED
    return connection


def connect(database: Database) -> CommandConnection:
    """Raises: LedgerError for a pooler that shares connections, psycopg.Error."""
    connection = open_blank(database)
    try:
        _check_kept(connection, database)
        connection.execute(_setup(database))
    except BaseException:
        connection.pgconn.finish()
        raise
    return connection


def _check_kept(connection: "Connection[Any]", database: Database) -> None:
    """Check that all of a session has one process of the server for itself, which a pooler may not give it: settings,
    locks and LISTEN would be lost, and hold for others. Raises: LedgerError, psycopg.Error."""
    if _process(connection) == connection.info.backend_pid:
        return  # no pooler is in between
    with closing(open_blank(database)) as other:
        served = {(each, _process(each)) for each in (connection, other) * POOLER_PROBES}
    if len({process for _, process in served}) < 2 or len(served) > 2:
        raise LedgerError.public(
            "a pooler in front of the database lets connections share processes of the server",
            "connect to the server itself, or let the pooler keep sessions (pgbouncer: pool_mode = session)",
            where=f"`{database}`",
        )


def _process(connection: "Connection[Any]") -> int:
    """The process of the server that has answered."""
    [process] = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone() or (0,)
    return int(process)


async def connect_on_loop(database: Database) -> "AsyncConnection[Any]":
    """Raises: psycopg.Error."""
    connection = await open_blank_on_loop(database)
    try:
        await execute_within(ANSWER_SECONDS, connection, _setup(database).decode())
    except BaseException:  # also of whoever is cancelled meanwhile
        connection.pgconn.finish()
        raise
    return connection


async def execute_within(
    seconds: float, connection: "AsyncConnection[Any]", sql: str, values: Sequence[Any] | None = None
) -> "AsyncCursor[Any]":
    """A statement whose answer is waited for so long; then the connection is taken for lost. Raises: psycopg.Error."""
    late = asyncio.get_running_loop().call_later(seconds, shut_down, connection)
    try:
        return await connection.execute(sql.encode(), values)
    finally:
        late.cancel()


def shut_down(connection: "Connection[Any] | AsyncConnection[Any]") -> None:
    """End a connection while an answer is waited for, which then ends in an error. From any thread."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as copy:
        copy.shutdown(socket.SHUT_RDWR)


class Backend(NamedTuple):
    """The process of the server that serves one connection. Another one may get its number later."""

    pid: int
    started: datetime


END_BACKEND = (
    "SELECT bool_and(pg_terminate_backend(pid, 3000)) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s"
)
"""Ends a process of the server, and waits until it has ended: false if it has not by then."""
UNTIL_REPLICATED = "SELECT pg_logical_emit_message(true, 'mcp-guard', '')"
"""Writes nothing but to the log, so that this transaction waits for synchronous standbys if there are any. They have
then also what the process before it had committed, which can be seen from the moment in which its wait was ended."""
SERVER = (
    "SELECT pg_backend_pid(), (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()), "
    "current_setting('server_version_num')::int, current_setting('server_encoding') = 'UTF8', pg_is_in_recovery(), "
    "(SELECT reset_val::boolean FROM pg_settings WHERE name = 'default_transaction_read_only'), "
    + ", ".join(f"current_setting('{name}')" for name in DURABLE)
)


class Server(NamedTuple):
    """What a server says of itself. Read by `SERVER`."""

    backend: Backend
    version: int
    is_unicode: bool
    is_standby: bool
    is_read_only: bool
    durability: Mapping[str, str]

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> "Server":
        pid, started, version, is_unicode, is_standby, is_read_only, *durability = row
        settings = dict(zip(DURABLE, durability, strict=True))
        return cls(Backend(pid, started), version, is_unicode, is_standby, is_read_only, settings)


@dataclass(frozen=True, slots=True)
class ServerCheck:
    """What a server must be for one use of a ledger."""

    database: Database
    writes: bool = True
    unsafe_skip_fsync: bool = False

    def check_through(self, connection: "Connection[Any]") -> None:
        """Raises: LedgerError, psycopg.Error."""
        row = connection.execute(SERVER.encode()).fetchone()
        assert row is not None
        self.check(Server.of_row(row))

    def check(self, server: Server) -> None:
        """Raises: LedgerError."""
        if server.version < OLDEST_SERVER:
            raise self._unusable(
                f"is PostgreSQL {server.version // 10000}",
                f"update it to PostgreSQL {OLDEST_SERVER // 10000} or newer",
            )
        if not server.is_unicode:
            raise self._unusable(
                "does not store text in UTF-8",
                "use a database with UTF-8: createdb --template=template0 --encoding=UTF8 NAME",
            )
        if self.writes:
            self.check_writable(server)
            self.check_durability(server.durability)

    def check_writable(self, server: Server) -> None:
        """Raises: LedgerError. What this session itself has set does not count."""
        if server.is_standby:
            raise self._unusable(
                "is a standby, which can only be read",
                "name the primary in the URL, or every server and `target_session_attrs=read-write`",
                LedgerFault.READ_ONLY,
            )
        if server.is_read_only:
            raise self._unusable(
                "is read-only for the guard's role: `default_transaction_read_only = on`",
                "turn it off for this role: ALTER ROLE NAME SET default_transaction_read_only = off",
                LedgerFault.READ_ONLY,
            )

    def check_durability(self, settings: Mapping[str, str]) -> None:
        """Raises: LedgerError."""
        for name, value in settings.items():
            if value != "on" and not self.unsafe_skip_fsync:
                raise self._unusable(
                    f"has `{name} = {value}`, so that receipts could be lost with its power",
                    f"turn it on: ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf()",
                )

    def _unusable(self, what: str, hint: str, fault: LedgerFault = LedgerFault.OTHER) -> LedgerError:
        return LedgerError.public(f"the database {what}", hint, fault, f"`{self.database}`")
