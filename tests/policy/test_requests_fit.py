"""Every request that is built fits the schema that the policies were validated against.

Requests are evaluated without checking them against the schema (docs/decisions/0009), so this property is what makes
validation at load mean anything: Cedar itself, asked to check, must accept every request, for any tool definition and
any arguments that were not refused before.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import cedarpy
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.model import Counter, Effect, Json, Outcome, ResourceRule
from mcp_guard.policy.request import Inexpressible, build_context, history, resource_entity
from mcp_guard.policy.schema import read_shape
from tests.policy.worlds import INSTANCE, PERMIT, load, make_call, make_tool

NAMES = st.sampled_from(["a", "b", "c", "type", "__entity", "ünï"])
PLAIN = st.sampled_from(
    [{"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}, {"type": ["string", "null"]},
     {"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"enum": ["x", "y"]}, {"const": "x"}, {}, True, False,
     {"type": ["string", "integer"]}, {"not": {}}, {"$ref": "#"}, {"type": "null"}, {"type": "array"}]
)  # fmt: skip


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.builds(
        lambda properties, required, closed: {
            "type": "object",
            "properties": properties,
            "required": sorted(set(required) & properties.keys()),
            **({"additionalProperties": False} if closed else {}),
        },
        st.dictionaries(NAMES, inner, max_size=4),
        st.lists(NAMES, max_size=2),
        st.booleans(),
    )


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.builds(lambda item: {"type": "array", "items": item}, inner)


SCHEMAS = objects(st.recursive(PLAIN, lambda inner: objects(inner) | arrays(inner), max_leaves=5))
VALUES = st.recursive(
    st.none() | st.booleans() | st.text(max_size=4) | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.sampled_from([0.5, 1.0, -2.25, 0.12345, 1e300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
POLICIES = PERMIT + '@id("h") forbid (principal, action, resource) when { context.history.untrusted_seen };'
COUNTERS = (Counter("writes", 1, ("instance",), (Effect.WRITE,)),)
ATTRIBUTES = {"Deal": {"a": "string", "b": "number", "c": "strings", "type": "integer", "ünï": "boolean"}}


def fitting(schema: Any) -> st.SearchStrategy[Any]:
    """Values that mostly fit a schema, so that requests are built at all."""
    shape = read_shape(schema, schema if isinstance(schema, dict) else {})
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "string": st.text(max_size=3),
        "integer": st.integers(-5, 5),
        "number": st.sampled_from([0.5, 2, -1.25]),
        "boolean": st.booleans(),
    }
    if shape.kind in kinds:
        return kinds[shape.kind] | (st.none() if shape.nullable else st.nothing())
    if shape.kind == "set":
        return st.lists(fitting(schema.get("items")), max_size=2) if "items" in schema else VALUES
    if shape.kind == "record":
        properties = {k: fitting(v) for k, v in schema.get("properties", {}).items() if v is not False}
        required = {k: v for k, v in properties.items() if k in schema.get("required", [])}
        return st.fixed_dictionaries(required, optional={k: v for k, v in properties.items() if k not in required})
    return VALUES


@settings(max_examples=300)
@given(st.data())
def test_cedar_accepts_every_request_that_is_built(data: st.DataObject) -> None:
    schema = data.draw(SCHEMAS)
    arguments = data.draw(fitting(schema) | st.dictionaries(NAMES, VALUES, max_size=4))
    facts = data.draw(st.none() | st.dictionaries(NAMES, VALUES, max_size=4))
    tool = make_tool(schema, resource=ResourceRule("Deal", "/a") if data.draw(st.booleans()) else None)
    call = make_call(tool, arguments if isinstance(arguments, dict) else {}, facts)
    if call.problems:
        return  # refused before any policy is asked
    counts = {"writes": 1}
    with tempfile.TemporaryDirectory() as folder:
        engine = load(Path(folder), POLICIES, tool, attributes=ATTRIBUTES, counters=COUNTERS)
    decision = engine.decide(call, counts)
    shape = read_shape(schema, schema)
    refused = ""
    try:
        context = build_context(call, shape, counts) | {"history": history(call.past)}
        if call.resource.type == "Deal":
            resource_entity(call, ATTRIBUTES["Deal"])
    except Inexpressible as why:
        refused = str(why)
    if refused:
        assert decision.outcome is Outcome.DENY
        assert refused in decision.reasons
        return
    assert decision.outcome is Outcome.ALLOW, decision.reasons
    recorded = orjson.loads(decision.material or b"")
    assert recorded["request"]["context"] == orjson.loads(orjson.dumps(context))
    checked = {
        "principal": f"AgentInstance::{json.dumps(INSTANCE.id)}",
        "action": f"Action::{json.dumps(tool.listed_as)}",
        "resource": f"{call.resource.type}::{json.dumps(call.resource.id)}",
        "context": recorded["request"]["context"],
    }
    result = cedarpy.is_authorized(checked, POLICIES, json.dumps(recorded["entities"]), engine.schema_text)
    assert result.allowed, result.diagnostics.errors
