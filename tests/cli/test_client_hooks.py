"""`wrap --hooks`, `unwrap --hooks`, and what `doctor` says of hooks."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from mcp_guard.cli import main
from mcp_guard.config import load
from mcp_guard.core.errors import ConfigError
from mcp_guard.downstream.unix import listen
from mcp_guard.settings import SocketSettings
from tests.live.running_guard import write_config

PACK = Path(__file__).parents[2] / "policies" / "coding-agent" / "coding_agent.cedar"
SETTINGS = '{"model": "x",   "permissions": {}}'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME", "MCP_GUARD_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "home" / ".claude").mkdir(parents=True)
    return tmp_path / "home"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(list(words))
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_hooks_are_installed_and_removed_byte_for_byte(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, config = home / ".claude" / "settings.json", write_config(Path.cwd(), "")
    file.write_text(SETTINGS)
    code, shown = run(capsys, "wrap", "claude-code", "--hooks", "--yes")
    assert code == 0
    assert "mcp-guard serve" in shown
    assert '[hooks]\nagent = "tester"' in config.read_text()
    hooks = json.loads(file.read_text())["hooks"]
    assert str(Path.cwd() / "state" / "hooks.sock") in hooks["PreToolUse"][0]["hooks"][0]["command"]
    assert run(capsys, "wrap", "claude-code", "--hooks", "--yes")[1].count("nothing to change") == 1
    assert run(capsys, "unwrap", "claude-code", "--hooks", "--yes")[0] == 0
    assert file.read_text() == SETTINGS
    assert "nothing to remove" in run(capsys, "unwrap", "claude-code", "--hooks", "--yes")[1]


@pytest.mark.parametrize(("event", "code"), [("PreToolUse", 2), ("Stop", 1)])
def test_a_hook_without_a_configuration_denies_what_decides(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, event: str, code: int
) -> None:
    payload = json.dumps({"hook_event_name": event}).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(payload)))
    exit_code, said = run(capsys, "hook", "claude-code")
    assert (exit_code, "no configuration" in said) == (code, True)


def test_a_file_that_was_not_there_is_gone_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(Path.cwd(), "")
    assert run(capsys, "wrap", "gemini-cli", "--hooks", "--yes")[0] == 0
    file = home / ".gemini" / "settings.json"
    assert json.loads(file.read_text())["hooks"]["BeforeTool"][0]["hooks"][0]["timeout"] == 600_000
    assert run(capsys, "unwrap", "gemini-cli", "--hooks", "--yes")[0] == 0
    assert not file.exists()


def test_a_dry_run_writes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(Path.cwd(), "")
    before = config.read_text()
    code, shown = run(capsys, "wrap", "claude-code", "--hooks", "--dry-run")
    assert (code, config.read_text()) == (0, before)
    assert "PreToolUse" in shown
    assert not (home / ".claude" / "settings.json").exists()


def test_a_new_guard_is_made_for_hooks(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "wrap", "claude-code", "--hooks", "--yes")[0] == 0
    settings = load(Path("mcp-guard.toml"))
    assert settings.hooks is not None
    assert (settings.hooks.agent, sorted(settings.routes)) == ("claude-code", ["maintainers", "reviewers"])
    assert (Path("policies") / "coding_agent.cedar").read_text() == PACK.read_text()
    assert run(capsys, "policy", "validate")[0] == 0
    assert run(capsys, "policy", "fmt", "--check")[0] == 0
    assert "blocks nothing until you set" in run(capsys, "wrap", "claude-code", "--hooks", "--yes")[1]
    (Path("policies") / "pack").mkdir()
    (Path("policies") / "pack" / "a.cedar").write_text("")
    assert "policies/pack` are not in force" in run(capsys, "doctor")[1]


def test_a_socket_with_too_long_a_path_is_said_to_be_that(tmp_path: Path) -> None:
    settings = SocketSettings(tmp_path / ("x" * 108))
    with pytest.raises(ConfigError, match="has over 107 bytes"):
        listen(settings, "hooks.socket")


def test_doctor_says_what_of_the_hooks_is_missing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(Path.cwd(), "", more='[hooks]\nagent = "tester"\n')
    assert "no coding agent of this user has the hook" in run(capsys, "doctor")[1]
    run(capsys, "wrap", "claude-code", "--hooks", "--yes")
    file = home / ".claude" / "settings.json"
    shown = run(capsys, "doctor")[1]
    assert "nothing answers hooks on" in shown
    assert f"copy {PACK} into the policies" in shown
    shutil.copy(PACK, load(Path("mcp-guard.toml")).policies)
    assert "no policy names the own tools" not in run(capsys, "doctor")[1]
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"disableAllHooks": True}))
    assert "runs no hooks, because `disableAllHooks`" in run(capsys, "doctor")[1]
    settings["hooks"]["PreToolUse"][0]["matcher"] = "Bash"
    (home / ".claude" / "settings.json").write_text(json.dumps({"hooks": settings["hooks"]}))
    assert "its hook for PreToolUse is not as `wrap` writes it" in run(capsys, "doctor")[1]
    del settings["hooks"]["PostToolUse"]
    file.write_text(json.dumps(settings))
    assert "no hook for PostToolUse" in run(capsys, "doctor")[1]
    file.write_text("{}")
    code, shown = run(capsys, "doctor")
    assert code == 2
    assert "Claude Code has lost the guard's hooks" in shown


@pytest.mark.parametrize(
    ("agent", "file", "text", "member"),
    [
        ("claude-code", ".claude/settings.local.json", '{"disableAllHooks": true} // x', "disableAllHooks"),
        ("codex", ".codex/config.toml", "\ufeff[features]\nhooks = false\n", "features.hooks"),
    ],
)
def test_doctor_finds_hooks_that_another_file_switches_off(
    home: Path, capsys: pytest.CaptureFixture[str], agent: str, file: str, text: str, member: str
) -> None:
    write_config(Path.cwd(), "", more='[hooks]\nagent = "tester"\n')
    path = Path(file).absolute()
    path.parent.mkdir()
    path.write_text(text)
    assert member not in run(capsys, "doctor")[1]
    run(capsys, "wrap", agent, "--hooks", "--yes")
    assert f"runs no hooks, because `{member}` in {path} says so" in run(capsys, "doctor")[1]
    path.write_text("{")
    assert f"{path}" in run(capsys, "doctor")[1]


def test_doctor_says_that_only_the_servers_of_an_agent_are_guarded(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = {"notes": {"command": "true", "args": []}}
    (home / ".claude.json").write_text(json.dumps({"mcpServers": servers}))
    assert run(capsys, "wrap", "claude-code", "--yes")[0] == 0
    assert "only the MCP servers of Claude Code are behind the guard" in run(capsys, "doctor")[1]
