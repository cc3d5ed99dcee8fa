"""Cedar decides alike when the context is narrowed to the attributes that policies use."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.policy.request import narrow, view_of
from mcp_guard.policy.ruleset import evaluate
from tests.policy.strategies import PARTS, GeneratedRequest, policies_of, requests, ruleset, write
from tests.proof_size import sized

WHOLE = (
    "when { context == context }", "when { context.input == {n: 1} }", "when { [context.input].contains({n: 1}) }",
    "when { {a: context}.a has input }", "when { {a: context.input}.a has s && context.input has n }",
    "unless { (if context has rate then context else context).change.fields.isEmpty() }",
    'when { context["input"] has n } unless { context.input.n == 1 }', "when { context has input.s.length }",
)  # fmt: skip
TEXTS = st.lists(st.tuples(*map(st.sampled_from, (*PARTS[:-1], (*PARTS[-1], *WHOLE)))), max_size=5).map(write)


@settings(max_examples=sized(400, 25), deadline=None)
@given(TEXTS, requests())
def test_omitted_context_does_not_change_the_decision(written: str, asked: GeneratedRequest) -> None:
    rules = ruleset(written)
    part = rules.slice(asked.request["action"]["id"], asked.principal)
    seen = narrow(asked.request["context"], part.view)
    narrowed = evaluate({**asked.request, "context": json.dumps(seen)}, part.full, asked.entities)
    assert narrowed == evaluate(asked.request, part.full, asked.entities)


@pytest.mark.parametrize(
    ("condition", "seen"),
    [
        ("true", {}),
        ("context.risk.score > 1", {"risk": {"score": None}}),
        ("context.input has a && context.input.b.c == 2", {"input": {"a": None, "b": {"c": None}}}),
        ("context.input.a == 1 && context.input == context.input", {"input": None}),
        ("context.input == context.input && context.input.a == 1", {"input": None}),
        ("context has task", {"task": None}),
        ('context["input"]["a b"] == 1', {"input": {"a b": None}}),
        ("{a: context.rate}.a has b", {"rate": None}),
        ("(if principal has x then context.input else context.change).a == 1", {"input": None, "change": None}),
        ("context.input.set.contains(context.task.ticket)", {"input": {"set": None}, "task": {"ticket": None}}),
        ("[context] == [context]", None),
        ("{Var: \"context\", a: context.risk} has Var", {"risk": None}),
    ],
)  # fmt: skip
def test_view_contains_the_attributes_named_in_conditions(condition: str, seen: Any) -> None:
    text = f'@id("a") permit (principal, action, resource) when {{ {condition} }};'
    assert view_of(policies_of(text).values()) == seen


def test_only_viewed_parts_of_a_value_are_passed() -> None:
    value: Any = {"input": {"a": {"__extn": {"fn": "decimal", "arg": "1.0"}}, "b": [1]}, "risk": {"score": 1}}
    assert narrow(value, None) == value
    assert narrow(value, {"input": {"a": None, "z": None}}) == {"input": {"a": value["input"]["a"]}}
    assert narrow(value, {}) == {}
