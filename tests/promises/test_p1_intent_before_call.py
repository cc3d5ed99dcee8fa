"""P1: no upstream sees a tool call before its intent receipt is durable."""

import json
import sys
from pathlib import Path

import pytest

from mcp_guard.core.model import ToolCallRequest
from mcp_guard.ports import Intent
from mcp_guard.storage.sqlite.store import open_store
from tests.live.running_guard import SERVERS, Client, text, upstream, write_config
from tests.promises.engines import engine
from tests.promises.harness import Harness, make_instance, open_harness
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


@pytest.mark.usefixtures("each_engine")
async def test_intent_is_committed_before_execute(tmp_path: Path) -> None:
    """Read by another connection, which sees only committed transactions."""
    harness = open_harness(tmp_path)
    seen: list[str] = []

    async def look(intent: Intent) -> None:
        rows = engine().read(tmp_path, f"SELECT kind, call FROM receipt WHERE seq = {intent.seq}")
        assert rows == [("intent", intent.call.id)]
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


NOTE = ToolCallRequest("crm__note", {"text": "x" * 100_000})


async def refused_for_now(harness: Harness, why: str) -> None:
    """The ledger cannot be written: the call is refused for this reason, and not sent."""
    reply = said(await harness.guard.call(make_instance(), NOTE))
    assert why in reply
    assert "Nothing was sent" in reply
    assert harness.upstream.sent == []


async def sent_once(harness: Harness) -> None:
    assert said(await harness.guard.call(make_instance(), NOTE)) == "done"
    assert len(harness.upstream.sent) == 1
    harness.close()


async def test_call_is_not_sent_if_the_ledgers_disk_is_full(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    pages = harness.store._run("PRAGMA page_count").fetchone()[0]
    harness.store._run(f"PRAGMA max_page_count = {pages}")
    await refused_for_now(harness, "the disk is full")
    harness.store._run("PRAGMA max_page_count = 1000000")
    await sent_once(harness)


async def test_call_is_not_sent_if_the_ledger_refuses_its_receipt(tmp_path: Path, each_engine: str) -> None:
    harness = open_harness(tmp_path)
    engine().refuse(harness.store, "INSERT ON receipt")
    await refused_for_now(harness, {"sqlite": "Nothing", "postgres": "no room left"}[each_engine])
    engine().accept(harness.store, "INSERT ON receipt")
    await sent_once(harness)


async def test_call_is_not_sent_if_the_guard_may_not_write(tmp_path: Path, each_engine: str) -> None:
    harness = open_harness(tmp_path)
    engine().break_writes(harness.store)
    await refused_for_now(harness, {"sqlite": "read-only", "postgres": "the guard's role may not do this"}[each_engine])
    engine().restore_writes(harness.store)
    await sent_once(harness)


async def test_call_is_not_sent_while_another_process_writes(tmp_path: Path, each_engine: str) -> None:
    harness = open_harness(tmp_path)
    harness.store._run({"sqlite": "PRAGMA busy_timeout = 50", "postgres": "SET lock_timeout = 50"}[each_engine])
    with engine().lock(tmp_path):
        why = {"sqlite": "another process has locked the ledger", "postgres": "another process holds the lock"}
        await refused_for_now(harness, why[each_engine])
    await sent_once(harness)
