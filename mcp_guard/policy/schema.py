"""From the shapes of tools to a Cedar schema. Pure, and the same text for the same tools in whatever order.

Names are Cedar's own wherever they can be: an attribute may be called anything (`context.input["if"]`), but for three
names that mean something in Cedar's JSON format, which get one more underscore in front.
"""

import re
from collections.abc import Iterable, Mapping

from mcp_guard.core.model import Effect, Json, Origins, RateCounter, Tool
from mcp_guard.policy.shapes import TAGS, Kind, Shape, input_shape, read_shape

__all__ = ["PRINCIPAL", "TOOL", "Kind", "Shape", "attribute", "build_schema", "input_shape", "read_shape"]

PRINCIPAL, TOOL = "AgentInstance", "Tool"

CEDAR_TYPES: Mapping[Kind, Json] = {
    Kind.STRING: {"type": "String"},
    Kind.INTEGER: {"type": "Long"},
    Kind.NUMBER: {"type": "Extension", "name": "decimal"},
    Kind.BOOLEAN: {"type": "Boolean"},
}
STRINGS = {"type": "Set", "element": {"type": "String"}}
ATTRIBUTE_TYPES: Mapping[str, Json] = {str(kind): cedar for kind, cedar in CEDAR_TYPES.items()} | {"strings": STRINGS}
_RESERVED = re.compile(r"__+(entity|extn|expr)")


def attribute(name: str) -> str:
    """The name of a member as an attribute. Reversible: one of this form is the member's with one underscore more."""
    return f"_{name}" if name[:2] == "__" and _RESERVED.fullmatch(name) else name


# Shapes to Cedar types


def cedar_type(shape: Shape) -> Json:
    """The Cedar type (JSON form) of a shape that is typed."""
    if shape.kind is Kind.SET:
        assert shape.element is not None
        return _column(shape.element)
    if shape.kind is Kind.UNION:
        return record({TAGS[option.kind]: _optional(cedar_type(option)) for option in shape.options})
    if shape.kind is not Kind.RECORD:
        return CEDAR_TYPES[shape.kind]
    return record(
        {
            attribute(name): {**cedar_type(inner), "required": name in shape.required and not inner.nullable}
            for name, inner in shape.fields.items()
            if inner.typed
        }
    )


def _column(shape: Shape) -> Json:
    """What of all elements of an array is seen: for each scalar in them, the set of its values."""
    if shape.kind is Kind.SET:
        assert shape.element is not None
        return _column(shape.element)
    if shape.kind is Kind.UNION:
        return record({TAGS[option.kind]: _column(option) for option in shape.options})
    if shape.kind is Kind.RECORD:
        return record({attribute(name): _column(inner) for name, inner in shape.fields.items() if inner.typed})
    return {"type": "Set", "element": CEDAR_TYPES[shape.kind]}


def record(attributes: Json) -> Json:
    return {"type": "Record", "attributes": attributes}


def _optional(cedar: Json) -> Json:
    return {**cedar, "required": False}


ORIGINS = record({name: STRINGS for name in Origins.__slots__})
HISTORY = record(
    {
        "tools": STRINGS,
        "untrusted_seen": CEDAR_TYPES[Kind.BOOLEAN],
        "sensitive_seen": CEDAR_TYPES[Kind.BOOLEAN],
        "orders_seen": CEDAR_TYPES[Kind.BOOLEAN],
        "provenance": ORIGINS,
        "sinks": ORIGINS,
    }
)


def _kind(counter: RateCounter) -> Kind:
    return Kind.INTEGER if counter.sum is None else Kind.NUMBER


def context_type(shape: Shape, counters: Iterable[RateCounter]) -> Json:
    """`context` of one action, as DESIGN of the policy language has it."""
    text, count = {"type": "String"}, {"type": "Long"}
    delta = {
        attribute(name): _optional(CEDAR_TYPES[inner.kind])
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
            "rate": record({each.name: CEDAR_TYPES[_kind(each)] for each in sorted(counters, key=lambda c: c.name)}),
            "risk": record({"score": count, "level": text, "signals": STRINGS}),
            "history": HISTORY,
        }
    )


def build_schema(
    tools: Iterable[Tool],
    attributes: Mapping[str, Mapping[str, str]],
    counters: tuple[RateCounter, ...],
    unagreed: Iterable[str] = (),
) -> tuple[Json, dict[str, Shape]]:
    """The schema in Cedar's JSON form, and the shape of each tool that can be decided on, by listed name.

    Tools that are `unagreed` are actions that apply to nothing: policies may name them beside others.
    """
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
    for name in sorted(attributes):
        kinds = sorted(attributes[name].items())
        entities[name] = {"shape": record({attribute(key): _optional(ATTRIBUTE_TYPES[kind]) for key, kind in kinds})}
    actions: Json = {str(effect): {} for effect in Effect}
    actions[Effect.DESTRUCTIVE] = {"memberOf": [{"id": str(Effect.WRITE)}]}
    shapes: dict[str, Shape] = {}
    tools = sorted(tools, key=lambda tool: tool.listed_as)
    for server in sorted({tool.server for tool in tools}):
        actions[f"server:{server}"] = {}
    for tool in tools:
        shape = input_shape(tool)
        if shape is None:
            continue
        shapes[tool.listed_as] = shape
        actions[tool.listed_as] = {
            "memberOf": [{"id": str(tool.effect)}, {"id": f"server:{tool.server}"}],
            "appliesTo": {
                "principalTypes": [PRINCIPAL],
                "resourceTypes": [tool.rule.resource.type if tool.rule.resource else TOOL],
                "context": context_type(shape, counters),
            },
        }
    for name in sorted(unagreed):
        actions.setdefault(name, {})
    return {"": {"entityTypes": entities, "actions": actions}}, shapes
