"""Every request that is built matches the schema that the policies were validated against.

Requests are evaluated without checking them against the schema (docs/decisions/0009), so this property is what makes
validation at load mean anything: Cedar itself, asked to check, must accept every request, for any tool definition and
any arguments that were not refused before. One thing it rejects, and it must be the only one: a required attribute
whose value is hidden (`context.input_inexact`) is missing.
"""

import json
import re
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import cedarpy
import jsonschema
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.canonical import MAX_SAFE_INTEGER, read_pointer
from mcp_guard.core.model import Effect, Json, Outcome, RateCounter, ResourceRule
from mcp_guard.policy.request import Inexpressible, build_context, exact_decimal, history_context, resource_entity
from mcp_guard.policy.shapes import input_shape
from tests.policy.fixtures import INSTANCE, PERMIT, load, make_call, make_tool
from tests.policy.schemas import NAMES, SCHEMAS, VALUES, fitting
from tests.proof_size import sized

POLICIES = PERMIT + '@id("h") forbid (principal, action, resource) when { context.history.untrusted_seen };'
COUNTERS = (RateCounter("writes", 1, ("instance",), (Effect.WRITE,)),)
ATTRIBUTES = {
    "Deal": {"a": "string", "b": "number", "c": "strings", "type": "integer", "ünï": "boolean", "__entity": "string"}
}


@settings(max_examples=sized(500, 25))
@given(st.data())
def test_cedar_accepts_every_built_request(data: st.DataObject) -> None:
    schema = data.draw(SCHEMAS)
    shape = input_shape(make_tool(schema))
    if shape is None:
        return
    arguments = data.draw(fitting(shape) | fitting(shape) | st.dictionaries(NAMES, VALUES, max_size=4))
    facts = data.draw(st.none() | st.dictionaries(NAMES, VALUES, max_size=4))
    tool = make_tool(schema, resource=ResourceRule("Deal", "/a") if data.draw(st.booleans()) else None)
    call = make_call(tool, arguments if isinstance(arguments, dict) else {}, facts)
    if call.problems:
        return  # refused before any policy is evaluated
    counts = {"writes": 1}
    with tempfile.TemporaryDirectory() as folder:
        engine = load(Path(folder), POLICIES, tool, attributes=ATTRIBUTES, counters=COUNTERS)
    decision = engine.decide(call, counts)
    refused = ""
    try:
        attributes = ATTRIBUTES["Deal"] if call.resource.type == "Deal" else ()
        context = build_context(call, shape, counts, attributes=attributes) | {"history": history_context(call.history)}
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
        "principal": {"type": "AgentInstance", "id": INSTANCE.id},
        "action": {"type": "Action", "id": tool.listed_as},
        "resource": {"type": call.resource.type, "id": call.resource.id},
        "context": recorded["request"]["context"],
    }
    cedar_schema = all_optional(engine.schema()) if context["input_inexact"] else engine.schema()
    result = cedarpy.is_authorized(checked, POLICIES, json.dumps(recorded["entities"]), cedar_schema)
    assert result.allowed, result.diagnostics.errors


def all_optional(schema: Any) -> Any:
    """The schema, with every attribute optional."""
    if isinstance(schema, list):
        return [all_optional(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    optional = {name: all_optional(item) for name, item in schema.items()}
    if schema.get("type") == "Record":
        optional["attributes"] = {name: {**item, "required": False} for name, item in optional["attributes"].items()}
    return optional


@settings(max_examples=sized(500, 25))
@given(st.data())
def test_arguments_accepted_by_the_schema_are_seen(data: st.DataObject) -> None:
    """A JSON Schema validator is the oracle: only numbers that Cedar cannot hold are hidden. Alternatives are stricter:
    see test_shapes.py.
    """
    schema = data.draw(
        SCHEMAS.filter(lambda schema: not re.search("anyOf|oneOf|#anchor|https:|file|additionalItems", str(schema)))
    )
    tool = make_tool(schema)
    shape = input_shape(tool)
    if shape is None:
        return
    call = make_call(tool, data.draw(fitting(shape) | st.dictionaries(NAMES, VALUES, max_size=4)))
    if call.problems or implies_types(schema) or not _accepts(schema, call.arguments):
        return
    try:
        context = build_context(call, shape, {})
    except Inexpressible as why:
        assert "differs from the argument" in str(why)  # noqa: PT017
        return
    for path in context["input_inexact"]:
        value = read_pointer(call.arguments, f"/{path}")
        assert isinstance(value, int | float), path
        assert exact_decimal(value) is None or abs(value) > MAX_SAFE_INTEGER, path


def implies_types(schema: Any) -> bool:
    """Whether it describes members or elements of a value without giving its type, which is then implied."""
    if isinstance(schema, list):
        return any(map(implies_types, schema))
    if not isinstance(schema, dict):
        return False
    is_implied = "type" not in schema and any(name in schema for name in ("properties", "items", "prefixItems"))
    return is_implied or any(map(implies_types, schema.values()))


def _accepts(schema: Json, arguments: Json) -> bool:
    try:
        return bool(jsonschema.Draft202012Validator(schema).is_valid(arguments))
    except (jsonschema.exceptions._WrappedReferencingError, RecursionError):  # a dangling reference
        return False


@given(st.floats(allow_nan=False) | st.decimals(-1000, 1000, places=3).map(float))
def test_amount_is_the_same_decimal_by_its_text_and_by_its_value(value: float) -> None:
    exact = exact_decimal(Decimal(str(value)))
    assert exact_decimal(value) == exact
    if exact is not None:
        assert float(exact["__extn"]["arg"]) == value
