"""Policies and requests that Hypothesis generates over three tools, two agents, two groups and two routes.

Some conditions fail when they are evaluated (an attribute that is not there, an overflow), because policies that fail
must be treated alike wherever they are evaluated.
"""

import json
from dataclasses import replace
from typing import Any, NamedTuple

from cedarpy import Entities
from hypothesis import strategies as st

from mcp_guard.core.model import Agent, Effect, Json, ResourceRule
from mcp_guard.policy.request import principal_entities
from mcp_guard.policy.ruleset import Principal, Ruleset, action_groups, read_principal
from mcp_guard.policy.schema import build_schema
from mcp_guard.policy.source import Policy, parse_texts
from tests.policy.fixtures import INSTANCE, make_tool, object_of

SCHEMA = object_of(n={"type": "integer"}, s={"type": "string"})
TOOLS = (
    make_tool(SCHEMA, "look", Effect.READ),
    make_tool(SCHEMA, "change", Effect.WRITE, ResourceRule("Deal", "/s")),
    make_tool(SCHEMA, "purge", Effect.DESTRUCTIVE),
)
ATTRIBUTES = {"Deal": {"owner": "string", "paid": "integer"}}
CEDAR, _ = build_schema(TOOLS, ATTRIBUTES, ())
GROUPS = action_groups(CEDAR)

PRINCIPALS = (
    "principal", "principal", 'principal == AgentInstance::"run_1"', 'principal in AgentInstance::"run_2"',
    'principal in Agent::"a1"', 'principal in Group::"g1"', 'principal in Group::"g2"', "principal is AgentInstance",
    'principal is AgentInstance in Group::"g2"', "principal is Agent",
)  # fmt: skip
ACTIONS = (
    "action", "action", 'action == Action::"up__look"', 'action in [Action::"up__change", Action::"up__purge"]',
    'action in Action::"write"', 'action in Action::"destructive"', 'action in Action::"server:up"',
    'action in [Action::"read"]',
)  # fmt: skip
RESOURCES = ("resource", "resource", "resource is Deal", 'resource == Deal::"x"', "resource is Tool")
CONDITIONS = (
    "", "", "when { context.input has n && context.input.n > 1 }",
    'unless { context.input has s && context.input.s == "x" }',
    "when { context.input.n < 2 }", "when { context.input.n + 9223372036854775806 > 0 }",
    'when { context.change.fields.contains("n") }', 'when { principal.owner == "bob" }',
    "when { context.task has ticket }", 'when { resource is Deal && resource has owner && resource.owner == "dana" }',
)  # fmt: skip
KINDS = (
    "permit", "permit", "permit", "forbid", '@require_approval("people") forbid',
    '@require_approval("security") forbid',
    '@require_approval("people,security") forbid', '@enforce("always") forbid',
    '@enforce("always") @require_approval("people") forbid',
)  # fmt: skip

PARTS = (KINDS, PRINCIPALS, ACTIONS, RESOURCES, CONDITIONS)
Made = tuple[str, ...]
SETS = st.lists(st.tuples(*map(st.sampled_from, PARTS)), max_size=8)


def write(made: list[Made]) -> str:
    return "\n".join(text(f"p{at}", *each) for at, each in enumerate(made))


TEXTS = SETS.map(write)


@st.composite
def revisions(draw: st.DrawFn) -> tuple[str, str]:
    """A policy set, and the same set with one part of one policy regenerated, so that they differ in details."""
    before = draw(SETS.filter(bool))
    at, part = draw(st.integers(0, len(before) - 1)), draw(st.integers(0, len(PARTS) - 1))
    changed = list(before[at])
    changed[part] = draw(st.sampled_from(PARTS[part]))
    after = [*before[:at], tuple(changed), *before[at + 1 :]]
    permit = ("permit", "principal", "action", "resource", "")
    extra = [permit] if draw(st.booleans()) else []
    return write([*before, *extra]), write([*after, *extra])


def text(id: str, kind: str, principal: str, action: str, resource: str, condition: str) -> str:
    return f'@id("{id}") {kind} ({principal}, {action}, {resource}) {condition};'


def policies_of(written: str) -> dict[str, Policy]:
    source, problems = parse_texts({"made.cedar": written}, None)
    assert problems == []
    return dict(source.policies)


def ruleset(written: str) -> Ruleset:
    return Ruleset(policies_of(written), GROUPS)


class GeneratedRequest(NamedTuple):
    """One request as recorded (`request`, `entities`) and as evaluated."""

    recorded: Json
    request: Json
    entities: Entities
    principal: Principal


@st.composite
def requests(draw: st.DrawFn) -> GeneratedRequest:
    tool = draw(st.sampled_from(TOOLS))
    groups = draw(st.sets(st.sampled_from(["g1", "g2"])))
    agent = Agent(draw(st.sampled_from(["a1", "a2"])), draw(st.sampled_from(["bob", "eve"])), tuple(sorted(groups)))
    instance = replace(INSTANCE, id=draw(st.sampled_from(["run_1", "run_2"])), agent=agent)
    input: dict[str, Any] = {}
    if draw(st.booleans()):
        input["n"] = draw(st.integers(0, 3))
    if draw(st.booleans()):
        input["s"] = draw(st.sampled_from(["x", "y"]))
    context = {
        "input": input,
        "input_unknown": [],
        "input_null": [],
        "change": {"fields": sorted(input), "delta": {}},
        "task": {"ticket": "INC-1"} if draw(st.booleans()) else {},
        "rate": {},
        "risk": {"score": 10, "level": "low", "signals": []},
    }
    entities = principal_entities(instance)
    resource = {"type": "Tool", "id": tool.listed_as}
    if tool.rule.resource:
        resource = {"type": "Deal", "id": input.get("s", "z")}
        attributes = {"owner": draw(st.sampled_from(["dana", "lee"]))} if draw(st.booleans()) else {}
        entities.append({"uid": resource, "attrs": attributes, "parents": []})
    request = {
        "principal": entities[0]["uid"],
        "action": {"type": "Action", "id": tool.listed_as},
        "resource": resource,
        "context": context,
    }
    principal = read_principal(entities[0]["uid"], entities)
    parsed = Entities.from_json_str(json.dumps(entities), json.dumps(CEDAR))
    return GeneratedRequest({"request": request, "entities": entities}, request, parsed, principal)
