"""Several gateways write at once: what arrives while the lock of the head is waited for shares it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.storage.contract import Store
from mcp_guard.storage.postgres.executor import open_executor
from mcp_guard.storage.postgres.store import LOCKED_TRANSACTIONS, PostgresStore
from tests.ledger.on_database import adding, until
from tests.storage.contract.engines import postgres
from tests.storage.contract.test_transactions import writer_of

WAITS = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FOR UPDATE%'"


class Gateways:
    """One whose event loop is that of the test, and another one."""

    def __init__(self, writer: Writer, other: Writer, store: Any) -> None:
        self.writer, self.other = writer, other
        self._store = store
        self.transactions = 0

    def is_waiting(self) -> bool:
        """Whether a transaction waits for the lock."""
        return self._store.ask((WAITS.replace("%", "%%"), ()))[0].fetchone() is not None


@asynccontextmanager
async def two_gateways(folder: Path) -> AsyncIterator[Gateways]:
    """The first has learned that others write."""
    place = postgres(folder)
    writer, other = writer_of(folder, place), writer_of(folder, place)
    assert isinstance(writer.store, PostgresStore)
    writer.executor = executor = await open_executor(writer.store)
    gateways = Gateways(writer, other, place.open())
    begin: Any = executor.writer.begin

    def count(*arguments: Any) -> None:
        gateways.transactions += 1
        begin(*arguments)

    executor.writer.begin = count  # type: ignore[method-assign, assignment]
    for name in ("first", "second"):
        await writer.submit(adding(f"by.one.{name}"))
        other.run(adding(f"by.the.other.{name}"))
    await writer.submit(adding("by.one.third"))
    gateways.transactions = 0
    try:
        yield gateways
    finally:
        await executor.close()
        writer.close()
        other.close()
        place.close()


def read(store: Store) -> str | None:
    return store.noted("name")


def reading(tx: Transaction) -> tuple[str | None, int]:
    return read(tx.store), tx.add(Draft("read", {}))


async def test_what_arrives_while_the_lock_is_waited_for_joins_the_transaction(tmp_path: Path) -> None:
    async with two_gateways(tmp_path) as gateways:
        writer, other = gateways.writer, gateways.other.store
        other.begin()
        other.note("name", "new")
        other.head()
        first = writer.submit(reading, [read])
        await until(gateways.is_waiting)
        late = [writer.submit(reading, [read]) for _ in range(3)]
        other.commit()
        found = await asyncio.gather(first, *late)
        size = writer.store.head().size
        assert found == [("new", size - 4 + number) for number in range(4)]
        assert gateways.transactions == 1


async def test_what_joins_a_transaction_and_fails_does_so_alone(tmp_path: Path) -> None:
    async with two_gateways(tmp_path) as gateways:
        writer, other = gateways.writer, gateways.other.store

        def fail(tx: Transaction) -> None:
            raise LookupError("no such thing")

        other.begin()
        other.head()
        first = writer.submit(adding("first"))
        await until(gateways.is_waiting)
        bad, given_up, good = writer.submit(fail), writer.submit(adding("given.up")), writer.submit(adding("good"))
        given_up.cancel()
        other.rollback()
        found = await asyncio.gather(first, bad, good, return_exceptions=True)
        size = writer.store.head().size
        assert [found[0], str(found[1]), found[2]] == [size - 2, "no such thing", size - 1]


async def test_a_gateway_takes_the_lock_first_for_as_long_as_others_write(tmp_path: Path) -> None:
    """Otherwise it would prepare in vain what it must repeat."""
    async with two_gateways(tmp_path) as gateways:
        for _ in range(2 * LOCKED_TRANSACTIONS):
            gateways.other.run(adding("by.the.other"))
            await gateways.writer.submit(adding("by.one"))
        assert gateways.transactions == 2 * LOCKED_TRANSACTIONS


async def test_a_gateway_that_is_alone_again_takes_no_lock(tmp_path: Path) -> None:
    async with two_gateways(tmp_path) as gateways:
        excluded = []

        def op(tx: Transaction) -> None:
            excluded.append(tx.store.excludes_others)
            tx.add(Draft("alone", {}))

        for _ in range(LOCKED_TRANSACTIONS + 1):
            await gateways.writer.submit(op)
        assert (excluded[0], excluded[-1]) == (True, False)
