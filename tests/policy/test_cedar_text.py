"""Expressions written as text keep their meaning: Cedar parses them to the same policy."""

import json

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.model import Json
from mcp_guard.policy.cedar_text import conjunction, conjuncts, expression, paths, scope
from tests.proof_size import sized

LEAVES = st.sampled_from(
    ["context.a", "context.b.c", "1", "true", '"t\\"x"', "principal.owner", 'decimal("1.5")', 'Group::"g"', "[1, 2]",
     '"ünï\\u{8}\\n*"',
     "context.s", "-context.n", 'context["odd name"]', "{x: 1}"]
)  # fmt: skip


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    two = st.tuples(inner, inner)
    infix = st.tuples(st.sampled_from(["&&", "||", "==", "<", ">=", "+", "-", "*", "in", "!="]), two)
    return st.one_of(
        infix.map(lambda made: f"(({made[1][0]}) {made[0]} ({made[1][1]}))"),
        two.map(lambda made: f"({made[0]}).contains({made[1]})"),
        two.map(lambda made: f"({made[0]}).lessThan({made[1]})"),
        inner.map(lambda made: f"!({made})"),
        inner.map(lambda made: f"(({made}) has x)"),
        inner.map(lambda made: f'(({made}) like "a*b")'),
        inner.map(lambda made: f"(({made}) is Deal)"),
        inner.map(lambda made: f"({made}).isEmpty()"),
        st.tuples(inner, inner, inner).map(lambda made: "(if ({}) then ({}) else ({}))".format(*made)),
    )


EXPRESSIONS = st.recursive(LEAVES, larger, max_leaves=6)


def read(text: str) -> Json:
    parsed: Json = json.loads(cedarpy.policies_to_json_str(f"permit (principal, action, resource) when {{ {text} }};"))
    return next(iter(parsed["staticPolicies"].values()))


@settings(max_examples=sized(400, 25), deadline=None)
@given(EXPRESSIONS)
def test_cedar_parses_the_text_to_the_same_policy(written: str) -> None:
    try:
        body = read(written)["conditions"][0]["body"]
    except ValueError:
        return
    assert read(expression(body))["conditions"][0]["body"] == body


def test_text_has_only_necessary_parentheses() -> None:
    text = 'context.input has n && (context.input.n > 1 || principal.owner == "bob") && !context.x.contains("y")'
    body = read(text)["conditions"][0]["body"]
    assert expression(body) == text
    assert conjunction(conjuncts(body)) == body
    assert paths(body) == [("context", "input", "n"), ("principal", "owner"), ("context", "x")]


@pytest.mark.parametrize(
    "text",
    [
        "principal, action, resource",
        'principal in Group::"g", action == Action::"a", resource is Deal',
        'principal is A in Group::"g", action in [Action::"a", Action::"b"], resource == Deal::"1"',
    ],
)
def test_scope_is_written_unchanged(text: str) -> None:
    parsed = json.loads(cedarpy.policies_to_json_str(f"permit ({text});"))
    assert scope(next(iter(parsed["staticPolicies"].values()))) == text
