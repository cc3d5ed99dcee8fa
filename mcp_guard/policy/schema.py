"""Builds the Cedar schema from the shapes of tools. Pure; the order of the tools does not change the result.

Attributes keep the names of the arguments: Cedar accepts any name (`context.input["if"]`). The exceptions are three
names that have a meaning in Cedar's JSON format; they get one more leading underscore.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mcp_guard.core.decided_methods import ANSWER
from mcp_guard.core.model import Effect, Json, Origins, RateCounter, SequenceRule, Tool
from mcp_guard.core.request_meta import FORWARDED_BY_DEFAULT
from mcp_guard.policy.shapes import TAGS, Shape, ValueKind, input_shape

PRINCIPAL, TOOL = "AgentInstance", "Tool"

TEXT, COUNT, BOOLEAN = {"type": "String"}, {"type": "Long"}, {"type": "Boolean"}
CEDAR_TYPES: Mapping[ValueKind, Json] = {
    ValueKind.STRING: TEXT,
    ValueKind.INTEGER: COUNT,
    ValueKind.NUMBER: {"type": "Extension", "name": "decimal"},
    ValueKind.BOOLEAN: BOOLEAN,
}
SCALAR_MEMBERS = {
    (kind, is_required): {**cedar, "required": is_required}
    for kind, cedar in CEDAR_TYPES.items()
    for is_required in (True, False)
}
"""The same objects for all tools: a schema of a thousand takes half the memory."""
STRINGS = {"type": "Set", "element": TEXT}
ATTRIBUTE_TYPES: Mapping[str, Json] = {str(kind): cedar for kind, cedar in CEDAR_TYPES.items()} | {"strings": STRINGS}
INPUT_NULL, INPUT_INEXACT = ("context", "input_null"), ("context", "input_inexact")
CHANGED_FIELDS = ("context", "change", "fields")
"""Paths of sets of names in the context: arguments that are null, without an exact value, and that would change."""
_RESERVED = re.compile(r"__+(entity|extn|expr)")


def attribute(name: str) -> str:
    """The attribute for a member of this name. Reversible: removing one underscore gives the name back."""
    return f"_{name}" if name[:2] == "__" and _RESERVED.fullmatch(name) else name


def name_of(attribute: str) -> str:
    """The name of a member whose attribute this is."""
    return attribute[1:] if attribute[:3] == "___" and _RESERVED.fullmatch(attribute) else attribute


# Shapes to Cedar types


def cedar_type(shape: Shape) -> Json:
    """The Cedar type (JSON form) of a typed shape."""
    if shape.kind is ValueKind.SET:
        assert shape.element is not None
        return _column(shape.element)
    if shape.kind is ValueKind.UNION:
        return record({TAGS[option.kind]: _optional(cedar_type(option)) for option in shape.options})
    if shape.kind is not ValueKind.RECORD:
        return CEDAR_TYPES[shape.kind]
    return record(
        {
            attribute(name): _member(inner, name in shape.required and not inner.nullable)
            for name, inner in shape.fields.items()
            if inner.typed
        }
    )


def _member(shape: Shape, is_required: bool) -> Json:
    if (scalar := SCALAR_MEMBERS.get((shape.kind, is_required))) is not None:
        return scalar
    return {**cedar_type(shape), "required": is_required}


def _column(shape: Shape) -> Json:
    """The type of an array: for each scalar inside its elements, the set of all its values."""
    if shape.kind is ValueKind.SET:
        assert shape.element is not None
        return _column(shape.element)
    if shape.kind is ValueKind.UNION:
        return record({TAGS[option.kind]: _column(option) for option in shape.options})
    if shape.kind is ValueKind.RECORD:
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
        "untrusted_seen": BOOLEAN,
        "sensitive_seen": BOOLEAN,
        "orders_seen": BOOLEAN,
        "new_amounts": STRINGS,
        "provenance": ORIGINS,
        "sinks": ORIGINS,
    }
)


DATETIME = {"type": "Extension", "name": "datetime"}
_TIME_FIELDS = record(
    {
        "date": DATETIME,
        "weekday": TEXT,
        "hour": COUNT,
        "minute": COUNT,
    }
)
TIME = record({"now": DATETIME, "utc": _TIME_FIELDS, "local": _TIME_FIELDS})


def _kind(counter: RateCounter) -> ValueKind:
    return ValueKind.INTEGER if counter.sum is None else ValueKind.NUMBER


def shared_members(
    counters: Iterable[RateCounter], sequences: Iterable[SequenceRule], meta: Mapping[str, str], has_time: bool
) -> Json:
    """The members of `context` that have the same type in calls of all tools.

    `meta` maps the members of `_meta` that go on to their types.
    """
    rates = {counter.name: CEDAR_TYPES[_kind(counter)] for counter in sorted(counters, key=lambda each: each.name)}
    steps = dict.fromkeys(sorted(rule.name for rule in sequences), BOOLEAN)
    return {
        "input_unknown": STRINGS,
        "input_inexact": STRINGS,
        "input_null": STRINGS,
        "facts_missing": STRINGS,
        "facts_null": STRINGS,
        "meta": record({attribute(name): _optional(ATTRIBUTE_TYPES[kind]) for name, kind in sorted(meta.items())}),
        "task": record({"ticket": _optional(TEXT), "reason": _optional(TEXT)}),
        "rate": record(rates),
        **({"sequence": record(steps)} if steps else {}),
        "risk": record({"score": COUNT, "level": TEXT, "signals": STRINGS}),
        "history": HISTORY,
        **({"time": TIME} if has_time else {}),
    }


def context_type(shape: Shape, shared: Json) -> Json:
    """The type of `context` for one action, with the members that all have."""
    delta = {
        attribute(name): SCALAR_MEMBERS[inner.kind, False]
        for name, inner in shape.fields.items()
        if inner.kind in (ValueKind.INTEGER, ValueKind.NUMBER)
    }
    change = record({"fields": STRINGS, "delta": record(delta)})
    return record({"input": cedar_type(shape), "change": change, **shared})


class CatalogSchema(NamedTuple):
    """The schema of some tools in Cedar's JSON form, and the input shape of each that has one, by listed name."""

    json: Json
    shapes: dict[str, Shape]


FIELD = record(
    {"text": TEXT} | {kind: _optional(type) for kind, type in ATTRIBUTE_TYPES.items() if kind != ValueKind.STRING}
)
"""A field of an answer, as a tag (`policy/request.py`)."""


def _entity_types(tools: Iterable[Tool], attributes: Mapping[str, Mapping[str, str]]) -> Json:
    entities: Json = {
        "Group": {},
        "Agent": {"memberOfTypes": ["Group"], "shape": record({"owner": TEXT})},
        PRINCIPAL: {
            "memberOfTypes": ["Agent"],
            "shape": record(
                {"owner": TEXT, "on_behalf_of": _optional(TEXT), "started": COUNT, "expires": COUNT, "depth": COUNT}
            ),
        },
        TOOL: {},
    }
    own = {tool.rule.resource.type for tool in tools if tool.method is not None and tool.rule.resource}
    for name in sorted(attributes):
        kinds = sorted(attributes[name].items())
        if name in own:  # the guard's own types: every attribute is there, and the parts with own names are tags
            tags = FIELD if name == ANSWER else TEXT
            entities[name] = {"shape": record({key: ATTRIBUTE_TYPES[kind] for key, kind in kinds}), "tags": tags}
            continue
        entities[name] = {"shape": record({attribute(key): _optional(ATTRIBUTE_TYPES[kind]) for key, kind in kinds})}
    return entities


def build_schema(
    tools: Iterable[Tool],
    attributes: Mapping[str, Mapping[str, str]],
    counters: tuple[RateCounter, ...],
    unlisted: Iterable[str] = (),
    meta: Mapping[str, str] = FORWARDED_BY_DEFAULT,
    has_time: bool = True,
    *,
    sequences: tuple[SequenceRule, ...] = (),
) -> CatalogSchema:
    """The schema of these tools.

    `unlisted` actions apply to nothing, so that policies may still name them. `has_time`: calls have `context.time`.
    """
    tools = sorted(tools, key=lambda tool: tool.listed_as)
    entities = _entity_types(tools, attributes)
    actions: Json = {str(effect): {} for effect in Effect}
    actions[Effect.DESTRUCTIVE] = {"memberOf": [{"id": str(Effect.WRITE)}]}
    shapes: dict[str, Shape] = {}
    for method in sorted({tool.method for tool in tools if tool.method is not None}):
        actions[method] = {}
    shared = shared_members(counters, sequences, meta, has_time)
    for server in sorted({tool.server for tool in tools}):
        actions[f"server:{server}"] = {}
    for tool in tools:
        shape = input_shape(tool)
        if shape is None:
            continue
        shapes[tool.listed_as] = shape
        actions[tool.listed_as] = {
            "memberOf": [{"id": group} for group in groups_of(tool)],
            "appliesTo": {
                "principalTypes": [PRINCIPAL],
                "resourceTypes": [tool.rule.resource.type if tool.rule.resource else TOOL],
                "context": context_type(shape, shared),
            },
        }
    for name in sorted(unlisted):
        actions.setdefault(name, {})
    return CatalogSchema({"": {"entityTypes": entities, "actions": actions}}, shapes)


def groups_of(tool: Tool) -> list[str]:
    """The groups of actions that it is in."""
    groups = [str(tool.effect), f"server:{tool.server}"]
    return groups if tool.method is None else [*groups, tool.method]


def with_time(schema: Json) -> Json:
    """The schema with `context.time` for every tool, which policies may read."""
    actions = {name: _action_with_time(action) for name, action in schema[""]["actions"].items()}
    return {**schema, "": {**schema[""], "actions": actions}}


def _action_with_time(action: Json) -> Json:
    if "appliesTo" not in action:
        return action
    applies = action["appliesTo"]
    context = record({**applies["context"]["attributes"], "time": TIME})
    return {**action, "appliesTo": {**applies, "context": context}}
