"""Differences between JSON and Cedar: a value that Cedar cannot hold exactly is never rounded, guessed or ignored."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.canonical import ExactNumber
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Decision, Effect, FactsRule, Json, Outcome, ResourceRule, Tool
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


def assert_hidden(folder: Path, tool: Tool, arguments: Json, path: str) -> None:
    """The value is passed where no policy looks at it, and named; a policy that reads it denies or permits nothing."""
    name = path.partition("/")[0]
    hidden = when(f'context.input_inexact == ["{path}"] && context.input_unknown == ["{path}"]')
    assert decide(folder, hidden, tool, arguments).outcome is Outcome.ALLOW
    forbid = f"""@id("f") forbid (principal, action, resource)
    when {{ context.input has {name} && {{a: context.input.{name}}} == {{a: context.input.{name}}} }};"""
    denied = decide(folder, PERMIT + forbid, tool, arguments)
    assert (denied.outcome, denied.policies) == (Outcome.DENY, ("f",))
    assert f"`f` depends on `context.input.{name}`, but `{path}`" in denied.reasons[0]
    permit = f"context.input has {name} && {{a: context.input.{name}}} == {{a: context.input.{name}}}"
    assert decide(folder, when(permit) + PERMIT, tool, arguments).policies == ("all",)
    assert decide(folder, when(permit), tool, arguments).outcome is Outcome.DENY


@pytest.mark.parametrize("value", [2**53, 2**53 + 1, -(2**53), 2**63, -(2**63) - 1, 10**30, 1e300])
def test_an_integer_that_a_double_does_not_hold_is_hidden(tmp_path: Path, value: int) -> None:
    """A server that reads numbers as doubles takes it for another one."""
    assert_hidden(tmp_path, make_tool(ANY), {"i": value}, "i")


@pytest.mark.parametrize("value", [2**53 - 1, -(2**53) + 1, 0, 5.0])
def test_integer_is_passed_exactly(tmp_path: Path, value: float) -> None:
    condition = f"context.input has i && context.input.i == {int(value)}"
    assert decide(tmp_path, when(condition), make_tool(ANY), {"i": value}).outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    "value", [0.00001, 1.23456, 1e-300, 922337203685478, -922337203685478, 922337203685477.9, ExactNumber("0.1e-400")]
)
def test_a_number_that_is_no_cedar_decimal_is_hidden_and_not_rounded(tmp_path: Path, value: float) -> None:
    assert_hidden(tmp_path, make_tool(ANY), {"n": value}, "n")


@pytest.mark.parametrize(
    ("value", "literal"), [(0.1, "0.1"), (10000, "10000.0"), (-0.5, "-0.5"), (922337203685477.5, "922337203685477.5")]
)
def test_decimal_is_passed_exactly(tmp_path: Path, value: float, literal: str) -> None:
    condition = f'context.input has n && context.input.n == decimal("{literal}")'
    assert decide(tmp_path, when(condition), make_tool(ANY), {"n": value}).outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"s": None}, "s"),
        ({"s": 5}, "s"),
        ({"s": ExactNumber(10**30)}, "s"),
        ({"i": True}, "i"),
        ({"i": 1.5}, "i"),
        ({"i": "2"}, "i"),
        ({"n": "5"}, "n"),
        ({"b": 1}, "b"),
        ({"b": None}, "b"),
        ({"l": ["a", 1]}, "l/1"),
        ({"l": ["a", None]}, "l/1"),
        ({"l": {"0": "a"}}, "l"),
    ],
)
def test_a_value_of_another_type_than_declared_is_hidden(tmp_path: Path, arguments: Json, path: str) -> None:
    assert_hidden(tmp_path, make_tool(ANY), arguments, path)


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


def test_additional_properties_are_unknown(tmp_path: Path) -> None:
    """Whether the server accepts them although its schema is closed is for the server to say."""
    condition = 'context.input_unknown.contains("o/y")'
    for closed in ({}, {"additionalProperties": False}):
        tool = make_tool(object_of(o={**object_of(x=STRING), **closed}))
        assert decide(tmp_path, when(condition), tool, {"o": {"x": "a", "y": 1}}).outcome is Outcome.ALLOW


def test_a_recursive_reference_ends(tmp_path: Path) -> None:
    node = object_of(name=STRING, child={"$ref": "#/$defs/node"})
    tool = make_tool({**object_of(tree={"$ref": "#/$defs/node"}), "$defs": {"node": node}})
    condition = 'context.input has tree && context.input.tree has name && context.input_unknown.contains("tree/child")'
    arguments = {"tree": {"name": "a", "child": {"name": "b"}}}
    assert decide(tmp_path, when(condition), tool, arguments).outcome is Outcome.ALLOW


@pytest.mark.parametrize("schema", [None, True, False, {"type": "string"}, [], {"type": ["array", "null"]}])
def test_tool_without_an_object_schema_is_neither_listed_nor_callable(tmp_path: Path, schema: Any) -> None:
    """Many clients refuse a whole listing for it."""
    good, bad = make_tool(ANY, "good"), make_tool(schema, "bad")
    engine, call = load(tmp_path, PERMIT, good, bad), make_call(bad, {})
    assert not engine.may_call(call.instance, bad)
    assert not engine.may_call(call.instance, bad, observing=True)
    assert_denied(engine.decide(call, {}), "no input schema")


@pytest.mark.parametrize("schema", [{"anyOf": [{"type": "object"}]}, {"type": ["object"]}, {"not": {}}, {"enum": [1]}])
def test_a_schema_that_describes_no_object_gives_no_types(tmp_path: Path, schema: Any) -> None:
    tool = make_tool(schema)
    engine, call = load(tmp_path, PERMIT, tool), make_call(tool, {"a": 1})
    assert engine.may_call(call.instance, tool)
    assert engine.decide(call, {}).outcome is Outcome.ALLOW
    assert decide(tmp_path, when('context.input_unknown == ["a"]'), tool, {"a": 1}).outcome is Outcome.ALLOW


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
    assert_hidden(tmp_path, tool, {"s": 1}, "s")


def test_a_required_argument_that_is_left_out_is_hidden(tmp_path: Path) -> None:
    """The server may have a value for it, which no policy knows."""
    tool = make_tool({**object_of(s=STRING), "required": ["s"]})
    assert_hidden(tmp_path, tool, {}, "s")
    assert decide(tmp_path, when('context.input.s == "x"'), tool, {"s": "x"}).outcome is Outcome.ALLOW
    unguarded = when('context.input.s == "x"')
    assert decide(tmp_path, unguarded + PERMIT, tool, {}).policies == ("all",), "the other permit applies"
    denied = decide(tmp_path, unguarded, tool, {})
    assert (denied.outcome, denied.policies) == (Outcome.DENY, ("p",))
    assert "`p` depends on `context.input.s`, but `s` is missing in this call" in denied.reasons[0]


def test_a_required_argument_that_is_left_out_counts_as_changed(tmp_path: Path) -> None:
    tool = make_tool({**object_of(id=STRING, n=INTEGER), "required": ["n"]})
    tool = replace(tool, rule=replace(tool.rule, facts=FactsRule("get", {"id": "/id"})))
    changes = PERMIT + '@id("f") forbid (principal, action, resource) when { context.change.fields.contains("n") };'
    assert decide(tmp_path, changes, tool, {"id": "1"}, {"n": 5}).policies == ("f",)
    assert decide(tmp_path, changes, tool, {"id": "1", "n": 5}, {"n": 5}).outcome is Outcome.ALLOW
    big = "context.change.delta has n && context.change.delta.n > 10"
    engine = load(tmp_path, f'{PERMIT} @id("f") forbid (principal, action, resource) when {{ {big} }};', tool)
    for arguments in ({"id": "1"}, {"id": "1", "n": "7"}, {"id": "1", "n": 2**60}, {"id": "1", "n": None}):
        denied = engine.decide(make_call(tool, arguments, {"n": 5}), {})
        assert (denied.outcome, denied.policies) == (Outcome.DENY, ("f",)), arguments


def test_unguarded_optional_argument_is_refused_at_load(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"test\.cedar:\d+:\d+: p: .*optional attribute"):
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
