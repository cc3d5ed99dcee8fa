"""P5: a tool is listed for an instance if and only if some call of it could be allowed or held."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.model import Agent, Instance, Outcome, Tool, ToolCallRequest
from mcp_guard.core.names import listed_name
from mcp_guard.downstream.tool_names import ToolNames
from mcp_guard.policy.engine import PolicyEngine, load_policies
from tests.live.running_guard import ALLOW_ALL, Client, Json, log, scripted, seen, write_config
from tests.promises.harness import TOOLS, make_instance, make_world, open_harness

ACTIONS = [
    "action", 'action == Action::"crm__note"', 'action == Action::"crm__purge"', 'action in Action::"write"',
    'action in Action::"destructive"', 'action in Action::"read"', 'action in Action::"server:crm"',
    'action in [Action::"crm__update_deal", Action::"crm__note"]',
]  # fmt: skip
PRINCIPALS = [
    "principal",
    'principal in Group::"workers"',
    'principal in Group::"others"',
    'principal in Agent::"agent"',
]
WHO = ['principal.owner == "bob"', "principal has on_behalf_of", "principal.depth > 0", "true", "false"]
WHAT = ["context.risk.score >= 0", 'context.change.fields.contains("text")', "context.risk.score > 500"]
EFFECTS = ["permit", "permit", "forbid", '@require_approval("people") forbid']
POOL: list[tuple[Tool, list[dict[str, object]]]] = [
    (TOOLS[0], [{"deal_id": "1"}]),
    (TOOLS[1], [{"deal_id": "1", "amount": 1}]),
    (TOOLS[2], [{"text": "x"}, {}]),
    (TOOLS[3], [{}]),
]


def policy_sets(conditions: list[str]) -> st.SearchStrategy[str]:
    policy = st.builds(
        "{} ({}, {}, resource) when {{ {} }};".format,
        st.sampled_from(EFFECTS), st.sampled_from(PRINCIPALS), st.sampled_from(ACTIONS), st.sampled_from(conditions),
    )  # fmt: skip
    return st.lists(policy, min_size=1, max_size=5).map(
        lambda bodies: "\n".join(f'@id("p{number}") {body}' for number, body in enumerate(bodies))
    )


instances = st.builds(
    lambda groups, user, owner: make_instance(agent=Agent("agent", owner, groups), on_behalf_of=user),
    st.sampled_from([(), ("workers",), ("workers", "others")]), st.sampled_from([None, "dana"]),
    st.sampled_from(["bob", "eve"]),
)  # fmt: skip


def load(policies: str) -> PolicyEngine:
    with tempfile.NamedTemporaryFile("w", suffix=".cedar") as file:
        file.write(policies)
        file.flush()
        return load_policies(Path(file.name), make_world({tool.listed_as: tool for tool in TOOLS}))


def some_call_goes(engine: PolicyEngine, instance: Instance, tool: Tool, pool: list[dict[str, object]]) -> bool:
    """Whether a call of the pool is allowed or held."""
    for arguments in pool:
        call = describe(DescriptionRules(), "call_1", instance, ToolCallRequest(tool.listed_as, arguments), tool)
        if engine.decide(DescriptionRules().assess(call, None), {}).outcome is not Outcome.DENY:
            return True
    return False


@given(policy_sets(WHO + WHAT), instances)
def test_tools_that_can_be_allowed_or_held_are_listed(policies: str, instance: Instance) -> None:
    engine = load(policies)
    for tool, pool in POOL:
        if some_call_goes(engine, instance, tool, pool):
            assert engine.may_call(instance, tool), f"{tool.listed_as} can be called but is not listed"


@given(policy_sets(WHO), instances)
def test_tools_ruled_out_by_scope_or_principal_are_not_listed(policies: str, instance: Instance) -> None:
    engine = load(policies)
    for tool, pool in POOL:
        assert engine.may_call(instance, tool) == some_call_goes(engine, instance, tool, pool)


@given(policy_sets(WHO + WHAT), instances)
async def test_a_call_of_a_tool_that_is_not_listed_is_unknown(policies: str, instance: Instance) -> None:
    with tempfile.TemporaryDirectory() as folder:
        harness = open_harness(Path(folder), policies)
        listed = {tool["name"] for tool in await harness.guard.list_tools(instance)}
        for tool, pool in POOL:
            for arguments in pool:
                asked = ToolCallRequest(tool.listed_as, arguments)
                reply = await harness.guard.call(instance, asked)
                refused_as_unknown = "error" in reply and "unknown tool" in reply["error"]["message"]
                assert refused_as_unknown == (tool.listed_as not in listed)
        harness.close()


@pytest.mark.usefixtures("each_engine")
async def test_expired_instance_sees_no_tools(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    instance = make_instance()
    assert len(await harness.guard.list_tools(instance)) == len(TOOLS)
    assert await harness.guard.list_tools(replace(instance, expires=instance.started)) == []
    harness.close()


PARTS = ["echo", "a.b", "a_x2E_b", "up__", "guard__", "__", "x" * 70, "é"]
own_names = st.sets(st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map("".join))


@given(own_names)
def test_plain_names_are_unambiguous_and_reversible(names: set[str]) -> None:
    tool_names = ToolNames("up")
    shown = {tool_names.for_client("up", name): name for name in names}
    assert len(shown) == len(names)
    for listed, name in shown.items():
        assert tool_names.from_client(listed) == listed_name("up", name)
        assert len(listed) <= 64
        assert not listed.startswith("guard__")


def listed_tool(name: str) -> Tool:
    return replace(TOOLS[0], server="up", name=name, listed_as=listed_name("up", name))


class WeakHash(ToolNames):
    """Names whose hashes a server could make collide."""

    def _short_form(self, full: str) -> str:
        return full[: self.limit - 15] + "_xh" + "0" * 12


long_names = st.sets(
    st.lists(st.sampled_from([*PARTS, "y" * 25, "_xh" + "0" * 12]), min_size=1, max_size=4).map("".join)
)


@given(long_names, st.sampled_from(["", "up"]), st.integers(44, 64), st.sampled_from([ToolNames, WeakHash]))
def test_short_forms_are_unambiguous_and_the_full_names_stay_callable(
    names: set[str], plain: str, limit: int, kind: type[ToolNames]
) -> None:
    tool_names = kind(plain, limit)
    tools = [listed_tool(name) for name in names]
    tool_names.learn(lambda: tools, 1)
    shown = {tool_names.for_client("up", name): name for name in names}
    assert len(shown) == len(names)
    for listed, name in shown.items():
        full = listed_name("up", name)
        assert len(listed) <= limit or kind is WeakHash
        assert tool_names.from_client(listed) == full
        assert tool_names.is_name_of(listed, "up", name)
        if len(full) > limit and listed != name:
            assert tool_names.from_client(full) == full
            assert tool_names.is_name_of(full, "up", name)
        others = names - {name}
        assert not any(tool_names.is_name_of(listed, "up", other) for other in others)


def unknown(reply: Json) -> bool:
    return "error" in reply and "unknown tool" in reply["error"]["message"]


def test_with_plain_names_only_the_listed_name_is_callable(tmp_path: Path) -> None:
    only_echo = """@id("echo") permit (principal, action == Action::"up__echo", resource);"""
    config = write_config(tmp_path, scripted("up", tmp_path), only_echo, guard="plain_names = true")
    with Client(config) as client:
        client.start()
        assert set(client.tools()) == {"echo"}
        assert client.call("echo", {"text": "x"})["result"]["isError"] is False
        for other in ("up__echo", "up__up__echo", "die", "guard__await", "e.cho"):
            assert unknown(client.call(other, {"text": "x"})), other
    assert [call["name"] for call in seen(tmp_path, "up")] == ["echo"]
    assert [receipt["tool"] for receipt in log(config, "--kind", "intent")] == ["up__echo"]


def test_plain_names_keep_the_guard_await_tool(tmp_path: Path) -> None:
    holding = f"""{ALLOW_ALL} @id("gate") @require_approval("people") forbid (principal, action, resource);"""
    guard = "plain_names = true\nhold_seconds = 0.1"
    with Client(write_config(tmp_path, scripted("up", tmp_path), holding, guard=guard)) as client:
        client.start()
        assert "guard__await" in client.tools()
        held = client.call("echo", {"text": "x"})["result"]
        again = client.call("guard__await", {"approval": held["_meta"]["mcp-guard/decision"]["approval"]})
        assert "is pending" in again["result"]["content"][0]["text"]
