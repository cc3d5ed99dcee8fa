"""A request that can never have its quorum is not made."""

from dataclasses import replace

import pytest

from mcp_guard.core.approval import Route, make_rule
from mcp_guard.core.approval_reach import why_never_granted
from mcp_guard.core.people import Requesters

DELETION = Route("deletion", ("alice", "carol"), 100, quorum=2)
ALICE = Requesters(("alice",), False)


def why(route: Route, requesters: Requesters, *others: Route) -> str:
    rules = [make_rule(route, requesters.is_user_unknown)]
    return why_never_granted(rules, {each.name: each for each in (route, *others)}, requesters)


def test_quorum_that_needs_the_requester_cannot_be_had() -> None:
    assert why(DELETION, ALICE) == (
        "nobody was asked, because route deletion needs 2 approvals and only 1 can be had; "
        "alice may not approve their own request; the operator can add approvers to it"
    )
    assert "needs 1 approval and none can be had" in why(replace(DELETION, approvers=("alice",), quorum=1), ALICE)


def test_unknown_user_is_named_as_the_cause() -> None:
    alone = Route("people", ("carol",), 100)
    assert why(alone, Requesters((), False)) == ""
    assert "its user is not in the configuration" in why(alone, Requesters((), True))


@pytest.mark.parametrize(
    ("route", "others"),
    [
        (replace(DELETION, approvers=("alice", "bob", "carol")), ()),
        (replace(DELETION, unsafe_self_approval=True), ()),
        (replace(DELETION, escalate_to="chiefs", escalate_after=10), (Route("chiefs", ("zoe",), 100),)),
    ],
)
def test_quorum_that_others_can_give_is_asked_for(route: Route, others: tuple[Route, ...]) -> None:
    assert why(route, ALICE, *others) == ""
