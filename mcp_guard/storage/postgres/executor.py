"""Runs work over stores on an event loop, which goes on while the database is waited for."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from mcp_guard.storage.contract import Reads, Store
from mcp_guard.storage.postgres.announcements import Listener
from mcp_guard.storage.postgres.shared_reads import SharedReads
from mcp_guard.storage.postgres.store import PostgresStore
from mcp_guard.storage.postgres.watch import ServerWatch
from mcp_guard.storage.postgres.wire import SuspendingWire
from mcp_guard.storage.suspending import suspendable

T = TypeVar("T")
POLL_SECONDS = 2.0
"""How often whoever waits looks, in case that nothing was heard."""
READERS = 2
"""Connections for reads on the path of calls."""


class LoopExecutor:
    """Implements `storage.executors.Executor`: one connection that writes, and some that read."""

    def __init__(self, writer: PostgresStore, readers: list[PostgresStore]) -> None:
        self.writer = writer
        self.poll_seconds = POLL_SECONDS
        self.watch = ServerWatch(writer.wire.check)
        self._listener: Listener | None = None
        self.stores = [writer, *readers]
        self._reads = SharedReads(readers)
        self._work: Callable[[Store], None] | None = None
        """What was given and has not begun."""
        self._task: asyncio.Task[None] | None = None

    def listen(self, on_announced: Callable[[Sequence[str]], None]) -> None:
        self._listener = Listener(self.writer.wire.database, self.watch, on_announced)

    @property
    def revocations_heard(self) -> int | None:
        return None if self._listener is None else self._listener.revocations_heard

    def check(self) -> None:
        self.watch.check()

    def write(self, work: Callable[[Store], None]) -> None:
        self._work = work
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while (work := self._work) is not None:
                self._work = None
                await suspendable(partial(work, self.writer))
        finally:
            self._task = None

    async def read(self, query: Callable[[Store], T]) -> T:
        return await self._read(lambda: query(self._reads))

    async def look(self, query: Callable[[Store], T], also: Sequence[Reads]) -> tuple[T, Reads]:
        found: list[T] = []

        def reads(store: Store) -> None:
            found[:] = [query(store)]

        look = await self._read(lambda: self._reads.look([reads, *also]))
        return found[0], look

    async def _read(self, query: Callable[[], T]) -> T:
        self.check()
        with self._reads.reading():
            return await suspendable(query)

    async def stop_listening(self) -> None:
        if self._listener is not None:
            await self._listener.close()
            self._listener = None

    async def close(self) -> None:
        await self.stop_listening()
        if self._task is not None:
            await self._task
        await self._reads.finish()
        await suspendable(self.writer.close)


async def open_executor(store: PostgresStore) -> LoopExecutor:
    """Of the ledger that `store` writes. Raises: LedgerError, psycopg.Error."""
    wires = [SuspendingWire(store.wire.database, store.wire.check) for _ in range(1 + READERS)]
    for wire in wires:
        await suspendable(wire.connect)
    stores = [PostgresStore(wire, store.name) for wire in wires]
    return LoopExecutor(stores[0], stores[1:])
