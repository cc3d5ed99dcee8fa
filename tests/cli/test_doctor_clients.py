"""`mcp-guard doctor` on a new guard and on MCP clients: each finding and the fix it suggests."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.cli import main

Finding = dict[str, str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "guard").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(tmp_path / "guard")
    assert main(["init", "--yes"]) == 0
    return tmp_path


def cursor(home: Path, *servers: str, guard: dict[str, Any] | None = None) -> Path:
    path = home / ".cursor" / "mcp.json"
    path.parent.mkdir(exist_ok=True)
    entries: dict[str, Any] = {name: {"command": name} for name in servers}
    path.write_text(json.dumps({"mcpServers": entries | ({"guard": guard} if guard else {})}))
    return path


def clients(capsys: pytest.CaptureFixture[str]) -> list[Finding]:
    capsys.readouterr()
    main(["doctor", "--json"])
    return [finding for finding in json.loads(capsys.readouterr().out) if finding["check"] == "clients"]


def fix(finding: Finding) -> None:
    """Run the suggested fix exactly as printed."""
    for line in finding["fix"].split("; "):
        assert main([*shlex.split(line.removeprefix("mcp-guard ")), "--yes"]) == 0


def test_guard_without_servers_is_reported(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    main(["doctor", "--json"])
    [finding] = [entry for entry in json.loads(capsys.readouterr().out) if entry["check"] == "upstreams"]
    assert (finding["level"], finding["what"]) == ("warning", "no upstream is configured")


def test_owner_as_only_approver_is_reported(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def routes() -> Finding:
        capsys.readouterr()
        main(["doctor", "--json"])
        [found] = [entry for entry in json.loads(capsys.readouterr().out) if entry["check"] == "routes"]
        return {name: str(value) for name, value in found.items()}

    assert routes()["level"] == "warning"
    assert "0 eligible approvers for `my-agent` on route `reviewers`, which needs 1" in routes()["what"]
    config = Path("mcp-guard.toml")
    text = config.read_text()
    config.write_text(text.replace("# unsafe_self_approval", "unsafe_self_approval"))
    assert routes()["level"] == "ok"
    other = '[approvers.zoe]\nname = "Zoe"\n'
    config.write_text(text.replace("approvers = [", 'approvers = ["zoe", ') + other)
    assert routes()["level"] == "ok"


def test_no_client_found_is_ok(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [finding] = clients(capsys)
    assert finding == {
        "check": "clients", "level": "ok", "what": "no client with servers found for this user and folder", "fix": "",
        "is_choice": False,
    }  # fmt: skip


def test_unguarded_servers_are_reported(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cursor(home, "git", "time")
    [finding] = clients(capsys)
    assert finding["level"] == "warning"
    assert finding["what"] == f"Cursor starts git, time without the guard ({path})"
    assert finding["fix"] == "mcp-guard wrap cursor"
    fix(finding)
    [finding] = clients(capsys)
    assert (finding["level"], finding["fix"]) == ("ok", "")
    assert finding["what"] == f"Cursor starts only this guard ({path})"


def test_two_files_of_one_client_are_both_checked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cursor(home, "git")
    Path(".cursor").mkdir()
    Path(".cursor/mcp.json").write_text('{"mcpServers": {"here": {"command": "here"}}}')
    assert [finding["fix"] for finding in clients(capsys)] == [
        "mcp-guard wrap cursor --scope project",
        "mcp-guard wrap cursor --scope user",
    ]
    for finding in clients(capsys):
        fix(finding)
    assert [finding["level"] for finding in clients(capsys)] == ["ok", "ok"]


def test_missing_command_is_reported(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cursor(home, "git")
    assert main(["wrap", "--yes"]) == 0
    text = json.loads(path.read_text())
    text["mcpServers"]["guard"]["command"] = "/gone/mcp-guard"
    path.write_text(json.dumps(text))
    [finding] = clients(capsys)
    assert finding["level"] == "problem"
    assert "cannot start the guard" in finding["what"]
    assert "`/gone/mcp-guard`, which does not exist" in finding["what"]
    fix(finding)
    assert [finding["level"] for finding in clients(capsys)] == ["ok"]


def test_missing_configuration_is_reported(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cursor(home, guard={"command": "sh", "args": ["run", "--config", "/gone.toml"]})
    assert [finding["level"] for finding in clients(capsys)] == ["warning"]  # `sh` starts no guard
    (home / "mcp-guard").touch(0o755)
    cursor(home, guard={"command": str(home / "mcp-guard"), "args": ["run", "--config", "/gone.toml"]})
    [finding] = clients(capsys)
    assert (finding["level"], "`/gone.toml`, which does not exist" in finding["what"]) == ("problem", True)


def test_client_that_starts_another_guard_is_reported(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cursor(home, "git")
    other = home / "other.toml"
    assert main(["wrap", "--config", str(other), "--yes"]) == 0
    [finding] = clients(capsys)
    assert (finding["level"], finding["what"][:31]) == ("warning", "Cursor runs another guard (" + str(home)[:4])
    assert f"mcp-guard doctor --config {other}" in finding["fix"]


def test_invalid_client_file_is_reported(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cursor(home).write_text('{"mcpServers": ')
    [finding] = clients(capsys)
    assert finding["level"] == "warning"
    assert "expected a value, found the end" in finding["what"]


def test_disabled_servers_are_not_reported(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cursor(home, "git")
    assert main(["wrap", "--yes"]) == 0
    text = json.loads(path.read_text())
    text["mcpServers"]["off"] = {"command": "off", "disabled": True}
    path.write_text(json.dumps(text))
    assert [finding["level"] for finding in clients(capsys)] == ["ok"]


def test_servers_that_reach_the_guards_own_files_are_reported(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def reached() -> list[Finding]:
        capsys.readouterr()
        main(["doctor", "--json"])
        return [finding for finding in json.loads(capsys.readouterr().out) if finding["check"] == "reach"]

    keys = home / ".config" / "mcp-guard" / "approvers"
    keys.mkdir(parents=True)
    (home / "project").mkdir()
    path = cursor(home)
    own = "the configuration, the policies, the state folder with the key of the ledger"
    rest = "keys of approvers, the file of Cursor that starts the guard"
    for words, what in (
        ([str(home)], f"{own}, {rest}"),
        ([f"--root={home / 'guard'}"], own),
        (["--mount", f"type=bind,src={home / 'guard' / 'state'},dst=/data"], own.rpartition(", ")[2]),
        ([str(home / ".config")], "keys of approvers"),
        (["."], f"{own}, {rest}"),  # a user's server starts in the home folder
        ([str(home / "project")], ""),
    ):
        (home / "guard" / "state").mkdir(exist_ok=True)
        path.write_text(json.dumps({"mcpServers": {"files": {"command": "files", "args": words}}}))
        assert main(["wrap", "--yes"]) == 0
        noted = capsys.readouterr().out
        [finding] = reached()
        assert (finding["level"], finding["what"].partition("own files: ")[2]) == ("warning" if what else "ok", what)
        assert (finding["what"] in noted, bool(finding["fix"])) == (bool(what), bool(what))
        assert main(["unwrap", "--yes"]) == 0
