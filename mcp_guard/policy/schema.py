"""From tool listings to a Cedar schema, and to the shapes by which arguments become Cedar values. Pure.

What Cedar has no type for (true unions, untyped or mixed values, recursive references) is *opaque*: policies do not see
the value, but they see its path in `context.input_unknown`, so that nothing is ever sent unseen.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mcp_guard.core.model import Counter, Effect, Json, Tool

PRINCIPAL, TOOL = "AgentInstance", "Tool"


class Kind(StrEnum):
    """What an argument is, to Cedar."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    SET = "set"
    RECORD = "record"
    OPAQUE = "opaque"
    NEVER = "never"


CEDAR_TYPES: Mapping[Kind, Json] = {
    Kind.STRING: {"type": "String"},
    Kind.INTEGER: {"type": "Long"},
    Kind.NUMBER: {"type": "Extension", "name": "decimal"},
    Kind.BOOLEAN: {"type": "Boolean"},
}
STRINGS = {"type": "Set", "element": {"type": "String"}}
ATTRIBUTE_TYPES: Mapping[str, Json] = {str(kind): cedar for kind, cedar in CEDAR_TYPES.items()} | {"strings": STRINGS}


@dataclass(frozen=True, slots=True)
class Shape:
    """One JSON Schema, as far as Cedar can say it. `fields` and `open` are a record's, `element` a set's."""

    kind: Kind
    nullable: bool = False
    element: "Shape | None" = None
    fields: Mapping[str, "Shape"] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    open: bool = True
    """Whether members that the schema does not name are accepted (`additionalProperties` is not false)."""


OPAQUE = Shape(Kind.OPAQUE, nullable=True)


def input_shape(tool: Tool) -> Shape | None:
    """The shape of a tool's arguments, or None if its schema is no object's: then no call of it can be decided."""
    schema = tool.definition.get("inputSchema")
    if not isinstance(schema, dict):
        return None
    if schema.get("type") == "object":  # whatever else it says can only narrow that
        return _read_typed("object", schema, schema, ())
    shape = read_shape(schema, schema)
    return shape if shape.kind is Kind.RECORD and not shape.nullable else None


def read_shape(schema: Any, root: Json, seen: tuple[str, ...] = ()) -> Shape:
    """Translate one JSON Schema; local references are followed unless they come back to themselves."""
    if schema is False:
        return Shape(Kind.NEVER)
    if not isinstance(schema, dict):
        return OPAQUE
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = _follow(reference, root)
        return OPAQUE if target is None or reference in seen else read_shape(target, root, (*seen, reference))
    for combiner in ("anyOf", "oneOf", "allOf"):
        if combiner in schema:
            return _read_alternatives(schema[combiner], root, seen)
    if any(name in schema for name in ("not", "if", "patternProperties", "propertyNames")):
        return OPAQUE
    types = schema.get("type")
    names = types if isinstance(types, list) else [types]
    plain = [name for name in names if name != "null"]
    if len(plain) != 1:
        return _read_enum(schema) if types is None else OPAQUE
    return _nullable(_read_typed(plain[0], schema, root, seen), "null" in names)


def _read_alternatives(options: Any, root: Json, seen: tuple[str, ...]) -> Shape:
    """One type, or that type or null; anything wider is a union, which Cedar does not have."""
    if not isinstance(options, list):
        return OPAQUE
    rest = [option for option in options if not (isinstance(option, dict) and option.get("type") == "null")]
    if len(rest) != 1:
        return OPAQUE
    return _nullable(read_shape(rest[0], root, seen), len(rest) != len(options))


def _read_enum(schema: Json) -> Shape:
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    strings = isinstance(values, list) and values and all(isinstance(value, str) for value in values)
    if strings:
        return Shape(Kind.STRING)
    return _read_typed("object", schema, schema, ()) if "properties" in schema else OPAQUE


def _read_typed(name: Any, schema: Json, root: Json, seen: tuple[str, ...]) -> Shape:
    if name in (Kind.STRING, Kind.INTEGER, Kind.NUMBER, Kind.BOOLEAN):
        return Shape(Kind(name))
    if name == "array":
        element = read_shape(schema.get("items"), root, seen)
        return Shape(Kind.SET, element=element) if element.kind in CEDAR_TYPES and not element.nullable else OPAQUE
    if name != "object":
        return OPAQUE
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        return OPAQUE
    required = schema.get("required")
    required = required if isinstance(required, list) else []
    return Shape(
        Kind.RECORD,
        fields={key: read_shape(value, root, seen) for key, value in properties.items()},
        required=frozenset(key for key in required if isinstance(key, str)),
        open=schema.get("additionalProperties") is not False or "patternProperties" in schema,
    )


def _nullable(shape: Shape, nullable: bool) -> Shape:
    if not nullable or shape.nullable:
        return shape
    return Shape(shape.kind, True, shape.element, shape.fields, shape.required, shape.open)


def _follow(reference: str, root: Json) -> Any:
    """The schema that a local reference names, or None."""
    target: Any = root
    if not reference.startswith("#/"):
        return root if reference == "#" else None
    for token in reference[2:].split("/"):
        key = token.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, dict) or key not in target:
            return None
        target = target[key]
    return target


# Shapes to Cedar types


def cedar_type(shape: Shape) -> Json:
    """The Cedar type (JSON form) of a shape that is not opaque."""
    if shape.kind is Kind.SET:
        assert shape.element is not None
        return {"type": "Set", "element": cedar_type(shape.element)}
    if shape.kind is not Kind.RECORD:
        return CEDAR_TYPES[shape.kind]
    return record(
        {
            name: cedar_type(inner) | {"required": name in shape.required and not inner.nullable}
            for name, inner in shape.fields.items()
            if inner.kind not in (Kind.OPAQUE, Kind.NEVER)
        }
    )


def record(attributes: Json) -> Json:
    return {"type": "Record", "attributes": attributes}


def _optional(cedar: Json) -> Json:
    return {**cedar, "required": False}


def context_type(shape: Shape, counters: Iterable[Counter]) -> Json:
    """`context` of one action, as DESIGN of the policy language has it."""
    text, count = {"type": "String"}, {"type": "Long"}
    delta = {
        name: _optional(CEDAR_TYPES[inner.kind])
        for name, inner in shape.fields.items()
        if inner.kind in (Kind.INTEGER, Kind.NUMBER)
    }
    return record(
        {
            "input": cedar_type(shape),
            "input_unknown": STRINGS,
            "input_null": STRINGS,
            "change": record({"fields": STRINGS, "delta": record(delta)}),
            "task": record({"ticket": _optional(text), "reason": _optional(text)}),
            "rate": record({counter.name: count for counter in counters}),
            "risk": record({"score": count, "level": text, "signals": STRINGS}),
        }
    )


def build_schema(
    tools: Iterable[Tool], attributes: Mapping[str, Mapping[str, str]], counters: tuple[Counter, ...]
) -> tuple[Json, dict[str, Shape]]:
    """The schema in Cedar's JSON form, and the shape of each tool that can be decided on, by listed name."""
    text, count = {"type": "String"}, {"type": "Long"}
    entities: Json = {
        "Group": {},
        "Agent": {"memberOfTypes": ["Group"], "shape": record({"owner": text})},
        PRINCIPAL: {
            "memberOfTypes": ["Agent"],
            "shape": record(
                {"owner": text, "on_behalf_of": _optional(text), "started": count, "expires": count, "depth": count}
            ),
        },
        TOOL: {},
    }
    for name, kinds in attributes.items():
        entities[name] = {"shape": record({key: _optional(ATTRIBUTE_TYPES[kind]) for key, kind in kinds.items()})}
    actions: Json = {str(effect): {} for effect in Effect}
    actions[Effect.DESTRUCTIVE] = {"memberOf": [{"id": str(Effect.WRITE)}]}
    shapes: dict[str, Shape] = {}
    for tool in tools:
        shape = input_shape(tool)
        if shape is None:
            continue
        shapes[tool.listed_as] = shape
        actions.setdefault(f"server:{tool.server}", {})
        actions[tool.listed_as] = {
            "memberOf": [{"id": str(tool.effect)}, {"id": f"server:{tool.server}"}],
            "appliesTo": {
                "principalTypes": [PRINCIPAL],
                "resourceTypes": [tool.rule.resource.type if tool.rule.resource else TOOL],
                "context": context_type(shape, counters),
            },
        }
    return {"": {"entityTypes": entities, "actions": actions}}, shapes
