"""Exchanges of statements with the database: each is one round trip, whatever number of statements it has.

A transaction is written as plain code over a store (`ledger/writer.py`). On an event loop it runs in a greenlet that is
suspended while the loop waits for the database: so a step of a call is described once, for every engine, and the loop
never waits for the network.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from greenlet import getcurrent, greenlet
from psycopg import AsyncConnection, Connection
from psycopg.abc import Params

T = TypeVar("T")
Statement = tuple[str, Params]


class Found:
    """What one statement found or changed. Implements `storage.sql.queries.Rows`."""

    def __init__(self, rows: Sequence[Any], rowcount: int) -> None:
        self.rowcount = rowcount
        self._rows = iter(rows)

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows


class Wire(Protocol):
    """One connection to the database, in autocommit mode."""

    def exchange(self, statements: Sequence[Statement]) -> list[Found]:
        """Send these statements together, and return what each of them found. The first that fails ends the exchange;
        its error is raised, and those after it have not been executed. Raises: psycopg.Error."""

    def close(self) -> None: ...


class BlockingWire:
    """For commands, and for starting and stopping a guard. Implements `Wire`."""

    def __init__(self, connection: "Connection[Any]") -> None:
        self._connection = connection

    def exchange(self, statements: Sequence[Statement]) -> list[Found]:
        with self._connection.pipeline():
            cursors = [self._connection.execute(sql, values, binary=True) for sql, values in statements]
        return [Found(cursor.fetchall() if cursor.description else (), cursor.rowcount) for cursor in cursors]

    def close(self) -> None:
        self._connection.close()


class SuspendingWire:
    """For code that runs in `suspendable`. Implements `Wire`."""

    def __init__(self, connection: "AsyncConnection[Any]") -> None:
        self._connection = connection
        self.round_trips = 0

    def exchange(self, statements: Sequence[Statement]) -> list[Found]:
        self.round_trips += 1
        return wait_for(self._exchange(statements))

    async def _exchange(self, statements: Sequence[Statement]) -> list[Found]:
        async with self._connection.pipeline():
            cursors = [await self._connection.execute(sql, values, binary=True) for sql, values in statements]
        return [Found(await cursor.fetchall() if cursor.description else (), cursor.rowcount) for cursor in cursors]

    def close(self) -> None:
        wait_for(self._connection.close())


async def suspendable(work: Callable[[], T]) -> T:
    """Run plain code whose calls of `wait_for` are waited for by this coroutine."""
    run = greenlet(work)
    run.gr_context = getcurrent().gr_context
    step: Any = run.switch()
    while not run.dead:
        try:
            value = await step
        except BaseException as error:
            step = run.throw(error)
        else:
            step = run.switch(value)
    result: T = step
    return result


def wait_for(awaitable: Awaitable[T]) -> T:
    """In code that runs in `suspendable`: what the awaitable gives."""
    outside = getcurrent().parent
    assert outside is not None, "not in suspendable code"
    result: T = outside.switch(awaitable)
    return result
