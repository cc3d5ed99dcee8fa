"""Policies that people approve from a terminal, with a real guard."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Approvers:
    """The two approvers of a configuration, at their terminals."""

    config: Path

    def run(self, *words: str, check: bool = True) -> str:
        return cli(*words, "--config", str(self.config), check=check).stdout

    def waiting(self) -> str:
        """The proposal that waits; empty if none does."""
        proposal = json.loads(self.run("policy", "pending", "--json"))["open"]
        return str(proposal["proposal"]) if proposal else ""

    def vote(self, name: str, verdict: str) -> str:
        words = ("policy", verdict, self.waiting(), "--rationale", "as agreed")
        return cli(*words, *enrol(self.config, name)).stdout

    def approve(self) -> str:
        self.vote("alice", "approve")
        return self.vote("bob", "approve")


def test_policies_are_proposed_approved_and_loaded(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    notifier = f'[notifiers.file]\nkind = "command"\ncommand = ["tee", "{told}"]\n'
    config = write_config(
        tmp_path, scripted("up", tmp_path), guard='policy_approval = "policy"', more=QUORUM + notifier
    )
    people = Approvers(config)
    assert "in force: nothing, so every call is denied" in people.run("policy", "pending")
    with Client(config) as client:
        client.start()
        check_first_set(people, client, told)
        check_changed_set(people, client)
    check_files_that_are_not_in_force(people)
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
    verified = people.run("verify").replace("\n", " ")
    assert "2 sets of policies approved, each with its quorum of signatures" in verified


def check_first_set(people: Approvers, client: Client, told: Path) -> None:
    until(people.waiting)
    denied = text(client.call("up__echo", {"text": "hello"}))
    assert "no policies have been approved yet" in denied, denied
    until(lambda: told.exists() and told.read_text())
    message = json.loads(told.read_text())
    assert message["title"] == "Changed policies need approval by route policy"
    assert "mcp-guard policy pending" in json.dumps(message)
    assert f"proposal {people.waiting()} waits for approval by alice and bob" in people.run("doctor", check=False)
    assert "waits for approval by alice and bob" in people.run("status")
    assert "every guard loads policy set" in people.approve()
    until(lambda: "hello" in text(client.call("up__echo", {"text": "hello"})))


def check_changed_set(people: Approvers, client: Client) -> None:
    (people.config.parent / "policies/test.cedar").write_text(NO_NO)
    until(people.waiting)
    shown = people.run("policy", "pending")
    assert '+ @id("no") @reason("closed today")' in shown
    assert '- @id("allow-all")' in shown
    assert "hello" in text(client.call("up__echo", {"text": "hello"}))
    assert people.vote("alice", "deny").endswith("denied; the policies in force stay\n")
    assert "the files were denied" in people.run("policy", "pending")
    assert "waits for approval by alice and bob" in people.run("policy", "propose")
    people.approve()
    until(lambda: "closed today" in json.dumps(client.call("up__echo", {"text": "no"})))


def check_files_that_are_not_in_force(people: Approvers) -> None:
    """Mistakes in them change nothing, so what is judged is the approved set."""
    file = people.config.parent / "policies/test.cedar"
    file.write_text(NO_NO.replace('== Action::"up__echo"', 'in Action::"writ"'))
    refused = cli("policy", "propose", "--config", str(people.config), check=False)
    assert 'unrecognized action `Action::"writ"`; did you mean `write`?' in refused.stderr
    assert not people.waiting()
    file.write_text("permit (")
    findings = json.loads(people.run("doctor", "--json", check=False))
    assert [row["level"] for row in findings if row["check"] == "policies"] == ["ok"]
    assert "the policy files are not those in force, and are not proposed yet" in people.run("status")
    file.write_text(NO_NO)


def test_commands_say_that_the_rule_is_off(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    refused = cli("policy", "pending", "--config", str(config), check=False)
    assert "`guard.policy_approval` is not set" in refused.stderr


def test_route_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), guard='policy_approval = "peple"')
    refused = cli("status", "--config", str(config), check=False)
    assert "guard.policy_approval: route `peple` is not configured; did you mean `people`?" in refused.stderr


def test_route_that_demands_a_sign_in_takes_no_vote_on_the_command_line(tmp_path: Path) -> None:
    demanding = '[routes.strict]\napprovers = ["alice"]\nmfa = true\n[web]\nurl = "https://guard.example"\n'
    demanding += '[web.oidc]\nissuer = "https://login.example"\nclient_id = "guard"\n'
    config = write_config(tmp_path, scripted("up", tmp_path), guard='policy_approval = "strict"', more=demanding)
    people = Approvers(config)
    assert "waits for approval by alice" in people.run("policy", "propose")
    words = ("policy", "approve", people.waiting(), "--rationale", "as agreed")
    refused = cli(*words, *enrol(config), check=False)
    assert "route `strict` does not take this vote: it requires a sign-in with the identity provider" in refused.stderr
    assert people.waiting()
