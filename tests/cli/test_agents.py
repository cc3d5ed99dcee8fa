"""`mcp-guard agents` and `instances issue` with names that nothing knows: a note says so, and how to correct it."""

import json
from pathlib import Path

import pytest

from mcp_guard.cli import main
from tests.live.running_guard import ALLOW_ALL, Client, cli, scripted, without_config, write_config

POLICIES = '@id("crm") permit (principal in Group::"crm-agents", action, resource);'


def run(capsys: pytest.CaptureFixture[str], config: Path, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in this process."""
    code = main([*words, "--config", str(config)])
    printed = capsys.readouterr()
    return code, printed.out, without_config(printed.err)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = write_config(tmp_path, scripted("up", tmp_path), POLICIES)
    path.write_text(path.read_text().replace('groups = ["testers"]', 'groups = ["crm-agents"]'))
    return path


def test_a_group_that_no_policy_names_is_noted_and_corrected(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unnamed = "no policy names group `crm-agent` of agent `mailer`; did you mean `crm-agents`?"
    code, out, error = run(capsys, config, "agents", "add", "mailer", "--owner", "carol", "--group", "crm-agent")
    assert (code, out, error) == (0, "enrolled `mailer`, owned by carol\n", f"note: {unnamed}\n")
    assert run(capsys, config, "agents", "list")[2] == f"note: {unnamed}\n"
    agents = json.loads(run(capsys, config, "agents", "list", "--json")[1])
    assert {agent["agent"]: agent["unnamed_groups"] for agent in agents} == {"mailer": ["crm-agent"], "tester": []}
    findings = json.loads(run(capsys, config, "doctor", "--json")[1])
    assert [(row["level"], row["what"]) for row in findings if row["check"] == "groups"] == [("warning", unnamed)]

    again = ("agents", "add", "mailer", "--owner", "carol", "--group", "crm-agents")
    code, _, error = run(capsys, config, *again)
    assert code != 0
    assert "repeat the command with all of them and --replace" in error
    assert run(capsys, config, "instances", "issue", "--agent", "mailer", "--on-behalf-of", "dana")[0] == 0
    code, out, error = run(capsys, config, *again, "--replace")
    assert (code, out) == (0, "replaced `mailer`, owned by carol\n")
    assert error == (
        "note: its live instances, and their tokens, stay as they were issued; what changed is in new ones: "
        "mcp-guard instances issue --agent mailer; "
        "to end the old ones: mcp-guard instances revoke --agent mailer --allow-new --why TEXT\n"
    )
    receipts = json.loads(run(capsys, config, "log", "--kind", "agent.enrolled", "--json")[1])
    assert [receipt["groups"] for receipt in receipts] == [["crm-agent"], ["crm-agents"]]
    assert run(capsys, config, "agents", "list")[2] == ""
    findings = json.loads(run(capsys, config, "doctor", "--json")[1])
    assert [row["level"] for row in findings if row["check"] == "groups"] == ["ok"]
    assert run(capsys, config, "verify")[0] == 0


def test_only_an_agent_that_was_enrolled_by_command_is_replaced(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = run(capsys, config, "agents", "add", "tester", "--owner", "carol", "--replace")
    assert code != 0
    assert f"edit [agents.tester] in {config}" in error
    code, _, error = run(capsys, config, "agents", "add", "nobody", "--owner", "carol", "--replace")
    assert code != 0
    assert "agent `nobody` is not enrolled" in error


@pytest.mark.parametrize(
    ("user", "advice"),
    [
        ("ALICE", "did you mean alice?"),
        ("dona", "did you mean dana?"),
        ("zoe-x", "name the user under [people]"),
        ("dana", ""),
        ("alice", ""),
        ("bob", ""),
    ],
)
def test_a_user_whom_nothing_names_is_noted_when_the_credential_is_issued(
    config: Path, capsys: pytest.CaptureFixture[str], user: str, advice: str
) -> None:
    code, token, error = run(capsys, config, "instances", "issue", "--on-behalf-of", user)
    assert code == 0
    assert token
    what = f"note: the configuration names no user {user}, so two people must approve a call that is held"
    assert error.startswith(f"{what}; {advice}") if advice else error == ""


def test_log_and_show_say_who_was_revoked(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    issued = run(capsys, config, "instances", "issue", "--agent", "tester", "--on-behalf-of", "dana", "--json")[1]
    instance = json.loads(issued)["instance"]
    run(capsys, config, "instances", "revoke", "--instance", instance, "--why", "stuck")
    run(capsys, config, "instances", "revoke", "--user", "dana", "--why", "left")
    run(capsys, config, "agents", "disable", "tester", "--why", "drifts")
    listed = run(capsys, config, "log", "--kind", "credential.revoked")[1]
    for said in (f"instance {instance}: stuck", "user dana: left", "agent tester: drifts"):
        assert said in listed
    seqs: dict[str, int] = {}
    for scope, name in (("instance", instance), ("user", "dana"), ("agent", "tester")):
        rows = json.loads(run(capsys, config, "log", f"--{scope}", name, "--kind", "credential.revoked", "--json")[1])
        [seqs[scope]] = [row["seq"] for row in rows if row["scope"] == scope]
        shown = run(capsys, config, "show", str(seqs[scope]))[1]
        assert f"revoked {scope} {name}." in shown.splitlines()[0]
    assert len(set(seqs.values())) == 3


def test_a_disabled_agent_leads_to_the_command_that_enables_it(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, config, "agents", "disable", "tester", "--why", "drifts")
    code, _, error = run(capsys, config, "instances", "issue", "--agent", "tester")
    assert code != 0
    assert "agent `tester` is disabled" in error
    assert "mcp-guard agents enable tester --why TEXT" in error


@pytest.mark.parametrize(
    ("name", "hint"), [("testr", "did you mean `tester`?"), ("elsewhere", "mcp-guard agents list")]
)
def test_an_unknown_agent_to_disable_leads_to_the_agents_there_are(
    config: Path, capsys: pytest.CaptureFixture[str], name: str, hint: str
) -> None:
    code, _, error = run(capsys, config, "agents", "disable", name, "--why", "drifts")
    assert code != 0
    assert error.endswith(f"hint: {hint}\n")


def test_a_configuration_without_secrets_has_no_table_of_them(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, config, "secrets", "list") == (0, "", "the configuration refers to no secret\n")


@pytest.mark.parametrize("command", ["instances issue", "run"])
def test_a_ticket_of_another_form_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), guard='ticket_pattern = "INC-[0-9]+"')
    code, out, error = run(capsys, config, *command.split(), "--ticket", "INC-1x")
    assert (code, out) == (8, "")
    assert "`INC-1x` does not match guard.ticket_pattern, `INC-[0-9]+`" in error


def test_a_credential_that_outlives_the_default_is_noted_and_none_outlives_ten_years(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    issue = ("instances", "issue", "--on-behalf-of", "dana", "--ttl")
    assert run(capsys, config, *issue, "8h")[2] == ""
    noted = "note: the credential is valid until 20"
    assert run(capsys, config, *issue, "1000d")[2].startswith(noted)
    assert "longer than the 8h of `credential_seconds`" in run(capsys, config, *issue, "1000d")[2]
    with pytest.raises(SystemExit):
        main([*issue, "9999999d", "--config", str(config)])
    assert "`9999999d` is too long; write at most 3650d" in capsys.readouterr().err
    config.write_text(config.read_text().replace("[agents.tester]", "[agents.tester]\ncredential_seconds = 400000000"))
    assert "credential_seconds" in run(capsys, config, *issue, "8h")[2]


def test_an_agent_that_was_disabled_already_is_reported_as_such(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, config, "instances", "issue", "--on-behalf-of", "dana")[0] == 0
    disable = ("agents", "disable", "tester", "--why", "drifts")
    assert run(capsys, config, *disable)[1].startswith("disabled `tester`; revoked instances: run_")
    assert run(capsys, config, *disable)[1] == "`tester` was disabled already; revoked instances: none\n"
    assert run(capsys, config, "instances", "revoke", "--agent", "tester", "--why", "again")[1].endswith(": none\n")


@pytest.mark.parametrize("command", [("agents", "disable", "tester"), ("instances", "revoke", "--agent", "tester")])
def test_requests_that_end_with_their_agent_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """Approvers were asked about them."""
    gated = ALLOW_ALL + '@id("gated") @require_approval("people") forbid (principal, action, resource);'
    config = write_config(tmp_path, scripted("up", tmp_path), gated, guard="hold_seconds = 0")
    with Client(config) as client:
        client.start()
        client.call("up__echo", {"text": "x"})
        [pending] = json.loads(run(capsys, config, "approvals", "list", "--json")[1])
        code, out, _ = run(capsys, config, *command, "--why", "drifts")
        assert (code, out.partition("; revoked instances: run_")[2].partition("; ")[2]) == (
            0,
            f"withdrawn requests: {pending['id']}\n",
        )


@pytest.mark.parametrize(
    "command", [("agents", "disable", "tester", "--why", "it drifts"), ("instances", "list"), ("agents", "list")]
)
def test_a_command_that_begins_a_ledger_says_so(
    config: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """In the folder that a guard was moved from, disabling an agent succeeded, and the agent went on."""
    code, _, first = run(capsys, config, *command)
    assert code == 0
    assert f"started a new ledger: `{config.parent / 'state' / 'ledger.sqlite'}`" in first
    run(capsys, config, "agents", "add", "mailer", "--owner", "carol")
    assert "started a new ledger" not in run(capsys, config, *command)[2]


@pytest.mark.parametrize(
    ("command", "code", "why"),
    [
        ("instances revoke --instance run_x --why y", 5, "no ledger at"),
        ("instances delegate run_x", 5, "no ledger at"),
        ("run --agent testr", 8, "agent `testr` is not enrolled; enrolled: `tester`"),
    ],
)
def test_a_command_on_what_cannot_be_there_begins_no_ledger(config: Path, command: str, code: int, why: str) -> None:
    done = cli(*command.split(), "--config", str(config), check=False)
    assert (done.returncode, why in done.stderr) == (code, True), done.stderr
    assert not (config.parent / "state" / "ledger.sqlite").exists()


def test_a_file_in_place_of_the_state_folder_is_named_as_such(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "state").write_text("")
    code, _, error = run(capsys, config, "agents", "list")
    assert code == 5
    assert "the folder of the ledger, or one above it, is a file" in error
