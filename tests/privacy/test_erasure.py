"""Erasing payloads after their retention and on request. Erased data is gone from the files."""

import json
import os
import pty
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from mcp_guard.core.model import DAY, Execution, ExecutionStatus, Json, ToolCallRequest
from mcp_guard.ledger.retention import BATCH, ErasureOrder, RetentionTask, erase_some, sequence_ranges
from mcp_guard.ports import Intent
from mcp_guard.verifier import verify_ledger
from tests.ledger.sized_ledger import fill, open_filled
from tests.live.running_guard import Client, cli, command, enrol, log, scripted, write_config
from tests.promises.harness import ALLOW, HOLD, Harness, make_instance, open_harness, pending_id, text

CANARY = "canary-5f1c-personal"
HOLD_POLICIES = ALLOW + HOLD.replace("action,", 'action == Action::"crm__update_deal",')


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return open_harness(tmp_path, HOLD_POLICIES)


async def note(harness: Harness, run_id: str = "run_1", words: str = CANARY) -> None:
    await harness.guard.call(make_instance(run_id), ToolCallRequest("crm__note", {"text": words}))


async def update(harness: Harness) -> Json:
    called = ToolCallRequest("crm__update_deal", {"deal_id": "1", "stage": CANARY})
    reply: Json = await harness.guard.call(make_instance(), called)
    return reply


async def keep(harness: Harness, days: int) -> None:
    await RetentionTask(harness.ledger.writer, days).round()


def stored(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def check(harness: Harness) -> None:
    folder = harness.folder / "state"
    report = verify_ledger(folder / "ledger.sqlite", folder / "ledger.pub")
    assert report.ok, report.problem


async def test_payloads_past_retention_are_erased_from_every_file(harness: Harness) -> None:
    await note(harness)
    harness.clock.time += 3 * DAY
    await note(harness, words="of today")
    assert CANARY.encode() in stored(harness.folder / "state")
    await keep(harness, 2)
    assert CANARY.encode() not in stored(harness.folder / "state")
    assert b"of today" in stored(harness.folder / "state")
    [erased] = harness.receipts("payload.erased")
    assert (erased["reason"], erased["by"], erased["count"]) == ("kept for 2 days", "retention", 2)
    first = harness.receipts("intent")[0]["seq"]
    assert erased["seqs"] == [[first, first + 1]]
    check(harness)
    await keep(harness, 2)
    assert len(harness.receipts("payload.erased")) == 1


async def test_nothing_is_erased_unless_it_is_configured(harness: Harness) -> None:
    await note(harness)
    harness.clock.time += 1000 * DAY
    await keep(harness, 0)
    assert harness.receipts("payload.erased") == []
    assert CANARY.encode() in stored(harness.folder / "state")


async def test_erasure_works_in_batches_with_a_receipt_each(harness: Harness) -> None:
    fill(harness.ledger.writer, 2 * BATCH + 50)
    harness.clock.time += 3 * DAY
    await keep(harness, 1)
    counts = [receipt["count"] for receipt in harness.receipts("payload.erased")]
    assert counts == [BATCH, BATCH, 50]
    assert list(harness.store.kept_after(-1, 10)) == []
    check(harness)


async def test_pending_request_keeps_its_payload(harness: Harness) -> None:
    id = pending_id(await update(harness))
    harness.clock.time += 1800 * 1_000_000
    await RetentionTask(harness.ledger.writer, 0).round()
    cutoff_is_now(harness)
    assert harness.store.approval(id)[0].subject.arguments["stage"] == CANARY
    harness.approve(id)
    assert text(await update(harness)) == "done"
    cutoff_is_now(harness)
    assert CANARY.encode() not in stored(harness.folder / "state")
    assert harness.store.approval(id)[0].subject.arguments == {"stage": "[erased]"}
    check(harness)


def cutoff_is_now(harness: Harness) -> None:
    """One round of retention as if a day had passed, except for the expiry of requests."""
    writer = harness.ledger.writer
    writer.run(lambda tx: erase_some(tx, ErasureOrder(lambda _: True, "test", "test"), -1))
    assert harness.store.empty_log()


async def test_undelivered_reply_is_kept_until_delivered(harness: Harness) -> None:
    id = pending_id(await update(harness))
    harness.approve(id)

    taken: list[Intent] = []

    async def lost(intent: Intent) -> None:
        if intent.call.purpose == "call":
            taken.append(intent)
            raise RuntimeError("the agent is gone")

    harness.upstream.before = lost
    with pytest.raises(RuntimeError):
        await update(harness)
    said = Execution(ExecutionStatus.OK, {"result": {"content": [{"type": "text", "text": "a reply that was lost"}]}})
    await conclude(harness, taken[0], said)
    harness.clock.time += 3 * DAY
    await keep(harness, 1)
    assert b"a reply that was lost" in stored(harness.folder / "state")
    harness.store.note_answered(id)
    await keep(harness, 1)
    assert b"a reply that was lost" not in stored(harness.folder / "state")
    check(harness)


async def conclude(harness: Harness, intent: Intent, execution: Execution) -> None:
    await harness.ledger.ledger.conclude(intent, execution, answered=False)


def test_ranges_of_sequence_numbers_are_parsed() -> None:
    assert sequence_ranges([]) == []
    assert sequence_ranges([1, 2, 3, 7, 9, 10]) == [[1, 3], [7, 7], [9, 10]]


# On the command line


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A guard that has made calls: two of one user on deal 789, one of another."""
    tools = """
[resources.Deal.attributes]
name = "string"
[tools."up__get_deal"]
resource = { type = "Deal", id = "/id" }
"""
    config = write_config(tmp_path, scripted("up", tmp_path), more=tools)
    for user, id in (("dana", "789"), ("erin", "790")):
        with Client(config, ("--on-behalf-of", user)) as client:
            client.start()
            client.call("up__get_deal", {"id": id})
            client.call("up__echo", {"text": f"{CANARY} of {user}"})
    return config


def forget(config: Path, *selectors: str, check: bool = True) -> Json:
    done = cli("ledger", "forget", "--config", str(config), "--reason", "asked to", "--json", *selectors, check=check)
    report: Json = json.loads(done.stdout)
    return report


def verified(config: Path) -> bool:
    return bool(json.loads(cli("verify", "--config", str(config), "--json").stdout)["ok"])


@pytest.mark.parametrize(
    ("selectors", "receipts", "gone", "stays"),
    [
        (("--user", "dana"), 4, b"of dana", b"of erin"),
        (("--resource", "Deal/789"), 2, b'"789"', b"of dana"),
        (("--user", "erin", "--resource", "Deal/790"), 2, b'"790"', b"of erin"),
        (("--before", "2999-01-01"), 8, CANARY.encode(), b"mcp-guard"),
    ],
    ids=str,
)
def test_only_selected_payloads_are_erased(
    config: Path, selectors: tuple[str, ...], receipts: int, gone: bytes, stays: bytes
) -> None:
    payloads = config.parent / "state" / "ledger.sqlite"
    assert gone in payloads.read_bytes()
    assert forget(config, *selectors, "--dry-run") == {"receipts": receipts, "needed": 0, "erased": 0}
    assert gone in payloads.read_bytes()
    done = forget(config, *selectors, "--yes")
    assert done == {"receipts": receipts, "needed": 0, "erased": receipts, "wal_emptied": True}
    with closing(sqlite3.connect(payloads)) as db:
        left = b"".join(bytes(cell or b"") for row in db.execute("SELECT * FROM payload") for cell in row[1:])
    assert gone not in left
    if gone == CANARY.encode():
        assert gone not in stored(config.parent / "state")
    assert stays in payloads.read_bytes()
    assert verified(config)
    [erased] = log(config, "--kind", "payload.erased")
    assert erased["by"].startswith("operator ")
    assert (erased["reason"], erased["count"]) == ("asked to", receipts)


def test_payloads_are_erased_beside_a_running_guard(config: Path) -> None:
    with Client(config, ("--on-behalf-of", "dana")) as client:
        client.start()
        client.call("up__echo", {"text": f"{CANARY} while it runs"})
        done = forget(config, "--user", "dana", "--yes")
        assert done["wal_emptied"] is True
        assert b"while it runs" not in stored(config.parent / "state")
        assert "result" in client.call("up__echo", {"text": "and goes on"})
    assert verified(config)


def test_running_guard_erases_payloads_past_retention(tmp_path: Path) -> None:
    old = open_filled(tmp_path / "state", 5, b'{"text":"of long ago"}', "mcp-guard.local/ledger")
    old.store.close()
    config = write_config(tmp_path, scripted("up", tmp_path), more="[ledger]\nkeep_payload_days = 1\n")
    with Client(config) as client:
        client.start()
        client.call("up__echo", {"text": "of today"})
        while not (erased := log(config, "--kind", "payload.erased")):
            assert client.process.poll() is None
        while b"of long ago" in stored(tmp_path / "state"):  # the write-ahead log is emptied next
            assert client.process.poll() is None
        assert b"of today" in stored(tmp_path / "state")
    assert (erased[0]["count"], erased[0]["seqs"]) == (5, [[0, 4]])
    assert verified(config)


def test_payloads_are_selected_by_call_and_instance(config: Path) -> None:
    [first, *_] = log(config, "--kind", "intent")
    assert forget(config, "--call", first["call"], "--yes")["erased"] == 2
    assert forget(config, "--instance", first["instance"], "--yes")["erased"] == 2
    assert verified(config)


def test_erasure_needs_a_reason_a_selector_and_confirmation(config: Path) -> None:
    base = ("ledger", "forget", "--config", str(config))
    assert cli(*base, "--user", "dana", check=False).returncode == 2
    assert cli(*base, "--reason", "x", check=False).returncode == 2
    assert cli(*base, "--reason", " ", "--user", "dana", check=False).returncode == 2
    unconfirmed = cli(*base, "--reason", "x", "--user", "dana", check=False)
    assert unconfirmed.returncode == 5
    assert (
        "not confirmed: this would permanently erase the payloads of 4 receipts\nhint: confirm with --yes"
        in unconfirmed.stderr
    )
    assert log(config, "--kind", "payload.erased") == []


@pytest.mark.parametrize(("said", "code", "erased"), [(b"y\n", 0, 1), (b"\n", 5, 0), (b"\x04", 5, 0)])
def test_erasure_asks_on_a_terminal(config: Path, said: bytes, code: int, erased: int) -> None:
    ours, theirs = pty.openpty()
    asked = command("ledger", "forget", "--config", str(config), "--user", "dana", "--reason", "asked to")
    running = subprocess.Popen(asked, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.write(ours, said)
    _, asking = running.communicate(timeout=60)
    os.close(theirs)
    os.close(ours)
    assert b"permanently erase the payloads of 4 receipts? [y/N]" in asking
    assert running.returncode == code
    assert len(log(config, "--kind", "payload.erased")) == erased


def test_approval_subject_is_erased_too(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path), ALLOW + HOLD, guard="hold_seconds = 0")
    who = enrol(config)
    with Client(config) as client:
        client.start()
        client.call("up__echo", {"text": CANARY})
        assert forget(config, "--before", "2999-01-01", "--dry-run") == {"receipts": 0, "needed": 2, "erased": 0}
        [waiting] = json.loads(cli("approvals", "list", "--json", "--config", str(config)).stdout)
        cli("approvals", "deny", waiting["id"], "--rationale", "no", *who)
        done = forget(config, "--before", "2999-01-01", "--yes")
        assert (done["erased"], done["needed"]) == (2, 0)
        assert CANARY.encode() not in stored(tmp_path / "state")
    shown = json.loads(cli("approvals", "show", waiting["id"], "--json", "--config", str(config)).stdout)
    assert shown["subject"]["arguments"] == {"text": "[erased]"}
    assert (shown["nonce"], shown["lookup"]) == ("", "")
    assert "text" in cli("approvals", "show", waiting["id"], "--config", str(config)).stdout
    assert verified(config)
