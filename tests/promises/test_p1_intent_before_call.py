"""P1: no upstream sees a tool call before its intent receipt is durable."""

import json
import sqlite3
import sys
from pathlib import Path

import pytest

from mcp_guard.core.model import ToolCallRequest
from mcp_guard.ports import Intent
from mcp_guard.storage.sqlite.store import open_store
from tests.live.running_guard import SERVERS, Client, text, upstream, write_config
from tests.promises.harness import make_instance, open_harness
from tests.promises.harness import text as said


def test_intent_is_in_the_ledger_when_the_upstream_is_called(tmp_path: Path) -> None:
    """The upstream itself opens the ledger file, from its own process, before it answers."""
    ledger = tmp_path / "state" / "ledger.sqlite"
    config = write_config(tmp_path, upstream("witness", sys.executable, str(SERVERS / "witness.py"), str(ledger)))
    with Client(config) as client:
        client.start()
        ids = [client.send("tools/call", {"name": "witness__look", "arguments": {"n": n}}) for n in range(40)]
        for number, id in enumerate(ids):
            report = json.loads(text(client.wait(id)))
            assert report["intents"] >= number + 1
            assert report["mine"], f"call {number} arrived before its intent was in the ledger"


async def test_intent_is_committed_before_execute(tmp_path: Path) -> None:
    """Read by another connection, which sees only committed transactions."""
    harness = open_harness(tmp_path)
    seen: list[str] = []

    async def look(intent: Intent) -> None:
        other = sqlite3.connect(tmp_path / "state" / "ledger.sqlite")
        row = other.execute("SELECT kind, call FROM receipt WHERE seq = ?", (intent.seq,)).fetchone()
        other.close()
        assert row == ("intent", intent.call.id)
        seen.append(intent.call.name)

    harness.upstream.before = look
    await harness.guard.call(make_instance(), ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 5}))
    harness.close()
    assert seen == ["crm__get_deal", "crm__update_deal"]  # the guard's own facts lookup takes the same path


def test_commits_are_flushed_to_the_disk(tmp_path: Path) -> None:
    store = open_store(tmp_path / "ledger.sqlite")
    assert store._run("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._run("PRAGMA synchronous").fetchone() == (2,)  # FULL: the WAL is synced on each commit
    store.close()


@pytest.mark.parametrize("kind", ["full", "readonly", "locked"])
async def test_call_that_cannot_be_recorded_is_not_sent(tmp_path: Path, kind: str) -> None:
    harness = open_harness(tmp_path)
    other = sqlite3.connect(tmp_path / "state" / "ledger.sqlite", isolation_level=None)
    if kind == "full":
        pages = harness.store._run("PRAGMA page_count").fetchone()[0]
        harness.store._run(f"PRAGMA max_page_count = {pages}")
    elif kind == "readonly":
        harness.store._run("PRAGMA query_only = ON")
    else:
        harness.store._run("PRAGMA busy_timeout = 50")
        other.execute("BEGIN IMMEDIATE")
    asked = ToolCallRequest("crm__note", {"text": "x" * 100_000})
    reply = await harness.guard.call(make_instance(), asked)
    expected = {"full": "the disk is full", "readonly": "read-only", "locked": "another process has locked the ledger"}
    assert expected[kind] in said(reply)
    assert "Nothing was sent" in said(reply)
    assert harness.upstream.sent == []

    if kind == "full":
        harness.store._run("PRAGMA max_page_count = 1000000")
    elif kind == "readonly":
        harness.store._run("PRAGMA query_only = OFF")
    else:
        other.execute("ROLLBACK")
    other.close()
    reply = await harness.guard.call(make_instance(), asked)
    assert said(reply) == "done"
    assert len(harness.upstream.sent) == 1
    harness.close()
