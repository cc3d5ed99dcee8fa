"""Reads of several calls that wait at the same time share an exchange, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.contract import Store
from mcp_guard.storage.postgres.executor import READERS, LoopExecutor, open_executor
from mcp_guard.storage.postgres.store import PostgresStore
from tests.ledger.on_database import exchanges, remote_guard
from tests.storage.contract.engines import postgres, writing

READS = 20


@asynccontextmanager
async def executor_on(folder: Path) -> AsyncIterator[LoopExecutor]:
    place = postgres(folder)
    store = place.open()
    assert isinstance(store, PostgresStore)
    with writing(store):
        for number in range(READS):
            store.note(f"name-{number}", f"value-{number}")
    executor = await open_executor(store)
    try:
        yield executor
    finally:
        await executor.close()
        place.close()


def two_reads(number: int) -> Any:
    """The second depends on the first."""

    def query(store: Store) -> str | None:
        value = store.noted(f"name-{number}")
        return store.noted(f"name-{value}") or value

    return query


async def test_reads_that_wait_together_share_exchanges(tmp_path: Path) -> None:
    async with executor_on(tmp_path) as executor:
        before = exchanges(executor)
        found = await asyncio.gather(*(executor.read(two_reads(number)) for number in range(READS)))
        assert found == [f"value-{number}" for number in range(READS)]
        assert exchanges(executor) - before <= 2 * READERS


async def test_a_read_that_fails_does_so_alone(tmp_path: Path) -> None:
    def fail(store: Any) -> object:
        return store.ask(("SELECT 1 / 0", ()))

    async with executor_on(tmp_path) as executor:
        queries = [two_reads(0), fail, two_reads(1)]
        found = await asyncio.gather(*map(executor.read, queries), return_exceptions=True)
        assert (found[0], found[2]) == ("value-0", "value-1")
        assert isinstance(found[1], LedgerError)
        assert "division by zero" in str(found[1])


async def test_who_gives_up_takes_no_answer_from_the_others(tmp_path: Path) -> None:
    async with executor_on(tmp_path) as executor:
        tasks = [asyncio.create_task(executor.read(two_reads(number))) for number in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert (found[0], found[2]) == ("value-0", "value-2")
        assert isinstance(found[1], asyncio.CancelledError)
        assert await executor.read(two_reads(1)) == "value-1"


@pytest.mark.parametrize("is_answered", [True, False])
async def test_reads_go_on_over_another_connection_if_theirs_is_lost(tmp_path: Path, is_answered: bool) -> None:
    async with remote_guard(tmp_path) as remote:
        cut = remote.network.cut_answers if is_answered else remote.network.cut_requests
        cut()
        sizes = await asyncio.gather(*(remote.executor.read(lambda store: store.head().size) for _ in range(READS)))
        assert set(sizes) == {remote.store.head().size}
        assert remote.network.lost.is_set()
