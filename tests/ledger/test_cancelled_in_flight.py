"""Callers that are cancelled while the database is asked to commit."""

import asyncio
from pathlib import Path

import pytest

from tests.ledger.on_database import adding, remote_guard, until
from tests.promises.harness import ALLOW, HOLD, pending_id
from tests.storage.postgres_network import COMMITTED


async def test_caller_cancelled_in_flight_takes_no_other_caller_along(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        remote.writer.active_calls = 2
        first = await remote.writer.submit(adding("guard.started"))
        remote.network.hold_answers()
        futures = [remote.writer.submit(adding("guard.started")) for _ in range(2)]
        await until(remote.network.lost.is_set)
        futures[0].cancel()
        remote.network.release()
        async with asyncio.timeout(10):
            assert await futures[1] == first + 2
            assert await remote.writer.submit(adding("guard.stopped")) == first + 3


async def test_call_cancelled_while_its_intent_is_committed_is_recorded_as_never_sent(tmp_path: Path) -> None:
    async with remote_guard(tmp_path, ALLOW + HOLD) as remote:
        id = pending_id(await remote.call())
        remote.harness.approve(id)
        remote.network.hold_answers(COMMITTED)
        call = asyncio.create_task(remote.call())
        await until(remote.network.lost.is_set)
        call.cancel()
        remote.network.release()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert remote.harness.upstream.sent == []
        assert [outcome["ending"] for outcome in remote.receipts("outcome")] == ["not_sent"]
        assert remote.store.open_calls() == []
        reply = await remote.call()
        assert reply["result"]["content"][0]["text"] == "done"  # the approval was given back
