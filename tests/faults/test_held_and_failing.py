"""A ledger locked for long by another process, and a disk whose syncs fail: calls are refused until it recovers."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mcp_guard.verifier import verify_ledger
from tests.faults.preload import SYNC_FAILS, Page, library
from tests.live.running_guard import Client, log, scripted, seen, text, write_config

HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
"""


def test_locked_ledger_refuses_calls_until_released(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    with Client(config) as client:
        client.start()
        client.call("up__echo", {"text": "one"})
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "state" / "ledger.sqlite")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with holder:
            assert holder.stdout
            assert holder.stdout.readline() == "held\n"
            reply = text(client.call("up__echo", {"text": "two"}))
            assert "denied by mcp-guard: another process has locked the ledger" in reply
            holder.communicate("\n")
        assert "three" in text(client.call("up__echo", {"text": "three"}))
    assert [call["arguments"]["text"] for call in seen(tmp_path, "up")] == ["one", "three"]
    assert "hint: find it with `fuser" in client.stderr


def test_failed_sync_runs_nothing_and_is_not_treated_as_done(tmp_path: Path) -> None:
    if library() is None:
        pytest.skip("no C compiler: no failing syncs")
    config = write_config(tmp_path, scripted("up", tmp_path))
    page = Page(tmp_path / "page")
    with Client(config, env=page.environment) as client:
        client.start()
        assert "one" in text(client.call("up__echo", {"text": "one"}))
        page.arm(client.process.pid, SYNC_FAILS)
        for _ in range(3):
            reply = text(client.call("up__echo", {"text": "two"}))
            assert "denied by mcp-guard: the disk reports write errors" in reply
        page.disarm()
        assert "three" in text(client.call("up__echo", {"text": "three"}))
    assert "SQLITE_IOERR_FSYNC" in client.stderr
    assert [call["arguments"]["text"] for call in seen(tmp_path, "up")] == ["one", "three"]
    assert "hint: see the system's log" in client.stderr
    assert len(log(config, "--kind", "intent")) == 2
    state = tmp_path / "state"
    assert verify_ledger(state / "ledger.sqlite", state / "ledger.pub").ok


def test_guard_killed_after_a_failed_sync_ran_no_call_without_intent(tmp_path: Path) -> None:
    """A refused call may leave an intent that is closed as unknown, but no call runs without one."""
    if library() is None:
        pytest.skip("no C compiler: no failing syncs")
    config = write_config(tmp_path, scripted("up", tmp_path))
    page = Page(tmp_path / "page")
    with Client(config, env=page.environment) as client:
        client.start()
        client.call("up__echo", {"text": "one"})
        page.arm(client.process.pid, SYNC_FAILS)
        client.call("up__echo", {"text": "two"})
        client.process.kill()
    with Client(config) as second:
        second.start()
        second.tools()
    assert len(seen(tmp_path, "up")) == 1
    with closing(sqlite3.connect(tmp_path / "state" / "ledger.sqlite")) as db:
        assert db.execute("SELECT count(*) FROM open_call").fetchone() == (0,)
    assert {receipt["ending"] for receipt in log(config, "--kind", "outcome")} <= {"ok", "unknown"}
    assert verify_ledger(tmp_path / "state" / "ledger.sqlite", tmp_path / "state" / "ledger.pub").ok
