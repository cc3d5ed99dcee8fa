"""A full disk: calls are refused with the reason, no call that ran is reported as refused, the guard recovers."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mcp_guard.core.errors import LedgerFault
from mcp_guard.core.model import ToolCallRequest
from mcp_guard.ledger.recovery import recover
from mcp_guard.ports import Intent
from mcp_guard.storage.sqlite.errors import explain
from mcp_guard.verifier import verify_ledger
from tests.faults.disks import fill, small_disk
from tests.live.running_guard import Client, log, scripted, seen, text, write_config
from tests.promises.harness import ALLOW, HOLD, Harness, make_instance, open_harness, pending_id
from tests.promises.harness import text as said

NOTE = ToolCallRequest("crm__note", {"text": "x"})


async def call(harness: Harness, asked: ToolCallRequest = NOTE) -> str:
    return said(await harness.guard.call(make_instance(), asked))


def verified(folder: Path) -> None:
    report = verify_ledger(folder / "ledger.sqlite", folder / "ledger.pub")
    assert report.ok, report.problem


def test_guard_refuses_calls_while_the_disk_is_full(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        config = write_config(tmp_path, scripted("up", tmp_path), guard=f'state_dir = "{disk}"')
        with Client(config) as client:
            client.start()
            assert "one" in text(client.call("up__echo", {"text": "one"}))
            filler = fill(disk)
            for _ in range(3):
                reply = text(client.call("up__echo", {"text": "two"}))
                assert "denied by mcp-guard: the disk is full" in reply
                assert "Nothing was sent" in reply
            assert [item["arguments"]["text"] for item in seen(tmp_path, "up")] == ["one"]
            filler.unlink()
            assert "three" in text(client.call("up__echo", {"text": "three"}))
        assert client.stderr.count("calls are refused: the disk is full") == 1
        assert "hint: free space on the disk" in client.stderr
        assert "the ledger is writable again" in client.stderr
        assert [receipt["ending"] for receipt in log(config, "--kind", "outcome")] == ["ok", "ok"]
        verified(disk)


async def test_disk_filled_during_a_call_delays_its_outcome_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        harness = open_harness(disk)
        filled: list[Path] = []

        async def fills_up(intent: Intent) -> None:
            filled.append(fill(disk))

        harness.upstream.before = fills_up
        reply = await call(harness)
        assert "was sent to its upstream, but the outcome could not be recorded: the disk is full" in reply
        assert "do not repeat it" in reply
        harness.upstream.before = None
        assert "denied by mcp-guard: the disk is full" in await call(harness)
        filled[0].unlink()
        assert await call(harness) == "done"
        assert len(harness.upstream.sent) == 2
        first, second = harness.receipts("intent")
        assert [(receipt["follows"], receipt["ending"]) for receipt in harness.receipts("outcome")] == [
            ([first["seq"]], "ok"),
            ([second["seq"]], "ok"),
        ]
        harness.close()
        verified(disk / "state")


async def test_guard_stopped_on_a_full_disk_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        harness = open_harness(disk)
        filled: list[Path] = []

        async def fills_up(intent: Intent) -> None:
            filled.append(fill(disk))

        harness.upstream.before = fills_up
        assert "could not be recorded" in await call(harness)
        harness.close()
        filled[0].unlink()
        after = open_harness(disk)
        [intent] = recover(after.ledger.ledger)
        [outcome] = after.receipts("outcome")
        assert (outcome["ending"], outcome["follows"]) == ("unknown", [intent["seq"]])
        after.close()


async def test_reply_of_an_approved_call_is_given_after_its_outcome_is_recorded(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        harness = open_harness(disk, f"{ALLOW}\n{HOLD}")
        id = pending_id(await harness.guard.call(make_instance(), NOTE))
        harness.approve(id)
        filled: list[Path] = []

        async def fills_up(intent: Intent) -> None:
            filled.append(fill(disk))

        harness.upstream.before = fills_up
        assert "could not be recorded: the disk is full" in await call(harness)
        filled[0].unlink()
        assert await call(harness) == "done"  # the repeated call gets the answer it missed, without another approval
        assert await call(harness, ToolCallRequest("guard__await", {"approval": id})) == "done"
        assert len(harness.upstream.sent) == 1
        harness.close()


def test_guard_does_not_start_on_a_full_disk_and_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path, 16) as disk:
        fill(disk)
        config = write_config(tmp_path, scripted("up", tmp_path), guard=f'state_dir = "{disk}/state"')
        done = subprocess.run(
            [sys.executable, "-m", "mcp_guard.cli", "run", "--config", str(config)],
            capture_output=True, text=True, input="", timeout=30,
        )  # fmt: skip
        assert done.returncode == 5
        assert "the disk is full" in done.stderr
        assert "hint: free space" in done.stderr


def test_a_ledger_whose_log_finds_no_space_is_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path, 64) as disk:
        path = disk / "ledger.sqlite"
        with closing(sqlite3.connect(path)) as ledger:
            ledger.execute("PRAGMA journal_mode = wal")
            ledger.execute("CREATE TABLE t (x)")
        fill(disk)
        with closing(sqlite3.connect(path)) as ledger, pytest.raises(sqlite3.OperationalError) as failed:
            ledger.execute("SELECT * FROM t")
        assert (failed.value.sqlite_errorname, explain(failed.value, path).fault) == (
            "SQLITE_IOERR_SHMSIZE", LedgerFault.DISK_FULL
        )  # fmt: skip


def test_policies_changed_on_a_full_disk_take_effect_once_there_is_space(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        more = tmp_path / "more"
        upstream = scripted("up", tmp_path, MORE_TOOLS_IF=str(more))
        config = write_config(tmp_path, upstream, guard=f'state_dir = "{disk}"\nfirst_use = "pin"')
        with Client(config) as client:
            client.start()
            filler = fill(disk)
            client.tools()
            more.touch()
            client.tools()
            assert "denied by mcp-guard" in text(client.call("up__echo", {"text": "x"}))
            filler.unlink()
            while "later" not in {name.partition("__")[2] for name in client.tools()}:
                assert client.process.poll() is None
            assert "x" in text(client.call("up__echo", {"text": "x"}))
