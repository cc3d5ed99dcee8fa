"""The example: the CRM server by itself, its six rules and their cases, and the demo from end to end."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from examples.crm.demo import prepare
from mcp_guard.app import listed_tools, policy_world
from mcp_guard.config import load
from mcp_guard.core.model import Tool
from mcp_guard.policy.cases import read_cases, run_cases
from mcp_guard.policy.engine import PolicyEngine, World, load_policies

ROOT = Path(__file__).parent.parent.parent
POLICIES = ROOT / "policies" / "crm"
IDS = (
    "read-deals", "work-on-deals", "declared-fields-only", "stage-only-for-assigned-rep", "amount-change-up-to-10000",
    "closing-needs-approval", "refund-needs-approval", "no-edits-of-protected-fields", "writes-per-hour",
    "ticket-for-named-fields",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """What the real server lists, under the example's configuration."""
    settings = load(prepare(tmp_path_factory.mktemp("crm")))
    tools, absent = asyncio.run(listed_tools(settings))
    assert not absent
    return policy_world(settings, tools, absent)


def catalog(world: World) -> dict[str, Tool]:
    return {tool.listed_as: tool for tool in world.tools}


def failing(engine: PolicyEngine, world: World) -> list[str]:
    return [r.case.name for r in run_cases(engine, catalog(world), read_cases(POLICIES)) if r.differences]


def test_every_case_is_decided_as_written(world: World) -> None:
    assert failing(load_policies(POLICIES, world), world) == []


def test_these_are_all_the_policies(world: World) -> None:
    engine = load_policies(POLICIES, world)
    assert sorted(engine.rules.policies) == sorted(IDS)


@pytest.mark.parametrize("id", IDS)
def test_without_this_policy_a_case_fails(tmp_path: Path, world: World, id: str) -> None:
    for file in POLICIES.glob("*.cedar"):
        policies = file.read_text().split("\n@id(")
        kept = [policies[0], *(f"\n@id({each}" for each in policies[1:] if not each.startswith(f'"{id}"'))]
        (tmp_path / file.name).write_text("".join(kept))
    engine = load_policies(tmp_path, world)
    assert len(engine.rules.policies) == len(IDS) - 1
    assert failing(engine, world)


def test_a_case_that_expects_something_else_fails(world: World) -> None:
    engine, case = load_policies(POLICIES, world), read_cases(POLICIES)[0]
    wrong = replace(case, said={**case.said, "outcome": "deny"})
    assert run_cases(engine, catalog(world), [wrong])[0].differences == ("expected deny, got allow",)


def test_high_risk_goes_to_security(tmp_path: Path) -> None:
    """The second example: its cases hold, and each of its policies matters to one."""
    folder = ROOT / "policies" / "high-risk"
    text = (ROOT / "examples" / "crm" / "high-risk.toml").read_text()
    config = prepare(tmp_path)
    config.write_text(text.replace('command = "python"', f'command = "{sys.executable}"').replace("../..", str(ROOT)))
    settings = load(config)
    tools, absent = asyncio.run(listed_tools(settings))
    world = policy_world(settings, tools, absent)
    cases = read_cases(folder)
    assert not [r for r in run_cases(load_policies(folder, world), catalog(world), cases) if r.differences]
    whole = (folder / "high_risk.cedar").read_text()
    permit, gate = whole.index('@id("team-may-work")'), whole.index('@id("high-risk-needs-security")')
    for rest in (whole[gate:], whole[:gate]):
        (tmp_path / "rest.cedar").write_text(rest)
        engine = load_policies(tmp_path / "rest.cedar", world)
        assert [r for r in run_cases(engine, catalog(world), cases) if r.differences]
    assert permit < gate
    assert settings.routes["security-approvals"].quorum == 2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def crm(tmp_path: Path) -> AsyncIterator[Client]:
    words = [str(ROOT / "examples" / "crm" / "server.py"), "--database", str(tmp_path / "crm.sqlite")]
    async with Client(StdioServerParameters(command=sys.executable, args=words)) as client:
        yield client


async def say(client: Client, tool: str, **arguments: Any) -> tuple[bool, Any]:
    """Whether it failed, and the structured result or the text."""
    result = await client.call_tool(tool, arguments)
    return bool(result.is_error), result.structured_content or str(getattr(result.content[0], "text", ""))


@pytest.mark.anyio
async def test_the_server_by_itself(crm: Client) -> None:
    tools = {tool.name for tool in (await crm.list_tools()).tools}
    assert tools == {"get_deal", "search_deals", "update_deal", "add_note", "refund", "delete_deal"}
    failed, found = await say(crm, "update_deal", deal_id="789", amount=1.5, notes="new")
    assert (failed, found["deal"]["amount"], found["deal"]["notes"]) == (False, 1.5, "new")
    assert found["deal"]["stage"] == "Negotiation"
    failed, found = await say(crm, "search_deals", text="Northwind")
    assert [deal["deal_id"] for deal in found["deals"]] == ["655", "789"]
    assert (await say(crm, "add_note", deal_id="790", text="x"))[0] is False
    failed, found = await say(crm, "refund", deal_id="655", amount=200, reason="late")
    assert found["deal"]["paid"] == 7000
    assert (await say(crm, "delete_deal", deal_id="791"))[0] is False
    for tool, arguments, because in (
        ("get_deal", {"deal_id": "791"}, "there is no deal 791"),
        ("update_deal", {"deal_id": "789"}, "nothing to change"),
        ("refund", {"deal_id": "655", "amount": 7000.01, "reason": "x"}, "cannot be refunded"),
    ):
        failed, said = await say(crm, tool, **arguments)
        assert failed
        assert because in said


def test_the_demo_shows_both_scenarios() -> None:
    words = [sys.executable, str(ROOT / "examples" / "crm" / "demo.py")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in (
        "deal 789: stage Negotiation, amount 48,500",
        "deal 789: stage Closed Won, amount 50,000",
        "updated deal 789 on behalf of dana due to ticket INC-4451, approved by Alice, under policy version",
        "billing_contact_email and discount_rate may not be edited",
        "verified: ",
        "NOT VERIFIED: receipt",
        "all as it should be",
    ):
        assert expected in done.stdout
    assert "Traceback" not in done.stderr
