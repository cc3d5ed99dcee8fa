"""A policy that names a tool which is not listed now waits for it. It costs no other tool: not of a client that lacks a
capability, not after a release that dropped a tool, not while one server is down."""

import json
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.names import short_form
from tests.live.running_guard import ALLOW_ALL, Client, Json, cli, log, text, upstream, write_config
from tests.policy.fixtures import object_of
from tests.wild.test_policy_limits import tolerant

PLAIN = object_of(s={"type": "string"})
ECHO, RELIST, ASK = ({"name": name, "inputSchema": PLAIN} for name in ("echo", "relist", "ask-for-sampling"))
NEEDS = {**ASK, "needs": "sampling"}


def relist(folder: Path, client: Client, *tools: Json, name: str = "up") -> None:
    """Change what the server lists, and let it say so."""
    (folder / f"{name}.json").write_text(json.dumps(tools))
    client.call(f"{name}__relist")
    client.tools()  # which includes every change that was reported


def announcing(capabilities: list[str]) -> Any:
    return {name: {} for name in capabilities}


def forbidding(tool: str, condition: str = "") -> str:
    return (
        f'@id("no-{tool}") @reason("not {tool}") forbid (principal, action == Action::"{tool}", resource) {condition};'
    )


def test_a_client_without_a_capability_keeps_every_tool_that_it_is_listed(tmp_path: Path) -> None:
    policies = ALLOW_ALL + forbidding("up__ask-for-sampling", 'when { context.input has s && context.input.s == "x" }')
    config = write_config(tmp_path, tolerant(tmp_path, [ECHO, NEEDS]), policies)
    with Client(config) as client:
        client.start()
        assert client.tools().keys() == {"up__echo"}
        assert text(client.call("up__echo")) == "done"
    assert "policies waiting for tools that are not listed yet: no-up__ask-for-sampling" in client.stderr
    with Client(config) as client:
        client.start(sampling={})
        assert client.tools().keys() == {"up__echo", "up__ask-for-sampling"}
        assert "denied" in text(client.call("up__ask-for-sampling", {"s": "x"}))
        assert text(client.call("up__ask-for-sampling", {"s": "y"})) == "done"


def test_validate_says_which_policies_wait_and_exits_with_success(tmp_path: Path) -> None:
    policies = ALLOW_ALL + forbidding("up__dropped") + forbidding("elsewhere__tool")
    policies += '@id("reads") permit (principal, action in Action::"read", resource);'
    policies += '@id("some") permit (principal, action in [Action::"up__echo", Action::"up__dropped"], resource);'
    short = short_form("up__echo", 20)
    policies += '@id("late") permit (principal, action, resource) when { context.time.local.hour < 1800 };'
    sections = "".join(f'[tools."{name}"]\nredact = ["/s"]\n' for name in ("up__echo", "up__dropped", short))
    config = write_config(tmp_path, tolerant(tmp_path, [ECHO]), policies, sections)
    printed = cli("policy", "validate", "--config", str(config)).stdout
    assert '[tools."up__echo"]' not in printed
    assert '[tools."up__dropped"]: not listed at present\n' in printed
    assert f'[tools."{short}"]: not listed at present; did you mean `up__echo`?' in printed
    assert "no-up__dropped: inactive until `up__dropped` is listed" in printed
    assert "no-elsewhere__tool: inactive until `elsewhere__tool` is listed" in printed
    assert "reads: inactive: no listed tool has the effect `read`" in printed
    assert "some: `up__dropped` not listed at present" in printed
    assert (
        "late: `context.time.local.hour < 1800` always holds\n    hint: compare it with a number from 0 to 23"
        in printed
    )
    told = json.loads(cli("policy", "validate", "--json", "--config", str(config)).stdout)
    assert [(found["policy"], found["at"] != "") for found in told["findings"]] == [("", False), ("late", True)]
    assert told["dormant"] == ["no-elsewhere__tool", "no-up__dropped", "reads"]


def test_validate_warns_of_a_tool_that_no_listing_had(tmp_path: Path) -> None:
    """Neither now nor before, and the configuration has none either; of an unknown server, once."""
    names = ("up__echo", "up__delete_echo", "up__relist", "up__configured", "elsewhere__b")
    named = f"[{', '.join(f'Action::{json.dumps(name)}' for name in names)}]"
    condition = 'when { action == Action::"elsewhere__a" || action == Action::"up__ask-for-samples" }'
    policies = ALLOW_ALL + f'@id("f") @reason("r") forbid (principal, action in {named}, resource) {condition};'
    tools = tolerant(tmp_path, [ECHO, RELIST, ASK])
    config = write_config(tmp_path, tools, policies, '[tools."up__configured"]\n')
    cli("tools", "list", "--now", "--config", str(config))
    (tmp_path / "up.json").write_text(json.dumps([ECHO]))
    done = cli("policy", "validate", "--config", str(config))
    told = json.loads(cli("policy", "validate", "--json", "--config", str(config)).stdout)["findings"]
    assert [(found["level"], found["policy"], found["what"], found["fix"]) for found in told] == [
        ("warning", "f", "no tool `up__ask-for-samples` is listed or was before, and [tools] has none",
         "did you mean `up__ask-for-sampling`?"),
        ("warning", "f", "no tool `up__delete_echo` is listed or was before, and [tools] has none",
         "the tools of `up` are `up__ask-for-sampling`, `up__configured`, `up__echo`, `up__relist`"),
        ("note", "", "no upstream `elsewhere` is configured, so the names of its tools are not checked",
         "correct the name in the policies, or add [upstreams.elsewhere]"),
    ]  # fmt: skip
    assert "f: no tool `up__delete_echo` is listed or was before" in done.stdout
    assert "f: `up__configured`, `up__relist` not listed at present" in done.stdout


def test_validate_checks_the_other_servers_while_one_is_down(tmp_path: Path) -> None:
    both = tolerant(tmp_path, [ECHO]) + upstream("dead", "/nonexistent/server")
    config = write_config(tmp_path, both, ALLOW_ALL + forbidding("dead__tool"))
    printed = cli("policy", "validate", "--config", str(config)).stdout
    assert "no tools from `dead`" in printed
    assert "no-dead__tool: inactive" in printed
    (tmp_path / "policies" / "wrong.cedar").write_text(forbidding("up__echo", "when { context.input has t }"))
    assert cli("policy", "validate", "--config", str(config), check=False).returncode != 0


@pytest.mark.parametrize(("named", "near"), [("up__ehco", "up__echo"), ("upp__echo", "up__echo")])
def test_a_misspelt_name_is_an_error_and_keeps_the_tool_that_it_means_denied(
    tmp_path: Path, named: str, near: str
) -> None:
    config = write_config(tmp_path, tolerant(tmp_path, [ECHO, RELIST]), ALLOW_ALL + forbidding(named))
    checked = cli("policy", "validate", "--config", str(config), check=False)
    assert checked.returncode == 4
    assert f"no tool or group of tools is named `{named}`; did you mean `{near}`?" in checked.stderr
    with Client(config) as client:
        client.start()
        assert client.tools().keys() == {"up__relist"}, "what the policy forbids is not allowed by its mistake"
        assert text(client.call("up__echo")).startswith(
            f"not available: `no-{named}` may forbid it, and is not valid; "
        )
        assert text(client.call("up__relist")) == "done"
    assert f"did you mean `{near}`?" in client.stderr
    [rejected] = log(config, "--kind", "policy.rejected")
    assert f"did you mean `{near}`?" in rejected["reasons"][0]


def test_a_name_that_was_seen_or_is_configured_is_no_misspelling(tmp_path: Path) -> None:
    policies = ALLOW_ALL + forbidding("up__echos") + forbidding("up__relists")
    config = write_config(
        tmp_path,
        tolerant(tmp_path, [ECHO, RELIST, {**ECHO, "name": "echos"}]),
        policies,
        '[tools."up__relists"]\n[tools."up__relist"]\n',
    )
    with Client(config) as client:
        client.start()
        assert client.tools().keys() == {"up__echo", "up__relist"}
        relist(tmp_path, client, ECHO, RELIST)
        assert text(client.call("up__echo")) == "done"
    assert "did you mean" not in client.stderr
    assert "did you mean" not in cli("policy", "validate", "--config", str(config)).stdout


def test_a_forbid_is_in_force_from_the_moment_its_tool_is_listed(tmp_path: Path) -> None:
    later = {"name": "later", "inputSchema": PLAIN}
    config = write_config(
        tmp_path, tolerant(tmp_path, [ECHO, RELIST]), ALLOW_ALL + forbidding("up__later"), guard='first_use = "pin"'
    )
    with Client(config) as client:
        client.start()
        assert "up__later" not in client.tools()
        relist(tmp_path, client, ECHO, RELIST, later, {**ECHO, "name": "free"})
        assert client.tools().keys() == {"up__echo", "up__relist", "up__free"}
        assert "error" in client.call("up__later")
    assert "later" not in (tmp_path / "up.log").read_text()


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_new_tool_that_a_waiting_policy_does_not_fit_is_withheld_and_no_other(tmp_path: Path, mode: str) -> None:
    """The policy compares a text; the tool that comes has a number there."""
    later = {"name": "later", "inputSchema": object_of(s={"type": "integer"})}
    forbid = '@enforce("always")' + forbidding("up__later", 'when { context.input has s && context.input.s == "x" }')
    config = write_config(
        tmp_path, tolerant(tmp_path, [ECHO, RELIST]) + tolerant(tmp_path, [ECHO], "two"), ALLOW_ALL + forbid,
        guard=f'first_use = "pin"\nmode = "{mode}"',
    )  # fmt: skip
    for running in range(2 if mode == "enforce" else 1):  # changed while the guard runs, and found so by the next
        with Client(config) as client:
            client.start()
            if not running:
                assert "up__later" not in client.tools()
                relist(tmp_path, client, ECHO, RELIST, later)
            assert client.tools().keys() == {"up__echo", "up__relist", "two__echo"}
            assert text(client.call("up__later", {"s": 1})).startswith("not available: `no-up__later` may forbid it")
            assert text(client.call("two__echo")) == "done"
        assert "denied in enforce mode until they are fixed: up__later" in client.stderr
    assert "later" not in (tmp_path / "up.log").read_text()


def test_a_dropped_tool_keeps_the_meaning_of_a_policy_on_all_writes(tmp_path: Path) -> None:
    """Its argument is still known by the definition that was accepted, so the policy is not taken for misspelt."""
    staged = {"name": "staged", "inputSchema": object_of(stage={"type": "string"})}
    gate = (
        '@id("g") forbid (principal, action, resource) when { context.input has stage && context.input.stage == "x" };'
    )
    config = write_config(tmp_path, tolerant(tmp_path, [ECHO, RELIST, staged]), ALLOW_ALL + gate)
    with Client(config) as client:
        client.start()
        assert "up__staged" in client.tools()
        relist(tmp_path, client, ECHO, RELIST)
        assert client.tools().keys() == {"up__echo", "up__relist"}
        assert text(client.call("up__echo", {"s": "a"})) == "done"
        assert "`g` depends on `context.input.stage`" in text(client.call("up__echo", {"stage": "x"}))
    with Client(config) as client:
        client.start()
        assert client.tools().keys() == {"up__echo", "up__relist"}
    assert cli("policy", "validate", "--config", str(config)).returncode == 0


# Partial listings


def test_tools_that_only_a_richer_client_is_listed_are_pinned_when_it_comes(tmp_path: Path) -> None:
    config = write_config(tmp_path, tolerant(tmp_path, [ECHO, RELIST, NEEDS]))
    with Client(config) as client:
        client.start()
        assert client.tools().keys() == {"up__echo", "up__relist"}
    with Client(config) as client:
        client.start(sampling={})
        assert client.tools().keys() == {"up__echo", "up__relist", "up__ask-for-sampling"}
    pinned = [
        (sorted(item["definitions"]), item.get("capabilities")) for item in log(config, "--kind", "catalog.pinned")
    ]
    assert pinned == [(["up__echo", "up__relist"], None), (["up__ask-for-sampling"], ["sampling"])]


def test_a_tool_that_comes_later_waits_whatever_the_client_announces(tmp_path: Path) -> None:
    """Each capability is trusted once, if nothing new was listed then either; a made-up one never."""
    config = write_config(tmp_path, tolerant(tmp_path, [ECHO, RELIST]))
    for capabilities in ([], ["sampling"]):
        with Client(config) as client:
            client.start(**announcing(capabilities))
            assert client.tools().keys() == {"up__echo", "up__relist"}
    (tmp_path / "up.json").write_text(json.dumps([ECHO, RELIST, {**ECHO, "name": "late"}]))
    for announced in (["sampling", "made-up"], ["elicitation"]):  # once quarantined, it is never new again
        with Client(config) as client:
            client.start(**announcing(announced))
            assert "up__late" not in client.tools()


# What a server refuses


def test_the_refusal_of_the_only_server_is_passed_on_as_it_is(tmp_path: Path) -> None:
    config = write_config(tmp_path, tolerant(tmp_path, [ECHO]))
    with Client(config) as client:
        client.start()
        refused = {"code": -32601, "message": "Method not found", "data": {"kept": True}}
        for method in ("prompts/list", "resources/list", "resources/templates/list"):
            assert client.request(method)["error"] == refused
        assert client.call("up__unknown")["error"] == {"code": -32602, "message": "unknown tool: up__unknown"}


def test_a_tool_without_a_schema_costs_no_other_tool(tmp_path: Path) -> None:
    """Clients refuse a whole listing for it."""
    text_schema: Json = {"name": "text", "inputSchema": {"type": "string"}}
    config = write_config(
        tmp_path, tolerant(tmp_path, [ECHO, {"name": "bare"}, {**ECHO, "name": "t", "inputSchema": None}, text_schema])
    )
    with Client(config) as client:
        client.start()
        assert client.tools().keys() == {"up__echo"}


def test_observe_mode_of_a_new_guard_hides_no_tool(tmp_path: Path) -> None:
    cli("init", str(tmp_path / "guard"), "--yes", "--owner", "bob", "--approver", "alice")
    config = tmp_path / "guard" / "mcp-guard.toml"
    purge = {**ECHO, "name": "purge", "annotations": {"destructiveHint": True}}
    written = config.read_text().replace("[guard]", "[guard]\nhold_seconds = 0", 1)
    config.write_text(written + tolerant(tmp_path, [ECHO, purge]))
    with Client(config) as client:
        client.start()
        assert client.tools().keys() >= {"up__echo", "up__purge"}
        assert text(client.call("up__purge")) == "done"
    config.write_text(config.read_text().replace('mode = "observe"', 'mode = "enforce"'))
    with Client(config) as client:
        client.start()
        assert client.tools().keys() >= {"up__echo", "up__purge"}
        assert "is pending" in text(client.call("up__purge"))
    assert (tmp_path / "up.log").read_text().count("purge") == 1
