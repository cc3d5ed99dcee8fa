"""Hostile sizes: whatever an agent or an upstream chooses, each receipt fits an entry and calls go on."""

import json
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.approval import Route
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Execution, ExecutionStatus, Json, ToolCallRequest
from mcp_guard.core.receipt import Draft, entry
from mcp_guard.core.receipt_limits import MAX_ENTRY_BYTES
from mcp_guard.verifier import verify_ledger
from tests.ledger.sized_ledger import open_filled
from tests.promises.harness import ALLOW, HOLD, Harness, make_instance, open_harness, pending_id, text

HUGE = 900_000
WORST = "\x01"
"""A control character: six bytes of JSON for one."""
LONGEST = "x" + WORST * 1999


async def call(harness: Harness, name: str, arguments: Json) -> Any:
    return await harness.guard.call(make_instance(), ToolCallRequest(name, arguments))


def check(harness: Harness) -> None:
    """Every entry fits, and the ledger verifies."""
    for row in harness.store.receipts_after(-1):
        assert len(entry(row.body, row.signature)) <= MAX_ENTRY_BYTES
    report = verify_ledger(harness.folder / "state/ledger.sqlite", harness.folder / "state/ledger.pub")
    assert report.ok, report.problem
    harness.close()


@pytest.mark.parametrize("character", ["x", WORST, "\U0001f600"])
async def test_a_huge_tool_name_is_refused_with_a_receipt(tmp_path: Path, character: str) -> None:
    harness = open_harness(tmp_path)
    assert "error" in await call(harness, character * HUGE, {})
    [refused] = harness.receipts("decision")
    assert refused["tool"].startswith(character * 300)
    assert f"… [cut from {HUGE} characters, sha256:" in refused["tool"]
    check(harness)


async def test_huge_resource_ticket_and_reason_are_cut_and_the_call_runs(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    harness.upstream.facts = {f"{WORST}{number}" * 10: 1 for number in range(5000)} | {"amount": 1}
    arguments = {"deal_id": WORST * 150_000, "amount": 2, "guard_ticket": WORST * 500, "guard_reason": WORST * 500}
    reply = await call(harness, "crm__update_deal", arguments)
    assert text(reply) == "done"
    [intent] = [receipt for receipt in harness.receipts("intent") if "purpose" not in receipt]
    for cut in (intent["resource"]["id"], intent["reason"]):
        assert "… [cut from " in cut
    assert harness.upstream.writes(), "what is sent is not cut"
    assert len(harness.upstream.writes()[0]) > 150_000
    check(harness)


async def test_huge_upstream_error_is_cut(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    harness.upstream.reading = lambda: Execution(ExecutionStatus.UPSTREAM_ERROR, {"error": {}}, WORST * HUGE)
    assert "cannot be read" in text(await call(harness, "crm__update_deal", {"deal_id": "1"}))
    [outcome], [decision] = harness.receipts("outcome"), harness.receipts("decision")
    assert "… [cut from " in outcome["detail"]
    assert "… [cut from " in decision["reasons"][0]
    check(harness)


async def test_thousands_of_changed_fields_are_cut_to_a_few_and_counted(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    many = {f"field_{number:05}_{WORST * 20}": number for number in range(4000)}
    await call(harness, "crm__update_deal", {"deal_id": "1"} | many)
    receipts = [receipt for receipt in harness.receipts() if "changes" in receipt]
    assert receipts
    assert all(receipt["changes"][-1].endswith(" more]") for receipt in receipts)
    check(harness)


async def test_approval_and_grant_work_for_a_huge_call(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, ALLOW + HOLD)
    harness.upstream.facts["deal_id"] = WORST * 100_000
    arguments = {"deal_id": WORST * 100_000, "amount": 2}
    held = await call(harness, "crm__note", {"text": WORST * 100_000})
    harness.approve(pending_id(held))
    assert text(await call(harness, "crm__note", {"text": WORST * 100_000})) == "done"
    await call(harness, "crm__update_deal", arguments)
    check(harness)


async def test_long_rationales_are_whole_in_votes_and_cut_in_the_intent(tmp_path: Path) -> None:
    people = ("alice", "carol", "mallory")
    harness = open_harness(tmp_path, ALLOW + HOLD, routes={"people": Route("people", people, 10**12, quorum=3)})
    held = pending_id(await call(harness, "crm__note", {"text": "hi"}))
    for person in people:
        harness.approve(held, person, rationale=LONGEST)
    assert text(await call(harness, "crm__note", {"text": "hi"})) == "done"
    assert [receipt["rationale"] for receipt in harness.receipts("approval.granted")] == [LONGEST] * 3
    [intent] = harness.receipts("intent")
    repeated = [by["rationale"] for by in intent["approval"]["approvers"]]
    assert all("… [cut from 2000" in item and len(json.dumps(item)) < 1000 for item in repeated)
    check(harness)


async def test_oversized_receipt_refuses_the_call_and_writes_nothing(tmp_path: Path) -> None:
    """Caused by the operator here: what each route demands must be complete in the receipt."""
    crowd = tuple(f"approver-{number:05}" for number in range(6000))
    harness = open_harness(tmp_path, ALLOW + HOLD, routes={"people": Route("people", crowd, 10**12)})
    reply = await call(harness, "crm__note", {"text": "hi"})
    assert "over the limit of 65535 bytes. Nothing was sent." in text(reply)
    assert harness.upstream.sent == []
    assert harness.store.approvals() == []
    harness.load(ALLOW)
    assert text(await call(harness, "crm__note", {"text": "hi"})) == "done"
    check(harness)


def test_oversized_receipt_leaves_the_ledger_unchanged(tmp_path: Path) -> None:
    writer = open_filled(tmp_path, 300)
    before = writer.store.head(), writer.store.checkpoint()
    too_large = Draft("approver.enrolled", {"public": "x" * 65_535})
    with pytest.raises(LedgerError, match=r"a receipt `approver.enrolled` of \d+ bytes, over the limit of 65535 bytes"):
        writer.run(lambda tx: [tx.add(Draft("intent", {})), tx.add(too_large)])
    assert (writer.store.head(), writer.store.checkpoint()) == before
    assert writer.run(lambda tx: tx.add(Draft("intent", {"call": "next"}))) == 300


@pytest.mark.parametrize("over", [0, 1])
def test_largest_receipt_has_65535_bytes(tmp_path: Path, over: int) -> None:
    writer = open_filled(tmp_path, 0)
    writer.run(lambda tx: tx.add(Draft("approver.enrolled", {"public": "x"})))
    row = writer.store.receipt(0)
    assert row is not None
    room = MAX_ENTRY_BYTES - len(entry(row.body, row.signature)) + 1
    fitting = Draft("approver.enrolled", {"public": "x" * (room + over)})
    if over:
        with pytest.raises(LedgerError):
            writer.run(lambda tx: tx.add(fitting))
    else:
        writer.run(lambda tx: tx.add(fitting))
        row = writer.store.receipt(1)
        assert row is not None
        assert len(entry(row.body, row.signature)) == MAX_ENTRY_BYTES
