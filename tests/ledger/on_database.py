"""A guard whose ledger is in PostgreSQL, over a network that can lose what it carries."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.writer import Op, Writer
from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.executor import LoopExecutor, open_executor
from mcp_guard.storage.postgres.store import PostgresStore
from mcp_guard.storage.postgres.wire import SuspendingWire
from tests.promises.harness import ALLOW, Harness, make_instance, open_harness
from tests.storage.postgres_network import Network, network
from tests.storage.postgres_server import server

ORIGINS = itertools.count()


@dataclass
class RemoteGuard:
    """`store` is another connection to the same ledger, which no loss concerns."""

    harness: Harness
    database: Database
    """Where no loss concerns it."""
    network: Network
    store: Store
    executor: LoopExecutor

    @property
    def writing(self) -> PostgresStore:
        """The one that writes on the event loop."""
        return self.executor.writer

    @property
    def writer(self) -> Writer:
        return self.harness.ledger.writer

    @property
    def wire(self) -> SuspendingWire:
        assert isinstance(self.writing.wire, SuspendingWire)
        return self.writing.wire

    def call(self, text: str = "a") -> Coroutine[Any, Any, Json]:
        """One write, by the only instance."""
        return self.harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": text}))

    def receipts(self, kind: str) -> list[Json]:
        return [json.loads(row.body) for row in self.store.receipts_after(-1) if row.kind == kind]


@asynccontextmanager
async def remote_guard(
    folder: Path, policies: str = ALLOW, listens: bool = False, **options: Any
) -> AsyncIterator[RemoteGuard]:
    """Unless it `listens`, every request and answer is of something that the test does."""
    database = Database(server().url, f"test.example/faults/{next(ORIGINS)}")
    with network(server().url) as between:
        behind = database._replace(url=between.url)
        harness = open_harness(folder, policies, database=behind, **options)
        harness.ledger.writer.executor = executor = await open_executor(harness.store)
        if listens:
            executor.listen(harness.ledger.approvals.watcher.hear)
        try:
            with closing(find_engine(database).open_reader()) as store:
                yield RemoteGuard(harness, database, between, store, executor)
        finally:
            between.release()
            await executor.close()
            harness.close()


def exchanges(executor: Any) -> int:
    """With the database, so far."""
    return sum(store.wire.round_trips for store in executor.stores)


def adding(kind: str) -> Op[int]:
    return lambda tx: tx.add(Draft(kind, {}))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)
