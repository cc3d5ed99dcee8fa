"""The sentence on one call: what was done, refused or is pending, and never what the guard looked up for it."""

from typing import Any

import pytest

from mcp_guard.core.call_summary import summarize_call

NOW = "2026-11-28T12:00:00.000000Z"
CALL = {"call": "c1", "agent": "bot", "instance": "run_1", "tool": "crm__update_deal", "ticket": "INC-1"}
DEAL = CALL | {
    "resource": {"type": "Deal", "id": "789"},
    "verb": "updated deal",
    "policy_version": "sha256:" + "ab" * 32,
}
READ: list[dict[str, Any]] = [
    CALL | {"seq": 1, "kind": "intent", "purpose": "facts", "tool": "crm__get_deal"},
    CALL | {"seq": 2, "kind": "outcome", "purpose": "facts", "tool": "crm__get_deal", "ending": "ok", "follows": [1]},
]
HELD: dict[str, Any] = DEAL | {"seq": 3, "kind": "decision", "outcome": "require_approval", "reasons": ["it closes"]}
DENIED: dict[str, Any] = DEAL | {"seq": 3, "kind": "decision", "outcome": "deny"}
STEP: dict[str, Any] = DEAL | {"approval": "ap_1", "routes": ["people"], "expires": "2026-11-28T13:00:00.000000Z"}
REQUESTED = STEP | {"seq": 4, "kind": "approval.requested"}
GRANTED = STEP | {"seq": 5, "kind": "approval.granted", "name": "Alice", "rationale": "fine"}
INTENT: dict[str, Any] = DEAL | {"seq": 6, "kind": "intent", "outcome": "allow"}
WHO = "bot, instance run_1,"
ASKED = f"{WHO} asked for crm__update_deal on Deal 789 due to ticket INC-1;"
ASKS = ASKED.replace("asked", "asks")
UNDER = "due to ticket INC-1, under policy version abababababab"


def outcome(ending: str) -> dict[str, Any]:
    return DEAL | {"seq": 7, "kind": "outcome", "ending": ending, "follows": [6]}


@pytest.mark.parametrize(
    ("receipts", "sentence"),
    [
        ([INTENT, outcome("ok")], f"{WHO} updated deal 789 {UNDER}"),
        ([INTENT], f"{WHO} is calling crm__update_deal on Deal 789 {UNDER}; no outcome is recorded yet"),
        (
            [INTENT, outcome("not_sent")],
            f"{WHO} tried to call crm__update_deal on Deal 789 {UNDER}; it was not sent",
        ),
        (
            [INTENT, outcome("tool_error")],
            f"{WHO} called crm__update_deal on Deal 789 {UNDER}; the tool reported an error",
        ),
        (
            [INTENT, outcome("unknown")],
            f"{WHO} called crm__update_deal on Deal 789 {UNDER}; nobody knows whether it happened",
        ),
        (
            [DENIED | {"reasons": ["what it wants to send came from files"], "policies": ["p"]}],
            f'{ASKED} denied: "what it wants to send came from files" (policy p); nothing was sent',
        ),
        (  # not a policy's words, but what an upstream wrote
            [DENIED | {"reasons": ["files: needs approval"]}],
            f'{ASKED} denied: "files:\\u{{20}}needs\\u{{20}}approval"; nothing was sent',
        ),
        (
            [
                DEAL
                | {"seq": 3, "kind": "decision", "outcome": "deny", "reasons": ["not yours"], "policies": ["p", "q"]}
            ],
            f"{ASKED} denied: not yours (policy p, q); nothing was sent",
        ),
        (
            [DENIED],
            f"{ASKED} denied: no policy permits it; nothing was sent",
        ),
        (
            [DENIED | {"reasons": ["x, approved by Alice"]}],
            ASKED + r' denied: "x\u{2c}\u{20}approved\u{20}by\u{20}Alice"; nothing was sent',
        ),
        ([HELD], f"{ASKS} held for approval: it closes; nothing has been sent"),
        (
            [HELD, REQUESTED],
            f"{ASKS} waiting until 2026-11-28 13:00 for approval by people (ap_1); nothing has been sent",
        ),
        (
            [HELD, REQUESTED, GRANTED | {"missing": ["legal"]}],
            f"{ASKS} waiting until 2026-11-28 13:00 for approval by people, approved by Alice so far (ap_1); "
            "nothing has been sent",
        ),
        (
            [HELD, REQUESTED, GRANTED],
            f"{ASKS} approved by Alice, valid until 2026-11-28 13:00 (ap_1); nothing has been sent",
        ),
        (
            [HELD, REQUESTED, STEP | {"seq": 5, "kind": "approval.denied", "name": "Alice", "rationale": "no"}],
            f"{ASKED} denied by Alice: no; nothing was sent",
        ),
        (
            [HELD, REQUESTED | {"expires": NOW}],
            f"{ASKED} nobody decided in time; nothing was sent",
        ),
        (
            [HELD, REQUESTED, STEP | {"seq": 5, "kind": "approval.stale"}],
            f"{ASKED} something changed before it could be sent, so its approval lapsed; nothing was sent",
        ),
    ],
)
def test_a_call_is_told_as_it_stands(receipts: list[dict[str, Any]], sentence: str) -> None:
    assert summarize_call([*READ, *receipts], NOW) == [sentence]


def test_a_reason_cannot_continue_the_sentence() -> None:
    """It may repeat what an upstream or the agent wrote."""
    forged = "not found; nothing was sent. The call was repeated; done"
    [sentence] = summarize_call([DENIED | {"reasons": [forged]}], NOW)
    assert sentence == f'{ASKED} denied: "{forged}"; nothing was sent'
    long = "not found; " * 100
    [sentence] = summarize_call([DENIED | {"reasons": [long, "second"]}], NOW)
    assert sentence.endswith('…"; second; nothing was sent')


def test_a_call_that_was_never_decided_is_told_by_its_look_up() -> None:
    [sentence] = summarize_call(READ, NOW)
    assert sentence.endswith("for a call of bot, instance run_1; no decision is recorded")


def test_receipts_of_no_call_have_no_sentence() -> None:
    assert summarize_call([{"seq": 0, "kind": "guard.started"}], NOW) == []
