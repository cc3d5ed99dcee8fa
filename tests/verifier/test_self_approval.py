"""A person who approves their own agent's call is named as such: in receipts, in the sentence, and by the verifier."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.approval import GrantTerms
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import ToolCallRequest
from mcp_guard.core.people import Identity, People
from mcp_guard.core.receipt import attribution
from mcp_guard.verifier import verify_ledger
from mcp_guard.verifier.report import Report
from tests.promises.harness import ALLOW, HOLD, ROUTES, Harness, make_instance, open_harness, pending_id, text
from tests.verifier.resign import sign_anew

SOLO = {"people": replace(ROUTES["people"], unsafe_self_approval=True)}
ORIGIN = "test.example/ledger"
UNPROVED = "that a second person approved: 1 of 1 approval is self-approved, by the agent's owner or its user alone"


async def call(harness: Harness, words: str = "x", **instance: Any) -> Any:
    return await harness.guard.call(make_instance(**instance), ToolCallRequest("crm__note", {"text": words}))


async def approved_by(
    folder: Path, *approvers: str, quorum: int = 1, people: People | None = None, **instance: Any
) -> Harness:
    """A guard whose owner is bob and whose user is dana, after one approved call."""
    routes = {"people": replace(SOLO["people"], quorum=quorum)}
    harness = open_harness(folder, f"{ALLOW}\n{HOLD}", routes=routes, people=people)
    id = pending_id(await call(harness, **instance))
    for approver in approvers:
        harness.approve(id, approver)
    assert text(await call(harness, **instance)) == "done"
    return harness


def verified(harness: Harness) -> Report:
    harness.close()
    return verify_ledger(harness.folder / "state/ledger.sqlite", harness.folder / "state/ledger.pub")


def unproved(report: Report) -> list[str]:
    assert report.ok, report.problem
    return [item.says.partition(" (")[0] for item in report.not_proved if item.check == "self_approval"]


@pytest.mark.parametrize("approver", ["bob", "dana"])
async def test_an_owner_or_user_who_approves_is_named_so_everywhere(tmp_path: Path, approver: str) -> None:
    harness = await approved_by(tmp_path, approver)
    (granted,), (consumed,), (intent,) = map(harness.receipts, ("approval.granted", "approval.consumed", "intent"))
    assert granted["self_approved"] is True
    for approvers in (consumed["approvers"], intent["approval"]["approvers"]):
        assert approvers == [
            {"approver": approver, "name": approver.title(), "rationale": "because", "self_approved": True}
        ]
    assert f", approved by {approver.title()} (self-approved), under" in attribution(intent)
    assert unproved(verified(harness)) == [UNPROVED]


async def test_another_persons_approval_has_no_mark(tmp_path: Path) -> None:
    harness = await approved_by(tmp_path, "alice")
    assert not any("self_approved" in str(receipt) for receipt in harness.receipts())
    assert unproved(verified(harness)) == []


async def test_a_second_person_on_the_same_approval_is_one(tmp_path: Path) -> None:
    harness = await approved_by(tmp_path, "bob", "alice", quorum=2)
    (intent,) = harness.receipts("intent")
    assert "approved by Bob (self-approved) and Alice, under" in attribution(intent)
    assert unproved(verified(harness)) == []


async def test_a_denial_of_ones_own_request_is_no_approval(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes=SOLO)
    harness.approve(pending_id(await call(harness)), "bob", "deny")
    (denied,) = harness.receipts("approval.denied")
    assert "self_approved" not in denied
    assert unproved(verified(harness)) == []


async def test_calls_under_a_grant_to_oneself_are_marked(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes=SOLO)
    harness.approve(pending_id(await call(harness)), "bob", terms=GrantTerms(2, 600, ("text",)))
    await call(harness)
    await call(harness, "y")
    intents = harness.receipts("intent")
    assert "grant" in intents[1]["approval"]
    assert all(" (self-approved)" in attribution(intent) for intent in intents)
    assert unproved(verified(harness)) == [UNPROVED]


async def test_a_person_known_by_another_identity_is_marked_by_the_guard(tmp_path: Path) -> None:
    people = People(approvers={Identity("https://idp.example", "0815"): "alice"}, names={"alice": "Alice"})
    issuer = "https://idp.example"
    harness = await approved_by(tmp_path, "alice", people=people, on_behalf_of="0815", user_issuer=issuer)
    assert harness.receipts("approval.granted")[0]["self_approved"] is True
    assert unproved(verified(harness)) == [UNPROVED]


async def test_a_mark_that_the_guard_leaves_out_is_found_from_the_signed_names(tmp_path: Path) -> None:
    """As in ledgers of earlier versions, which had no mark."""
    harness = await approved_by(tmp_path, "bob")
    harness.close()

    def without_marks(receipt: dict[str, Any]) -> None:
        receipt.pop("self_approved", None)
        named = receipt["approval"] if receipt["kind"] == "intent" else receipt
        for approver in named.get("approvers", ()):
            approver.pop("self_approved", None)

    sign_anew(tmp_path / "state", ORIGIN, without_marks)
    assert unproved(verify_ledger(tmp_path / "state/ledger.sqlite", tmp_path / "state/ledger.pub")) == [UNPROVED]


async def test_a_mark_that_only_the_intent_lacks_fails(tmp_path: Path) -> None:
    harness = await approved_by(tmp_path, "bob")
    harness.close()

    def without_last_mark(receipt: dict[str, Any]) -> None:
        if receipt["kind"] == "intent":
            del receipt["approval"]["approvers"][0]["self_approved"]

    sign_anew(tmp_path / "state", ORIGIN, without_last_mark)
    report = verify_ledger(tmp_path / "state/ledger.sqlite", tmp_path / "state/ledger.pub")
    assert "the approvers that it names are not those who have voted" in report.problem


async def test_without_the_switch_the_owner_is_refused_as_ever(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    with pytest.raises(ApprovalError, match="may not decide on their own request"):
        harness.approve(pending_id(await call(harness)), "bob")
    harness.close()
