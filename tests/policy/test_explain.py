"""The smallest change that alters an outcome is found if there is one, and Cedar confirms it."""

from typing import Any

import pytest
from hypothesis import given, settings

from mcp_guard.core.model import Json, Outcome
from mcp_guard.policy.authoring.explain import explain, lines
from mcp_guard.policy.authoring.recorded import PolicyVersion
from tests.policy.strategies import CEDAR, TEXTS, GeneratedRequest, policies_of, requests
from tests.proof_size import sized

LIMIT = (
    '@id("work") permit (principal in Group::"g1", action, resource);'
    '@id("limit") @reason("at most 10") forbid (principal, action, resource)'
    " when { context.input has n && context.input.n > 10 };"
    '@id("ticket") forbid (principal, action in Action::"write", resource) unless { context.task has ticket };'
)


def asked(tool: str = "up__look", n: int = 5, groups: tuple[str, ...] = ("g1",), **task: str) -> Json:
    agent = {"type": "Agent", "id": "a1"}
    parents = [{"type": "Group", "id": group} for group in groups]
    attributes: dict[str, Any] = {"owner": "bob", "started": 1, "expires": 2, "depth": 0}
    principal = {"type": "AgentInstance", "id": "run_1"}
    context = {
        "input": {"n": n}, "input_unknown": [], "input_null": [], "change": {"fields": [], "delta": {}}, "task": task,
        "rate": {}, "risk": {"score": 0, "level": "low", "signals": []},
    }  # fmt: skip
    resource = {"type": "Deal", "id": "x"} if tool == "up__change" else {"type": "Tool", "id": tool}
    return {
        "request": {
            "principal": principal,
            "action": {"type": "Action", "id": tool},
            "resource": resource,
            "context": context,
        },
        "entities": [
            {"uid": principal, "attrs": attributes, "parents": [agent]},
            {"uid": agent, "attrs": {"owner": "bob"}, "parents": parents},
            *({"uid": parent, "attrs": {}, "parents": []} for parent in parents),
        ],
    }


@pytest.mark.parametrize(
    ("material", "smallest", "outcome"),
    [
        (asked(n=12), "context.input.n 10 instead of 12", Outcome.ALLOW),
        (asked(n=9), "context.input.n 11 instead of 9", Outcome.DENY),
        (asked("up__purge"), "context.task.ticket present, such as", Outcome.ALLOW),
        (asked("up__purge", ticket="INC-1"), "context.input.n 11 instead of 5", Outcome.DENY),
        (asked(groups=()), 'principal in Group::"g1"', Outcome.ALLOW),
    ],
)
def test_smallest_change_of_the_request_is_found(material: Json, smallest: str, outcome: Outcome) -> None:
    result = explain(PolicyVersion("then", policies_of(LIMIT), CEDAR), material).request[0]
    assert result.what.startswith(smallest)
    assert result.ruling.outcome is outcome


def test_absence_of_a_change_is_stated() -> None:
    never = '@id("never") forbid (principal, action, resource);@id("nor") forbid (principal, action, resource);'
    printed = list(lines(explain(PolicyVersion("then", policies_of(never), CEDAR), asked())))
    assert "no change of a single attribute was found that would alter the outcome" in printed
    assert printed[-1] == "removing any single condition or policy would not alter the outcome"


def test_denial_by_default_explains_the_relevant_permits() -> None:
    made = explain(PolicyVersion("then", policies_of(LIMIT), CEDAR), asked(groups=("g2",)))
    assert [(reading.policy.id, reading.in_scope) for reading in made.readings] == [("work", False)]


def test_failed_policy_is_named() -> None:
    failing = '@id("sum") permit (principal, action, resource) when { context.input.n + 9223372036854775807 > 0 };'
    made = explain(PolicyVersion("then", policies_of(failing), CEDAR), asked())
    assert [part.held for reading in made.readings for part in reading.parts] == [None]
    assert next(iter(lines(made))).startswith("denied, because a policy could not be evaluated")


@settings(max_examples=sized(60, 20), deadline=None)
@given(TEXTS, requests())
def test_every_decision_can_be_explained(written: str, posed: GeneratedRequest) -> None:
    version = PolicyVersion("then", policies_of(written), CEDAR)
    made = explain(version, posed.recorded)
    assert made.ruling == version.decide(version.build_request(posed.recorded))
    assert list(lines(made))
    for change in (*made.request, *made.policies):
        assert (change.ruling.outcome, change.ruling.routes) != (made.ruling.outcome, made.ruling.routes)
    if made.ruling.policies and not made.ruling.errors:
        assert all(not part.stops for reading in made.readings for part in reading.parts), (
            "what determined was satisfied"
        )
