"""Sign-ins at upstreams in the database of an origin. One gateway at a time has the lock of a sign-in.

The lock is the session's (an advisory lock), so that no transaction is open while a token endpoint is waited for, and
that it ends with the connection. A gateway that has lost its connection may not know that, so each write is a
compare-and-set.

However many users a gateway has, it takes `MAX_HELD` and `MAX_READ` connections at most: more of them would take those
that ledgers need.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

import psycopg
from psycopg.errors import UndefinedTable

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import (
    ADVISORY_LOCK,
    ANSWER_SECONDS,
    connect_on_loop,
    execute_within,
    schema_of,
)
from mcp_guard.storage.postgres.errors import explain
from mcp_guard.storage.postgres.schema import missing

LOCK_SECONDS = 90
"""How long to wait for the lock. Whoever has it may be waiting for a token endpoint."""
WRITE_SECONDS = 30.0
"""How long a write is tried again over new connections."""
RETRY_SECONDS = 0.5
MAX_HELD = 4
"""How many sign-ins a process holds at a time, each over a connection."""
MAX_HELD_OF_UPSTREAM = 2
"""How many of them are one upstream's, so that one whose token endpoint hangs leaves some to the others."""
MAX_READ = 2
"""How many are read at a time by those who hold none."""
READ = "SELECT version, sealed FROM upstream_sign_in WHERE upstream = %s"
ADD = "INSERT INTO upstream_sign_in (upstream, version, sealed) VALUES (%s, 1, %s) ON CONFLICT DO NOTHING"
REPLACE = "UPDATE upstream_sign_in SET sealed = %s, version = version + 1 WHERE upstream = %s AND version = %s"


class SignInsTable:
    """Implements `SignIns`. Within a process one task at a time has a connection for a sign-in."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._of_upstream = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(MAX_HELD_OF_UPSTREAM))
        self._held, self._reading = asyncio.Semaphore(MAX_HELD), asyncio.Semaphore(MAX_READ)

    @asynccontextmanager
    async def locked(self, upstream: str) -> AsyncIterator["_HeldRow"]:
        of_upstream = self._of_upstream[upstream.partition("/")[0]]
        async with self._locks.setdefault(upstream, asyncio.Lock()), of_upstream, self._held:
            held = _HeldRow(self._database, upstream)
            try:
                await held.lock()
                yield held
            finally:
                held.close()

    async def read(self, upstream: str) -> bytes:
        row = _HeldRow(self._database, upstream)
        async with self._reading:
            try:
                return await row.read()
            finally:
                row.close()


class _HeldRow:
    """Implements `HeldSignIn`."""

    def __init__(self, database: Database, upstream: str) -> None:
        self._database = database
        self._upstream = upstream
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._version: int | None = None
        """Of the row that was read, 0 if there is none; None before."""

    async def lock(self) -> None:
        """Raises: LedgerError."""
        try:
            connection = await self._connect()
            waits = f"SET lock_timeout = '{LOCK_SECONDS}s'; SET statement_timeout = '{LOCK_SECONDS + 5}s'"
            await execute_within(ANSWER_SECONDS, connection, waits)
            name = f"{schema_of(self._database)} sign-in {self._upstream}"
            await execute_within(LOCK_SECONDS + ANSWER_SECONDS, connection, ADVISORY_LOCK, (name,))
        except psycopg.Error as error:
            raise self._explain(error) from None

    async def read(self) -> bytes:
        try:
            self._version, sealed = await self._row()
        except psycopg.Error as error:
            raise self._explain(error) from None
        return sealed

    async def write(self, sealed: bytes) -> None:
        ends = time.monotonic() + WRITE_SECONDS
        while True:
            try:
                return await self._write(sealed)
            except psycopg.OperationalError as error:  # it may have been written all the same
                self.close()
                if time.monotonic() > ends:
                    raise self._explain(error) from None
            except psycopg.Error as error:
                raise self._explain(error) from None
            await asyncio.sleep(RETRY_SECONDS)

    async def _write(self, sealed: bytes) -> None:
        """Raises: LedgerError, psycopg.Error."""
        if self._version is None:
            self._version, _ = await self._row()
        connection, before = await self._connect(), self._version
        if before:
            done = await execute_within(ANSWER_SECONDS, connection, REPLACE, (sealed, self._upstream, before))
        else:
            done = await execute_within(ANSWER_SECONDS, connection, ADD, (self._upstream, sealed))
        if done.rowcount != 1 and await self._row() != (before + 1, sealed):
            what = f"another process has changed the sign-in to `{self._upstream}` meanwhile"
            raise LedgerError.public(what, "try again")
        self._version = before + 1

    async def _row(self) -> tuple[int, bytes]:
        """Raises: psycopg.Error."""
        found = await execute_within(ANSWER_SECONDS, await self._connect(), READ, (self._upstream,))
        row = await found.fetchone()
        return (0, b"") if row is None else (int(row[0]), bytes(row[1]))

    async def _connect(self) -> "psycopg.AsyncConnection[Any]":
        if self._connection is None:
            self._connection = await connect_on_loop(self._database)
        return self._connection

    def _explain(self, error: psycopg.Error) -> LedgerError:
        if isinstance(error, UndefinedTable):
            return missing(str(self._database))
        return explain(error, str(self._database))

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()
