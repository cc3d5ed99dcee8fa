"""`mcp-guard init`: the files it writes load, its messages are true, and it overwrites nothing."""

import json
import os
import pty
from pathlib import Path

import pytest

from mcp_guard.cli import main
from mcp_guard.config import load
from mcp_guard.core.model import Mode
from tests.live.preloaded_cli import run_warm
from tests.live.running_guard import Client as Raw
from tests.live.running_guard import log, scripted, text


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOGNAME", "dana")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_written_configuration_loads(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "team", "--owner", "Bob", "--approver", "Alice Smith", "--agent", "bot"]) == 0
    settings = load(here / "team" / "mcp-guard.toml")
    assert settings.mode is Mode.OBSERVE
    assert settings.agents["bot"].agent.owner == "bob"
    assert settings.approvers == {"alice-smith": "Alice Smith"}
    assert settings.routes["reviewers"].approvers == ("alice-smith",)
    output = capsys.readouterr().out
    at = f"--config {here}/team/mcp-guard.toml"
    assert f"mcp-guard wrap {at} " in output
    assert f"mcp-guard approvers add alice-smith {at} " in output
    assert "nobody approves" not in output
    for words in (["policy", "validate"], ["policy", "lint"], ["policy", "fmt", "--check"]):
        assert main([*words, "--config", "team/mcp-guard.toml"]) == 0


def test_printed_commands_work_without_options_in_the_same_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--yes"]) == 0
    assert "\n  mcp-guard doctor   " in capsys.readouterr().out


def test_sole_approver_is_warned_on_screen_and_in_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--yes"]) == 0
    output = capsys.readouterr().out
    assert "note: dana owns the agent and is its only approver, and nobody can approve calls of their" in output
    written = Path("mcp-guard.toml").read_text()
    assert "# The agent's owner is the only approver" in written
    assert not load(Path("mcp-guard.toml")).routes["reviewers"].unsafe_self_approval
    Path("mcp-guard.toml").write_text(written.replace("# unsafe_self_approval", "unsafe_self_approval"))
    assert load(Path("mcp-guard.toml")).routes["reviewers"].unsafe_self_approval


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "dana owns the agent and is its only approver"),
        ([], "then create their key: mcp-guard approvers add NAME"),
        (["--approver", "Alice"], "Alice has no key; next: mcp-guard approvers add alice"),
    ],
)
def test_enforcing_without_an_approver_says_that_nobody_can_approve_yet(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--yes", "--enforce", *words]) == 0
    output = capsys.readouterr().out
    assert "note: nobody can approve yet: " in output
    assert said in output
    assert "switch to enforce mode" not in output + Path("mcp-guard.toml").read_text()


def test_sole_approver_is_recognised_in_other_spellings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--owner", "dana", "--approver", " Dana "]) == 0
    assert "its only approver" in capsys.readouterr().out


def test_self_approval_is_enabled_only_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--yes", "--enforce", "--unsafe-self-approval"]) == 0
    settings = load(Path("mcp-guard.toml"))
    assert settings.routes["reviewers"].unsafe_self_approval
    assert settings.mode is Mode.ENFORCE
    assert "nobody else reviews them" in capsys.readouterr().out


@pytest.mark.parametrize("there", ["mcp-guard.toml", "policies/start.cedar"])
def test_init_overwrites_no_file(here: Path, there: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(there).parent.mkdir(exist_ok=True)
    Path(there).write_text("mine")
    assert main(["init", "--yes"]) == 3
    assert f"`{here / there}` already exists" in capsys.readouterr().err
    assert [path.read_text() for path in here.rglob("*") if path.is_file()] == ["mine"]


@pytest.mark.parametrize(
    ("zone", "written"), [("Europe/Berlin", "Europe/Berlin"), (":America/New_York", "America/New_York")]
)
def test_the_machines_time_zone_is_written_where_it_can_be_seen(
    zone: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    assert main(["init", "--yes"]) == 0
    assert load(Path("mcp-guard.toml")).time_zone == written


def test_init_refuses_a_file_as_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert main(["init", "file", "--yes"]) == 3
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--owner", "  "], ["--agent", ""], ["--observe", "--enforce"]])
def test_invalid_names_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["init", *words])


def test_init_asks_on_a_terminal(here: Path) -> None:
    terminal, end = pty.openpty()
    os.write(terminal, b"Bob\nAlice\nBob\n\ny\n")
    done, solo = run_warm(("init",), end), run_warm(("init", "solo"), end)
    os.close(end)
    os.close(terminal)
    assert "nobody else? let bob approve calls of their own agent" not in done.stdout
    assert "nobody else? let bob approve calls of their own agent (as --solo does" in solo.stdout
    assert "mcp-guard verify say self-approved" in solo.stdout
    assert load(here / "solo" / "mcp-guard.toml").routes["reviewers"].unsafe_self_approval
    assert "who owns the agent and is responsible for it? [dana]" in done.stdout
    assert "agent `my-agent`, owned by bob; approver Alice; mode observe" in done.stdout


def test_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [Path(path).name for path in document["written"]] == ["mcp-guard.toml", "start.cedar"]


def test_first_policies_observe_and_then_enforce(here: Path) -> None:
    """Reads are allowed and writes are held: in the receipts while observing, then for real."""
    assert main(["init", "--yes", "--approver", "alice"]) == 0
    config = here / "mcp-guard.toml"
    tools = '[tools."up__get_deal"]\neffect = "read"\n[tools."up__never"]\neffect = "destructive"\n'
    config.write_text(config.read_text() + scripted("up", here) + tools)
    with Raw(config) as client:
        client.start()
        client.call("up__get_deal", {"id": "7"})
        client.call("up__echo", {"text": "x"})
        assert "up__never" in client.tools(), "observing hides no tool"
    would = [receipt["would"]["outcome"] for receipt in log(config, "--kind", "intent")]
    assert would == ["allow", "require_approval"]
    config.write_text(
        config.read_text()
        .replace('mode = "observe"', 'mode = "enforce"')
        .replace("[guard]", "[guard]\nhold_seconds = 0")
    )
    with Raw(config) as client:
        client.start()
        assert "approval" in text(client.call("up__echo", {"text": "x"}))
        assert "approval" in text(client.call("up__never"))
        client.call("up__get_deal", {"id": "7"})
    assert [receipt["outcome"] for receipt in log(config, "--kind", "intent")][-1] == "allow"
