"""JSON Schemas of every form, and values that match them, for property tests."""

from collections.abc import Container
from typing import Any

from hypothesis import strategies as st

from mcp_guard.core.model import Json
from mcp_guard.policy.shapes import Shape, ValueKind

NAMES = st.sampled_from(
    ["a", "b", "c", "type", "if", "in", "has", "a-b", "a.b", "a/b", "a~b", "ünï", "", " ", "\n", "__entity", "__extn",
     "__expr", "___expr", "__cedar", "fn", "arg", "id", "数", "string", "object"]
)  # fmt: skip
TEXTS = st.text(max_size=3) | st.sampled_from(["x", "y", "2026-01-31"])
INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1) | st.integers(-5, 5)
NUMBERS = st.sampled_from([0.5, 1.0, -2.25, 0.12345, 1e300, -0.0]) | INTEGERS
SCALARS = st.none() | st.booleans() | TEXTS | NUMBERS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
PLAIN: st.SearchStrategy[Any] = st.sampled_from(
    [{"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}, {"type": ["string", "null"]},
     {"type": "string", "format": "date-time"}, {"type": "integer", "format": "int64", "minimum": 0}, {"const": None},
     {"enum": ["x", "y"]}, {"enum": [1, 2.5, None]}, {"enum": ["x", 1, True]}, {"enum": [{"a": 1}]}, {"const": "x"},
     {"type": "string", "enum": ["x", 1]}, {"type": "integer", "nullable": True}, {}, True, False, {"type": "null"},
     {"type": ["string", "integer"]}, {"type": ["array", "object", "null"]}, {"not": {}}, {"type": "file"},
     {"type": "array"}, {"type": "object"}, {"$ref": "#"}, {"$ref": "#/$defs/tree"}, {"$ref": "#/$defs/pair"},
     {"$ref": "#/$defs/none"}, {"$ref": "#anchor"}, {"$ref": "https://example.com/s"}, {"$dynamicRef": "#x"},
     {"$ref": "#/$defs/pair", "description": "with a sibling"}]
)  # fmt: skip
DEFS: Json = {
    "tree": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
    },
    "pair": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]},
}  # fmt: skip


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    more = st.sampled_from(
        [{}, {"additionalProperties": False}, {"additionalProperties": True},
         {"additionalProperties": {"type": "string"}}, {"patternProperties": {"^x": {}}},
         {"additionalProperties": False, "patternProperties": {"^a": {}}},
         {"unevaluatedProperties": False}, {"propertyNames": {"pattern": "^a"}}]
    )  # fmt: skip
    return st.builds(
        lambda properties, required, more, typed: {
            **({"type": "object"} if typed else {}),
            "properties": properties,
            "required": sorted(set(required) & properties.keys()),
            **more,
        },
        st.dictionaries(NAMES, inner, min_size=1, max_size=4), st.lists(NAMES, max_size=2), more, st.booleans(),
    )  # fmt: skip


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    tuples = st.builds(
        lambda first, rest: {"type": "array", "prefixItems": first, **({"items": rest} if rest is not None else {})},
        st.lists(inner, min_size=1, max_size=3),
        st.none() | inner,
    )
    older = st.builds(lambda first: {"items": first, "additionalItems": False}, st.lists(inner, min_size=1, max_size=2))
    return st.builds(lambda item: {"type": "array", "items": item}, inner) | tuples | older


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.builds(
        lambda kind, options, beside: {**(beside if isinstance(beside, dict) else {}), kind: options},
        st.sampled_from(["anyOf", "oneOf", "allOf"]), st.lists(inner, min_size=1, max_size=3), st.just({}) | inner,
    )  # fmt: skip


INNER: st.SearchStrategy[Any] = st.recursive(
    PLAIN, lambda inner: objects(inner) | arrays(inner) | combined(inner), max_leaves=6
)
SCHEMAS = st.builds(lambda schema: {**schema, "$defs": DEFS}, objects(INNER) | combined(objects(INNER)))


def fitting(shape: Shape) -> st.SearchStrategy[Any]:
    """Values that match a shape."""
    null = st.none() if shape.nullable else st.nothing()
    if shape.kind is ValueKind.OPAQUE:
        return VALUES
    if shape.allowed is not None:
        return null | (st.sampled_from(sorted(shape.allowed, key=repr)) if shape.allowed else st.nothing())
    plain = {
        ValueKind.STRING: TEXTS, ValueKind.INTEGER: INTEGERS, ValueKind.NUMBER: st.sampled_from([0.5, 2, -1.25, 3.0]),
        ValueKind.BOOLEAN: st.booleans(), ValueKind.NEVER: st.nothing(),
    }  # fmt: skip
    if shape.kind in plain:
        return null | plain[shape.kind]
    if shape.kind is ValueKind.UNION:
        return null | st.one_of([fitting(option) for option in shape.options])
    if shape.kind is ValueKind.SET:
        assert shape.element is not None
        return null | st.lists(fitting(shape.element), min_size=1, max_size=3) | st.just([])
    fields = {name: each for name, inner in shape.fields.items() if not (each := fitting(inner)).is_empty}
    required = {name: fields.get(name, st.nothing() if name in shape.fields else VALUES) for name in shape.required}
    whole = st.fixed_dictionaries(fields | required)
    some = st.fixed_dictionaries(required, optional={name: fields[name] for name in fields.keys() - required.keys()})
    known = whole | some
    if not shape.open:
        return null | known
    extra = st.dictionaries(NAMES, VALUES, max_size=1).map(lambda values: _without(values, shape.fields))
    return null | known | st.builds(lambda more, some: {**more, **some}, extra, known)


def _without(values: Json, names: Container[str]) -> Json:
    return {name: value for name, value in values.items() if name not in names}
