"""Votes by a button of Slack: a ledger with them verifies, they are counted apart, and forged ones are found."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.core.receipt import attribution
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.verifier import verify_ledger
from mcp_guard.verifier.consistency import only_adds_approvers
from mcp_guard.verifier.report import Report
from tests.promises.harness import ALLOW, HOLD, PEOPLE, ROUTES, Harness, make_instance, open_harness, pending_id, text
from tests.verifier.resign import sign_anew

ACCEPTING = {"people": replace(ROUTES["people"], accept=("slack",))}
REPORTED = {"team": "T1", "user": "U1", "channel": "C1", "message": "1.2"}


async def call(harness: Harness, words: str) -> Any:
    return await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": words}))


@pytest.fixture
async def harness(tmp_path: Path) -> Harness:
    """One call approved by Slack, one with a key."""
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes=ACCEPTING)
    votes = Votes(harness.ledger.writer, ACCEPTING, PEOPLE)
    id = pending_id(await call(harness, "by Slack"))
    harness.ledger.writer.run(votes.record_reported_op(id, "alice", "approve", "slack", REPORTED))
    assert text(await call(harness, "by Slack")) == "done"
    harness.approve(pending_id(await call(harness, "with a key")), "carol")
    assert text(await call(harness, "with a key")) == "done"
    return harness


def verified(folder: Path) -> Report:
    return verify_ledger(folder / "state/ledger.sqlite", folder / "state/ledger.pub")


async def test_votes_by_slack_verify_and_are_counted_apart(harness: Harness) -> None:
    [by_slack, _] = harness.receipts("approval.granted")
    [first, second] = [receipt for receipt in harness.receipts("intent") if "approval" in receipt]
    assert ", approved by Alice (by Slack, not by a key), under" in attribution(first)
    assert ", approved by Carol, under" in attribution(second)
    harness.close()
    report = verified(harness.folder)
    assert report.ok, report.problem
    assert (report.approvers_words, report.reported_votes, report.first_reported_vote) == (1, 1, by_slack["seq"])
    [item] = [item for item in report.not_proved if item.check == "reported_votes"]
    assert item.says.startswith("who gave 1 vote by a button of Slack: no key has signed")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"rules": [{"route": "people", "quorum": 1, "approvers": ["alice", "carol"]}]},
            "which not every route accepts",
        ),
        ({"method": "pager"}, "is by `pager`, which is not known"),
        ({"reported": {"user": "U1"}}, "does not say who pressed a button"),
        ({"approver": "mallory"}, "is not an approver of any of its routes"),
        ({"key": "0" * 16, "signature": {"signature": ""}}, "is both signed and reported"),
        ({"method": None}, "member 'key' is missing"),
    ],
)
async def test_forged_vote_by_slack_is_found(harness: Harness, change: Json, problem: str) -> None:
    [by_slack, _] = harness.receipts("approval.granted")

    def forge(receipt: Json) -> None:
        if receipt["seq"] == by_slack["seq"]:
            receipt.update(change)
            for name in [name for name, value in change.items() if value is None]:
                del receipt[name]

    harness.close()
    sign_anew(harness.folder / "state", "test.example/ledger", forge)
    report = verified(harness.folder)
    assert not report.ok
    assert problem in report.problem


async def test_acceptance_cannot_be_added_by_an_escalation(harness: Harness) -> None:
    plain = {"route": "people", "quorum": 1, "approvers": ["alice"]}
    accepting = plain | {"accept": ["slack"]}
    assert only_adds_approvers([accepting], [plain])
    assert not only_adds_approvers([plain], [accepting])
