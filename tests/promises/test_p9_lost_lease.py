"""P9 and P13: a gateway that was paused or cut off for longer than its lease makes no call that another has closed."""

import asyncio
import json
import os
import signal
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.keeper import PresenceKeeper
from mcp_guard.ledger.ledger import SqlLedger
from mcp_guard.ledger.recovery import recover
from mcp_guard.ledger.writer import Transaction
from mcp_guard.ports import Conflict, Intent
from tests.ledger.on_database import adding, remote_guard, until
from tests.promises.engines import engine, using, verify
from tests.promises.harness import ALLOW, HOLD, Harness, make_instance, open_harness, pending_id, text

LEASE = 3.0
NOTE = ToolCallRequest("crm__note", {"text": "x"})
DEAL = ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 150})


@pytest.fixture(autouse=True)
def on_postgres() -> Iterator[None]:
    with using("postgres"):
        yield


class PausedLedger(SqlLedger):
    """One whose process is stopped when an intent has become durable, until something continues it."""

    async def intend(self, *args: Any) -> Intent | Conflict:
        intent = await super().intend(*args)
        os.kill(os.getpid(), signal.SIGSTOP)
        return intent


def make_keeper(harness: Harness) -> PresenceKeeper:
    return PresenceKeeper(
        harness.ledger.ledger, lambda guard: Draft("guard.started", {"guard": guard}), lambda _: None, lambda _: None
    )


@asynccontextmanager
async def kept(harness: Harness) -> AsyncIterator[None]:
    """The guard serves: its lease is renewed."""
    keeper = asyncio.create_task(make_keeper(harness).run())
    yield
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)


async def be_paused(harness: Harness, request: ToolCallRequest) -> Json:
    """Make a call and be paused in it; make it again when the guard has another lease."""
    ledger = harness.ledger
    paused = replace(harness.guard, ledger=PausedLedger(ledger.writer, ledger.presence))
    before = ledger.guard
    async with ledger.on_loop(), kept(harness):
        first = text(await paused.call(make_instance(), request))
        await until(lambda: ledger.guard != before)
        again = text(await harness.guard.call(make_instance(), request))
    return {"first": first, "again": again, "sent": len(harness.upstream.writes()), "guards": [before, ledger.guard]}


def be_paused_once_approved(folder: Path) -> Json:
    """Have a call approved, and be paused when it is made."""
    harness = open_harness(folder, f"{ALLOW}\n{HOLD}", lease_seconds=LEASE)

    async def ask() -> None:
        harness.approve(pending_id(await harness.guard.call(make_instance(), DEAL)))

    asyncio.run(ask())
    return asyncio.run(be_paused(harness, DEAL))


def in_child(work: Callable[[], Json], meanwhile: Callable[[], None], result: Path) -> Json:
    """What `work` gives in a child process, which stops itself once; `meanwhile` is done before it is continued."""
    child = os.fork()
    if child == 0:
        try:
            result.write_text(json.dumps(work()))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    meanwhile()
    os.kill(child, signal.SIGCONT)
    _, status = os.waitpid(child, 0)
    assert status == 0
    return dict(json.loads(result.read_text()))


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def endings(harness: Harness) -> list[str]:
    return [receipt["ending"] for receipt in harness.receipts("outcome") if receipt.get("purpose") != "facts"]


def test_a_call_that_another_gateway_has_closed_is_not_sent_when_its_own_wakes_up(tmp_path: Path) -> None:
    other = open_harness(tmp_path)

    def work() -> Json:
        return asyncio.run(be_paused(open_harness(tmp_path, lease_seconds=LEASE), NOTE))

    result = in_child(work, lambda: wait_for(lambda: recover(other.ledger.ledger)), tmp_path / "result")
    assert "The call was not sent" in result["first"]
    assert (result["again"], result["sent"]) == ("done", 1)
    assert endings(other) == ["unknown", "ok"]
    assert [receipt["guard"] for receipt in other.receipts("guard.started")] == result["guards"][1:]
    other.close()
    assert verify(tmp_path).ok


def test_an_approval_of_a_call_that_another_gateway_has_closed_is_not_said_to_be_unused(tmp_path: Path) -> None:
    other = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")

    result = in_child(
        partial(be_paused_once_approved, tmp_path),
        lambda: wait_for(lambda: recover(other.ledger.ledger)),
        tmp_path / "result",
    )
    assert "The call was not sent" in result["first"]
    assert "counts as used: a person is asked again" in result["first"]
    assert "has not been used" not in result["first"]
    assert "held by mcp-guard: approval" in result["again"]
    assert result["sent"] == 0
    assert endings(other) == ["unknown"]
    other.close()
    assert verify(tmp_path).ok


def test_a_call_that_nobody_has_closed_meanwhile_gives_back_its_approval(tmp_path: Path) -> None:
    def run_out() -> None:
        query = "SELECT count(*) FROM lease WHERE expires > clock_timestamp()"
        wait_for(lambda: engine().read(tmp_path, query) == [(0,)])

    result = in_child(partial(be_paused_once_approved, tmp_path), run_out, tmp_path / "result")
    assert "The call was not sent" in result["first"]
    assert (result["again"], result["sent"]) == ("done", 1)
    other = open_harness(tmp_path)
    assert endings(other) == ["not_sent", "ok"]
    assert len(other.receipts("approval.released")) == 1
    other.close()
    assert verify(tmp_path).ok


async def test_a_closed_call_that_was_not_sent_asks_a_person_again_although_the_database_was_away(
    tmp_path: Path,
) -> None:
    async with remote_guard(tmp_path, f"{ALLOW}\n{HOLD}", lease_seconds=LEASE) as remote:
        harness, network = remote.harness, remote.network
        other = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", database=remote.database)

        class ClosedLedger(SqlLedger):
            async def intend(self, *args: Any) -> Intent | Conflict:
                intent = await super().intend(*args)
                await asyncio.to_thread(wait_for, lambda: recover(other.ledger.ledger))
                network.is_down = True
                network.cut()
                return intent

        async with kept(harness):
            await until(lambda: harness.ledger.presence.seconds_left() > LEASE / 2)
            harness.approve(pending_id(await harness.guard.call(make_instance(), DEAL)))
        closed = replace(harness.guard, ledger=ClosedLedger(harness.ledger.writer, harness.ledger.presence))
        assert "did not take place, but this could not be recorded" in text(await closed.call(make_instance(), DEAL))
        network.is_down = False
        async with kept(harness):
            await until(lambda: harness.ledger.presence.seconds_left() > 0)
            assert "held by mcp-guard: approval" in text(await closed.call(make_instance(), DEAL))
        assert harness.upstream.writes() == []
        other.close()


async def test_a_gateway_without_a_lease_writes_no_intent_and_goes_on_under_another_id(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    before = harness.ledger.guard
    engine().let_leases_run_out(tmp_path)
    async with harness.ledger.on_loop():
        assert "has lost its lease" in text(await harness.guard.call(make_instance(), NOTE))
        assert (harness.receipts("intent"), harness.upstream.sent) == ([], [])
        async with kept(harness):
            await until(lambda: harness.ledger.guard != before)
            assert text(await harness.guard.call(make_instance(), NOTE)) == "done"
    assert [receipt["guard"] for receipt in harness.receipts("guard.started")] == [harness.ledger.guard]
    harness.close()
    assert engine().read(tmp_path, "SELECT * FROM lease") == []


async def test_a_gateway_that_is_cut_off_refuses_calls_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    async with remote_guard(tmp_path, lease_seconds=LEASE) as remote:
        harness, network = remote.harness, remote.network
        async with kept(harness):
            network.is_down = True
            network.cut()
            await until(lambda: harness.ledger.presence.seconds_left() == 0)
            assert "has lost its lease" in text(await remote.call())
            network.is_down = False
            await until(lambda: harness.ledger.presence.seconds_left() > 0)
            assert text(await remote.call()) == "done"
        assert len(remote.receipts("intent")) == 1


async def test_what_was_intended_under_one_id_is_not_sent_under_the_next(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)

    class SlowLedger(SqlLedger):
        async def intend(self, *args: Any) -> Intent | Conflict:
            intent, before = await super().intend(*args), self.guard
            engine().let_leases_run_out(tmp_path)
            async with kept(harness):
                await until(lambda: self.guard != before)
            return intent

    slow = replace(harness.guard, ledger=SlowLedger(harness.ledger.writer, harness.ledger.presence))
    async with harness.ledger.on_loop():
        assert "The call was not sent" in text(await slow.call(make_instance(), NOTE))
    assert (endings(harness), harness.upstream.sent) == (["not_sent"], [])
    harness.close()


async def test_nothing_is_sent_on_what_was_read_under_the_id_before(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)

    async def lose(intent: Intent) -> None:
        before = harness.ledger.guard
        engine().let_leases_run_out(tmp_path)
        async with kept(harness):
            await until(lambda: harness.ledger.guard != before)

    harness.upstream.before = lose
    async with harness.ledger.on_loop():
        assert "the lease of this gateway ran out" in text(await harness.guard.call(make_instance(), DEAL))
    assert harness.upstream.writes() == []
    harness.close()
    assert verify(tmp_path).ok


async def lose_lease_in_a_call(folder: Path, then: Callable[[Harness], Coroutine[Any, Any, None]]) -> list[str]:
    harness = open_harness(folder)

    async def lose(intent: Intent) -> None:
        engine().let_leases_run_out(folder)
        await then(harness)

    harness.upstream.before = lose
    async with harness.ledger.on_loop():
        assert text(await harness.guard.call(make_instance(), NOTE)) == "done"
    found = endings(harness)
    harness.close()
    assert verify(folder).ok
    return found


async def test_the_outcome_of_a_call_under_way_is_recorded_unless_another_has_closed_it(tmp_path: Path) -> None:
    async def go_on(harness: Harness) -> None:
        before = harness.ledger.guard
        async with kept(harness):
            await until(lambda: harness.ledger.guard != before)

    async def be_closed(harness: Harness) -> None:
        await go_on(harness)
        other = open_harness(harness.folder)
        assert len(await asyncio.to_thread(recover, other.ledger.ledger)) == 1
        other.close()

    assert await lose_lease_in_a_call(tmp_path / "1", go_on) == ["ok"]
    assert await lose_lease_in_a_call(tmp_path / "2", be_closed) == ["unknown"]


async def test_what_needs_no_lease_is_recorded_although_it_shares_a_commit_with_what_does(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    engine().let_leases_run_out(tmp_path)
    writer = harness.ledger.writer

    def open_call(tx: Transaction) -> None:
        tx.store.open_call(tx.add(Draft("intent", {})), harness.ledger.guard)

    async with harness.ledger.on_loop():
        writer.active_calls = 2
        first, refused, last = writer.submit(adding("a")), writer.submit(open_call), writer.submit(adding("b"))
        await asyncio.gather(first, refused, last, return_exceptions=True)
    with pytest.raises(LedgerError) as lost:
        refused.result()
    assert lost.value.fault is LedgerFault.LEASE_LOST
    assert [receipt["seq"] for kind in "ab" for receipt in harness.receipts(kind)] == [first.result(), last.result()]
    harness.close()
