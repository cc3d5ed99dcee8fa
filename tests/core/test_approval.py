"""The whole state table, what an approval is bound to, and who may approve."""

from dataclasses import replace
from itertools import product
from typing import Any

import orjson
import pytest
import rfc8785

from mcp_guard.core.approval import (
    TRANSITIONS,
    ApprovalEvent,
    ApprovalState,
    GrantTerms,
    Route,
    RouteRule,
    Vote,
    VoteStatement,
    accepted_by,
    advance,
    binding,
    changed_members,
    check_approver,
    decision_hash,
    describe_rule,
    escalate_rule,
    make_rule,
    missing_routes,
    some_of,
)
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Agent, Call, Decision, Effect, Facts, Instance, Outcome, Resource, Task, Tool, ToolRule
from mcp_guard.core.receipt import APPROVED_MEMBERS
from mcp_guard.core.sign_in import SignIn
from mcp_guard.ledger.approvals.transitions import vote_fields
from mcp_guard.verifier.signatures import statement

ENDS = {
    ApprovalState.DENIED,
    ApprovalState.EXPIRED,
    ApprovalState.WITHDRAWN,
    ApprovalState.STALE,
    ApprovalState.REVOKED,
    ApprovalState.MISSED,
}


@pytest.mark.parametrize(("state", "event"), list(product(ApprovalState, ApprovalEvent)))
def test_transitions_outside_the_table_raise(state: ApprovalState, event: ApprovalEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert advance(state, event, "") is TRANSITIONS[state, event]
    else:
        with pytest.raises(ApprovalError, match=f"cannot {event} an approval that is `{state}`"):
            advance(state, event, "")


def test_transition_table_matches_the_design() -> None:
    reached = {start: {end for (state, _), end in TRANSITIONS.items() if state is start} for start in ApprovalState}
    assert reached[ApprovalState.REQUESTED] == {
        ApprovalState.APPROVED,
        ApprovalState.DENIED,
        ApprovalState.MISSED,
        ApprovalState.EXPIRED,
        ApprovalState.WITHDRAWN,
        ApprovalState.STALE,
    }
    assert reached[ApprovalState.APPROVED] == {
        ApprovalState.CONSUMED,
        ApprovalState.EXPIRED,
        ApprovalState.STALE,
        ApprovalState.REVOKED,
    }
    assert reached[ApprovalState.CONSUMED] == {ApprovalState.APPROVED}
    assert all(not reached[end] for end in ENDS)


def test_only_a_call_that_was_not_sent_gives_its_approval_back() -> None:
    leaving = [event for (state, event) in TRANSITIONS if state is ApprovalState.CONSUMED]
    releasing = [state for (state, event) in TRANSITIONS if event is ApprovalEvent.RELEASE]
    assert (leaving, releasing) == ([ApprovalEvent.RELEASE], [ApprovalState.CONSUMED])


TOOL = Tool("crm", "update", "crm__update", {}, "sha256:d", ToolRule(), Effect.WRITE)
CALL = Call(
    id="call_1",
    instance=Instance("run_1", Agent("agent", "bob", ()), None, Task(), 0, 1, "", "cred_1"),
    name="crm__update",
    arguments={"id": "1"},
    canonical=b'{"id":"1"}',
    request=b"{}",
    tool=TOOL,
    resource=Resource("Deal", "1"),
    task=Task(),
    facts=Facts({"amount": 1}, "sha256:f"),
)
DECISION = Decision(Outcome.REQUIRE_APPROVAL, "sha256:p", routes=("people",))


@pytest.mark.parametrize(
    ("moved", "call", "decision"),
    [
        ("instance", CALL._replace(instance=replace(CALL.instance, id="run_2")), DECISION),
        ("definition", CALL._replace(tool=replace(TOOL, definition_hash="sha256:e")), DECISION),
        ("tool", CALL._replace(tool=replace(TOOL, listed_as="crm__delete")), DECISION),
        ("resource", CALL._replace(resource=Resource("Deal", "2")), DECISION),
        ("arguments", CALL._replace(canonical=b'{"id":"2"}'), DECISION),
        ("facts", CALL._replace(facts=Facts({"amount": 2}, "sha256:g")), DECISION),
        ("facts", CALL._replace(facts=None), DECISION),
        ("policy_version", CALL, DECISION._replace(policy_version="sha256:q")),
        ("routes", CALL, DECISION._replace(routes=("people", "security"))),
    ],
)
def test_decision_hash_covers_every_bound_field(moved: str, call: Call, decision: Decision) -> None:
    before, after = binding(CALL, DECISION, "n"), binding(call, decision, "n")
    assert decision_hash(before, "n") == decision_hash(binding(CALL, DECISION, "n"), "n")
    assert decision_hash(before, "n") != decision_hash(after, "n")
    assert changed_members(before, after) == (moved,)


def test_the_nonce_is_part_of_the_hash() -> None:
    assert decision_hash(binding(CALL, DECISION, "1"), "1") != decision_hash(binding(CALL, DECISION, "1"), "2")


PEOPLE = RouteRule("people", ("alice", "bob"), 1)


@pytest.mark.parametrize(
    ("approver", "requesters", "expected"),
    [("eve", (), "not an approver of route `people`"), ("bob", ("bob", None), "may not decide on their own request")],
)
def test_ineligible_approvers_may_not_vote(approver: str, requesters: tuple[str | None, ...], expected: str) -> None:
    with pytest.raises(ApprovalError, match=expected):
        check_approver([PEOPLE], approver, requesters)


def test_eligible_approvers_may_vote() -> None:
    check_approver([PEOPLE], "alice", ("bob", "dana"))
    check_approver([replace(PEOPLE, self_approval=True)], "bob", ("bob",))
    check_approver([PEOPLE, replace(PEOPLE, self_approval=True)], "bob", ("bob",))


def yes(*approvers: str) -> list[Vote]:
    return [Vote(approver, "approve", "x", 0) for approver in approvers]


def test_every_route_must_be_satisfied() -> None:
    security = RouteRule("security", ("carol", "alice"), 1)
    assert missing_routes([PEOPLE, security], yes("bob"), ()) == ("security",)
    assert missing_routes([PEOPLE, security], [*yes("bob"), Vote("carol", "deny", "x", 0)], ()) == ("security",)
    assert missing_routes([PEOPLE, security], yes("alice"), ()) == ()


def test_a_quorum_counts_people_not_votes() -> None:
    three = RouteRule("people", ("alice", "bob", "carol"), 2)
    assert missing_routes([three], yes("alice"), ()) == ("people",)
    assert missing_routes([three], yes("alice", "alice"), ()) == ("people",)
    assert missing_routes([three], yes("alice", "eve"), ()) == ("people",)
    assert missing_routes([three], yes("alice", "carol"), ()) == ()


def test_owner_vote_counts_only_on_routes_that_allow_it() -> None:
    lax, strict = RouteRule("lax", ("bob",), 1, self_approval=True), RouteRule("strict", ("bob", "carol"), 1)
    assert missing_routes([lax, strict], yes("bob"), ("bob",)) == ("strict",)
    assert missing_routes([lax, strict], yes("bob", "carol"), ("bob",)) == ()


@pytest.mark.parametrize(
    ("approvers", "quorum", "requesters", "expected"),
    [
        (("alice",), 1, (), "alice"),
        (("alice", "bob"), 1, ("bob",), "alice"),
        (("alice", "carol"), 1, (), "any of alice, carol"),
        (("alice", "bob", "carol"), 2, ("bob",), "2 of alice, carol"),
        (("bob",), 1, ("bob",), "nobody eligible"),
        (("alice", "bob"), 2, ("bob",), "2 needed, only alice eligible"),
    ],
)
def test_missing_approvals_are_described_in_words(
    approvers: tuple[str, ...], quorum: int, requesters: tuple[str, ...], expected: str
) -> None:
    assert describe_rule(RouteRule("r", approvers, quorum), requesters) == expected


def test_route_escalates_once_when_due() -> None:
    people = Route("people", ("alice",), 100, escalate_to="chiefs", escalate_after=10)
    routes = {"people": people, "chiefs": Route("chiefs", ("zoe", "alice"), 100)}
    rule = make_rule(people)
    assert escalate_rule(rule, routes, 9) is None
    wider = escalate_rule(rule, routes, 10)
    assert wider == RouteRule("people", ("alice", "zoe"), 1)
    assert escalate_rule(wider, routes, 99) is None
    assert escalate_rule(make_rule(routes["chiefs"]), routes, 99) is None


@pytest.mark.parametrize(("chiefs_too", "added"), [(False, ("zoe",)), (True, ("bob", "zoe"))])
def test_escalation_lets_nobody_decide_on_their_own_request_whose_own_route_forbids_it(
    chiefs_too: bool, added: tuple[str, ...]
) -> None:
    solo = Route("solo", ("alice",), 100, unsafe_self_approval=True, escalate_to="chiefs", escalate_after=10)
    routes = {"solo": solo, "chiefs": Route("chiefs", ("bob", "zoe"), 100, unsafe_self_approval=chiefs_too)}
    wider = escalate_rule(make_rule(solo), routes, 10, ("bob", None))
    assert wider == RouteRule("solo", ("alice", *added), 1, self_approval=True)


@pytest.mark.parametrize(("chiefs", "left"), [(("slack",), ("slack",)), ((), ())])
def test_escalation_keeps_the_services_that_both_routes_accept(chiefs: tuple[str, ...], left: tuple[str, ...]) -> None:
    people = Route("people", ("alice",), 100, escalate_to="chiefs", escalate_after=10, accept=("slack",))
    routes = {"people": people, "chiefs": Route("chiefs", ("zoe",), 100, accept=chiefs)}
    wider = escalate_rule(make_rule(people), routes, 10)
    assert wider is not None
    assert wider.accept == left
    assert accepted_by([make_rule(people), make_rule(routes["chiefs"])]) == left


ABOUT = {name: f"the {name}" for name in (*APPROVED_MEMBERS, "commitment", "expires", "resource_argument")}
STATEMENT = VoteStatement(
    "example.com/l", "ap_1", "sha256:r", "sha256:d", "approve", "alice", "it's fine – ü", 0, name="Alice", about=ABOUT,
    rules=({"route": "people", "quorum": 1, "approvers": ["alice"]},),
)  # fmt: skip

SIGNED_IN = SignIn("https://idp.example", "alice-at-idp", "urn:strong", ("pwd", "mfa"), 5_000_000)


def test_statement_is_canonical_and_complete() -> None:
    assert STATEMENT.text() == rfc8785.dumps(orjson.loads(STATEMENT.text()))
    texts = {STATEMENT.text()}
    every_change: list[dict[str, Any]] = [
        {"origin": "x"}, {"approval": "x"}, {"request_hash": "x"}, {"decision_hash": "x"}, {"verdict": "deny"},
        {"approver": "x"}, {"rationale": "x"}, {"at": 1}, {"terms": GrantTerms(1, 5)}, {"name": "x"}, {"rules": ()},
        {"signed_in": SIGNED_IN},
        *({"about": ABOUT | {name: "x"}} for name in ABOUT),
    ]  # fmt: skip
    for changes in every_change:
        texts.add(replace(STATEMENT, **changes).text())
    assert len(texts) == 13 + len(ABOUT)


def test_the_verifier_rebuilds_the_statement_from_the_receipt() -> None:
    granting = replace(STATEMENT, terms=GrantTerms(1, 60, ("a",)))
    for item in (STATEMENT, granting, replace(STATEMENT, signed_in=SIGNED_IN)):
        vote = Vote(
            item.approver, item.verdict, item.rationale, item.at, "Alice", item.terms, "key", {}, item.signed_in
        )  # fmt: skip
        receipt = vote_fields(vote) | {
            "origin": item.origin, "approval": item.approval, "request_hash": item.request_hash,
            "decision_hash": item.decision_hash, "rules": list(item.rules), **item.about,
        }  # fmt: skip
        assert statement(receipt) == item.text()


def test_who_must_still_approve_is_named_without_a_number_if_it_takes_all() -> None:
    assert some_of(1, ["alice", "bob"]) == "1 of alice, bob"
    assert some_of(1, ["alice", "bob"], {"bob"}) == "alice"
    assert some_of(2, ["alice", "bob"]) == "alice and bob"
