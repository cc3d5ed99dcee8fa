"""A slice decides like the whole policy set: same outcome, same determining policies, same errors."""

import cedarpy
from hypothesis import given, settings

from mcp_guard.policy.ruleset import Principal, evaluate
from mcp_guard.policy.source import as_json
from tests.policy.strategies import TEXTS, GeneratedRequest, requests, ruleset
from tests.proof_size import sized


@settings(max_examples=sized(600, 25), deadline=None)
@given(TEXTS, requests())
def test_slice_decides_like_the_whole_set(written: str, asked: GeneratedRequest) -> None:
    rules = ruleset(written)
    sliced = rules.decide(asked.request, asked.entities, asked.principal)
    assert sliced == rules.decide_slice(rules.whole(), asked.request, asked.request["context"], asked.entities)


@settings(max_examples=sized(600, 25), deadline=None)
@given(TEXTS, requests())
def test_evaluating_a_slice_equals_evaluating_all_policies(written: str, asked: GeneratedRequest) -> None:
    rules = ruleset(written)
    part = rules.slice(asked.request["action"]["id"], asked.principal)
    verdict = evaluate(asked.request, part.full, asked.entities)
    every = cedarpy.PolicySet.from_json_str(as_json(rules.policies))
    oracle = cedarpy.is_authorized(asked.request, every, asked.entities)
    assert verdict.allowed == oracle.allowed
    assert sorted(verdict.determining) == sorted(oracle.diagnostics.reasons)
    assert sorted(verdict.errors) == sorted(oracle.diagnostics.errors)


def test_policies_that_cannot_match_are_skipped_and_parsed_once() -> None:
    rules = ruleset(
        '@id("a") permit (principal in Group::"g1", action == Action::"up__look", resource);'
        '@id("b") permit (principal in Group::"g2", action, resource);'
        '@id("c") forbid (principal, action in Action::"write", resource);'
    )
    run = ("AgentInstance", "run_1")
    subject = Principal(run, frozenset({run, ("Group", "g1")}))
    assert rules.slice("up__look", subject).ids == ("a",)
    assert rules.slice("up__purge", subject).ids == ("c",), "a destructive action is a write too"
    assert rules.slice("up__look", subject) is rules.slice("up__look", subject)
