"""`mcp-guard init --solo`: one person, one agent, an approved call, and a record that nobody else has reviewed it."""

import json
from pathlib import Path

import pytest

from mcp_guard.cli import main
from mcp_guard.config import load
from tests.live.http_guard import free_port
from tests.live.preloaded_cli import PIPE, Forked
from tests.live.running_guard import Client as Raw
from tests.live.running_guard import cli, scripted, text, write_private
from tests.web.inbox_client import InboxClient


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOGNAME", "dana")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inbox_page(config: Path, request: str) -> str:
    """The request's page as its owner sees it in the inbox."""
    process = Forked(["inbox", "--config", str(config), "--json"], stdout=PIPE, text=True)
    assert process.stdout is not None
    try:
        url = json.loads(process.stdout.readline())["url"]
        code = json.loads(cli("approvers", "code", "dana", "--json").stdout)["code"]
        return str(InboxClient(url).sign_in(code).get(f"/requests/{request}")[1])
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def test_somebody_who_works_alone_approves_a_call_and_the_record_says_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--solo", "--enforce", "--yes"]) == 0
    printed = capsys.readouterr().out
    assert "note: dana owns the agent and approves its calls; nobody else reviews them. Receipts and" in printed
    assert "mcp-guard approvers add dana" in printed
    config = here / "mcp-guard.toml"
    assert load(config).routes["reviewers"].unsafe_self_approval
    text_of = config.read_text().replace("[guard]", "[guard]\nhold_seconds = 0")
    config.write_text(f"{text_of}\n[inbox]\nport = {free_port()}\n{scripted('up', here)}")
    write_private(here / "passphrase", "my own words")
    key = ("--key-file", str(here / "dana.key"), "--passphrase-file", str(here / "passphrase"))
    cli("approvers", "add", "dana", *key)
    with Raw(config) as client:
        client.start()
        held = client.call("up__echo", {"text": "x"})
        id = held["result"]["_meta"]["mcp-guard/decision"]["approval"]
        assert not {name for name in client.tools() if "approve" in name}, "the agent itself cannot approve"
        page = inbox_page(config, id)
        assert "This is your own request." in page
        assert "the receipts say <em>self-approved</em>" in page
        assert "approved" in cli("approvals", "approve", id, "--as", "dana", *key, "--rationale", "I want this").stdout
        assert "approval" not in text(client.call("up__echo", {"text": "x"}))
    assert ", approved by dana (self-approved), under" in cli("show").stdout
    assert "self_approved   true" in cli("show").stdout
    assert "dana (self-approved)" in cli("approvals", "show", id).stdout
    verified = cli("verify").stdout
    assert (
        "that a second person approved: 1 of 1 approval is self-approved, by the agent's owner or its user alone"
        in verified
    )
    doctor = cli("doctor")
    assert "receipts say self-approved" in doctor.stdout
    assert doctor.stdout.endswith("\n0 problems, 1 warning (1 by choice)\n")


@pytest.mark.parametrize("words", [["--approver", "alice"], ["--approver", "dana"]])
def test_solo_with_an_approver_says_what_to_leave_out(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["init", "--solo", *words])
    assert "--solo means that the owner is the approver" in capsys.readouterr().err


def test_solo_keeps_the_owners_name_as_written() -> None:
    assert main(["init", "--solo", "--yes", "--owner", "Dana Scully"]) == 0
    settings = load(Path("mcp-guard.toml"))
    assert settings.approvers == {"dana-scully": "Dana Scully"}
    assert settings.agents["my-agent"].agent.owner == "dana-scully"
