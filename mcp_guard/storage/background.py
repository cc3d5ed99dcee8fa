"""Reads that may take long, for people and background tasks, on an event loop that handles calls meanwhile.

They have connections of their own. A query is plain code over a store, as on the path of a call. While one of its
statements runs, the loop goes on; receipts are read in pages (`storage/sql/paging.py`), and calls are handled between
two of them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.contract import Store

T = TypeVar("T")
MAX_CONNECTIONS = 3
"""A query waits while so many others are being answered."""


class BackgroundReader(Protocol):
    """Reads one ledger beside the calls. Consistency: each statement sees what is committed when it runs; those of one
    query may see different moments."""

    async def read(self, query: Callable[[Store], T]) -> T:
        """What a query finds. It must only read. Raises: LedgerError, also once this is closed."""

    async def close(self) -> None:
        """End the queries that are being answered, and give back what this holds."""


class PooledReader:
    """Implements `BackgroundReader` over stores that `open_store` makes when they are needed, for code that runs in
    `suspendable`.

    A store whose query fails is closed: it may be busy with what nobody waits for, or have lost its database.
    """

    def __init__(self, open_store: Callable[[], Awaitable[Store]]) -> None:
        self._open_store = open_store
        self._idle: list[Store] = []
        self._reading: set[asyncio.Task[Any]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(MAX_CONNECTIONS)
        self._is_closed = False

    async def read(self, query: Callable[[Store], T]) -> T:
        async with self._turns:
            self._check_open()
            work = asyncio.create_task(self._read(query))  # a task of its own, which `close` can cancel
            self._reading.add(work)
            try:
                return await work
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) is None or not task.cancelling():
                    self._check_open()
                raise
            finally:
                self._reading.discard(work)

    async def _read(self, query: Callable[[Store], T]) -> T:
        from mcp_guard.storage.suspending import suspendable  # a guard that never reads this way never loads it

        store = self._idle.pop() if self._idle else await self._open_store()
        try:
            with store.reading():
                result = await suspendable(lambda: query(store))
        except BaseException:
            self._close(store)
            raise
        self._idle.append(store)
        return result

    def _check_open(self) -> None:
        if self._is_closed:
            text, hint = "the guard stopped before the ledger was read", "repeat this once it runs again"
            raise LedgerError.public(text, hint) from None

    def _close(self, store: Store) -> None:
        task = asyncio.create_task(_close(store))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        self._is_closed = True
        while self._reading:
            for work in self._reading:
                work.cancel()
            await asyncio.wait(self._reading)
        while self._idle:
            self._close(self._idle.pop())
        if self._closing:
            await asyncio.wait(self._closing)


async def _close(store: Store) -> None:
    from mcp_guard.storage.suspending import suspendable

    with suppress(*store.failures):  # nothing was written
        await suspendable(store.close)
