"""The state table, whole; what an approval is bound to; who may say yes."""

from dataclasses import replace
from itertools import product

import pytest

from mcp_guard.core.approval import (
    TRANSITIONS,
    Event,
    Route,
    State,
    Vote,
    advance,
    binding,
    check_vote,
    decision_hash,
    missing_routes,
    what_moved,
)
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Agent, Call, Decision, Effect, Facts, Instance, Outcome, Resource, Task, Tool, ToolRule

ENDS = {State.DENIED, State.EXPIRED, State.WITHDRAWN, State.STALE, State.CONSUMED, State.REVOKED}


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_the_table_is_all_that_can_happen(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert advance(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(ApprovalError, match=f"`{state}` cannot take `{event}`"):
            advance(state, event)


def test_the_table_is_the_designs() -> None:
    reached = {start: {end for (state, _), end in TRANSITIONS.items() if state is start} for start in State}
    assert reached[State.REQUESTED] == {
        State.APPROVED, State.DENIED, State.EXPIRED, State.WITHDRAWN, State.STALE,
    }  # fmt: skip
    assert reached[State.APPROVED] == {State.CONSUMED, State.EXPIRED, State.STALE, State.REVOKED}
    assert all(not reached[end] for end in ENDS)


TOOL = Tool("crm", "update", "crm__update", {}, "sha256:d", ToolRule(), Effect.WRITE)
CALL = Call(
    id="call_1",
    instance=Instance("run_1", Agent("agent", "bob", ()), None, Task(), 0, 1, "", "cred_1"),
    name="crm__update",
    arguments={"id": "1"},
    canonical=b'{"id":"1"}',
    request_hash="sha256:r",
    tool=TOOL,
    resource=Resource("Deal", "1"),
    task=Task(),
    facts=Facts({"amount": 1}, "sha256:f"),
)
DECISION = Decision(Outcome.REQUIRE_APPROVAL, "sha256:p", routes=("people",))


@pytest.mark.parametrize(
    ("moved", "call", "decision"),
    [
        ("instance", replace(CALL, instance=replace(CALL.instance, id="run_2")), DECISION),
        ("definition", replace(CALL, tool=replace(TOOL, definition_hash="sha256:e")), DECISION),
        ("tool", replace(CALL, tool=replace(TOOL, listed_as="crm__delete")), DECISION),
        ("resource", replace(CALL, resource=Resource("Deal", "2")), DECISION),
        ("arguments", replace(CALL, canonical=b'{"id":"2"}'), DECISION),
        ("facts", replace(CALL, facts=Facts({"amount": 2}, "sha256:g")), DECISION),
        ("facts", replace(CALL, facts=None), DECISION),
        ("policy_version", CALL, replace(DECISION, policy_version="sha256:q")),
        ("routes", CALL, replace(DECISION, routes=("people", "security"))),
    ],
)
def test_an_approval_is_bound_to_each_of_these(moved: str, call: Call, decision: Decision) -> None:
    before, after = binding(CALL, DECISION), binding(call, decision)
    assert decision_hash(before, "n") == decision_hash(binding(CALL, DECISION), "n")
    assert decision_hash(before, "n") != decision_hash(after, "n")
    assert what_moved(before, after) == (moved,)


def test_the_nonce_is_part_of_the_hash() -> None:
    assert decision_hash(binding(CALL, DECISION), "1") != decision_hash(binding(CALL, DECISION), "2")


PEOPLE = Route("people", ("alice", "bob"), 1)


@pytest.mark.parametrize(
    ("approver", "askers", "expected"),
    [("eve", (), "not an approver of route `people`"), ("bob", ("bob", None), "may not approve what they asked for")],
)
def test_who_may_not_vote(approver: str, askers: tuple[str | None, ...], expected: str) -> None:
    with pytest.raises(ApprovalError, match=expected):
        check_vote(PEOPLE, approver, askers)


def test_who_may_vote() -> None:
    check_vote(PEOPLE, "alice", ("bob", "dana"))
    check_vote(replace(PEOPLE, unsafe_self_approval=True), "bob", ("bob",))


def test_every_route_must_be_satisfied() -> None:
    security = Route("security", ("carol", "alice"), 1)
    yes = [Vote("bob", "approve", "x", 0)]
    assert missing_routes([PEOPLE, security], yes) == ("security",)
    assert missing_routes([PEOPLE, security], [*yes, Vote("carol", "deny", "x", 0)]) == ("security",)
    assert missing_routes([PEOPLE, security], [Vote("alice", "approve", "x", 0)]) == ()
