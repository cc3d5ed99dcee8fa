"""What others do while a step waits for the ledger."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_guard.core.model import ToolCallRequest as Request
from mcp_guard.ledger.approvals import watcher
from mcp_guard.storage.contract import Store
from tests.promises.harness import ALLOW, HOLD, Harness, make_instance, open_harness, text

NO_MORE = "CREATE TRIGGER no BEFORE DELETE ON open_call BEGIN SELECT RAISE(ABORT, 'no room'); END"


async def make_late_outcomes(harness: Harness) -> None:
    """Two, whose calls have ended."""
    for words in ("a", "b"):
        await harness.guard.call(make_instance(), Request("crm__note", {"text": words}))
    harness.store._run(NO_MORE)
    for words in ("c", "d"):
        await harness.guard.call(make_instance(), Request("crm__note", {"text": words}))
    assert harness.ledger.ledger.late_outcomes == 2
    harness.store._run("DROP TRIGGER no")


async def test_late_outcomes_are_each_recorded_once_by_calls_that_begin_together(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    await make_late_outcomes(harness)
    harness.ledger.writer.active_calls = 3  # so that commits wait for each other
    await asyncio.gather(*(harness.ledger.ledger.catch_up() for _ in range(3)))
    assert harness.ledger.ledger.late_outcomes == 0
    assert harness.store.open_calls() == []
    assert len(harness.receipts("outcome")) == len(harness.receipts("intent")) == 4


async def test_a_late_outcome_that_fails_again_is_kept(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    await make_late_outcomes(harness)
    harness.store._run(NO_MORE)
    harness.ledger.writer.active_calls = 3
    await asyncio.gather(*(harness.ledger.ledger.catch_up() for _ in range(3)))
    assert harness.ledger.ledger.late_outcomes == 2
    harness.store._run("DROP TRIGGER no")
    await harness.ledger.ledger.catch_up()
    assert harness.store.open_calls() == []


async def test_a_decision_while_a_call_begins_to_wait_wakes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database answers later than it looked: by then the request may have been decided."""
    monkeypatch.setattr(watcher, "POLL_SECONDS", 3600)
    harness = open_harness(tmp_path, ALLOW + HOLD, hold_seconds=60)
    writer, query = harness.ledger.writer, harness.ledger.writer.query
    is_approved = False

    async def answer_late(ask: Callable[[Store], object]) -> object:
        nonlocal is_approved
        found = await query(ask)
        if not is_approved and (ids := harness.store.open_ids()):
            is_approved = harness.ledger.approvals.watcher.count > 0
            if is_approved:
                harness.approve(*ids)
        return found

    writer.query = answer_late  # type: ignore[assignment, method-assign]
    async with asyncio.timeout(20):
        assert text(await harness.guard.call(make_instance(), Request("crm__note", {"text": "a"}))) == "done"
    assert is_approved
