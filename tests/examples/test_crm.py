"""The CRM example's server without the guard; its policy cases run in `test_packs.py`."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from mcp import Client, StdioServerParameters

from mcp_guard.app import listed_tools, policy_environment
from mcp_guard.cli.demo import prepare
from mcp_guard.config import load
from mcp_guard.core.model import Tool
from mcp_guard.policy.authoring.cases import read_cases, run_cases
from mcp_guard.policy.engine import PolicyEnvironment, load_policies

ROOT = Path(__file__).parent.parent.parent
POLICIES = ROOT / "policies" / "crm"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def environment(tmp_path_factory: pytest.TempPathFactory) -> PolicyEnvironment:
    """What the real server lists under the example's configuration."""
    settings = load(prepare(tmp_path_factory.mktemp("crm")))
    tools, absent = await listed_tools(settings)
    assert not absent
    return policy_environment(settings, tools, absent)


def catalog(environment: PolicyEnvironment) -> dict[str, Tool]:
    return {tool.listed_as: tool for tool in environment.tools}


def test_a_case_that_expects_something_else_fails(environment: PolicyEnvironment) -> None:
    engine, case = load_policies(POLICIES, environment), read_cases(POLICIES)[0]
    wrong = replace(case, table={**case.table, "outcome": "deny"})
    assert run_cases(engine, catalog(environment), [wrong])[0].differences == ("expected deny, got allow",)


def test_high_risk_calls_need_two_security_approvers() -> None:
    """The second example."""
    assert load(ROOT / "examples" / "crm" / "high-risk.toml").routes["security-approvals"].quorum == 2


async def say(client: Client, tool: str, **arguments: Any) -> tuple[bool, Any]:
    """Whether the call failed, and the structured result or the text."""
    result = await client.call_tool(tool, arguments)
    return bool(result.is_error), result.structured_content or str(getattr(result.content[0], "text", ""))


async def test_crm_server_works_without_the_guard(tmp_path: Path) -> None:
    words = [str(ROOT / "examples" / "crm" / "server.py"), "--database", str(tmp_path / "crm.sqlite")]
    async with Client(StdioServerParameters(command=sys.executable, args=words)) as crm:
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
