"""Terminal output beside the results: colours where supported, and progress of long work."""

import os
import pty
import subprocess
from pathlib import Path

import pytest

from mcp_guard.cli.output import is_coloured
from mcp_guard.verifier.progress import Progress
from tests.cli.conftest import Past
from tests.ledger.sized_ledger import open_filled
from tests.live.preloaded_cli import DEVNULL, Forked
from tests.live.running_guard import cli, command


def on_terminal(*words: str, stdout: bool = False, **env: str) -> str:
    """What a command prints on a terminal connected to standard error and, if wanted, standard output."""
    reading, writing = pty.openpty()
    terminal = {**os.environ, "TERM": "xterm", "COLUMNS": "200", **env}
    assert Forked(words, stderr=writing, stdout=writing if stdout else DEVNULL, env=terminal).wait(60) == 0
    os.write(writing, b"END")  # so that the reader gets at least one byte
    os.close(writing)
    shown = b""
    while not shown.endswith(b"END"):
        shown += os.read(reading, 100_000)
    os.close(reading)
    return shown.decode().removesuffix("END").replace("\r\n", "\n")


def test_progress_is_shown_and_then_cleared(tmp_path: Path) -> None:
    open_filled(tmp_path / "state", 1000).store.close()
    ledger = ("--ledger", str(tmp_path / "state/ledger.sqlite"))
    shown = on_terminal("ledger", "export", str(tmp_path / "out"), *ledger)
    assert "\r\x1b[K256 of 1,000 receipts, 25 %" in shown
    assert shown.endswith("\r\x1b[K")
    assert on_terminal("ledger", "export", str(tmp_path / "other"), "--json", *ledger) == ""
    assert on_terminal("verify", *ledger, TERM="dumb") == ""


def test_upstream_start_is_reported(past: Past) -> None:
    shown = on_terminal("policy", "validate", "--config", str(past.config))
    assert shown == "\r\x1b[Kstarting `up` …\r\r\x1b[K"


@pytest.mark.parametrize(
    ("env", "escapes"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)]
)
def test_table_has_colour_only_where_supported(past: Past, env: dict[str, str], escapes: bool) -> None:
    shown = on_terminal("keys", "list", "--config", str(past.config), stdout=True, **env)
    assert "in force" in shown
    assert ("\x1b" in shown) is escapes


@pytest.mark.parametrize("columns", ["20", "50", "80", "110"])
@pytest.mark.parametrize(
    "words", ["instances list --all", "tools list", "approvals list --all", "approvers list", "keys list", "log"]
)
def test_no_word_of_a_table_is_cut_or_broken(past: Past, words: str, columns: str) -> None:
    told = (*words.split(), "--config", str(past.config))
    rows = [line.split("\t") for line in cli(*told).stdout.splitlines()[1:]]
    shown = on_terminal(*told, stdout=True, COLUMNS=columns, NO_COLOR="1")
    words_of_rows = {word for row in rows for cell in row for word in cell.split() if not word.isdecimal()}  # time left
    assert words_of_rows <= set(shown.split())


@pytest.mark.parametrize(
    ("env", "coloured"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"CLICOLOR_FORCE": "1"}, True),
        ({"CLICOLOR_FORCE": "0"}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colour_without_a_terminal_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], coloured: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert is_coloured() is coloured


def test_progress_without_a_terminal_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.show("starting")
        progress.update(1, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["status", "log", "log --json", "ledger prove 0", "--help", "--version"])
@pytest.mark.parametrize(
    ("to", "why"), [("> /dev/full", "No space left on device"), (">&-", "it is closed")], ids=["full", "closed"]
)
def test_output_that_cannot_be_written_is_an_error_of_its_own(
    past: Past, words: str, to: str, why: str, unbuffered: str
) -> None:
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered, "MCP_GUARD_CONFIG": str(past.config)}
    shell = ["sh", "-c", f'exec "$@" {to}', "sh", *command(*words.split())]
    done = subprocess.run(shell, env=env, capture_output=True, text=True, timeout=60)
    first, second = done.stderr.splitlines()
    assert done.returncode == 3
    assert first == f"mcp-guard: cannot write to standard output: {why}"
    assert second.startswith("hint: ")
