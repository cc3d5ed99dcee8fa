"""Which guards run on a ledger in a database: those whose lease has not run out, by the database's clock.

A lease is a row that its guard renews, on a connection of its own. One that has run out is not renewed: it stays so
until another process removes it, in the transaction that closes the guard's calls. So nothing depends on the clocks of
two machines being equal, only on their running equally fast for as long as a lease lasts.
"""

import asyncio
import time
from collections.abc import Callable, Set
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import AsyncConnection

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.contract import Store
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import connect, connect_on_loop, execute_within
from mcp_guard.storage.postgres.errors import explain
from mcp_guard.storage.postgres.store import REMOVE_EXPIRED_LEASES, PostgresStore
from mcp_guard.storage.presence import MachineLock, has_ended, presence_lost

RENEWALS = 3
"""How many times a lease is renewed in its length, so that one that fails costs nothing."""
MARGIN = 0.1
"""The part of a lease in which this process no longer relies on it: what is sent must leave before it runs out."""
TAKE = "INSERT INTO lease VALUES (%s, clock_timestamp() + make_interval(secs => %s))"
RENEW = """UPDATE lease SET expires = clock_timestamp() + make_interval(secs => %s)
WHERE guard = %s AND expires > clock_timestamp()"""
RELEASE = "DELETE FROM lease WHERE guard = ANY(%s)"


def boot_seconds() -> float:
    """Since the machine was started. Unlike other clocks of Linux, this one goes on while it is suspended; that of
    macOS does so anyway."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class LeasePresence:
    """Implements `storage.presence.Presence`. `seconds` is the length of the lease."""

    def __init__(
        self, database: Database, folder: Path, guard: str, seconds: float, ticks: Callable[[], float] = boot_seconds
    ) -> None:
        """Raises: LedgerError."""
        self.guard = guard
        self.renew_seconds = seconds / RENEWALS
        self._seconds = seconds
        self._database = database
        self._folder = folder
        self._ticks = ticks
        self._connection: AsyncConnection[Any] | None = None
        self._ids = {guard}
        """All that this process ever had."""
        self._new: tuple[str, MachineLock, float] | None = None
        """The id that was taken last, with its lock and end, until it is adopted."""
        self._failure: LedgerError | None = None
        """Why the database did not do what it was asked last."""
        self._lock = MachineLock(folder, guard)
        asked = ticks()
        try:
            with closing(connect(database)) as connection:
                connection.execute(REMOVE_EXPIRED_LEASES)
                connection.execute(TAKE, (guard, seconds))
        except BaseException as error:
            self._lock.release()
            if isinstance(error, psycopg.Error):
                raise explain(error, str(database)) from None
            raise
        self._until = self._end_after(asked)
        """By the clock of this machine."""

    def _end_after(self, asked: float) -> float:
        """Until when a lease that was asked for then can be relied on."""
        return asked + self._seconds * (1 - MARGIN)

    def seconds_left(self) -> float:
        return max(0.0, self._until - self._ticks())

    def check(self) -> None:
        if self.seconds_left() <= 0:
            raise presence_lost(str(self._database), self._failure)

    async def renew(self) -> bool:
        asked = self._ticks()
        if await self._ask(RENEW, self._seconds, self.guard) != 1:
            self._until = 0.0
            return False
        self._until = self._end_after(asked)
        return True

    async def take(self, guard: str) -> None:
        lock = MachineLock(self._folder, guard)
        self._ids.add(guard)
        asked = self._ticks()
        try:
            await self._ask(TAKE, guard, self._seconds)
        except BaseException:
            lock.release()
            raise
        self._drop_new()
        self._new = guard, lock, self._end_after(asked)

    def adopt(self) -> None:
        assert self._new is not None, "no id was taken"
        self._lock.move_files(self._new[1])
        self._lock.release()
        (self.guard, self._lock, self._until), self._new = self._new, None

    def _drop_new(self) -> None:
        if self._new is not None:
            self._new[1].release()
            self._new = None

    def find_dead(self, store: Store, guards: Set[str]) -> set[str]:
        return set(guards) - _postgres(store).leased_guards() - self._ids

    def end_dead(self, store: Store, guards: Set[str]) -> set[str]:
        dead = set(guards) - _postgres(store).remove_expired_leases() - self._ids
        for guard in dead:
            has_ended(self._folder, guard)
        return dead

    def release(self) -> None:
        self._drop_new()
        self._lock.release()
        self._disconnect()
        with suppress(psycopg.Error, LedgerError), closing(connect(self._database)) as connection:
            connection.execute(RELEASE, (list(self._ids),))

    async def _ask(self, sql: str, *values: object) -> int:
        """How many rows a statement has changed, on the connection of the lease, which is made again after a failure.

        Raises: LedgerError if there is no answer in the time between two renewals; it may have been done.
        """
        try:
            if self._connection is None:
                async with asyncio.timeout(self.renew_seconds):
                    self._connection = await connect_on_loop(self._database)
            changed = (await execute_within(self.renew_seconds, self._connection, sql, values)).rowcount
        except (psycopg.Error, TimeoutError) as error:
            self._disconnect()
            detail = error if isinstance(error, psycopg.Error) else psycopg.OperationalError("no answer in time")
            self._failure = explain(detail, str(self._database))
            raise self._failure from None
        except BaseException:
            self._disconnect()
            raise
        self._failure = None
        return changed

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.pgconn.finish()
            self._connection = None


def _postgres(store: Store) -> PostgresStore:
    assert isinstance(store, PostgresStore)
    return store
