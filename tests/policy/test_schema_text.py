"""The schema as Cedar text equals its JSON form for any tool definition, and is the same on every run."""

from typing import Any

import cedarpy
from hypothesis import given, settings

from mcp_guard.core.model import ResourceRule
from mcp_guard.policy.authoring.export import plain_schema
from mcp_guard.policy.authoring.schema_text import canonical_json, human
from mcp_guard.policy.schema import build_schema
from tests.policy.fixtures import PERMIT, make_tool
from tests.policy.schemas import SCHEMAS
from tests.policy.strategies import CEDAR, TEXTS, TOOLS
from tests.policy.test_requests_fit import ATTRIBUTES, COUNTERS
from tests.proof_size import sized


@settings(max_examples=sized(50, 15), deadline=None)
@given(SCHEMAS)
def test_cedar_parses_the_text_of_any_schema(schema: Any) -> None:
    tool = make_tool(schema, resource=ResourceRule("Deal", "/a"))
    made, _ = build_schema([tool], ATTRIBUTES, COUNTERS)
    for item in (made, plain_schema(made)):
        assert cedarpy.validate_policies(PERMIT, human(item)).validation_passed


@settings(max_examples=sized(50, 15), deadline=None)
@given(TEXTS)
def test_policies_validate_alike_against_both_schemas(written: str) -> None:
    by_json = cedarpy.validate_policies(written, CEDAR)
    by_text = cedarpy.validate_policies(written, human(CEDAR))
    assert by_json.validation_passed == by_text.validation_passed
    assert sorted(error.error for error in by_json.errors) == sorted(error.error for error in by_text.errors)


def test_order_of_tools_and_fields_does_not_change_the_schema() -> None:
    attributes = {"Deal": {"owner": "string", "paid": "integer"}}
    turned = {"Deal": dict(reversed(attributes["Deal"].items()))}
    one, _ = build_schema(TOOLS, attributes, ())
    other, _ = build_schema(reversed(TOOLS), turned, ())
    assert human(one) == human(other)
    assert canonical_json(one) == canonical_json(other)


def test_schema_text_is_readable() -> None:
    assert """\
entity Deal = {
  owner?: String,
  paid?: Long,
};
""" in human(CEDAR)
    assert 'action "destructive" in ["write"];' in human(CEDAR)
    assert """\
action "up__purge" in ["destructive", "server:up"] appliesTo {
  principal: [AgentInstance],
  resource: [Tool],
  context: {
    change: {
      delta: {
        n?: Long,
      },
      fields: Set<String>,
    },
""" in human(CEDAR)
