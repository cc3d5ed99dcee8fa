"""P3: a call that provably never left the guard does not consume its approval, its grant or its rates."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.approval import ApprovalState, GrantTerms
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Effect, Execution, ExecutionStatus, Json, RateCounter, Redaction, ToolCallRequest
from mcp_guard.core.provenance.instances import InstanceHistories
from mcp_guard.core.replies import AWAIT
from mcp_guard.ledger.recovery import recover
from mcp_guard.ledger.retention import ErasureOrder, erase_some
from mcp_guard.ports import Intent
from tests.promises.engines import engine, verify
from tests.promises.harness import (
    ALLOW,
    HOLD,
    NOW,
    SECOND,
    Harness,
    make_instance,
    make_tool,
    open_harness,
    pending_id,
    text,
)

pytestmark = pytest.mark.usefixtures("each_engine")
ASKED = ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 150, "stage": "won"})
ONE_WRITE = [b'{"amount":150,"deal_id":"1","stage":"won"}']
HOUR = 3600 * SECOND
COUNTERS = (
    RateCounter("writes", HOUR, ("agent",), (Effect.WRITE,)),
    RateCounter("paid", HOUR, ("resource",), (Effect.WRITE,), ("crm__update_deal",), "/amount"),
)


async def ask(harness: Harness, asked: ToolCallRequest = ASKED) -> Json:
    reply: Json = await harness.guard.call(make_instance(), asked)
    return reply


async def approved(folder: Path, **settings: Any) -> tuple[Harness, str]:
    """A guard, and the approval of the call `ASKED`."""
    harness = open_harness(folder, f"{ALLOW}\n{HOLD}", **settings)
    id = pending_id(await ask(harness))
    harness.approve(id)
    return harness, id


async def unreachable(harness: Harness) -> Json:
    """Make the call while the upstream cannot be reached."""
    harness.upstream.is_unreachable = True
    harness.upstream.before = read_facts(harness)
    reply = await ask(harness)
    harness.upstream.is_unreachable = False
    return reply


def read_facts(harness: Harness) -> Any:
    async def before(intent: Intent) -> None:
        """Only the call itself fails: its facts are read."""
        harness.upstream.is_unreachable = intent.call.purpose != "facts"

    return before


def state_of(harness: Harness, id: str) -> ApprovalState:
    return ApprovalState(harness.store.approval(id)[0].state)


def close(harness: Harness) -> None:
    harness.close()
    report = verify(harness.folder)
    assert report.ok, report.problem


@pytest.mark.parametrize("resumes", [True, False], ids=["await", "same call"])
async def test_a_call_that_was_not_sent_runs_once_on_the_same_approval(tmp_path: Path, resumes: bool) -> None:
    harness, id = await approved(tmp_path)
    for _ in range(3):
        reply = await unreachable(harness)
        assert f"did not take place: repeat exactly the same call later. Approval {id} has not been used" in text(reply)
        assert reply["result"]["_meta"]["mcp-guard/decision"]["outcome"] == "not_sent"
        assert state_of(harness, id) is ApprovalState.APPROVED
    harness.upstream.before = None
    again = ToolCallRequest(AWAIT, {"approval": id}) if resumes else ASKED
    assert text(await ask(harness, again)) == "done"
    assert harness.upstream.writes() == ONE_WRITE
    assert len(harness.receipts("approval.requested")) == len(harness.receipts("approval.granted")) == 1
    endings = [receipt["ending"] for receipt in harness.receipts("outcome") if "purpose" not in receipt]
    assert endings == ["not_sent"] * 3 + ["ok"]
    assert pending_id(await ask(harness)) != id
    close(harness)


async def test_the_release_directly_follows_its_outcome(tmp_path: Path) -> None:
    harness, id = await approved(tmp_path)
    await unreachable(harness)
    [*_, consumed, intent, outcome, released] = harness.receipts()
    kinds = [receipt["kind"] for receipt in (consumed, intent, outcome, released)]
    assert kinds == ["approval.consumed", "intent", "outcome", "approval.released"]
    assert (outcome["follows"], released["follows"]) == ([intent["seq"]], [consumed["seq"]])
    assert (released["approval"], released["note"]) == (id, "its call was not sent")
    close(harness)


async def test_an_approval_that_expires_meanwhile_is_not_given_back(tmp_path: Path) -> None:
    harness, id = await approved(tmp_path)

    async def dawdle(intent: Intent) -> None:
        harness.upstream.is_unreachable = intent.call.purpose != "facts"
        harness.clock.time += 3601 * SECOND if harness.upstream.is_unreachable else 0

    harness.upstream.before = dawdle
    await ask(harness)
    assert state_of(harness, id) is ApprovalState.EXPIRED
    harness.upstream.is_unreachable, harness.upstream.before = False, None
    assert pending_id(await ask(harness)) != id
    assert harness.upstream.writes() == []
    close(harness)


async def test_an_approval_of_an_instance_that_ends_meanwhile_is_not_given_back(tmp_path: Path) -> None:
    harness, id = await approved(tmp_path)

    async def end(intent: Intent) -> None:
        harness.upstream.is_unreachable = intent.call.purpose != "facts"
        if harness.upstream.is_unreachable:
            harness.end()

    harness.upstream.before = end
    await ask(harness)
    assert state_of(harness, id) is ApprovalState.STALE
    close(harness)


async def test_what_may_have_been_sent_stays_consumed(tmp_path: Path) -> None:
    """A guard that died after the intent cannot know (promise P9)."""
    harness, id = await approved(tmp_path)

    async def die(intent: Intent) -> None:
        if intent.call.purpose != "facts":
            raise asyncio.CancelledError

    harness.upstream.before = die
    with pytest.raises(asyncio.CancelledError):
        await ask(harness)
    assert harness.receipts("outcome")[-1]["ending"] == "cancelled"
    assert state_of(harness, id) is ApprovalState.CONSUMED
    assert harness.receipts("approval.released") == []
    close(harness)


async def test_an_intent_that_its_guard_left_open_is_unknown_and_keeps_the_approval(tmp_path: Path) -> None:
    harness, id = await approved(tmp_path)
    await unreachable(harness)
    call = harness.upstream.intents[-1].call
    decision = await harness.guard.decide(call)
    held, _ = harness.store.approval(id)
    intent = await harness.ledger.ledger.intend(call, decision, held)
    assert isinstance(intent, Intent)
    harness.store._run("UPDATE open_call SET guard = 'guard_dead' WHERE intent = ?", (intent.seq,))
    recover(harness.ledger.ledger)
    assert harness.receipts("outcome")[-1]["ending"] == "unknown"
    assert state_of(harness, id) is ApprovalState.CONSUMED
    assert harness.store.approval(id)[0].nonce == ""
    with pytest.raises(LedgerError):
        await harness.ledger.ledger.conclude(intent, Execution(ExecutionStatus.NOT_SENT, {}))
    assert state_of(harness, id) is ApprovalState.CONSUMED
    close(harness)


async def test_rates_do_not_count_what_was_not_sent(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, ALLOW, COUNTERS)
    assert text(await ask(harness)) == "done"
    await unreachable(harness)
    harness.upstream.before = None
    assert text(await ask(harness)) == "done"
    rates = [receipt["rates"] for receipt in harness.receipts("intent") if "purpose" not in receipt]
    assert [rate["writes"] for rate in rates] == [1, 2, 2]
    assert [Decimal(rate["paid"]) for rate in rates] == [150, 300, 300]
    assert harness.store.sum_uses("writes", "agent", NOW) == 2
    close(harness)


async def test_a_call_at_its_limit_can_be_made_once_it_can_be_sent(tmp_path: Path) -> None:
    limit = '@id("few") @reason("enough") forbid (principal, action, resource) when { context.rate.writes > 1 };'
    harness = open_harness(tmp_path, ALLOW + limit, COUNTERS)
    for _ in range(3):
        assert "was not sent" in text(await unreachable(harness))
    harness.upstream.before = None
    assert text(await ask(harness)) == "done"
    assert "enough" in text(await ask(harness))
    close(harness)


async def test_a_use_of_a_grant_is_given_back(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    harness.approve(pending_id(await ask(harness)), terms=GrantTerms(2, 3600, ("amount",)))
    assert text(await ask(harness)) == "done"
    [grant] = harness.store.grants()
    for used, state in ((0, "active"), (1, "active")):
        assert "was not sent" in text(await unreachable(harness))
        assert (harness.store.grant(grant.id).used, harness.store.grant(grant.id).state) == (used, state)
        harness.upstream.before = None
        assert text(await ask(harness)) == "done"
    assert harness.store.grant(grant.id).state == "used up"
    assert [receipt["use"] for receipt in harness.receipts("grant.used")] == [1, 1, 2, 2]
    assert [receipt["use"] for receipt in harness.receipts("grant.released")] == [1, 2]
    assert "pending" in text(await ask(harness))
    assert len(harness.upstream.writes()) == 3
    close(harness)


async def test_an_agent_has_not_done_what_was_not_sent(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, ALLOW)
    harness.guard = replace(harness.guard, memory=InstanceHistories(attentive=True))
    harness.upstream.is_unreachable = True
    await ask(harness, ToolCallRequest("crm__note", {"text": "secret"}))
    [tried] = harness.upstream.intents
    assert harness.guard.memory.history_for(tried.call).tools == ()
    harness.upstream.is_unreachable = False
    await ask(harness, ToolCallRequest("crm__note", {"text": "secret"}))
    assert harness.guard.memory.history_for(tried.call).tools == ("crm__note",)
    close(harness)


async def test_an_outcome_that_could_not_be_written_releases_later(tmp_path: Path) -> None:
    harness, id = await approved(tmp_path)

    async def break_ledger(intent: Intent) -> None:
        harness.upstream.is_unreachable = intent.call.purpose != "facts"
        if harness.upstream.is_unreachable:
            engine().refuse(harness.store, "DELETE ON open_call")

    harness.upstream.before = break_ledger
    reply = await ask(harness)
    assert "was not sent, so it did not take place, but this could not be recorded" in text(reply)
    assert state_of(harness, id) is ApprovalState.CONSUMED
    engine().accept(harness.store, "DELETE ON open_call")
    harness.upstream.is_unreachable, harness.upstream.before = False, None
    assert text(await ask(harness)) == "done"
    assert harness.upstream.writes() == ONE_WRITE
    close(harness)


async def test_a_call_that_is_cancelled_before_it_is_sent_keeps_its_approval(tmp_path: Path) -> None:
    harness, id = await approved(tmp_path)
    await unreachable(harness)
    call, ledger = harness.upstream.intents[-1].call, harness.ledger.ledger
    ledger.writer.active_calls = 2  # so that the commit waits for others
    decision = await harness.guard.decide(call)
    task = asyncio.create_task(ledger.intend(call, decision, harness.store.approval(id)[0]))
    await asyncio.sleep(0)
    ledger.writer.flush()
    assert state_of(harness, id) is ApprovalState.CONSUMED
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert harness.receipts("outcome")[-1]["ending"] == "not_sent"
    assert state_of(harness, id) is ApprovalState.APPROVED
    close(harness)


async def test_an_upstream_that_goes_down_while_the_call_is_held_costs_no_approval(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", hold_seconds=20)
    call = asyncio.create_task(ask(harness))
    while not (requested := harness.store.approvals([ApprovalState.REQUESTED])):
        await asyncio.sleep(0)
    harness.upstream.troubles["crm"] = "upstream `crm` cannot be reached"
    harness.approve(requested[0].id)
    assert f"cannot be reached; approval {requested[0].id} has not been used" in text(await call)
    harness.upstream.troubles.clear()
    assert text(await ask(harness)) == "done"
    assert len(harness.receipts("approval.requested")) == 1
    close(harness)


async def test_a_redacted_call_can_be_made_again_and_is_forgotten_afterwards(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    properties = {"text": {"type": "string"}}
    tool = make_tool("note", properties, redaction=Redaction(arguments=("/text",)))
    harness.upstream.catalog[tool.listed_as] = tool
    secret = ToolCallRequest("crm__note", {"text": "sesame"})
    id = pending_id(await ask(harness, secret))
    harness.approve(id)
    harness.upstream.is_unreachable = True
    assert "was not sent" in text(await ask(harness, secret))
    order = ErasureOrder(lambda _: True, "asked for", "operator")
    harness.ledger.writer.run(lambda tx: erase_some(tx, order, -1))
    harness.upstream.is_unreachable = False
    assert text(await ask(harness, ToolCallRequest(AWAIT, {"approval": id}))) == "done"
    assert harness.upstream.writes() == [b'{"text":"sesame"}']
    approval, _ = harness.store.approval(id)
    assert "sesame" not in str(approval.to_json())
    assert approval.nonce == ""
    close(harness)


async def test_two_guards_that_are_told_at_once_dispatch_once(tmp_path: Path, each_engine: str) -> None:
    """One of two guards could not send the call; then both try again at the same moment."""
    for round in range({"sqlite": 10, "postgres": 3}[each_engine]):
        folder = tmp_path / str(round)
        folder.mkdir()
        first, _ = await approved(folder)
        second = open_harness(folder, f"{ALLOW}\n{HOLD}")
        first.upstream.before = read_facts(first)
        replies = list(await asyncio.gather(ask(first), ask(second)))
        first.upstream.is_unreachable, first.upstream.before = False, None
        replies = [*replies, *await asyncio.gather(ask(first), ask(second))]
        writes = first.upstream.writes() + second.upstream.writes()
        assert writes == ONE_WRITE
        assert [text(reply) for reply in replies].count("done") == 1
        assert len(first.receipts("approval.consumed")) - len(first.receipts("approval.released")) == 1
        second.close()
        close(first)
