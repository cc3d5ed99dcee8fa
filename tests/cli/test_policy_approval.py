"""Policies that people approve from a terminal, with a real guard."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from tests.live.running_guard import Client, cli, enrol, log, scripted, text, write_config

QUORUM = """
[routes.policy]
approvers = ["alice", "bob"]
quorum = 2
notify = ["file"]
"""
NO_NO = """@id("all") permit (principal, action, resource);
@id("no") @reason("closed today") forbid (principal, action == Action::"up__echo", resource) when {
  context.input has text && context.input.text == "no"
};
"""


def until(condition: Callable[[], object]) -> None:
    """Wait for what a running guard does within seconds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_policies_are_proposed_approved_and_loaded(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    notifier = f'[notifiers.file]\nkind = "command"\ncommand = ["tee", "{told}"]\n'
    config = write_config(
        tmp_path, scripted("up", tmp_path), guard='policy_approval = "policy"', more=QUORUM + notifier
    )
    at = ("--config", str(config))

    def waiting() -> str:
        proposal = json.loads(cli("policy", "pending", "--json", *at).stdout)["open"]
        return str(proposal["proposal"]) if proposal else ""

    def approve(id: str) -> str:
        for name in ("alice", "bob"):
            done = cli("policy", "approve", id, "--rationale", "as agreed", *enrol(config, name))
        return done.stdout

    assert "in force: nothing, so every call is denied" in cli("policy", "pending", *at).stdout
    with Client(config) as client:
        client.start()
        until(waiting)
        denied = text(client.call("up__echo", {"text": "hello"}))
        assert "no policies have been approved yet" in denied, denied
        until(lambda: told.exists() and told.read_text())
        message = json.loads(told.read_text())
        assert message["title"] == "Changed policies need approval by route policy"
        assert "mcp-guard policy pending" in json.dumps(message)
        assert f"proposal {waiting()} waits for approval by 2 of alice, bob" in cli("doctor", *at, check=False).stdout
        assert "waits for approval by 2 of alice, bob" in cli("status", *at).stdout
        assert "every guard loads policy set" in approve(waiting())
        until(lambda: "hello" in text(client.call("up__echo", {"text": "hello"})))
        (config.parent / "policies/test.cedar").write_text(NO_NO)
        until(waiting)
        shown = cli("policy", "pending", *at).stdout
        assert '+ @id("no") @reason("closed today")' in shown
        assert '- @id("allow-all")' in shown
        assert "hello" in text(client.call("up__echo", {"text": "hello"}))
        denial = cli("policy", "deny", waiting(), "--rationale", "not today", *enrol(config)).stdout
        assert denial.endswith("denied; the policies in force stay\n")
        assert "the files were denied" in cli("policy", "pending", *at).stdout
        assert "waits for approval by 2 of" in cli("policy", "propose", *at).stdout
        approve(waiting())
        until(lambda: "closed today" in json.dumps(client.call("up__echo", {"text": "no"})))
    with Client(config) as client:
        client.start()
        assert "closed today" in json.dumps(client.call("up__echo", {"text": "no"}))
    kinds = [
        receipt["kind"].removeprefix("policy.") for receipt in log(config) if receipt["kind"].startswith("policy.")
    ]
    assert kinds == [
        "proposed", "approved", "approved", "loaded", "proposed", "denied", "proposed", "approved", "approved",
        "loaded", "loaded",
    ]  # fmt: skip
    assert "2 sets of policies approved, each with its quorum of signatures" in cli("verify", *at).stdout.replace(
        "\n", " "
    )


def test_commands_say_that_the_rule_is_off(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    refused = cli("policy", "pending", "--config", str(config), check=False)
    assert "`guard.policy_approval` is not set" in refused.stderr


def test_route_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), guard='policy_approval = "peple"')
    refused = cli("status", "--config", str(config), check=False)
    assert "guard.policy_approval: route `peple` is not configured; did you mean `people`?" in refused.stderr
