"""Translates JSON Schemas to shapes: how policies see a tool's arguments. Pure.

A shape determines which values policies see, and how; it need not express the whole JSON Schema.
Keywords that restrict values without giving a type (`not`, `if`, `pattern`, `format`, bounds) are left to the upstream.
A value that Cedar has no type for is *opaque*: policies do not see it, but its path is in `context.input_unknown`, so
that no argument passes unnoticed. For the mapping see docs/reference/policies.md, for the reasons docs/decisions/0025.
"""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import reduce
from typing import Any

from mcp_guard.core.canonical import read_pointer
from mcp_guard.core.model import Json, Tool

NODES, ITEMS, DEPTH, ENUM, PARTS, TYPES = 2000, 20_000, 20, 1000, 50, 7
"""Limits for one tool's schema: subschemas, the lengths of their keywords together (both count what a reference points
to each time that it is followed), nesting depth, and the lengths of a list of allowed values, of `allOf` and of `type`.
Anything beyond is opaque, so that no upstream can keep the guard busy with a schema."""
MEASURED = ("type", "enum", "required", "properties", "allOf", "anyOf", "oneOf", "prefixItems", "items", "$ref")
"""Keywords whose length is the work of reading them."""

MAX_CACHED = 4000
"""How many shapes of tools are remembered."""


class ValueKind(StrEnum):
    """The kind of a value, as policies see it."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    SET = "set"
    RECORD = "record"
    UNION = "union"
    OPAQUE = "opaque"
    NEVER = "never"


SCALARS = (ValueKind.STRING, ValueKind.INTEGER, ValueKind.NUMBER, ValueKind.BOOLEAN)
TAGS: Mapping[ValueKind, str] = {
    ValueKind.STRING: "string", ValueKind.INTEGER: "integer", ValueKind.NUMBER: "number", ValueKind.BOOLEAN: "boolean",
    ValueKind.SET: "array", ValueKind.RECORD: "object",
}  # fmt: skip
"""The attribute under which policies see each alternative of a union: its JSON type."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The part of one JSON Schema that Cedar can express.

    `fields`, `required` and `open` are a record's, `element` a set's, `options` a union's (by JSON type).
    """

    kind: ValueKind
    nullable: bool = False
    element: "Shape | None" = None
    fields: Mapping[str, "Shape"] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    open: bool = True
    """Whether unnamed members are accepted (`additionalProperties` is not false)."""
    options: tuple["Shape", ...] = ()
    allowed: frozenset[Any] | None = None
    """The only values of a scalar (`enum`, `const`), if they are listed."""
    typed: bool = field(init=False)
    """Whether policies see the value."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "typed", self.kind is not ValueKind.OPAQUE and self.kind is not ValueKind.NEVER)


OPAQUE = Shape(ValueKind.OPAQUE, nullable=True)
NEVER = Shape(ValueKind.NEVER)
OBJECT = Shape(ValueKind.RECORD)
_OF_SCALARS = {str(kind): Shape(kind) for kind in SCALARS}
"""One shape for all values of a type, because most arguments of a thousand tools are one of these."""


NOT_CACHED = Shape(ValueKind.NEVER)
_cached: dict[str, Shape | None] = {}
"""Input shapes by the hash of the definition, which always covers its schema (`core.tool_pins.PROMISED`)."""


def input_shape(tool: Tool) -> Shape | None:
    """The shape of a tool's arguments; None if it has no schema of an object.

    Such a tool is neither listed nor callable, because many clients refuse a whole listing for it. A listing of which
    one definition has changed is read again for that one only.
    """
    if (known := _cached.get(tool.definition_hash, NOT_CACHED)) is not NOT_CACHED:
        return known
    if len(_cached) >= MAX_CACHED:
        _cached.clear()
    shape = _cached[tool.definition_hash] = _read_input(tool)
    return shape


def _read_input(tool: Tool) -> Shape | None:
    schema = tool.definition.get("inputSchema")
    if not isinstance(schema, dict) or "object" not in _types(schema):
        return None
    shape = read_shape(schema, schema)
    if shape.kind is ValueKind.UNION:
        shape = intersect(OBJECT, shape)
    return with_null(shape, False) if shape.kind is ValueKind.RECORD else OBJECT


def _types(schema: Json) -> list[Any]:
    names = schema.get("type", "object")
    return names if isinstance(names, list) else [names]


def read_shape(schema: Any, root: Any) -> Shape:
    """Translate one JSON Schema (2020-12 and common keywords of earlier drafts); references point into `root`."""
    return _SchemaReader(root).read(schema, (), 0)


class _SchemaReader:
    """Reads the schemas of one tool within the limits."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._nodes_left = NODES
        self._items_left = ITEMS

    def read(self, schema: Any, seen: tuple[str, ...], depth: int) -> Shape:
        self._nodes_left -= 1
        if schema is False:
            return NEVER
        if not isinstance(schema, dict) or self._nodes_left < 0 or depth > DEPTH:
            return OPAQUE
        self._items_left -= sum(len(schema[word]) for word in MEASURED if isinstance(schema.get(word), Sized))
        if self._items_left < 0:
            return OPAQUE
        parts = [self._own(schema, seen, depth)]
        if "$ref" in schema:
            parts.append(self._follow(schema["$ref"], seen, depth))
        parts += [self.read(part, seen, depth + 1) for part in _list(schema.get("allOf"))[:PARTS]]
        for combiner in ("anyOf", "oneOf"):
            if alternatives := _list(schema.get(combiner)):
                parts.append(unite([self.read(alternative, seen, depth + 1) for alternative in alternatives]))
        shape = reduce(intersect, parts)
        if schema.get("unevaluatedProperties") is False and shape.kind is ValueKind.RECORD:
            shape = replace(shape, open=False)
        return with_null(shape, True) if schema.get("nullable") is True else shape

    def _follow(self, reference: Any, seen: tuple[str, ...], depth: int) -> Shape:
        """The shape of a local reference; recursive and other references are opaque."""
        if not isinstance(reference, str) or reference in seen or reference[:2] not in ("#", "#/"):
            return OPAQUE
        try:
            target = read_pointer(self._root, reference[1:])
        except KeyError:
            return OPAQUE
        return self.read(target, (*seen, reference), depth + 1)

    def _own(self, schema: Json, seen: tuple[str, ...], depth: int) -> Shape:
        """The shape given by `type`, `enum`, `const` and the keywords of objects and arrays."""
        names = schema.get("type", _implied(schema))
        listed = names if isinstance(names, list) else [names]
        values = (
            schema["enum"] if isinstance(schema.get("enum"), list) else [schema["const"]] if "const" in schema else None
        )
        if names is None:
            return OPAQUE if values is None else _of_values(values)
        if len(listed) > TYPES:
            return OPAQUE
        plain = [name for name in listed if name != "null"]
        shape = unite([self._of_type(name, schema, seen, depth) for name in plain]) if plain else NEVER
        if values is not None:
            shape = intersect(shape, with_null(_of_values(values), True))
        return with_null(shape, "null" in listed)

    def _of_type(self, name: Any, schema: Json, seen: tuple[str, ...], depth: int) -> Shape:
        if isinstance(name, str) and name in _OF_SCALARS:
            return _OF_SCALARS[name]
        if name == "array":
            element = self._element(schema, seen, depth)
            return Shape(ValueKind.SET, element=element) if element.typed else OPAQUE
        return self._object(schema, seen, depth) if name == "object" else OPAQUE

    def _element(self, schema: Json, seen: tuple[str, ...], depth: int) -> Shape:
        """The shape of any element of an array; elements with different schemas by position are alternatives."""
        first, rest = _list(schema.get("prefixItems")), schema.get("items", True)
        if isinstance(rest, list):
            first, rest = rest, schema.get("additionalItems", True)
        return unite([self.read(element, seen, depth + 1) for element in [*first, rest]])

    def _object(self, schema: Json, seen: tuple[str, ...], depth: int) -> Shape:
        properties, required = schema.get("properties", {}), _list(schema.get("required"))
        if not isinstance(properties, dict):
            return OPAQUE
        return Shape(
            ValueKind.RECORD,
            fields={name: self.read(properties[name], seen, depth + 1) for name in sorted(properties)},
            required=frozenset(name for name in required if isinstance(name, str)),
            open=schema.get("additionalProperties") is not False or bool(schema.get("patternProperties")),
        )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _implied(schema: Json) -> str | None:
    """The type of a schema without `type`: an object or array if it describes members or elements."""
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema or "prefixItems" in schema else None


def _of_values(values: list[Any]) -> Shape:
    """The shape of exactly these values; opaque if one of them is not a scalar."""
    if not values or len(values) > ENUM:
        return OPAQUE
    by_kind: dict[ValueKind, list[Any]] = {}
    for value in values:
        by_kind.setdefault(_kind_of(value), []).append(value)
    nullable = by_kind.pop(ValueKind.NEVER, None) is not None
    if ValueKind.OPAQUE in by_kind:
        return OPAQUE
    return with_null(unite([Shape(kind, allowed=frozenset(listed)) for kind, listed in by_kind.items()]), nullable)


def _kind_of(value: Any) -> ValueKind:
    """Of a scalar; `never` for null, because only `nullable` says that."""
    match value:
        case None:
            return ValueKind.NEVER
        case bool():
            return ValueKind.BOOLEAN
        case str():
            return ValueKind.STRING
        case int():
            return ValueKind.INTEGER
        case float():
            return ValueKind.INTEGER if value.is_integer() else ValueKind.NUMBER
        case _:
            return ValueKind.OPAQUE


# Union and intersection


def with_null(shape: Shape, nullable: bool) -> Shape:
    """The shape of the same values, and of null if `nullable`."""
    return shape if shape.nullable == nullable else replace(shape, nullable=nullable)


def unite(shapes: Sequence[Shape]) -> Shape:
    """The shape of values that fit one of these. Alternatives of the same JSON type are merged."""
    if len(shapes) == 1 and shapes[0].kind not in (ValueKind.OPAQUE, ValueKind.UNION):
        return shapes[0]
    nullable = any(shape.nullable for shape in shapes)
    if any(shape.kind is ValueKind.OPAQUE for shape in shapes):
        return OPAQUE
    alternatives: dict[ValueKind, list[Shape]] = {}
    for shape in shapes:
        for option in shape.options if shape.kind is ValueKind.UNION else (shape,):
            if option.kind is not ValueKind.NEVER:
                kind = ValueKind.NUMBER if option.kind is ValueKind.INTEGER else option.kind
                alternatives.setdefault(kind, []).append(option)
    by_kind = {kind: _merge(options) for kind, options in alternatives.items()}
    if any(shape.kind is ValueKind.OPAQUE for shape in by_kind.values()):
        return OPAQUE
    options = tuple(by_kind[kind] for kind in ValueKind if kind in by_kind)
    if len(options) > 1:
        return Shape(ValueKind.UNION, nullable, options=options)
    return with_null(options[0] if options else NEVER, nullable)


def _merge(shapes: list[Shape]) -> Shape:
    """The union of shapes of the same JSON type."""
    first = shapes[0]
    if len(shapes) == 1:
        return with_null(first, False)
    if first.kind is ValueKind.SET:
        element = unite([shape.element for shape in shapes if shape.element is not None])
        return Shape(ValueKind.SET, element=element) if element.typed else OPAQUE
    if first.kind is ValueKind.RECORD:
        fields: dict[str, list[Shape]] = {}
        for shape in shapes:
            for name, member in shape.fields.items():
                fields.setdefault(name, []).append(member)
        return Shape(
            ValueKind.RECORD,
            fields={name: unite(fields[name]) for name in sorted(fields)},
            required=frozenset.intersection(*(shape.required for shape in shapes)),
            open=any(shape.open for shape in shapes),
        )
    listed = [shape.allowed for shape in shapes if shape.allowed is not None]
    allowed = frozenset().union(*listed) if len(listed) == len(shapes) else None
    kinds = {shape.kind for shape in shapes}
    return Shape(kinds.pop() if len(kinds) == 1 else ValueKind.NUMBER, allowed=allowed)


def intersect(one: Shape, other: Shape) -> Shape:
    """The shape of values that fit both."""
    nullable = one.nullable and other.nullable
    if one.kind is ValueKind.OPAQUE or other.kind is ValueKind.OPAQUE:
        return with_null(other if one.kind is ValueKind.OPAQUE else one, nullable)
    if one.kind is ValueKind.UNION or other.kind is ValueKind.UNION:
        pairs = [(a, b) for a in one.options or (one,) for b in other.options or (other,)]
        return with_null(unite([intersect(a, b) for a, b in pairs]), nullable)
    kinds = {one.kind, other.kind}
    if len(kinds) > 1 and kinds != {ValueKind.INTEGER, ValueKind.NUMBER}:
        return Shape(ValueKind.NEVER, nullable)
    if one.kind is ValueKind.SET:
        assert one.element is not None
        assert other.element is not None
        element = intersect(one.element, other.element)
        return Shape(ValueKind.SET, nullable, element) if element.typed else OPAQUE
    if one.kind is ValueKind.RECORD:
        return with_null(_intersect_records(one, other), nullable)
    allowed = one.allowed if other.allowed is None else other.allowed
    if one.allowed is not None and other.allowed is not None:
        allowed = one.allowed & other.allowed
    return Shape(ValueKind.INTEGER if ValueKind.INTEGER in kinds else one.kind, nullable, allowed=allowed)


def _intersect_records(one: Shape, other: Shape) -> Shape:
    def both(name: str) -> Shape:
        if name in one.fields and name in other.fields:
            return intersect(one.fields[name], other.fields[name])
        declaring, silent = (one, other) if name in one.fields else (other, one)
        return declaring.fields[name] if silent.open else NEVER

    return Shape(
        ValueKind.RECORD,
        fields={name: both(name) for name in sorted(one.fields.keys() | other.fields.keys())},
        required=one.required | other.required,
        open=one.open and other.open,
    )
