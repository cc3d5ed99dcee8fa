"""What policies see of each form of JSON Schema: the table of docs/reference/policies.md, row by row."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core import exact_json
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Json, Outcome
from mcp_guard.policy.engine import PolicyEnvironment
from mcp_guard.policy.schema import attribute, build_schema, cedar_type
from mcp_guard.policy.shapes import NODES, ValueKind, read_shape
from tests.growth import cpu_seconds
from tests.policy.fixtures import PERMIT, decide, load, make_tool, object_of

STRING, INTEGER, NUMBER, NULL = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "null"}
PAIR = {**object_of(to=STRING, amount=INTEGER), "required": ["to"]}
NODE = object_of(name=STRING, child={"$ref": "#/$defs/node"}, kids={"type": "array", "items": {"$ref": "#/$defs/node"}})


def seen(tmp_path: Path, schema: Any, value: Any, condition: str) -> bool:
    """Whether a policy with this condition, on `i` of the argument `x`, holds for the value."""
    tool = make_tool({**object_of(x=schema), "$defs": {"node": NODE, "pair": PAIR}})
    policy = f'@id("p") permit (principal, action, resource) when {{ {condition} }};'.replace("$x", "context.input.x")
    decision = decide(tmp_path, policy, tool, {"x": value})
    assert not decision.errors, decision.errors
    return decision.outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    ("schema", "value", "condition"),
    [
        # scalars
        ({"type": "string", "format": "date-time"}, "2026-01-31", '$x like "2026-*"'),
        ({"type": "integer", "format": "int32", "minimum": 0}, 5.0, "$x == 5"),
        ({"type": "number", "multipleOf": 1}, 5, '$x == decimal("5.0")'),
        ({"enum": ["a", "b"]}, "a", '$x == "a"'),
        ({"const": True}, True, "$x"),
        ({"enum": [1, 2.5]}, 1, '$x == decimal("1.0")'),
        # null
        ({"type": "string", "nullable": True}, "a", '$x == "a"'),
        ({"enum": ["a", None]}, "a", '$x == "a"'),
        # objects
        ({"$ref": "#/$defs/pair"}, {"to": "a"}, '$x.to == "a" && !($x has amount)'),
        ({"properties": {"in": STRING}, "required": ["in"]}, {"in": "a"}, '$x["in"] == "a"'),
        ({**PAIR, "patternProperties": {"^n": INTEGER}, "additionalProperties": False}, {"to": "a", "note": 1},
         'context.input_unknown == ["x/note"]'),
        ({"type": "object", "additionalProperties": STRING}, {"a/b": "c"}, 'context.input_unknown == ["x/a~1b"]'),
        # arrays
        ({"type": "array", "items": STRING}, ["a", "b", "a"], '$x == ["a", "b"]'),
        ({"type": "array", "items": STRING}, [], "$x.isEmpty()"),
        ({"type": "array", "items": {"type": ["string", "null"]}}, ["a", None],
         '$x == ["a"] && context.input_null == ["x/1"]'),
        ({"type": "array", "items": {"type": "array", "items": INTEGER}}, [[1], [2, 3], []], "$x == [1, 2, 3]"),
        ({"type": "array", "items": PAIR}, [{"to": "a", "amount": 1}, {"to": "b"}],
         '["a", "b", "c"].containsAll($x.to) && $x.amount == [1]'),
        ({"type": "array", "items": PAIR}, [], "$x.to.isEmpty()"),
        ({"type": "array", "items": PAIR}, [{"to": "a", "cc": "b"}], 'context.input_unknown == ["x/0/cc"]'),
        ({"type": "array", "items": object_of(p=PAIR)}, [{"p": {"to": "a"}}], '$x.p.to == ["a"]'),
        ({"type": "array", "prefixItems": [STRING, INTEGER], "items": False}, ["a", 1],
         '$x.string == ["a"] && $x.integer == [1]'),
        ({"items": [STRING, STRING], "additionalItems": STRING}, ["a", "b", "c"], '$x == ["a", "b", "c"]'),
        ({"type": "array", "items": {"anyOf": [STRING, PAIR]}}, ["a", {"to": "b"}],
         '$x.string == ["a"] && $x.object.to == ["b"]'),
        # unions
        ({"type": ["string", "integer"]}, 5, "$x has integer && $x.integer == 5 && !($x has string)"),
        ({"anyOf": [STRING, {"type": "array", "items": STRING}, NULL]}, ["a"], '$x has array && $x.array == ["a"]'),
        ({"oneOf": [STRING, PAIR]}, {"to": "b"}, '$x has object && $x.object.to == "b"'),
        ({"anyOf": [INTEGER, NUMBER]}, 5, '$x == decimal("5.0")'),
        ({"anyOf": [{"const": "a"}, {"const": "b"}]}, "b", '$x == "b"'),
        ({"oneOf": [object_of(kind={"const": "a"}, v=STRING), object_of(kind={"const": "b"}, v=INTEGER)]},
         {"kind": "b", "v": 5}, '$x has kind && $x.kind == "b" && $x has v && $x.v has integer && $x.v.integer == 5'),
        # all of several
        ({"allOf": [{"$ref": "#/$defs/pair"}, object_of(note=STRING)]}, {"to": "a", "note": "b"},
         '$x.to == "a" && $x has note && $x.note == "b"'),
        ({"$ref": "#/$defs/pair", "properties": {"note": STRING}}, {"to": "a", "note": "b"},
         '$x has note && $x.to == "a"'),
        ({**PAIR, "anyOf": [{"required": ["to"]}, {"required": ["amount"]}]}, {"to": "a"}, '$x.to == "a"'),
        ({"allOf": [STRING, {"minLength": 1}]}, "a", '$x == "a"'),
        ({"allOf": [NUMBER, INTEGER]}, 5, "$x == 5"),
        ({"allOf": [{"type": ["string", "integer"]}, {"type": ["integer", "boolean"]}]}, 5, "$x == 5"),
        ({"type": "string", "not": {"const": "b"}, "if": {"const": "a"}}, "a", '$x == "a"'),
        # recursion
        ({"$ref": "#/$defs/node"}, {"name": "a", "child": {"name": "b"}},
         '$x has name && $x.name == "a" && context.input_unknown == ["x/child"]'),
    ],
    ids=str,
)  # fmt: skip
def test_schema_determines_what_policies_see(tmp_path: Path, schema: Any, value: Any, condition: str) -> None:
    guarded = condition if condition.startswith("context") else f"context.input has x && {condition}"
    assert seen(tmp_path, schema, value, guarded)
    assert not seen(tmp_path, schema, value, f"!({guarded})")


@pytest.mark.parametrize(
    ("schema", "value", "hidden"),
    [
        ({"enum": ["open", "closed"]}, "Closed", "x"),
        ({"type": "integer", "enum": [1, 2]}, 3, "x"),
        ({"const": "a"}, "b", "x"),
        ({"const": 1}, True, "x"),
        ({"type": "array", "items": {"enum": ["a"]}}, ["a", "b"], "x/1"),
        ({"type": ["string", "integer"]}, [], "x"),
        ({"type": ["string", "number"]}, 0.00001, "x"),
        ({"anyOf": [STRING, PAIR]}, {"amount": 1}, "x/to"),
        ({"anyOf": [PAIR, object_of(note=INTEGER)]}, {"note": "a"}, "x/note"),
        ({"type": "array", "items": PAIR}, [{"to": "a"}, {}], "x/1/to"),
        ({"type": "array", "items": PAIR}, [1], "x/0"),
        ({"type": "array", "items": {"type": "array", "items": STRING}}, ["a"], "x/0"),
        ({"type": "array", "items": {"type": ["string", "integer"]}}, ["a", 1, {}], "x/2"),
        ({"type": "string", "enum": ["a", None]}, None, "x"),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_does_not_fit_its_schema_is_named(tmp_path: Path, schema: Any, value: Any, hidden: str) -> None:
    for condition in (f'context.input_inexact == ["{hidden}"]', f'context.input_unknown == ["{hidden}"]'):
        assert seen(tmp_path, schema, value, condition)


@pytest.mark.parametrize(
    ("schema", "value", "hidden"),
    [
        ({"allOf": [STRING, INTEGER]}, "a", "x"),
        ({"allOf": [{**PAIR, "additionalProperties": False}, object_of(note=STRING)]}, {"to": "a", "note": "b"},
         "x/note"),
        ({"allOf": [PAIR], "unevaluatedProperties": False}, {"to": "a", "note": "b"}, "x/note"),
        ({"type": "null"}, "a", "x"),
        (False, "a", "x"),
    ],
    ids=str,
)  # fmt: skip
def test_an_argument_that_the_schema_excludes_is_unknown(tmp_path: Path, schema: Any, value: Any, hidden: str) -> None:
    assert seen(tmp_path, schema, value, f'context.input_unknown == ["{hidden}"] && context.input_inexact.isEmpty()')


@pytest.mark.parametrize(
    "name", ["if", "in", "has", "a-b", "a.b", "a/b", "ünï", "", " ", "数", "\n", "__cedar", "a\\b"]
)
def test_any_argument_name_is_supported(tmp_path: Path, name: str) -> None:
    key = json.dumps(name, ensure_ascii=False)
    policy = f'@id("p") permit (principal, action, resource) when {{ context.input[{key}] == "a" }};'
    tool = make_tool({**object_of(**{name: STRING}), "required": [name]})
    assert decide(tmp_path, policy, tool, {name: "a"}).outcome is Outcome.ALLOW
    assert decide(tmp_path, policy, tool, {name: "b"}).outcome is Outcome.DENY


def test_nullable_required_argument_still_needs_has(tmp_path: Path) -> None:
    tool = make_tool({**object_of(x={"type": ["string", "null"]}), "required": ["x"]})
    with pytest.raises(PolicyError, match="optional attribute"):
        load(tmp_path, '@id("p") permit (principal, action, resource) when { context.input.x == "a" };', tool)


def test_attributes_are_reversible() -> None:
    names = ["__entity", "___entity", "____entity", "__extn", "__expr", "_entity", "entity", "__entityx", "__"]
    assert len({attribute(name) for name in names}) == len(names)
    assert not {attribute(name) for name in names} & {"__entity", "__extn", "__expr"}


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"anyOf": [{"required": ["a"]}]}, {"allOf": [PAIR]}, PAIR])
def test_arguments_are_an_object_even_without_a_type(tmp_path: Path, schema: Json) -> None:
    assert decide(tmp_path, PERMIT, make_tool(schema), {"to": "a"}).outcome is Outcome.ALLOW


def shuffled(value: Any, dice: random.Random) -> Any:
    if isinstance(value, list):
        return [shuffled(item, dice) for item in value]
    if not isinstance(value, dict):
        return value
    names = list(value)
    dice.shuffle(names)
    return {name: shuffled(value[name], dice) for name in names}


def test_the_schema_is_the_same_text_whatever_the_order() -> None:
    tools = [make_tool(object_of(a=PAIR, b={"anyOf": [STRING, PAIR]}, c=NODE), f"tool{number}") for number in range(4)]
    attributes = {"Deal": {"b": "string", "a": "number"}, "Account": {"c": "strings"}}

    def text(dice: random.Random) -> str:
        mixed = [make_tool(shuffled(tool.definition["inputSchema"], dice), tool.name) for tool in tools]
        dice.shuffle(mixed)
        return json.dumps(build_schema(mixed, shuffled(attributes, dice), PolicyEnvironment(()).counters, ["up__x"])[0])

    assert len({text(random.Random(seed)) for seed in range(8)}) == 1


def test_exponentially_growing_schema_is_cut() -> None:
    """Forty definitions that each reference the next one twice make a trillion properties."""
    doubling = {
        f"d{number}": object_of(p={"$ref": f"#/$defs/d{number + 1}"}, q={"$ref": f"#/$defs/d{number + 1}"})
        for number in range(40)
    }
    schema = {**object_of(a={"$ref": "#/$defs/d0"}), "$defs": doubling}
    shape = read_shape(schema, schema)
    assert shape.kind is ValueKind.RECORD
    assert len(json.dumps(cedar_type(shape))) < 100 * NODES


def test_deeply_nested_schema_is_cut(tmp_path: Path) -> None:
    schema: Json = STRING
    arguments: Any = "a"
    for _ in range(50):
        schema, arguments = object_of(x=schema), {"x": arguments}
    tool = make_tool(schema)
    assert decide(tmp_path, PERMIT, tool, arguments).outcome is Outcome.ALLOW
    policy = '@id("p") permit (principal, action, resource) when { context.input_unknown.isEmpty() };'
    assert decide(tmp_path, policy, tool, arguments).outcome is Outcome.DENY


def test_a_reference_to_an_endless_index_costs_one_argument_and_not_all_policies(tmp_path: Path) -> None:
    hostile = make_tool({**object_of(x={"$ref": f"#/allOf/{'9' * 5000}"}), "allOf": [{"type": "object"}]})
    assert decide(tmp_path, PERMIT, hostile, {"x": "a"}).outcome is Outcome.ALLOW


REFERENCE = {"$ref": "#/$defs/a"}


@pytest.mark.parametrize(
    "repeated",
    [
        {"enum": [f"value {number}" for number in range(1000)]},
        {"type": ["string", "integer"] * 4000, "enum": list(range(1000))},
        {"type": "object", "required": [f"name {number}" for number in range(9000)]},
        {"properties": {f"name {number}": {} for number in range(9000)}},
        {"$ref": "#" + "/a" * 20_000},
    ],
)
def test_what_many_references_point_to_is_not_read_again_for_each_of_them(repeated: Json) -> None:
    """One definition of 160 KB kept every agent of a guard waiting for a minute."""
    schema = {**object_of(**{f"p{number}": REFERENCE for number in range(1900)}), "$defs": {"a": repeated}}
    assert cpu_seconds(lambda: read_shape(schema, schema)) < 2


def test_many_types_and_many_members_are_not_multiplied() -> None:
    schema = {"type": ["object"] * 9000, "properties": {f"name {number}": {} for number in range(9000)}}
    assert cpu_seconds(lambda: read_shape(schema, schema)) < 2


def test_allowed_values_beyond_the_range_of_a_double_are_numbers() -> None:
    """Such an `enum` ended the guard of all agents."""
    schema = exact_json.loads(b'{"enum": [1e400, -1e400, 0.1, 2]}')
    assert read_shape(schema, schema).kind is ValueKind.NUMBER
