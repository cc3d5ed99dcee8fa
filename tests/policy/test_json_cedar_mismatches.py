"""Differences between JSON and Cedar: a value that Cedar cannot hold exactly is never rounded, guessed or ignored."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Decision, Effect, Json, Outcome, ResourceRule
from mcp_guard.policy.request import Inexpressible, build_context
from mcp_guard.policy.shapes import read_shape
from tests.policy.fixtures import PERMIT, decide, load, make_call, make_tool, object_of

STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
ANY = object_of(s=STRING, i=INTEGER, n=NUMBER, b={"type": "boolean"}, l={"type": "array", "items": STRING})


def when(condition: str) -> str:
    return f'@id("p") permit (principal, action == Action::"up__tool", resource) when {{ {condition} }};'


def assert_denied(decision: Decision, because: str) -> None:
    assert decision.outcome is Outcome.DENY
    assert because in "; ".join(decision.reasons)


RESERVED_VALUE = {"type": "Group", "id": "admins"}


@pytest.mark.parametrize("key", ["__entity", "__extn", "__expr"])
@pytest.mark.parametrize("wrap", [lambda inner: inner, lambda inner: {"o": [inner]}], ids=["top", "nested"])
def test_undeclared_reserved_key_is_never_passed_to_cedar(tmp_path: Path, key: str, wrap: Any) -> None:
    """Cedar's JSON would read it as an entity or a function call."""
    arguments = wrap({key: RESERVED_VALUE})
    tool = make_tool({"type": "object"})
    condition = f"""context.input_unknown == ["{min(arguments)}"] && context.input == {{}}"""
    assert decide(tmp_path, when(condition), tool, arguments).outcome is Outcome.ALLOW


@pytest.mark.parametrize("key", ["__entity", "__extn", "__expr"])
def test_declared_reserved_key_gets_an_extra_underscore(tmp_path: Path, key: str) -> None:
    tool = make_tool(object_of(**{key: object_of(type=STRING, id=STRING), f"_{key}": STRING}))
    condition = f"""context.input has _{key} && context.input._{key} has id && context.input._{key}.id == "admins" &&
        context.input has __{key} && context.input.__{key} == "x" """
    arguments = {key: RESERVED_VALUE, f"_{key}": "x"}
    assert decide(tmp_path, when(condition), tool, arguments).outcome is Outcome.ALLOW


@pytest.mark.parametrize("value", [2**53 + 1, 2**63, -(2**63) - 1, 10**30])
def test_inexact_json_integer_is_refused(tmp_path: Path, value: int) -> None:
    """Canonical JSON has only the integers of a double, fewer than Cedar's 64 bits."""
    assert_denied(decide(tmp_path, PERMIT, make_tool(ANY), {"i": value}), "outside what JSON carries exactly")


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_an_integer_outside_64_bits_is_refused_by_the_request_too(value: int) -> None:
    with pytest.raises(Inexpressible, match="outside 64 bits"):
        build_context(replace(make_call(make_tool(ANY), {}), arguments={"i": value}), read_shape(ANY, ANY), {})


@pytest.mark.parametrize("value", [2**53 - 1, -(2**53) + 1, 0, 5.0])
def test_integer_is_passed_exactly(tmp_path: Path, value: float) -> None:
    condition = f"context.input has i && context.input.i == {int(value)}"
    assert decide(tmp_path, when(condition), make_tool(ANY), {"i": value}).outcome is Outcome.ALLOW


@pytest.mark.parametrize("value", [0.00001, 1.23456, 1e-300])
def test_a_decimal_of_over_four_digits_is_refused_and_not_rounded(tmp_path: Path, value: float) -> None:
    assert_denied(decide(tmp_path, PERMIT, make_tool(ANY), {"n": value}), "more than 4 digits after the point")


@pytest.mark.parametrize("value", [922337203685478, -922337203685478, 922337203685477.9])
def test_decimal_outside_the_cedar_range_is_refused(tmp_path: Path, value: float) -> None:
    assert_denied(decide(tmp_path, PERMIT, make_tool(ANY), {"n": value}), "exceeds the range that policies can compare")


@pytest.mark.parametrize(
    ("value", "literal"), [(0.1, "0.1"), (10000, "10000.0"), (-0.5, "-0.5"), (922337203685477.5, "922337203685477.5")]
)
def test_decimal_is_passed_exactly(tmp_path: Path, value: float, literal: str) -> None:
    condition = f'context.input has n && context.input.n == decimal("{literal}")'
    assert decide(tmp_path, when(condition), make_tool(ANY), {"n": value}).outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        ({"s": None}, "`s` must be a string, not null"),
        ({"s": 5}, "`s` must be a string, not a number"),
        ({"i": True}, "`i` must be an integer, not a boolean"),
        ({"i": 1.5}, "`i` must be an integer, not a number"),
        ({"n": "5"}, "`n` must be a number, not a string"),
        ({"b": 1}, "`b` must be a boolean, not a number"),
        ({"l": ["a", 1]}, "`l/1` must be a string, not a number"),
        ({"l": {"0": "a"}}, "`l` must be an array, not an object"),
    ],
)
def test_a_value_of_another_type_than_declared_is_refused(tmp_path: Path, arguments: Json, because: str) -> None:
    assert_denied(decide(tmp_path, PERMIT, make_tool(ANY), arguments), because)


@pytest.mark.parametrize(
    "schema",
    [{"type": ["string", "null"]}, {"anyOf": [STRING, {"type": "null"}]}, {"oneOf": [{"type": "null"}, STRING]}],
)
def test_a_null_is_absent_from_the_input_and_named_in_input_null(tmp_path: Path, schema: Json) -> None:
    tool = make_tool(object_of(s=schema))
    condition = '!(context.input has s) && context.input_null.contains("s")'
    assert decide(tmp_path, when(condition), tool, {"s": None}).outcome is Outcome.ALLOW
    assert decide(tmp_path, when('context.input has s && context.input.s == "x"'), tool, {"s": "x"}).policies == ("p",)


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [STRING, {}]},
        {"not": STRING},
        {"type": "array"},
        {"type": "array", "items": {"anyOf": [STRING, {}]}},
        {"type": "array", "prefixItems": [STRING]},
        {"$ref": "#/$defs/none"},
        {"$ref": "https://example.com/schema"},
        {"enum": ["a", ["anything"]]},
        {"type": "file"},
        {},
        True,
    ],
    ids=str,
)
def test_value_without_a_cedar_type_is_marked_unknown(tmp_path: Path, schema: Any) -> None:
    """A policy that must see every byte denies when `input_unknown` is not empty."""
    tool = make_tool(object_of(x=schema, s=STRING))
    closed = PERMIT + '@id("seen") forbid (principal, action, resource) unless { context.input_unknown.isEmpty() };'
    seen = decide(tmp_path, closed, tool, {"x": ["anything"], "s": "y"})
    assert (seen.outcome, seen.policies) == (Outcome.DENY, ("seen",))
    assert decide(tmp_path, closed, tool, {"s": "y"}).outcome is Outcome.ALLOW
    assert decide(tmp_path, when('context.input_unknown.contains("x")'), tool, {"x": 1}).outcome is Outcome.ALLOW


def test_a_schema_of_false_accepts_no_value(tmp_path: Path) -> None:
    decision = decide(tmp_path, PERMIT, make_tool(object_of(x=False)), {"x": 1})
    assert_denied(decision, "`x` is not an argument of this tool")


def test_additional_properties_are_unknown_unless_closed(tmp_path: Path) -> None:
    condition = 'context.input_unknown.contains("o/y")'
    inner = object_of(x=STRING)
    tool = make_tool(object_of(o=inner))
    assert decide(tmp_path, when(condition), tool, {"o": {"x": "a", "y": 1}}).outcome is Outcome.ALLOW
    tool = make_tool(object_of(o={**inner, "additionalProperties": False}))
    assert_denied(decide(tmp_path, PERMIT, tool, {"o": {"x": "a", "y": 1}}), "`o/y` is not an argument of this tool")


def test_a_recursive_reference_ends(tmp_path: Path) -> None:
    node = object_of(name=STRING, child={"$ref": "#/$defs/node"})
    tool = make_tool({**object_of(tree={"$ref": "#/$defs/node"}), "$defs": {"node": node}})
    condition = 'context.input has tree && context.input.tree has name && context.input_unknown.contains("tree/child")'
    arguments = {"tree": {"name": "a", "child": {"name": "b"}}}
    assert decide(tmp_path, when(condition), tool, arguments).outcome is Outcome.ALLOW


@pytest.mark.parametrize("schema", [None, True, False, {"type": "string"}, [], {"anyOf": [{"type": "object"}]}])
def test_tool_without_an_object_schema_is_neither_listed_nor_callable(tmp_path: Path, schema: Any) -> None:
    good, bad = make_tool(ANY, "good"), make_tool(schema, "bad")
    engine = load(tmp_path, PERMIT, good, bad)
    call = make_call(bad, {})
    if schema == {"anyOf": [{"type": "object"}]}:  # one alternative is that alternative
        assert engine.may_call(call.instance, bad)
        return
    assert not engine.may_call(call.instance, bad)
    assert_denied(engine.decide(call, {}), "no input schema")


@pytest.mark.parametrize(
    "more",
    [
        {"anyOf": [{"required": ["s"]}, {"required": ["t"]}]},
        {"if": {"required": ["s"]}, "then": {"required": ["t"]}},
        {"not": {"required": ["u"]}},
        {"patternProperties": {"^t": STRING}, "additionalProperties": False},
    ],
    ids=str,
)
def test_narrowing_keywords_leave_object_properties_unchanged(tmp_path: Path, more: Json) -> None:
    """Properties named only by the narrowing are unknown."""
    tool = make_tool({**object_of(s=STRING), **more})
    condition = 'context.input has s && context.input.s == "x" && context.input_unknown.contains("t")'
    assert decide(tmp_path, when(condition), tool, {"s": "x", "t": "y"}).outcome is Outcome.ALLOW
    assert_denied(decide(tmp_path, PERMIT, tool, {"s": 1}), "`s` must be a string")


def test_a_required_argument_that_is_missing_is_refused(tmp_path: Path) -> None:
    tool = make_tool({**object_of(s=STRING), "required": ["s"]})
    assert_denied(decide(tmp_path, PERMIT, tool, {}), "`s` is required")
    assert decide(tmp_path, when('context.input.s == "x"'), tool, {"s": "x"}).outcome is Outcome.ALLOW


def test_unguarded_optional_argument_is_refused_at_load(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"test\.cedar: p: .*optional attribute"):
        load(tmp_path, when('context.input.s == "x"'), make_tool(ANY))


@pytest.mark.parametrize("name", ["get-deal", "crm.get", "a/b", "ünïcode", "x" * 80, "with space", "a__b", "_x2E_"])
def test_a_name_that_must_be_mangled_is_decided_under_its_listed_name(tmp_path: Path, name: str) -> None:
    tool = make_tool(ANY, name)
    policy = f'@id("p") permit (principal, action == Action::"{tool.listed_as}", resource);'
    engine = load(tmp_path, policy, tool, make_tool(ANY, "other"))
    assert engine.decide(make_call(tool, {}), {}).outcome is Outcome.ALLOW
    assert engine.decide(make_call(make_tool(ANY, "other"), {}), {}).outcome is Outcome.DENY


def test_facts_that_do_not_fit_the_configured_attributes_deny(tmp_path: Path) -> None:
    tool = make_tool(object_of(id=STRING), resource=ResourceRule("Deal", "/id"))
    engine = load(tmp_path, PERMIT, tool, attributes={"Deal": {"amount": "number", "tags": "strings"}})
    for facts in ({"amount": "much"}, {"amount": 0.00001}, {"tags": "a"}, {"tags": [1]}):
        assert_denied(engine.decide(make_call(tool, {"id": "1"}, facts), {}), "the present state does not match")
    fitting = make_call(tool, {"id": "1"}, {"amount": 5, "tags": ["a"], "else": {"not": "declared"}})
    assert engine.decide(fitting, {}).outcome is Outcome.ALLOW


def test_unknown_and_destructive_effects_count_as_writes(tmp_path: Path) -> None:
    policies = PERMIT + '@id("ro") forbid (principal, action in Action::"write", resource);'
    tools = {effect: make_tool(ANY, str(effect), effect) for effect in Effect}
    engine = load(tmp_path, policies, *tools.values())
    for effect, tool in tools.items():
        expected = Outcome.ALLOW if effect is Effect.READ else Outcome.DENY
        assert engine.decide(make_call(tool, {}), {}).outcome is expected
