"""A policy that hides a tool is named wherever somebody misses the tool: to the operator always, to the agent if it is
only observed.
"""

import json
from pathlib import Path

import pytest

from mcp_guard.cli import main
from mcp_guard.core.model import Mode, ToolCallRequest
from tests.live.running_guard import ALLOW_ALL, Client, log, scripted, text, write_config
from tests.promises.harness import make_instance, open_harness

HARD = (
    '@id("no-free") @enforce("always") @reason("nobody needs it")\n'
    'forbid (principal, action == Action::"up__free", resource);'
)
WHY = "policy `no-free` forbids every call of it: nobody needs it"


def test_a_tool_that_observe_mode_hides_is_named_with_its_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), ALLOW_ALL + HARD, guard='mode = "observe"')
    with Client(config) as client:
        client.start()
        assert "up__free" not in client.tools()
        assert WHY in text(client.call("up__free"))
    assert f"up__free is hidden from tester, in observe mode too: {WHY}" in client.stderr
    [refused] = log(config, "--kind", "decision")
    assert refused["reasons"] == ["hidden tool", WHY]
    where = ("--config", str(config))
    for words in (["tools", "list"], ["status"], ["doctor"]):
        main([*words, *where])
        lines = capsys.readouterr().out.splitlines()
        assert [WHY in line for line in lines if "up__free" in line][:1] == [True], words
        assert not [line for line in lines if WHY in line and "up__free" not in line]
    assert main(["policy", "explain", str(refused["seq"]), *where]) == 5
    assert f"`up__free` was not listed for agent `tester`: {WHY}" in capsys.readouterr().err
    main(["tools", "list", "--json", *where])
    listed = {row["tool"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["up__free"]["effect"] == "write"
    assert [row["policies"] for row in listed["up__free"]["hidden"]] == [["no-free"]]
    assert listed["up__echo"]["hidden"] == []
    main(["agents", "add", "extra", "--owner", "eve", "--group", "late", *where])
    (tmp_path / "policies" / "late.cedar").write_text(
        '@id("l") @reason("r") forbid (principal in Group::"late", action == Action::"up__echo", resource);'
    )
    capsys.readouterr()
    main(["tools", "list", "--json", *where])
    listed = {row["tool"]: row for row in json.loads(capsys.readouterr().out)}
    assert [row["agent"] for row in listed["up__free"]["hidden"]] == ["extra", "tester"], "enrolled in the ledger"
    main(["policy", "lint", *where])
    assert "no enrolled agent" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("policies", "why"),
    [
        ('@id("q") @reason("no") forbid (principal, action, resource);', "policy `q` forbids every call of it: no"),
        ('@id("a") permit (principal, action == Action::"crm__purge", resource);', "no policy permits it for agent"),
    ],
)
async def test_enforce_mode_tells_the_operator_and_not_the_agent(tmp_path: Path, policies: str, why: str) -> None:
    harness = open_harness(tmp_path, policies)
    harness.policies.mode = Mode.ENFORCE
    reply = await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "a"}))
    assert reply == {"error": {"code": -32602, "message": "unknown tool: crm__note"}}
    unknown, reason = harness.receipts("decision")[0]["reasons"]
    assert unknown == "unknown tool"
    assert reason.startswith(why)
    harness.close()


async def test_replay_still_knows_calls_of_hidden_tools(tmp_path: Path) -> None:
    """A candidate that lists the tool is more permissive."""
    from mcp_guard.policy.authoring.past import decisions

    harness = open_harness(tmp_path, '@id("quiet") forbid (principal, action, resource);')
    await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "a"}))
    assert [decision.unlisted for decision in decisions(harness.store)] == [True]
    harness.close()
