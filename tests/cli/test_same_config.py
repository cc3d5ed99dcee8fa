"""A command that was given `--config` names it in every command that it tells a person to type."""

import re
from pathlib import Path

import pytest

from mcp_guard.cli.same_config import add_config
from tests.live.running_guard import cli, scripted, write_config

OTHER = Path("restored.toml")


@pytest.mark.parametrize(
    ("text", "completed"),
    [
        ("mcp-guard agents list", "mcp-guard agents list --config restored.toml"),
        ("find it with: mcp-guard verify", "find it with: mcp-guard verify --config restored.toml"),
        (
            "run `mcp-guard verify`, then `mcp-guard ledger restore DIR`",
            "run `mcp-guard verify --config restored.toml`, then `mcp-guard ledger restore --config restored.toml DIR`",
        ),
        (
            "run mcp-guard show 7 and check; the next mcp-guard run records them",
            "run mcp-guard show --config restored.toml 7 and check; "
            "the next mcp-guard run --config restored.toml records them",
        ),
        (
            "mcp-guard unwrap x; mcp-guard wrap x",
            "mcp-guard unwrap --config restored.toml x; mcp-guard wrap --config restored.toml x",
        ),
    ],
)
def test_each_command_gets_the_configuration(text: str, completed: str) -> None:
    assert add_config(text, OTHER) == completed


@pytest.mark.parametrize(
    "text",
    [
        "mcp-guard doctor --config other.toml; or wrap with this one",
        "mcp-guard agents --help",
        "mcp-guard demo --keep crm",
        "mcp-guard init --solo",
        "mcp-guard secrets set mcp-guard/token",
        "mcp-guard verify --ledger copy.sqlite",
        "upgrade mcp-guard",
        "see mcp-guard policies",
    ],
)
def test_a_command_that_takes_none_or_names_another_stays_as_it_is(text: str) -> None:
    assert add_config(text, OTHER) == text


def test_a_path_is_quoted_for_the_shell() -> None:
    assert add_config("mcp-guard doctor", Path("my guard.toml")) == "mcp-guard doctor --config 'my guard.toml'"


def test_steps_after_a_restore_into_another_configuration_are_about_the_restored_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pasted in the folder of the old guard, they would examine the old ledger."""
    config = write_config(tmp_path, scripted("up", tmp_path))
    cli("instances", "issue", "--config", str(config))
    cli("ledger", "backup", str(tmp_path / "backup"), "--with-key", "--config", str(config))
    other = tmp_path / "restored.toml"
    other.write_text(config.read_text().replace("[guard]", '[guard]\nstate_dir = "restored"'))
    monkeypatch.chdir(tmp_path)
    done = cli("ledger", "restore", str(tmp_path / "backup"), "--config", "restored.toml")
    steps = re.findall(r"^  (mcp-guard .*?) +#", done.stdout, re.MULTILINE)
    assert len(steps) == 5
    assert all(" --config restored.toml" in step for step in steps), steps
    status = cli("status", "--config", "restored.toml").stdout
    assert re.search(r"^verified: (\d+) of \d+ receipts, less than a day ago", status, re.MULTILINE), status


def test_hints_of_errors_and_fixes_of_doctor_keep_the_configuration(tmp_path: Path) -> None:
    config = str(write_config(tmp_path, scripted("up", tmp_path)))
    refused = cli("agents", "disable", "nobody", "--why", "x", "--config", config, check=False)
    assert f"hint: mcp-guard agents list --config {config}\n" in refused.stderr
    doctor = cli("doctor", "--config", config, check=False)
    alice, bob = (f"mcp-guard approvers add --config {config} {name}" for name in ("alice", "bob"))
    assert f"{alice} or {bob}" in doctor.stdout
    status = cli("status", "--config", config, check=False)
    assert f"never on this machine; run mcp-guard verify --config {config}\n" in status.stdout


def test_without_the_option_nothing_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path, scripted("up", tmp_path))
    monkeypatch.chdir(tmp_path)
    refused = cli("agents", "disable", "nobody", "--why", "x", check=False)
    assert "hint: mcp-guard agents list\n" in refused.stderr
