"""Exported policies express the outcome rule in plain Cedar, checked with every set of approvals."""

from itertools import combinations

import cedarpy
from hypothesis import given, settings

from mcp_guard.core.decision import PolicyOutcome
from mcp_guard.core.model import Json, Outcome
from mcp_guard.policy.authoring.export import plain_schema, plain_text
from tests.policy.strategies import CEDAR, TEXTS, GeneratedRequest, requests, ruleset
from tests.proof_size import sized

ROUTES = ("people", "security")
APPROVALS = [frozenset(some) for size in range(3) for some in combinations(ROUTES, size)]


def lets(text: str, asked: GeneratedRequest, approvals: frozenset[str]) -> bool:
    """Cedar's answer for plain policies; a policy that fails denies, as in the guard."""
    context: Json = {**asked.recorded["request"]["context"], "approvals": sorted(approvals)}
    result = cedarpy.is_authorized({**asked.request, "context": context}, text, asked.entities)
    return result.allowed and not result.diagnostics.errors


def expected(ruling: PolicyOutcome, approvals: frozenset[str]) -> bool:
    if ruling.outcome is Outcome.REQUIRE_APPROVAL:
        return approvals >= set(ruling.routes)
    return ruling.outcome is Outcome.ALLOW


@settings(max_examples=sized(500, 25), deadline=None)
@given(TEXTS, requests())
def test_the_exported_set_is_equal_to_the_outcome_rule(written: str, asked: GeneratedRequest) -> None:
    rules = ruleset(written)
    text = plain_text(rules.policies) if rules.policies else ""
    ruling = rules.decide(asked.request, asked.entities, asked.principal)
    for approvals in APPROVALS:
        assert lets(text, asked, approvals) == expected(ruling, approvals)


def test_exported_policies_validate_against_the_exported_schema() -> None:
    text = plain_text(
        ruleset('@id("g") @require_approval("people,security") forbid (principal, action, resource);').policies
    )
    assert '(context.approvals).containsAll(["people", "security"])' in " ".join(text.split())
    assert cedarpy.validate_policies(text, plain_schema(CEDAR)).validation_passed
    assert not cedarpy.validate_policies(text, CEDAR).validation_passed
