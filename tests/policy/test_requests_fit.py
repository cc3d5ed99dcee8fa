"""Every request that is built matches the schema that the policies were validated against.

Requests are evaluated without checking them against the schema (docs/decisions/0009), so this property is what makes
validation at load mean anything: Cedar itself, asked to check, must accept every request, for any tool definition and
any arguments that were not refused before.
"""

import json
import re
import tempfile
from pathlib import Path

import cedarpy
import jsonschema
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.model import Effect, Json, Outcome, RateCounter, ResourceRule
from mcp_guard.policy.request import Inexpressible, build_context, history_context, resource_entity
from mcp_guard.policy.shapes import input_shape
from tests.policy.fixtures import INSTANCE, PERMIT, load, make_call, make_tool
from tests.policy.schemas import NAMES, SCHEMAS, VALUES, fitting

POLICIES = PERMIT + '@id("h") forbid (principal, action, resource) when { context.history.untrusted_seen };'
COUNTERS = (RateCounter("writes", 1, ("instance",), (Effect.WRITE,)),)
ATTRIBUTES = {
    "Deal": {"a": "string", "b": "number", "c": "strings", "type": "integer", "ünï": "boolean", "__entity": "string"}
}


@settings(max_examples=500)
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
    result = cedarpy.is_authorized(checked, POLICIES, json.dumps(recorded["entities"]), engine.schema_text)
    assert result.allowed, result.diagnostics.errors


EXCUSES = (
    "digits after the point",
    "exceeds the range that policies can compare", "outside 64 bits",  # Cedar cannot hold them
    "must be an object", "must be an array",  # describes members or elements without a type
)  # fmt: skip


@settings(max_examples=500)
@given(st.data())
def test_arguments_accepted_by_the_schema_are_passed(data: st.DataObject) -> None:
    """A JSON Schema validator is the oracle. Alternatives are stricter: see test_shapes.py."""
    schema = data.draw(
        SCHEMAS.filter(lambda schema: not re.search("anyOf|oneOf|#anchor|https:|file|additionalItems", str(schema)))
    )
    tool = make_tool(schema)
    shape = input_shape(tool)
    if shape is None:
        return
    call = make_call(tool, data.draw(fitting(shape) | st.dictionaries(NAMES, VALUES, max_size=4)))
    if call.problems or not _accepts(schema, call.arguments):
        return
    try:
        build_context(call, shape, {})
    except Inexpressible as why:
        assert any(excuse in str(why) for excuse in EXCUSES), why  # noqa: PT017


def _accepts(schema: Json, arguments: Json) -> bool:
    try:
        return bool(jsonschema.Draft202012Validator(schema).is_valid(arguments))
    except (jsonschema.exceptions._WrappedReferencingError, RecursionError):  # a dangling reference
        return False
