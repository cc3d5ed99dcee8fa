"""P14: no call waits for what people read."""

import asyncio
from pathlib import Path

import pytest

from mcp_guard.core.model import ToolCallRequest
from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.writer import Transaction
from mcp_guard.storage.contract import Store
from tests.promises.harness import make_instance, open_harness

RECEIPTS = 2000
CALLS = 2
"""How many are made meanwhile at least. If the search kept the event loop, the first would wait for its end."""


def count_starts(store: Store) -> int:
    """A search of the whole ledger."""
    return sum(row.kind == "guard.started" for row in store.receipts_back())


@pytest.mark.usefixtures("each_engine")
async def test_calls_are_made_while_a_person_searches_the_whole_ledger(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)

    def fill(tx: Transaction) -> None:
        for _ in range(RECEIPTS):
            tx.add(Draft("guard.started", {"guard": "guard_1"}))

    harness.ledger.writer.run(fill)
    async with harness.ledger.on_loop():
        searching = asyncio.create_task(harness.ledger.reader.read(count_starts))
        calls = 0
        while not searching.done():
            await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "x"}))
            calls += 1
            await asyncio.sleep(0)  # the call itself waits for nothing here
        assert await searching == RECEIPTS
    harness.close()
    assert len(harness.upstream.sent) == calls >= CALLS
