"""What is listed for many tools and instances: as for each by itself, but evaluated once for those that are alike."""

import json
from dataclasses import replace
from pathlib import Path

from cedarpy import Entities, Schema
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.model import Agent, Effect, Instance, ResourceRule, Tool
from mcp_guard.policy.entities import EntityParser
from mcp_guard.policy.listing import MAX_PRINCIPALS, ListingDecisions, resource_of_every_call
from mcp_guard.policy.request import principal_entities
from mcp_guard.policy.ruleset import Ruleset, action_groups, read_principal
from mcp_guard.policy.schema import CatalogSchema, build_schema
from mcp_guard.policy.source import Policy
from tests.policy.fixtures import INSTANCE, load, make_tool, object_of
from tests.policy.strategies import ATTRIBUTES, PARTS, TOOLS, policies_of, write
from tests.proof_size import sized

FIELDS = object_of(n={"type": "integer"}, s={"type": "string"})
MORE = (
    *TOOLS,
    make_tool(FIELDS, "look_too", Effect.READ),
    make_tool({**FIELDS, "required": ["n", "untyped"]}, "look_blind", Effect.READ),
    make_tool(FIELDS, "change_too", Effect.WRITE, ResourceRule("Deal", "/s")),
    make_tool(FIELDS, "purge_too", Effect.DESTRUCTIVE),
)
SCHEMA = build_schema(MORE, ATTRIBUTES, ())
WHOLE = Schema.from_json_str(json.dumps(SCHEMA.json))
CONDITIONS = (
    'when { action == Action::"up__look" }', 'unless { action in Action::"write" }',
    'when { Action::"up__purge" in Action::"write" }', 'when { resource == Tool::"up__look_too" }',
    'when { Agent::"a1".owner == "bob" }', 'unless { principal in Group::"g1" }', "when { principal.depth > 0 }",
    "when { context.input.untyped == 1 }",
)  # fmt: skip
RESOURCES = ('resource == Tool::"up__purge"', 'resource in Tool::"up__purge"')
POLICIES = st.lists(
    st.tuples(*map(st.sampled_from, (*PARTS[:3], (*PARTS[3], *RESOURCES), (*PARTS[4], *CONDITIONS)))), max_size=6
).map(lambda made: policies_of(write(made)))
AGENTS = [Agent(name, owner, groups) for name, owner, groups in [("a1", "bob", ("g1",)), ("a2", "eve", ("g2",))]]
INSTANCES = [
    replace(INSTANCE, id=id, agent=agent, depth=depth)
    for id, depth, agent in [("run_1", 0, AGENTS[0]), ("run_2", 1, AGENTS[1]), ("run_3", 1, AGENTS[0])]
]


class CountingRuleset(Ruleset):
    evaluations = 0

    def could_be_permitted(self, *arguments: object, **named: object) -> bool:
        self.evaluations += 1
        return super().could_be_permitted(*arguments, **named)  # type: ignore[arg-type]


def decisions(policies: dict[str, Policy], schema: CatalogSchema = SCHEMA) -> tuple[ListingDecisions, CountingRuleset]:
    rules = CountingRuleset(policies, action_groups(schema.json))
    entities = EntityParser(schema.json[""]["entityTypes"], rules.groups, {"up__purge"})
    return ListingDecisions(rules, entities, schema.shapes, ATTRIBUTES), rules


def alone(policies: dict[str, Policy], instance: Instance, tool: Tool) -> bool:
    """The decision on one tool for one instance, by policies that were never asked anything else."""
    return decisions(policies)[0].could_be_permitted(instance, tool)


@settings(max_examples=sized(300, 20), deadline=None)
@given(POLICIES)
def test_tools_and_instances_are_listed_as_each_by_itself(policies: dict[str, Policy]) -> None:
    together, _ = decisions(policies)
    for instance in INSTANCES:
        for tool in MORE:
            assert together.could_be_permitted(instance, tool) == alone(policies, instance, tool)


@settings(max_examples=sized(300, 20), deadline=None)
@given(POLICIES)
def test_entities_of_one_action_are_enough(policies: dict[str, Policy]) -> None:
    """The oracle has the groups of all actions, as Cedar adds them from a whole schema."""
    rules = Ruleset(policies, action_groups(SCHEMA.json))
    parser = EntityParser(SCHEMA.json[""]["entityTypes"], rules.groups, {"up__purge"})
    for instance in INSTANCES:
        described = principal_entities(instance)
        every = Entities.from_json_str(json.dumps(described), WHOLE)
        principal = read_principal(described[0]["uid"], described)
        for tool in MORE:
            asked = tool.listed_as, principal, resource_of_every_call(tool)
            own = parser.of_call(instance, tool.listed_as).entities
            assert rules.could_be_permitted(*asked, own) == rules.could_be_permitted(*asked, every)
            assert rules.find_forbidding(*asked, own) == rules.find_forbidding(*asked, every)


def test_a_thousand_tools_in_the_same_scope_are_evaluated_once() -> None:
    tools = tuple(make_tool(FIELDS, f"t{number}", Effect.READ) for number in range(1000))
    policies = policies_of(
        '@id("a") permit (principal in Group::"g1", action in Action::"read", resource);'
        '@id("b") forbid (principal, action == Action::"up__t7", resource);'
    )
    listing, rules = decisions(policies, build_schema(tools, ATTRIBUTES, ()))
    listed = [tool.name for tool in tools if listing.could_be_permitted(INSTANCES[0], tool)]
    assert len(listed) == 999
    assert "t7" not in listed
    assert rules.evaluations == 2
    assert all(listing.could_be_permitted(INSTANCES[2], tool) for tool in tools[:7])
    assert rules.evaluations == 2, "another instance of the same agent"
    assert not any(listing.could_be_permitted(INSTANCES[1], tool) for tool in tools)
    assert rules.evaluations == 4, "an agent of another group"


def test_remembered_decisions_have_a_bound() -> None:
    policies = policies_of('@id("a") permit (principal, action, resource) when { principal.depth > 3 };')
    listing, rules = decisions(policies)
    shallow = [replace(INSTANCE, id=f"run_{number}") for number in range(MAX_PRINCIPALS + 1)]
    deep = replace(INSTANCE, id="run_deep", depth=4)
    assert not any(listing.could_be_permitted(instance, MORE[0]) for instance in shallow)
    assert listing.could_be_permitted(deep, MORE[0])
    before = rules.evaluations
    assert not listing.could_be_permitted(shallow[0], MORE[0])
    assert rules.evaluations == before + 1, "forgotten meanwhile"


def test_a_changed_definition_is_seen(tmp_path: Path) -> None:
    policies = (
        '@id("a") permit (principal, action, resource);'
        '@id("f") forbid (principal, action, resource) when { context.input has n && context.input.n > 5 };'
    )
    other = make_tool(object_of(n={"type": "integer"}), "other")
    for type, is_listed in [({"type": "integer"}, True), ({}, False), ({"type": "integer"}, True)]:
        tool = make_tool({**object_of(n=type), "required": ["n"]})
        assert load(tmp_path, policies, tool, other).may_call(INSTANCE, tool) is is_listed


def test_the_shape_of_an_unchanged_definition_is_kept(tmp_path: Path) -> None:
    tools = [make_tool(object_of(n={"type": "integer"}), f"t{number}") for number in range(3)]
    permit = '@id("a") permit (principal, action, resource);'
    first = load(tmp_path, permit, *tools)
    changed = make_tool(object_of(n={"type": "string"}), "t1")
    second = load(tmp_path, permit, tools[0], changed, tools[2])
    same = [name for name, shape in second.shapes.items() if shape is first.shapes[name]]
    assert same == ["up__t0", "up__t2"]
