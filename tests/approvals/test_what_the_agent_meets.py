"""Held calls as the agent meets them: waiting again, a lost reply given again, cancelled, escalated, expired."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.core.approval import ApprovalState, Route
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.ports import Intent
from tests.promises.house import ALLOW, GATE, SECOND, House, make_instance, open_house, pending_id, text

ASKED = ToolCallRequest(
    "crm__update_deal", {"deal_id": "1", "amount": 150, "guard_reason": "they asked", "guard_ticket": "INC-9"}
)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return open_house(tmp_path, f"{ALLOW}\n{GATE}")


async def ask(house: House) -> Json:
    reply: Json = await house.guard.call(make_instance(), ASKED)
    return reply


async def wait_for(house: House, id: str, run_id: str = "run_1") -> Json:
    reply: Json = await house.guard.call(make_instance(run_id), ToolCallRequest("guard__await", {"approval": id}))
    return reply


async def test_guard_await_makes_the_held_call_once_and_gives_its_reply_ever_after(house: House) -> None:
    id = pending_id(await ask(house))
    assert id in text(await wait_for(house, id))
    house.approve(id)
    assert text(await wait_for(house, id)) == "done"
    assert text(await wait_for(house, id)) == "done"
    assert len(house.upstream.writes()) == 1
    [receipt] = [each for each in house.receipts("intent") if each.get("purpose") != "facts"]
    assert (receipt["reason"], receipt["ticket"]) == ("they asked", "INC-1")  # the launcher's ticket outranks the claim


async def test_guard_await_knows_its_own_instances_approvals_only(house: House) -> None:
    id = pending_id(await ask(house))
    house.approve(id)
    for other in (await wait_for(house, id, "run_2"), await wait_for(house, "ap_none"), await wait_for(house, "")):
        assert "this instance has asked for no approval" in text(other)
    assert house.upstream.writes() == []


async def test_guard_await_is_refused_to_an_expired_instance(house: House) -> None:
    id = pending_id(await ask(house))
    house.approve(id)
    house.clock.time += 9 * 3600 * SECOND
    assert "expired" in text(await wait_for(house, id))
    assert house.receipts("decision")[-1]["outcome"] == "deny"


async def test_without_gates_there_is_no_such_tool(tmp_path: Path) -> None:
    house = open_house(tmp_path, ALLOW)
    assert "guard__await" not in [tool["name"] for tool in house.guard.list_tools(make_instance())]
    reply = await house.guard.call(make_instance(), ToolCallRequest("guard__await", {"approval": "x"}))
    assert "unknown tool" in reply["error"]["message"]


async def cancelled_while_it_runs(house: House) -> None:

    arrived = asyncio.Event()

    async def hang(intent: Intent) -> None:
        if intent.call.purpose == "call":
            arrived.set()
            await asyncio.Event().wait()

    house.upstream.before = hang
    call = asyncio.create_task(house.guard.call(make_instance(), ASKED))
    await arrived.wait()
    again = await house.guard.call(make_instance(), ASKED)
    assert "its call is running" in text(again)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    house.upstream.before = None


async def test_a_call_cancelled_while_it_ran_is_told_so_and_not_run_again(house: House) -> None:
    house.approve(pending_id(await ask(house)))
    await cancelled_while_it_runs(house)
    assert "It may have taken effect" in text(await ask(house))
    assert house.upstream.writes() == []
    assert "pending" in text(await ask(house))  # told once; from now on it is a new question


async def test_a_held_call_that_is_cancelled_is_withdrawn(house: House) -> None:
    house = replace(house, guard=replace(house.guard, hold_seconds=20))

    calls = [asyncio.create_task(house.guard.call(make_instance(), ASKED)) for _ in range(2)]
    while not house.store.approvals([ApprovalState.REQUESTED]):
        await asyncio.sleep(0)
    while sum(house.ledger.approvals._waiters.values()) < 2:
        await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.gather(calls[0], return_exceptions=True)
    assert house.store.approvals([ApprovalState.REQUESTED])  # the other one still waits for it
    calls[1].cancel()
    await asyncio.gather(calls[1], return_exceptions=True)
    [approval] = house.store.approvals()
    assert (approval.state, approval.note) == (ApprovalState.WITHDRAWN, "the client cancelled the call")


async def test_an_approval_nobody_gives_expires_while_the_call_waits(house: House) -> None:
    house = replace(house, guard=replace(house.guard, hold_seconds=20))

    call = asyncio.create_task(house.guard.call(make_instance(), ASKED))
    while not house.store.approvals([ApprovalState.REQUESTED]):
        await asyncio.sleep(0)
    house.clock.time += 3601 * SECOND
    assert "is expired" in text(await call)
    assert len(house.receipts("approval.expired")) == 1


async def test_a_request_that_waits_too_long_escalates(tmp_path: Path) -> None:
    people = Route("people", ("alice",), 3600 * SECOND, escalate_to="chiefs", escalate_after=600 * SECOND)
    routes = {"people": people, "chiefs": Route("chiefs", ("carol",), 3600 * SECOND)}
    house = open_house(tmp_path, f"{ALLOW}\n{GATE}", routes=routes)
    id = pending_id(await ask(house))
    with pytest.raises(ApprovalError, match="`carol` is not an approver of route"):
        house.approve(id, "carol")
    house.clock.time += 601 * SECOND
    house.approve(id, "carol")
    assert text(await ask(house)) == "done"
    [receipt] = house.receipts("approval.escalated")
    assert receipt["escalated_to"] == ["chiefs"]
