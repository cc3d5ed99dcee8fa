"""A held call is woken by what another gateway of its database announces, and by looking if it hears nothing."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.core.model import ToolCallRequest
from mcp_guard.storage.postgres.announcements import MAX_PAYLOAD_BYTES, payload_of
from tests.ledger.on_database import RemoteGuard, remote_guard, until
from tests.promises.harness import ALLOW, HOLD, make_instance, open_harness, text


async def hold(remote: RemoteGuard) -> tuple[asyncio.Task[str], str]:
    """A call that waits, and its approval."""
    guard = replace(remote.harness.guard, hold_seconds=60)

    async def call() -> str:
        return text(await guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "a"})))

    task = asyncio.create_task(call())
    await until(lambda: remote.harness.ledger.approvals.watcher.count and remote.store.open_ids())
    [id] = remote.store.open_ids()
    return task, id


def has_looked(remote: RemoteGuard) -> bool:
    looking = remote.harness.ledger.approvals.watcher._looking
    return looking is not None and looking.done()


def approve_elsewhere(remote: RemoteGuard, id: str) -> None:
    """By another gateway of the same database."""
    other = open_harness(remote.harness.folder, ALLOW + HOLD, database=remote.database)
    other.approve(id)
    other.close()


async def test_decision_at_another_gateway_wakes_the_call_without_a_look(tmp_path: Path) -> None:
    async with remote_guard(tmp_path, ALLOW + HOLD, listens=True) as remote:
        await until(lambda: remote.executor.revocations_heard)
        remote.executor.poll_seconds = 3600
        task, id = await hold(remote)
        await until(lambda: has_looked(remote))
        approve_elsewhere(remote, id)
        assert await asyncio.wait_for(task, 10) == "done"


async def test_decision_wakes_the_call_by_a_look_while_nothing_is_heard(tmp_path: Path) -> None:
    async with remote_guard(tmp_path, ALLOW + HOLD, listens=True) as remote:
        remote.executor.poll_seconds = 0.2
        await until(lambda: remote.executor.revocations_heard)
        await remote.executor.stop_listening()
        task, id = await hold(remote)
        approve_elsewhere(remote, id)
        assert await asyncio.wait_for(task, 10) == "done"


async def test_decision_that_was_missed_is_looked_for_when_the_connection_is_back(tmp_path: Path) -> None:
    async with remote_guard(tmp_path, ALLOW + HOLD, listens=True) as remote:
        await until(lambda: remote.executor.revocations_heard)
        remote.executor.poll_seconds = 3600
        task, id = await hold(remote)
        await until(lambda: has_looked(remote))
        remote.network.is_down = True
        remote.network.cut()
        approve_elsewhere(remote, id)
        await until(lambda: remote.executor.revocations_heard is None)
        assert not task.done()
        remote.network.is_down = False
        assert await asyncio.wait_for(task, 10) == "done"


@pytest.mark.parametrize(("count", "is_named"), [(0, False), (1, True), (300, True), (1000, False)])
def test_payload_names_the_approvals_unless_they_are_too_many(count: int, is_named: bool) -> None:
    ids = [f"ap_{number:010}" for number in range(count)]
    payload = payload_of(ids)
    assert (payload != "") is is_named
    assert len(payload) <= MAX_PAYLOAD_BYTES
    assert not is_named or payload.split(",") == ids
