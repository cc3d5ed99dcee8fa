"""P3: one approval permits exactly one execution of exactly one request."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.approval import ApprovalState
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.ports import Intent
from tests.promises.engines import engine
from tests.promises.harness import ALLOW, HOLD, SECOND, Harness, make_instance, open_harness, pending_id, text
from tests.proof_size import sized

pytestmark = pytest.mark.usefixtures("each_engine")
ASKED = ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 150, "stage": "won"})
ONE_WRITE = [b'{"amount":150,"deal_id":"1","stage":"won"}']


def holding(folder: Path, **settings: Any) -> Harness:
    return open_harness(folder, f"{ALLOW}\n{HOLD}", **settings)


async def ask(harness: Harness, asked: ToolCallRequest = ASKED, **instance: Any) -> Json:
    reply: Json = await harness.guard.call(make_instance(**instance), asked)
    return reply


async def test_approved_call_runs_exactly_once(tmp_path: Path) -> None:
    harness = holding(tmp_path)
    id = pending_id(await ask(harness))
    assert harness.upstream.writes() == []
    harness.approve(id)
    assert text(await ask(harness)) == "done"
    again = pending_id(await ask(harness))
    assert again != id
    assert harness.upstream.writes() == ONE_WRITE
    harness.close()


async def test_fifty_identical_calls_make_one_request_and_one_execution(tmp_path: Path) -> None:
    harness = holding(tmp_path, hold_seconds=20)

    calls = [asyncio.create_task(harness.guard.call(make_instance(), ASKED)) for _ in range(50)]
    while not (requested := harness.store.approvals([ApprovalState.REQUESTED])):
        await asyncio.sleep(0)
    harness.approve(requested[0].id)
    replies = await asyncio.gather(*calls)
    assert len(harness.receipts("approval.requested")) == 1
    assert harness.upstream.writes() == ONE_WRITE
    assert [text(reply) for reply in replies].count("done") == 1
    assert sum("it permits one call" in text(reply) for reply in replies) == 49
    assert [receipt["outcome"] for receipt in harness.receipts("decision")] == ["require_approval"] + ["deny"] * 49
    harness.close()


async def test_two_guards_on_one_ledger_dispatch_once(tmp_path: Path, each_engine: str) -> None:
    """Both have decided and hold the same approval; both try to consume it at the same moment."""
    for round in range({"sqlite": sized(25, 8), "postgres": sized(5, 3)}[each_engine]):
        folder = tmp_path / str(round)
        folder.mkdir()
        first, second = holding(folder), holding(folder)
        id = pending_id(await ask(first))
        first.approve(id)

        replies = await asyncio.gather(*(harness.guard.call(make_instance(), ASKED) for harness in (first, second)))
        assert len(first.upstream.writes() + second.upstream.writes()) == 1
        assert [text(reply) for reply in replies].count("done") == 1
        first.close()
        second.close()


@pytest.mark.parametrize(
    "other",
    [
        {"deal_id": "1", "amount": 150.01, "stage": "won"},
        {"deal_id": "2", "amount": 150, "stage": "won"},
        {"deal_id": "1", "amount": 150, "stage": "won "},
        {"deal_id": "1", "amount": 150},
    ],
)
async def test_approval_does_not_cover_other_arguments(tmp_path: Path, other: Json) -> None:
    harness = holding(tmp_path)
    harness.approve(pending_id(await ask(harness)))
    assert "pending" in text(await ask(harness, ToolCallRequest(ASKED.name, other)))
    assert harness.upstream.writes() == []
    harness.close()


async def test_approval_does_not_cover_another_instance_or_tool(tmp_path: Path) -> None:
    harness = holding(tmp_path)
    harness.approve(pending_id(await ask(harness)))
    assert "pending" in text(await ask(harness, id="run_2"))
    assert "pending" in text(await ask(harness, ToolCallRequest("crm__get_deal", ASKED.arguments)))
    assert harness.upstream.writes() == []
    harness.close()


def facts_move(harness: Harness) -> None:
    harness.upstream.facts["amount"] = 101


def policies_move(harness: Harness) -> None:
    harness.load(f'{ALLOW}\n{HOLD}\n@id("more") forbid (principal, action == Action::"crm__purge", resource);')


def definition_moves(harness: Harness) -> None:
    tool = harness.upstream.catalog["crm__update_deal"]
    harness.upstream.catalog["crm__update_deal"] = replace(tool, definition_hash="sha256:other")


@pytest.mark.parametrize(("move", "named"), [(facts_move, "facts"), (policies_move, "policy_version")])
async def test_changed_facts_or_policies_make_the_approval_stale(tmp_path: Path, move: Any, named: str) -> None:
    harness = holding(tmp_path)
    id = pending_id(await ask(harness))
    harness.approve(id)
    move(harness)
    assert pending_id(await ask(harness)) != id
    stale = harness.receipts("approval.stale")
    assert [(receipt["approval"], receipt["note"]) for receipt in stale] == [(id, named)]
    assert harness.upstream.writes() == []
    harness.close()


async def test_changed_tool_definition_needs_a_new_approval(tmp_path: Path) -> None:
    harness = holding(tmp_path)
    id = pending_id(await ask(harness))
    harness.approve(id)
    definition_moves(harness)
    assert pending_id(await ask(harness)) != id
    assert harness.upstream.writes() == []
    harness.close()


async def test_facts_changed_during_the_hold_are_noticed_at_dispatch(tmp_path: Path) -> None:
    harness = holding(tmp_path, hold_seconds=20)

    call = asyncio.create_task(harness.guard.call(make_instance(), ASKED))
    while not (requested := harness.store.approvals([ApprovalState.REQUESTED])):
        await asyncio.sleep(0)
    facts_move(harness)
    harness.approve(requested[0].id)
    reply = await call
    assert "changed meanwhile (facts)" in text(reply)
    assert harness.upstream.writes() == []
    harness.close()


async def test_another_instance_can_neither_use_nor_invalidate_the_approval(tmp_path: Path) -> None:
    harness = holding(tmp_path)
    id = pending_id(await ask(harness))
    harness.approve(id)
    assert pending_id(await ask(harness, id="run_2")) != id
    assert harness.upstream.writes() == []
    assert text(await ask(harness)) == "done"
    harness.close()


async def test_an_approval_that_expires_at_the_last_moment_is_refused(tmp_path: Path) -> None:
    """It expires after lookup and before consumption: the clock moves while the facts are read again."""
    harness = holding(tmp_path)
    harness.approve(pending_id(await ask(harness)))
    look_ups = 0

    async def dawdle(intent: Intent) -> None:
        nonlocal look_ups
        look_ups += intent.call.purpose == "facts"
        if look_ups == 2:
            harness.clock.time += 3601 * SECOND

    harness.upstream.before = dawdle
    assert "has expired" in text(await ask(harness))
    assert look_ups == 2
    assert harness.upstream.writes() == []
    harness.close()


async def test_an_expired_approval_is_refused(tmp_path: Path) -> None:
    harness = holding(tmp_path)
    id = pending_id(await ask(harness))
    harness.approve(id)
    harness.clock.time += 3601 * SECOND
    assert pending_id(await ask(harness)) != id
    assert harness.upstream.writes() == []
    with pytest.raises(ApprovalError, match="approved"):
        harness.approve(id, "carol")
    harness.close()


async def test_a_request_lapses_with_the_credential_of_its_instance(tmp_path: Path) -> None:
    """Nobody approves, or thinks that there is time to approve, what can no longer run (promise P7)."""
    harness = holding(tmp_path)
    instance = make_instance(expires=harness.clock.time + 60 * SECOND)
    id = pending_id(await harness.guard.call(instance, ASKED))
    assert harness.store.approval(id)[0].expires == instance.expires
    harness.clock.time += 60 * SECOND
    with pytest.raises(ApprovalError, match="has expired"):
        harness.approve(id)
    harness.close()


async def test_denial_is_returned_with_its_reason_and_not_requested_again(tmp_path: Path) -> None:
    harness = holding(tmp_path)
    harness.approve(pending_id(await ask(harness)), verdict="deny")
    for _ in range(2):
        assert "denied by Alice: because" in text(await ask(harness))
    assert len(harness.receipts("approval.requested")) == 1
    assert harness.upstream.writes() == []
    harness.close()


@pytest.mark.parametrize("approver", ["bob", "dana", "mallory"])
async def test_owner_user_and_strangers_may_not_approve(tmp_path: Path, approver: str) -> None:
    harness = holding(tmp_path)
    id = pending_id(await ask(harness))
    with pytest.raises(ApprovalError):
        harness.approve(id, approver)
    assert "pending" in text(await ask(harness))
    harness.close()


async def test_consumption_and_intent_are_one_transaction(tmp_path: Path) -> None:
    """If the intent cannot be written, the approval is not consumed."""
    harness = holding(tmp_path)
    id = pending_id(await ask(harness))
    harness.approve(id)
    engine().refuse(harness.store, "INSERT ON open_call")
    harness.upstream.reading = None
    call = ASKED
    failing = await harness.guard.call(make_instance(), call)
    assert "Nothing was sent" in text(failing)
    assert harness.store.approval(id)[0].state is ApprovalState.APPROVED
    engine().accept(harness.store, "INSERT ON open_call")
    assert text(await ask(harness)) == "done"
    harness.close()
