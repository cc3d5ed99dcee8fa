"""Held calls as the agent sees them: waiting again, repeating a lost reply, cancelled, escalated, expired."""

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from mcp_guard.core.approval import ApprovalEvent, ApprovalState, Route
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Agent, Json, ToolCallRequest
from mcp_guard.core.provenance.instances import InstanceHistories
from mcp_guard.ledger import registry
from mcp_guard.ledger.approvals.requests import RequestLimits
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.ledger.writer import Op, Transaction, Writer
from mcp_guard.ports import ClientChannel, Intent, Reply
from tests.promises.harness import (
    ALLOW,
    HOLD,
    PEOPLE,
    SECOND,
    Harness,
    make_instance,
    make_tool,
    open_harness,
    pending_id,
    text,
)

ASKED = ToolCallRequest(
    "crm__update_deal", {"deal_id": "1", "amount": 150, "guard_reason": "they asked", "guard_ticket": "INC-9"}
)


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return open_harness(tmp_path, f"{ALLOW}\n{HOLD}")


async def ask(harness: Harness) -> Json:
    reply: Json = await harness.guard.call(make_instance(), ASKED)
    return reply


async def wait_for(harness: Harness, id: str, run_id: str = "run_1") -> Json:
    reply: Json = await harness.guard.call(make_instance(run_id), ToolCallRequest("guard__await", {"approval": id}))
    return reply


async def test_guard_await_runs_the_held_call_once_and_then_repeats_its_reply(harness: Harness) -> None:
    id = pending_id(await ask(harness))
    assert id in text(await wait_for(harness, id))
    harness.approve(id)
    assert text(await wait_for(harness, id)) == "done"
    assert text(await wait_for(harness, id)) == "done"
    assert len(harness.upstream.writes()) == 1
    [receipt] = [item for item in harness.receipts("intent") if item.get("purpose") != "facts"]
    # The launcher's ticket takes precedence over the claim.
    assert (receipt["reason"], receipt["ticket"]) == ("they asked", "INC-1")


async def test_a_reply_that_another_process_got_counts_in_the_history_of_the_run(tmp_path: Path) -> None:
    web = make_tool("web", {"url": {"type": "string"}}, returns=("untrusted",))
    here, there = (open_harness(tmp_path, f"{ALLOW}\n{HOLD}") for _ in range(2))
    for harness in (here, there):
        harness.upstream.catalog[web.listed_as] = web
        harness.load(f"{ALLOW}\n{HOLD}")
        harness.guard = replace(harness.guard, memory=InstanceHistories(attentive=True))
    request = ToolCallRequest(web.listed_as, {"url": "a"})
    id = pending_id(await there.guard.call(make_instance(), request))
    here.approve(id)
    assert text(await wait_for(there, id)) == "done"
    assert text(await wait_for(here, id)) == "done"
    [intent] = there.upstream.intents
    assert here.guard.memory.history_for(intent.call).untrusted_seen
    here.close()
    there.close()


async def test_guard_await_finds_only_approvals_of_the_calling_instance(harness: Harness) -> None:
    id = pending_id(await ask(harness))
    harness.approve(id)
    for other in (
        await wait_for(harness, id, "run_2"),
        await wait_for(harness, "ap_none"),
        await wait_for(harness, ""),
    ):
        assert "this instance has no approval" in text(other)
    assert harness.upstream.writes() == []


async def test_guard_await_refuses_an_expired_instance(harness: Harness) -> None:
    id = pending_id(await ask(harness))
    harness.approve(id)
    harness.clock.time += 9 * 3600 * SECOND
    assert "expired" in text(await wait_for(harness, id))
    assert harness.receipts("decision")[-1]["outcome"] == "deny"


async def test_guard_await_is_not_listed_without_approval_policies(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, ALLOW)
    assert "guard__await" not in [tool["name"] for tool in await harness.guard.list_tools(make_instance())]
    reply = await harness.guard.call(make_instance(), ToolCallRequest("guard__await", {"approval": "x"}))
    assert "unknown tool" in reply["error"]["message"]


async def cancelled_while_it_runs(harness: Harness) -> None:

    arrived = asyncio.Event()

    async def hang(intent: Intent) -> None:
        if intent.call.purpose == "call":
            arrived.set()
            await asyncio.Event().wait()

    harness.upstream.before = hang
    call = asyncio.create_task(harness.guard.call(make_instance(), ASKED))
    await arrived.wait()
    again = await harness.guard.call(make_instance(), ASKED)
    assert "its call is running" in text(again)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    harness.upstream.before = None


async def test_call_cancelled_while_running_is_reported_as_unknown_and_not_repeated(harness: Harness) -> None:
    harness.approve(pending_id(await ask(harness)))
    await cancelled_while_it_runs(harness)
    assert "It may have taken effect" in text(await ask(harness))
    assert harness.upstream.writes() == []
    assert "pending" in text(await ask(harness))  # reported once; the next call is a new request


async def hold(harness: Harness, channel: ClientChannel) -> "asyncio.Task[Reply]":
    """A call that waits for its approval."""
    call = asyncio.create_task(harness.guard.call(make_instance(), ASKED, channel))
    waiting = harness.guard.waiting
    before = sum(calls.running for calls in waiting.values())
    while sum(calls.running for calls in waiting.values()) == before:
        await asyncio.sleep(0)
    return call


async def cancel(call: "asyncio.Task[Reply]") -> None:
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


BY_CLIENT = ClientChannel(on_wait_cancelled=lambda: True)


async def test_request_of_a_cancelled_call_stays_open_for_the_repeated_call(harness: Harness) -> None:
    harness = replace(harness, guard=replace(harness.guard, hold_seconds=20))
    await cancel(await hold(harness, BY_CLIENT))
    [approval] = harness.store.approvals([ApprovalState.REQUESTED])
    again = await hold(harness, BY_CLIENT)
    harness.approve(approval.id)
    assert (await again)["result"]["content"]
    assert len(harness.upstream.writes()) == 1
    assert [one.id for one in harness.store.approvals()] == [approval.id]


async def test_request_of_a_call_that_ends_with_its_session_is_not_withdrawn(harness: Harness) -> None:
    harness = replace(harness, guard=replace(harness.guard, hold_seconds=20, withdraws_on_cancel=True))
    await cancel(await hold(harness, ClientChannel(on_wait_cancelled=lambda: False)))
    assert harness.store.approvals([ApprovalState.REQUESTED])


async def test_repeated_call_takes_the_place_of_the_one_that_waits(harness: Harness) -> None:
    """Its client gave up on that one without a word, and reads only the reply to the latest."""
    harness = replace(harness, guard=replace(harness.guard, hold_seconds=20))
    repeats: list[str] = []
    first = await hold(harness, ClientChannel(on_repeated=lambda: repeats.append("first")))
    second = await hold(harness, ClientChannel(on_repeated=lambda: repeats.append("second")))
    harness.approve(harness.store.approvals([ApprovalState.REQUESTED])[0].id)
    assert "was used by an identical call" in text(await first)
    assert "held" not in text(await second)
    assert (repeats, len(harness.upstream.writes())) == (["first"], 1)


@pytest.mark.parametrize("joins", ["before", "after"])
async def test_call_that_meets_a_withdrawal_under_way_is_held(harness: Harness, joins: str) -> None:
    """It joins the request if the withdrawal is not recorded yet, and asks again if it is."""
    harness = replace(harness, guard=replace(harness.guard, hold_seconds=20, withdraws_on_cancel=True))
    if joins == "before":
        first = await hold(harness, BY_CLIENT)
        first.cancel()
        second = await hold(harness, BY_CLIENT)
        await asyncio.gather(first, return_exceptions=True)
    else:
        second = await hold(harness, BY_CLIENT)
        [approval] = harness.store.approvals([ApprovalState.REQUESTED])
        await harness.ledger.approvals.settle(approval, ApprovalEvent.WITHDRAW, "in another process")
    while not harness.store.approvals([ApprovalState.REQUESTED]):
        await asyncio.sleep(0.01)
    [approval] = harness.store.approvals([ApprovalState.REQUESTED])
    harness.approve(approval.id)
    assert "pending" not in text(await second)
    assert len(harness.upstream.writes()) == 1


async def test_cancelled_held_call_withdraws_its_approval_request(harness: Harness) -> None:
    harness = replace(harness, guard=replace(harness.guard, hold_seconds=20, withdraws_on_cancel=True))

    calls = [asyncio.create_task(harness.guard.call(make_instance(), ASKED, BY_CLIENT)) for _ in range(2)]
    while not harness.store.approvals([ApprovalState.REQUESTED]):
        await asyncio.sleep(0)
    while sum(harness.ledger.approvals._waiters.values()) < 2:
        await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.gather(calls[0], return_exceptions=True)
    assert harness.store.approvals([ApprovalState.REQUESTED])  # the other call still waits for it
    calls[1].cancel()
    await asyncio.gather(calls[1], return_exceptions=True)
    [approval] = harness.store.approvals()
    assert (approval.state, approval.note) == (ApprovalState.WITHDRAWN, "the client cancelled the call")


async def test_approval_request_expires_while_the_call_waits(harness: Harness) -> None:
    harness = replace(harness, guard=replace(harness.guard, hold_seconds=20))

    call = asyncio.create_task(harness.guard.call(make_instance(), ASKED))
    while not harness.store.approvals([ApprovalState.REQUESTED]):
        await asyncio.sleep(0)
    harness.clock.time += 3601 * SECOND
    assert "is expired" in text(await call)
    assert len(harness.receipts("approval.expired")) == 1


async def test_overdue_approval_request_escalates(tmp_path: Path) -> None:
    people = Route("people", ("alice",), 3600 * SECOND, escalate_to="chiefs", escalate_after=600 * SECOND)
    routes = {"people": people, "chiefs": Route("chiefs", ("carol",), 3600 * SECOND)}
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes=routes)
    id = pending_id(await ask(harness))
    with pytest.raises(ApprovalError, match="`carol` is not an approver of route"):
        harness.approve(id, "carol")
    harness.clock.time += 601 * SECOND
    harness.approve(id, "carol")
    assert text(await ask(harness)) == "done"
    [receipt] = harness.receipts("approval.escalated")
    assert receipt["escalated_to"] == ["chiefs"]


async def test_owner_added_by_an_escalation_may_not_decide_on_their_own_request(tmp_path: Path) -> None:
    people = Route("people", ("alice",), 3600 * SECOND, True, escalate_to="chiefs", escalate_after=600 * SECOND)
    routes = {"people": people, "chiefs": Route("chiefs", ("bob", "carol"), 3600 * SECOND)}
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes=routes)
    id = pending_id(await ask(harness))
    harness.clock.time += 601 * SECOND
    with pytest.raises(ApprovalError, match="`bob` is not an approver of route"):
        harness.approve(id, "bob")
    harness.approve(id, "carol")
    assert text(await ask(harness)) == "done"


@dataclass
class CommitAnyway:
    """Commits what an op has written before it raised: it must be nothing."""

    writer: Writer

    def run(self, op: Op[Any]) -> Any:
        errors = []

        def run(tx: Transaction) -> Any:
            try:
                return op(tx)
            except ApprovalError as error:
                errors.append(error)

        result = self.writer.run(run)
        if errors:
            raise errors[0]
        return result


async def test_refused_vote_writes_no_escalation(tmp_path: Path) -> None:
    people = Route("people", ("alice",), 3600 * SECOND, escalate_to="chiefs", escalate_after=600 * SECOND)
    routes = {"people": people, "chiefs": Route("chiefs", ("carol",), 3600 * SECOND)}
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes=routes)
    id = pending_id(await ask(harness))
    votes = Votes(cast(Writer, CommitAnyway(harness.ledger.writer)), routes, PEOPLE)
    harness.clock.time += 601 * SECOND
    with pytest.raises(ApprovalError, match="is not an approver"):
        votes.prepare(id, "nobody", "approve", "fine")
    harness.clock.time += 3600 * SECOND
    with pytest.raises(ApprovalError, match="has expired"):
        votes.prepare(id, "carol", "approve", "fine")
    assert harness.receipts("approval.escalated") == []


async def test_body_of_a_held_call_is_not_read_while_it_waits(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", hold_seconds=0.5)
    statements: list[str] = []
    harness.store._db.set_trace_callback(statements.append)
    await ask(harness)
    harness.store._db.set_trace_callback(None)
    bodies = [statement for statement in statements if "SELECT * FROM approval WHERE id" in statement]
    assert len(bodies) == 1  # once, for the reply
    assert len([statement for statement in statements if "data_version" in statement]) >= 3


async def test_requests_of_an_instance_are_limited(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    limited = replace(harness.ledger.approvals, limits=RequestLimits(count=2, bytes=5000))
    guard = replace(harness.guard, approvals=limited)

    async def note(size: int, run_id: str = "run_1") -> str:
        return text(await guard.call(make_instance(run_id), ToolCallRequest("crm__note", {"text": "x" * size})))

    assert "pending" in await note(10)
    assert "limits.open_request_bytes" in await note(6000)
    assert harness.receipts("decision")[-1]["outcome"] == "deny"
    assert "pending" in await note(11)
    assert "limits.open_requests" in await note(12)
    assert "pending" in await note(11)  # the same call again
    assert "pending" in await note(12, "run_2")


async def test_requests_of_an_agent_are_limited_however_many_instances_it_has(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    guard = replace(harness.guard, approvals=replace(harness.ledger.approvals, limits=RequestLimits(1, instances=2)))
    runs = [make_instance(f"run_{number}") for number in range(3)]
    other = make_instance("run_9", agent=Agent("other", "bob", ()))
    for run in (*runs, other):
        harness.ledger.writer.run(partial(registry.issue, instance=run, more={}))
    replies = [text(await guard.call(run, ToolCallRequest("crm__note", {"text": "x"}))) for run in (*runs, other)]
    assert [("pending" in reply) for reply in replies] == [True, True, False, True]
    assert "2 requests of agent `agent` wait" in replies[2]


async def test_call_that_nobody_else_can_approve_is_refused_at_once(tmp_path: Path) -> None:
    routes = {"people": Route("people", ("alice", "carol"), 3600 * SECOND, quorum=2)}
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes=routes)
    said = text(await harness.guard.call(make_instance(on_behalf_of="alice"), ASKED))
    assert "route people needs 2 approvals and only 1 can be had; alice may not approve their own request" in said
    assert harness.receipts("approval.requested") == []
    assert harness.receipts("decision")[-1]["outcome"] == "deny"
    assert harness.upstream.writes() == []
