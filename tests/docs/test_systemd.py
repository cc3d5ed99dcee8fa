"""The units of docs/howto/systemd.md are ones that systemd accepts, and start commands that exist."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mcp_guard.cli.completion.parsers import list_commands
from mcp_guard.config import load
from tests.docs.page import BIN, ROOT, blocks, fences
from tests.live.http_guard import free_port
from tests.live.running_guard import cli

PROGRAM = "/opt/mcp-guard/bin/mcp-guard"
PAGE = ROOT / "docs" / "howto" / "systemd.md"
UNITS = {
    found[1]: text
    for language, text in fences(PAGE)
    if language == "ini" and (found := re.match(r"# /etc/systemd/system/(\S+)\n", text))
}
PARSERS = {command.words: command.parser for command in list_commands()}


def test_each_service_starts_a_command_that_exists() -> None:
    started = [line for text in UNITS.values() for line in re.findall(rf"^ExecStart=.*?{PROGRAM} (.*)$", text, re.M)]
    assert len(started) == 4
    for line in started:
        words = shlex.split(line.replace("$$(date +%%F)'", "2026-01-31"))
        count = max(n for n in (1, 2) if tuple(words[:n]) in PARSERS)
        parser = PARSERS[tuple(words[:count])]
        assert parser is not None
        assert str(parser.parse_args(words[count:]).config) == "/etc/mcp-guard/mcp-guard.toml"


def test_the_nightly_backup_includes_the_configuration_and_prunes_old_ones(tmp_path: Path) -> None:
    backups, configuration = tmp_path / "var" / "backups" / "mcp-guard", tmp_path / "etc" / "mcp-guard"
    (configuration / "policies").mkdir(parents=True)
    (configuration / "mcp-guard.toml").touch()
    for name in ("2026-01-30", "2026-01-31", "2025-12-31", "notes"):
        (backups / name).mkdir(parents=True)
    unit = UNITS["mcp-guard-backup.service"].replace("/etc/mcp-guard", str(configuration))
    unit = unit.replace("/var/backups/mcp-guard", str(backups)).replace("$$", "$").replace("%%", "%")
    copying, pruning = re.findall(r"^ExecStart(?:Post)?=/bin/sh -c '((?:cp|find) .*)'$", unit, re.MULTILINE)
    subprocess.run(copying, shell=True, check=True)
    for name in ("2025-12-31", "notes"):
        os.utime(backups / name, (0, 0))
    subprocess.run(pruning, shell=True, check=True)
    assert {path.name for path in backups.iterdir()} == {"2026-01-30", "2026-01-31", "notes"}
    assert {path.name for path in (backups / "2026-01-31").iterdir()} == {"mcp-guard.toml", "policies"}
    assert list((backups / "2026-01-30").iterdir()) == []


def test_a_guard_that_is_brought_keeps_its_ledger_agents_and_tokens(tmp_path: Path) -> None:
    built, configured, state = tmp_path / "guard", tmp_path / "etc", tmp_path / "lib" / "mcp-guard"
    configured.mkdir()
    state.parent.mkdir()
    cli("init", str(built), "--owner", "olga", "--approver", "alice", "--agent", "report-agent", "--yes")
    with (built / "mcp-guard.toml").open("a") as file:
        file.write(f"[serve]\nport = {free_port()}\n")
    here, there = (["--config", str(folder / "mcp-guard.toml")] for folder in (built, configured))
    cli("agents", "add", "build-agent", "--owner", "olga", "--group", "agents", *here)
    cli("instances", "issue", "--agent", "build-agent", *here)
    [bringing] = [block.commands for block in blocks(PAGE) if block.name.startswith("mv mcp-guard.toml")]
    for word, other in {
        "/etc/mcp-guard": str(configured),
        "/var/lib/mcp-guard": str(state),
        "mcp-guard:mcp-guard": f"{os.getuid()}:{os.getgid()}",
    }.items():
        bringing = bringing.replace(word, other)
    subprocess.run(bringing, shell=True, check=True, cwd=built)
    assert "build-agent" in cli("agents", "list", *there).stdout
    assert "\tissued\t" in cli("instances", "list", *there).stdout
    cli("verify", *there)
    assert not (built / "state").exists()
    assert load(configured / "mcp-guard.toml").state_dir == state


def test_every_service_is_stopped_without_killing_the_calls_of_its_servers() -> None:
    """The default, `control-group`, would send SIGTERM to the servers as well."""
    assert "KillMode=mixed\n" in UNITS["mcp-guard.service"]


def test_systemd_accepts_the_units_without_a_remark(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    for name, text in UNITS.items():
        (tmp_path / name).write_text(text.replace(PROGRAM, str(BIN / "mcp-guard")))
    done = subprocess.run(
        [analyze, "verify", *(str(tmp_path / name) for name in UNITS)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
