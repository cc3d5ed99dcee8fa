"""Reads for people and background tasks, which an event loop answers while it handles calls."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.background import MAX_CONNECTIONS, BackgroundReader
from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.rows import ReceiptRow
from mcp_guard.storage.sql.paging import PAGE_ON_LOOP
from mcp_guard.storage.sql.queries import Queries
from tests.storage.contract.engines import Place, writing

MANY = 2 * PAGE_ON_LOOP + 1
ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT max(i) FROM n"


@pytest.fixture
async def reader(place: Place, store: Store) -> AsyncIterator[BackgroundReader]:
    reader = find_engine(place.place).background_reader()
    yield reader
    await reader.close()


def add_receipts(store: Store, count: int) -> None:
    with writing(store):
        for seq in range(count):
            store.add_receipt(ReceiptRow(seq, "test", seq, None, b"{}", b"s", b"l"))


def count_endlessly(store: Store) -> object:
    assert isinstance(store, Queries)
    return store._run(ENDLESS).fetchone()


async def test_many_receipts_are_read_in_order_from_either_end(store: Store, reader: BackgroundReader) -> None:
    add_receipts(store, MANY)
    forth = await reader.read(lambda store: [row.seq for row in store.receipts_after(-1)])
    back = await reader.read(lambda store: [row.seq for row in store.receipts_back()])
    assert forth == back[::-1] == list(range(MANY))
    assert (await reader.read(lambda store: next(store.receipts_back()))).seq == MANY - 1


async def test_what_is_committed_is_seen_by_the_next_query(store: Store, reader: BackgroundReader) -> None:
    assert await reader.read(lambda store: store.receipt(0)) is None
    add_receipts(store, 1)
    assert await reader.read(lambda store: store.receipt(0)) is not None


async def test_a_query_cannot_write(store: Store, reader: BackgroundReader) -> None:
    def write(store: Store) -> None:
        store.add_receipt(ReceiptRow(0, "test", 0, None, b"{}", b"s", b"l"))

    with pytest.raises(LedgerError):
        await reader.read(write)
    assert store.receipt(0) is None
    assert await reader.read(lambda store: store.receipt(0)) is None


async def test_the_loop_goes_on_during_a_long_statement_and_others_are_answered(reader: BackgroundReader) -> None:
    long = asyncio.create_task(reader.read(count_endlessly))
    for _ in range(100):
        assert await reader.read(lambda store: store.head().size) == 0
    assert not long.done()
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long


async def test_a_cancelled_query_makes_room_for_another(reader: BackgroundReader) -> None:
    long = [asyncio.create_task(reader.read(count_endlessly)) for _ in range(MAX_CONNECTIONS)]
    waiting = asyncio.create_task(reader.read(lambda store: store.head().size))
    await asyncio.sleep(0)
    long[0].cancel()
    assert await waiting == 0
    for task in long[1:]:
        assert not task.done()
        task.cancel()
    await asyncio.gather(*long, return_exceptions=True)


async def test_closing_ends_what_is_being_read(reader: BackgroundReader, store: Store) -> None:
    add_receipts(store, MANY)

    def read_again_and_again(store: Store) -> None:
        while True:
            assert len(list(store.receipts_back())) == MANY

    assert await reader.read(lambda store: store.head().size) == 0
    tasks = [asyncio.create_task(reader.read(query)) for query in (count_endlessly, read_again_and_again)]
    await reader.read(lambda store: store.head().size)
    await reader.close()
    for task in tasks:
        with pytest.raises(LedgerError, match="the guard stopped before"):
            await task
    with pytest.raises(LedgerError, match="the guard stopped before"):
        await reader.read(lambda store: store.head().size)


async def test_an_error_of_a_query_is_its_own(reader: BackgroundReader) -> None:
    def fail(store: Store) -> None:
        raise KeyError(store.head().size)

    with pytest.raises(KeyError):
        await reader.read(fail)
    assert await reader.read(lambda store: store.head().size) == 0


async def test_a_file_that_was_put_in_place_of_the_ledger_is_not_read(tmp_path: Path) -> None:
    path, other = tmp_path / "ledger.sqlite", tmp_path / "other.sqlite"
    find_engine(other).open_store(True, True).close()
    engine = find_engine(path)
    with closing(engine.open_store(True, True)):
        reader = engine.background_reader()
        path.rename(tmp_path / "before")
        other.rename(path)
        with pytest.raises(LedgerError, match="removed or replaced"):
            await reader.read(lambda store: store.head().size)
    await reader.close()
