"""Exchanges of statements with the database: each is one round trip, whatever number of statements it has.

On an event loop, suspended code waits for them (`storage/suspending.py`), so that the loop never waits for the network.
"""

import asyncio
import select
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection, Connection

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import (
    ANSWER_SECONDS,
    COMMAND_SECONDS,
    END_BACKEND,
    SERVER,
    UNTIL_REPLICATED,
    Backend,
    Server,
    ServerCheck,
    open_blank,
    open_blank_on_loop,
    session,
    shut_down,
)
from mcp_guard.storage.postgres.migrations import check_format
from mcp_guard.storage.postgres.pipeline import Pipeline, Statement
from mcp_guard.storage.postgres.schema import FORMAT, SEES_TABLES
from mcp_guard.storage.sql.paging import PAGE, PAGE_ON_LOOP
from mcp_guard.storage.sql.queries import StatementResult
from mcp_guard.storage.suspending import wait_for

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two attempts to connect; the pause doubles."""
BACKGROUND_SECONDS = 60
"""How long a statement may take for which no call waits."""
MAX_UNASKED = 3
"""How often an idle connection is read before it counts as usable."""


class Wire(ABC):
    """One connection to the database, in autocommit mode. It is made when it is first needed, and again once it is
    lost; never in the middle of a transaction, because nothing but `make_ready` and `connect` does so.

    `check` says which servers must not be used. `page` is how many rows are fetched at once at most, where there
    are many.
    """

    page: int

    _connection: "Connection[Any] | AsyncConnection[Any] | None" = None

    def __init__(self, database: Database, check: ServerCheck) -> None:
        self.database = database
        self.check = check
        self._is_closed = False
        self._backend: Backend | None = None
        """What served the last connection. It is ended before another one is used."""
        self._failure: Exception | None = None
        """Why the last attempt to connect failed."""
        self._retry_at, self._pause = 0.0, FIRST_PAUSE
        self._poll = select.poll()

    @abstractmethod
    def exchange(self, statements: Sequence[Statement]) -> list[StatementResult]:
        """Send these statements together, and return what each of them found. The first that fails ends the exchange;
        its error is raised, and those after it have not been executed. Raises: psycopg.Error."""

    @abstractmethod
    def _open(self, seconds: float) -> "Connection[Any] | AsyncConnection[Any]":
        """Raises: psycopg.Error."""

    @abstractmethod
    def _sleep(self, seconds: float) -> None: ...

    def make_ready(self) -> None:
        """Connect unless the connection is in order. Soon after a failed attempt, its failure is raised again.

        Raises: psycopg.Error, LedgerError.
        """
        if self._is_usable():
            return
        if self._failure is not None and time.monotonic() < self._retry_at:
            raise self._failure.with_traceback(None)
        try:
            self.connect()
        except (psycopg.Error, LedgerError) as error:
            self._failure, self._retry_at = error, time.monotonic() + self._pause
            self._pause = min(LONGEST_PAUSE, self._pause * 2)
            raise

    def _is_usable(self) -> bool:
        """Whether nothing has happened to the connection since it was used, as far as this machine knows."""
        if self._connection is None or self._connection.closed:
            return False
        try:
            for _ in range(MAX_UNASKED):
                if not self._poll.poll(0):
                    return True
                self._connection.pgconn.consume_input()
        except psycopg.Error:
            return False
        return True

    def connect(self, seconds: float | None = None) -> None:
        """Make a new connection. When this returns, what was sent on the one before has been done, or never will be.
        Attempts are repeated for so many `seconds`. Raises: psycopg.Error, LedgerError."""
        ends = time.monotonic() + (seconds or 0.0)
        pause = FIRST_PAUSE
        while True:
            if self._is_closed:
                raise psycopg.OperationalError("the connection is closed")
            self.disconnect()
            try:
                self._connection = self._open(ANSWER_SECONDS if seconds is None else ends - time.monotonic())
                self._pipeline, self._socket = Pipeline(self._connection), self._connection.pgconn.socket
                self._poll = select.poll()
                self._poll.register(self._socket, select.POLLIN)
                self._greet()
            except BaseException as error:
                self.disconnect()
                if not isinstance(error, psycopg.Error) or time.monotonic() + pause >= ends:
                    raise
            else:
                self._failure, self._pause = None, FIRST_PAUSE
                return
            self._sleep(pause)
            pause *= 2

    def _greet(self) -> None:
        former = self._backend
        ending: list[Statement] = [] if former is None else [(END_BACKEND, former)]
        begin = session(self.database, self.check.writes, self.check.unsafe_skip_fsync)
        settings: list[Statement] = [(statement, ()) for statement in begin]
        found = self.exchange([*ending, (SERVER, ()), *settings, (SEES_TABLES, ())])
        if former is not None and found[0].fetchone() == (False,):
            raise psycopg.OperationalError(f"process {former.pid} of the server, of the last connection, does not end")
        server = Server.of_row(found[len(ending)].fetchone())
        self.check.check(server)
        if former is not None and self.check.writes:
            self.exchange([(UNTIL_REPLICATED, ())])
        if found[-1].fetchone() == (True,):  # not while a new ledger is being made
            [format] = self.exchange([(FORMAT, ())])
            check_format(format.fetchone()[0], str(self.database))
        self._backend = server.backend

    def _start(self, statements: Sequence[Statement]) -> Generator[bool, None, list[StatementResult]]:
        if self._connection is None:
            raise psycopg.OperationalError("the connection is lost")
        return self._pipeline.exchange(statements)

    def _end(self) -> None:
        if not self._pipeline.is_idle:
            self.disconnect()

    def disconnect(self) -> None:
        """Drop the connection. The server may go on with what it was sent, until there is another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()

    def close(self) -> None:
        """Disconnect for good."""
        self._is_closed = True
        self.disconnect()


class BlockingWire(Wire):
    """For commands, and for starting and stopping a guard."""

    page = PAGE
    answer_seconds = COMMAND_SECONDS
    _connection: "Connection[Any] | None"

    def exchange(self, statements: Sequence[Statement]) -> list[StatementResult]:
        run = self._start(statements)
        try:
            while True:
                events = select.POLLIN | select.POLLOUT if next(run) else select.POLLIN
                self._poll.modify(self._socket, events)
                if not self._poll.poll(self.answer_seconds * 1000):
                    raise psycopg.OperationalError("the database does not answer")
        except StopIteration as done:
            found: list[StatementResult] = done.value
            return found
        finally:
            self._poll.modify(self._socket, select.POLLIN)
            self._end()

    def _open(self, seconds: float) -> "Connection[Any]":
        return open_blank(self.database)

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class SuspendingWire(Wire):
    """For code that runs in `suspendable`."""

    page = PAGE_ON_LOOP
    _connection: "AsyncConnection[Any] | None"

    def __init__(self, database: Database, check: ServerCheck) -> None:
        super().__init__(database, check)
        self.answer_seconds = ANSWER_SECONDS
        self.round_trips = 0

    def exchange(self, statements: Sequence[Statement]) -> list[StatementResult]:
        self.round_trips += 1
        return wait_for(self._exchange(statements))

    async def _exchange(self, statements: Sequence[Statement]) -> list[StatementResult]:
        run, loop = self._start(statements), asyncio.get_running_loop()
        assert self._connection is not None
        late = loop.call_later(self.answer_seconds, shut_down, self._connection)
        try:
            while True:
                await self._until_ready(loop, next(run))
        except StopIteration as done:
            found: list[StatementResult] = done.value
            return found
        finally:
            late.cancel()
            self._end()

    async def _until_ready(self, loop: asyncio.AbstractEventLoop, to_write: bool) -> None:
        """Wait until the connection can be read, or also written."""
        ready = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(self._socket, wake)
        if to_write:
            loop.add_writer(self._socket, wake)
        try:
            await ready
        finally:
            loop.remove_reader(self._socket)
            if to_write:
                loop.remove_writer(self._socket)

    def _open(self, seconds: float) -> "AsyncConnection[Any]":
        return wait_for(open_blank_on_loop(self.database, seconds))

    def _sleep(self, seconds: float) -> None:
        wait_for(asyncio.sleep(seconds))


class BackgroundWire(SuspendingWire):
    """For reads that no call waits for, whose statements may take longer."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, ServerCheck(database, writes=False))

    def _greet(self) -> None:
        super()._greet()
        self.exchange([(f"SET statement_timeout = '{BACKGROUND_SECONDS}s'", ())])
        self.answer_seconds = BACKGROUND_SECONDS + ANSWER_SECONDS
