"""Validation against as much of a schema as the policies are about finds what validation against all of it finds."""

import json
from collections import Counter

import cedarpy
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.model import Effect, Json, ResourceRule
from mcp_guard.policy.schema import build_schema
from mcp_guard.policy.source import Policy, as_json
from mcp_guard.policy.validation import ValidationSchema, find_validation_problems, reduce_schema
from tests.policy.fixtures import make_tool, object_of
from tests.policy.strategies import ATTRIBUTES, PARTS, TOOLS, policies_of, write
from tests.policy.test_narrowed_context import WHOLE
from tests.proof_size import sized

NESTED = object_of(
    n={"type": "integer"}, o=object_of(x={"type": "string"}), l={"type": "array", "items": {"type": "string"}}
)
MORE = (
    *TOOLS,
    make_tool(object_of(n={"type": "string"}), "alike_1"),
    make_tool(object_of(n={"type": "string"}), "alike_2"),
    make_tool(NESTED, "nested_1", Effect.READ),
    make_tool({**NESTED, "required": ["n", "o"]}, "nested_2", Effect.READ),
    make_tool(NESTED, "nested_3", Effect.READ, ResourceRule("Deal", "/n")),
)
SCHEMA, _ = build_schema(MORE, ATTRIBUTES, ())
BROKEN = (
    "when { context.input.n == 1 }", 'when { context.input.n == "x" }', "when { context has typo && context.typo }",
    "when { context.input.o.x == 1 }", "when { context.input has o && context.input.o has y }",
    'when { context.input has l && context.input.l.contains("x") }', "when { context.input has l && context.input.l }",
    "when { context.input == 1 }", "when { context.risk.score > context.input }", "when { context.time.utc.hour > 3 }",
    'when { action == Action::"up__alike_1" && context.input.n == "x" }', 'when { resource == Deal::"x" }',
    "when { resource.owner == 1 }", 'when { principal in Group::"g1" && context.history.tools.contains("x") }',
)  # fmt: skip
ACTIONS = (*PARTS[2], 'action == Action::"up__alike_2"', 'action in [Action::"up__nested_1", Action::"up__nested_2"]')
POLICIES = st.lists(
    st.tuples(*map(st.sampled_from, (*PARTS[:2], ACTIONS, PARTS[3], (*PARTS[4], *WHOLE[:-1], *BROKEN)))), max_size=6
).map(lambda made: policies_of(write(made)))


def errors(policies: dict[str, Policy], schema: Json) -> Counter[tuple[str, str]]:
    text = cedarpy.policies_from_json_str(as_json(policies))
    result = cedarpy.validate_policies(text, json.dumps(schema))
    return Counter((error.policy_id, error.error) for error in result.errors)


@settings(max_examples=sized(400, 25), deadline=None)
@given(POLICIES)
def test_cedar_finds_the_same_errors(policies: dict[str, Policy]) -> None:
    every = errors(policies, SCHEMA)
    assert errors(policies, reduce_schema(SCHEMA, policies.values())) == every
    merged = errors(policies, reduce_schema(SCHEMA, policies.values(), merge=True))
    assert {policy for policy, _ in merged} == {policy for policy, _ in every}


def test_tools_that_policies_cannot_tell_apart_are_validated_once() -> None:
    number, text = {"type": "integer"}, {"type": "string"}
    tools = [make_tool(object_of(n=number, **{f"a{i % 500}": text}), f"t{i}") for i in range(1000)]
    schema, _ = build_schema(tools, {}, ())
    policies = policies_of(
        '@id("a") permit (principal, action in Action::"write", resource) when { context.input has n };'
        '@id("b") forbid (principal, action == Action::"up__t7", resource) when { context.input has a7 };'
    )
    reduced = reduce_schema(schema, policies.values(), merge=True)[""]["actions"]
    assert sum("appliesTo" in action for action in reduced.values()) == 3, (
        "`t7`, by its name; `t507`, which has `a7` too; `t0`"
    )
    assert len(json.dumps(reduced)) < len(json.dumps(schema)) / 200


def test_messages_name_every_tool() -> None:
    tools = [make_tool(object_of(n={"type": "integer"}), f"t{i}") for i in range(9)]
    schema, shapes = build_schema(tools, {}, ())
    policies = policies_of('@id("a") permit (principal, action, resource) when { context.input.m == 1 };')
    [problem] = find_validation_problems(policies, ValidationSchema(schema, shapes=shapes))
    assert "`up__t0`, `up__t1`, `up__t2` and 6 more; `context.input` has `n`" in problem.text
