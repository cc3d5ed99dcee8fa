"""A held call is woken by what happens, in its own process at once, and costs other calls nothing while it waits."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.core.model import ToolCallRequest
from mcp_guard.ledger.approvals import watcher
from tests.promises.harness import ALLOW, SECOND, Harness, make_instance, open_harness, text

HELD = ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 150})
OTHER = ToolCallRequest("crm__get_deal", {"deal_id": "2"})
GATE = '@id("gate") @require_approval("people") forbid (principal, action == Action::"crm__update_deal", resource);'


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    harness = open_harness(tmp_path, f"{ALLOW}\n{GATE}")
    return replace(harness, guard=replace(harness.guard, hold_seconds=60))


async def hold(harness: Harness) -> tuple[asyncio.Task[str], str]:
    """A call that waits, and its approval."""

    async def call() -> str:
        return text(await harness.guard.call(make_instance(), HELD))

    task = asyncio.create_task(call())
    while harness.ledger.approvals.watcher.count == 0:
        await asyncio.sleep(0)
    [id] = harness.store.open_ids()
    return task, id


async def test_decision_of_this_process_wakes_the_call_without_a_look(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "POLL_SECONDS", 3600)
    task, id = await hold(harness)
    harness.approve(id)
    assert await asyncio.wait_for(task, 10) == "done"


async def test_decision_of_another_process_wakes_the_call(harness: Harness) -> None:
    task, id = await hold(harness)
    other = open_harness(harness.folder, f"{ALLOW}\n{GATE}")
    other.approve(id)
    assert await asyncio.wait_for(task, 10) == "done"
    other.close()


async def test_expiry_wakes_the_call(harness: Harness) -> None:
    task, _ = await hold(harness)
    harness.clock.time += 3600 * SECOND
    assert "expired" in await asyncio.wait_for(task, 10)


async def test_other_calls_of_this_process_cause_no_look_at_the_requests(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "POLL_SECONDS", 0)
    looks, look = [], harness.store.open_among

    def open_among(ids: Iterable[str]) -> set[str]:
        looks.append(set(ids))
        found: set[str] = look(ids)
        return found

    task, id = await hold(harness)
    await asyncio.sleep(0.01)
    harness.store.open_among = open_among
    for _ in range(20):
        await harness.guard.call(make_instance("run_2"), OTHER)
        await asyncio.sleep(0)
    assert looks == []
    harness.approve(id)
    assert await task == "done"


async def test_held_call_does_not_delay_the_commits_of_others(harness: Harness) -> None:
    """They would wait for what it has to record, turn after turn of the event loop."""
    task, id = await hold(harness)
    submitted: list[bool] = []
    submit: Callable[..., asyncio.Future[object]] = harness.ledger.writer.submit

    def note(*arguments: object) -> "asyncio.Future[object]":
        future = submit(*arguments)
        submitted.append(future.done())
        return future

    harness.ledger.writer.submit = note  # type: ignore[method-assign, assignment]
    await harness.guard.call(make_instance("run_2"), OTHER)
    assert submitted
    assert all(submitted)
    harness.approve(id)
    await task
