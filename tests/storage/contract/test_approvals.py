"""Requests, grants, approvers and messages: each step is taken once, whichever connection takes it."""

from dataclasses import replace
from typing import Any

import pytest

from mcp_guard.core.approval import Approval, ApprovalState, RouteRule, Vote
from mcp_guard.core.approval_subject import ApprovalSubject, SubjectRisk
from mcp_guard.core.grants import Grant
from mcp_guard.storage.contract import Store
from mcp_guard.storage.errors import ChangedElsewhere
from mcp_guard.storage.rows import NO_INSTANCE, ApproverKey, RequestRow
from mcp_guard.storage.sql.approvals import COUNTED_AT_ONCE
from tests.storage.contract.engines import writing

SUBJECT = ApprovalSubject(
    agent="agent",
    owner="bob",
    instance="run_1",
    credential="cred_1",
    call="call_1",
    upstream="crm",
    tool="crm__update_deal",
    definition="sha256:d",
    binding={"tool": "crm__update_deal"},
    arguments={"amount": 5, "note": "é"},
    claims={},
    present={},
    changes=(),
    delta={},
    policies=("gate",),
    reasons=(),
    risk=SubjectRisk(score=0, level="low", signals=()),
    routes={"people": ""},
    signed={},
)
RULE = RouteRule("people", ("alice", "carol"), 1)
VOTE = Vote("alice", "approve", "because", 5, "Alice", key="key_1", signature={"alg": "ed25519"})


def make_approval(id: str, requested: int = 100, **changes: Any) -> Approval:
    approval = Approval(
        id,
        ApprovalState.REQUESTED,
        "run_1",
        "lookup",
        "request",
        "decision",
        "nonce",
        (RULE,),
        requested,
        9000,
        SUBJECT,
    )
    return replace(approval, **changes)


@pytest.fixture
def asked(store: Store) -> list[Approval]:
    """Three requests, the oldest first; the last is another instance's."""
    asked = [make_approval("ap_1", 1), make_approval("ap_2", 2), make_approval("ap_3", 3, instance="run_2")]
    with writing(store):
        for number, approval in enumerate(asked):
            store.add_approval(approval, [number])
    return asked


def test_a_request_is_read_as_it_was_made(other: Store, asked: list[Approval]) -> None:
    assert other.approval("ap_2") == (asked[1], [1])
    assert other.approval("ap_9") is None
    assert other.approval("ap_1\0") is None
    assert other.approvals_for("run_1", "lookup") == [asked[1], asked[0]]
    assert other.approvals() == asked
    assert other.approvals([ApprovalState.REQUESTED], "run_2") == [asked[2]]
    assert other.approvals([ApprovalState.DENIED]) == []
    assert other.latest_approvals(2) == [asked[2], asked[1]]
    assert other.requests_of("run_1", 1) == ([asked[1]], 2)


def test_requests_are_listed_without_their_subjects(store: Store, other: Store, asked: list[Approval]) -> None:
    with writing(store):
        store.add_approval(make_approval("ap_0", 2), [3])
        store.move_approval(asked[2], ApprovalState.DENIED, "", [2])
    [first] = other.open_requests(["ap_1", "ap_3", "ap_9"])
    assert first == RequestRow("ap_1", "requested", 1, 9000, frozenset(RULE.approvers))
    assert len(other.open_requests(["ap_1"] + [f"ap_{number}" for number in range(10, 2000)])) == 1
    pages: list[list[str]] = []
    before = (1 << 62, "")
    while page := other.requests_before(before, 2):
        pages.append([request.id for request in page])
        before = page[-1].requested, page[-1].id
    assert pages == [["ap_3", "ap_2"], ["ap_0", "ap_1"]]
    assert other.requests_before((4, ""), 1)[0].state == "denied"
    assert {approval.id: approval for approval in other.approvals_among(["ap_2", "ap_1"])} == {
        "ap_1": asked[0],
        "ap_2": asked[1],
    }


def test_a_request_is_moved_once(store: Store, other: Store, asked: list[Approval]) -> None:
    voted = replace(asked[0], votes=(VOTE,))
    with writing(store):
        store.move_approval(voted, ApprovalState.APPROVED, "yes", [0, 5])
    with pytest.raises(ChangedElsewhere, match="approval ap_1"), writing(other):
        other.move_approval(asked[0], ApprovalState.DENIED, "no", [0, 6])
    moved = replace(voted, state=ApprovalState.APPROVED, note="yes")
    assert other.approval("ap_1") == (moved, [0, 5])
    assert other.open_ids() == {"ap_2", "ap_3"}
    assert other.open_among(["ap_1", "ap_2", "ap_9"]) == {"ap_2"}
    assert other.open_size("run_1")[0] == 1
    assert other.open_size("run_1")[2] == 0  # the ledger knows no such instance
    assert other.requests_of("run_1", 9) == ([asked[1], moved], 2)


def test_many_requests_can_be_asked_about_at_once(store: Store, asked: list[Approval]) -> None:
    assert store.open_among([f"ap_{number}" for number in range(2000)]) == {"ap_1", "ap_2", "ap_3"}


def test_an_answered_request_is_not_found_again(store: Store, asked: list[Approval]) -> None:
    with writing(store):
        store.note_outcome("ap_1", 8, answered=True)
        store.note_outcome("ap_2", 9, answered=False)
    assert store.approvals_for("run_1", "lookup") == [replace(asked[1], outcome=9)]
    assert store.needed(replies=True) == {0, 1, 2, 9}  # those of the open requests too
    with pytest.raises(ChangedElsewhere, match="the outcome of approval ap_2"), writing(store):
        store.note_outcome("ap_2", 10, answered=False)
    with writing(store):
        store.note_answered("ap_2")
    assert store.approvals_for("run_1", "lookup") == []
    found = store.approval("ap_2")
    assert found is not None
    assert (found[0].outcome, found[0].answered) == (9, True)


def test_a_request_without_an_outcome_is_not_answered(store: Store, asked: list[Approval]) -> None:
    with writing(store):
        store.note_answered("ap_1")
    assert asked[0] in store.approvals_for("run_1", "lookup")


def test_what_identifies_a_settled_request_is_erased(store: Store, asked: list[Approval]) -> None:
    with writing(store):
        store.forget_nonce("ap_1", lookup=False)
        store.close_approvals_of("run_2")
        store.move_approval(asked[1], ApprovalState.DENIED, "no", [1])
        store.forget_denied(8999)
    kept = [approval for approval in store.approvals() if approval.nonce]
    assert [approval.id for approval in kept] == ["ap_2"]
    with writing(store):
        store.forget_denied(9000)
    assert [(approval.nonce, approval.lookup) for approval in store.approvals()] == [
        ("", "lookup"),
        ("", ""),
        ("", ""),
    ]


def test_a_use_of_a_grant_is_taken_once(store: Store, other: Store) -> None:
    grant = Grant("grant_1", "ap_1", "active", {"tool": "t"}, ("amount",), 2, 0, 9000, ({"id": "alice"},), "salt")
    with writing(store):
        store.add_grant(grant, "run_1")
        store.move_grant(grant, "active", 1)
    with pytest.raises(ChangedElsewhere, match="grant grant_1"), writing(other):
        other.move_grant(grant, "active", 1)
    used = replace(grant, used=1)
    assert other.grant("grant_1") == used
    assert other.grants("run_1", "active") == other.grants() == [used]
    assert other.active_grants("", 9) == [used]
    assert other.active_grants(used.id, 9) == []
    assert other.grants("run_2") == other.grants(state="revoked") == []
    with writing(store):
        store.forget_salts(8999)
    assert store.grant("grant_1") == used
    with writing(store):
        store.forget_salts(9000)
    assert store.grant("grant_1") == replace(used, salt="")


def test_an_approvers_key_is_removed_once(store: Store, other: Store) -> None:
    key = ApproverKey("key_1", "alice", "webauthn", "cHVibGlj", {"count": 1}, 4)
    with writing(store):
        store.add_approver_key(replace(key, id="key_2", enrolled=6))
        store.add_approver_key(key)
        store.note_key_use("key_1", {"count": 2})
        store.remove_approver_key("key_1", 9)
    with pytest.raises(ChangedElsewhere, match="approver key key_1"), writing(other):
        other.remove_approver_key("key_1", 10)
    removed = replace(key, details={"count": 2}, removed=9)
    assert other.approver_keys() == [removed, replace(key, id="key_2", enrolled=6)]


def test_a_message_is_taken_by_one_process(store: Store, other: Store) -> None:
    with writing(store):
        store.add_delivery("ap_1", "mail", "requested", 50)
        store.add_delivery("ap_1", "slack", "requested", 90)
    [due] = other.due_deliveries(60, 50)
    assert (due.subject, due.notifier, due.event, due.state, due.attempts, due.due) == (
        "ap_1", "mail", "requested", "due", 0, 50,
    )  # fmt: skip
    with writing(store):
        store.move_delivery(due, "due", 80, "taken")
    with pytest.raises(ChangedElsewhere, match=f"delivery {due.id}"), writing(other):
        other.move_delivery(due, "due", 80, "taken")
    assert other.due_deliveries(60, 50) == []
    with writing(store):
        store.settle_delivery(due.id, "delivered", 80, "")
    assert [(each.notifier, each.state, each.attempts) for each in other.deliveries("ap_1")] == [
        ("mail", "delivered", 1),
        ("slack", "due", 0),
    ]


def test_a_notifier_with_many_messages_leaves_those_of_others_due(store: Store) -> None:
    with writing(store):
        for number in range(4):
            store.add_delivery(f"ap_{number}", "mail", "requested", 50)
        store.add_delivery("ap_0", "slack", "requested", 50)
    due = store.due_deliveries(60, 2)
    assert [(delivery.subject, delivery.notifier) for delivery in due] == [
        ("ap_0", "mail"), ("ap_1", "mail"), ("ap_0", "slack")
    ]  # fmt: skip


def test_message_about_the_end_of_a_request_waits_until_it_ends(store: Store, other: Store) -> None:
    with writing(store):
        for subject in ("ap_1", "ap_2"):
            store.add_delivery(subject, "slack", "requested", 50)
            store.add_delivery(subject, "slack", "ended", 50, "waiting")
    assert {(due.subject, due.event) for due in other.due_deliveries(99, 50)} == {
        ("ap_1", "requested"), ("ap_2", "requested")
    }  # fmt: skip
    with writing(store):
        store.end_deliveries("ap_1", 70)
        store.end_deliveries("ap_1", 90)
    ended = [(due.subject, due.due) for due in other.due_deliveries(99, 50) if due.event == "ended"]
    assert ended == [("ap_1", 70)]


def test_a_sign_in_code_is_used_once_and_in_time(store: Store, other: Store) -> None:
    with writing(store):
        store.add_sign_in("a", "alice", "link", 10, 20)
        store.add_sign_in("b", "bob", "session", 10, 50)
    assert other.has_sign_in("a")
    with writing(other):
        assert other.take_sign_in("a", 19) == ("alice", "link")
    with writing(store):
        assert store.take_sign_in("a", 19) is None
        assert store.take_sign_in("b", 50) is None
    assert not store.has_sign_in("b")
    with writing(store):
        store.add_sign_in("c", "carol", "link", 50, 60)
        store.add_sign_in("d", "dana", "link", 60, 70)
    assert (other.has_sign_in("c"), other.has_sign_in("d")) == (False, True)


def test_drills_are_of_no_instance_and_counted_apart(store: Store, asked: list[Approval]) -> None:
    drill = make_approval("ap_4", 4, subject=replace(SUBJECT, instance="run_1", drill={"why": "too much"}))
    with writing(store):
        store.add_approval(drill, [7])
    assert store.approval("ap_4") == (drill, [7])
    assert store.requests_of("run_1", 10)[1] == store.open_size("run_1")[0] == 2
    assert [found.id for found in store.approvals([ApprovalState.REQUESTED], NO_INSTANCE)] == ["ap_4"]
    counted = list(store.requests_since(3))
    assert [(request.requested, request.is_drill) for request in counted] == [(3, False), (4, True)]
    assert counted[0].approvers == {"alice", "carol"}


def test_all_requests_are_counted_however_many_are_of_one_moment(store: Store) -> None:
    number = COUNTED_AT_ONCE + 2
    with writing(store):
        for at in (3, 4):
            for n in range(number):
                store.add_approval(make_approval(f"ap_{at}_{n}", at), [])
    assert [request.requested for request in store.requests_since(3)] == [3] * number + [4] * number
