"""Backup and restore: a copy of a ledger in use verifies, and a restored one permits nothing that was used since."""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.cli import main
from mcp_guard.core.approval import GrantTerms
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.events.sender import Cursor
from mcp_guard.identity.ed25519 import PrivateKey
from mcp_guard.ledger import registry
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey, enrol, remove
from mcp_guard.ledger.backup import Backup, Restored, back_up, restore
from mcp_guard.ledger.open import LedgerSettings
from mcp_guard.ledger.place import FILE
from mcp_guard.storage.engines import find_engine, open_read_only
from mcp_guard.storage.place import Database
from mcp_guard.verifier import Requirements, read_keys, verify_full, verify_ledger
from mcp_guard.verifier.sources import ReceiptSource
from tests.promises.harness import ALLOW, HOLD, ROUTES, Clock, Harness, make_instance, open_harness, pending_id
from tests.storage.postgres_server import server

ORIGIN = "test.example/ledger"
NOTE = ToolCallRequest("crm__note", {"text": "hi"})


def settings(folder: Path) -> LedgerSettings:
    return LedgerSettings(folder / "state", ORIGIN, ROUTES)


def saved(harness: Harness, name: str = "backup", with_key: bool = True) -> Backup:
    return back_up(settings(harness.folder), harness.folder / name, with_key)


def restored(folder: Path, backup: Backup, clock: Clock, **options: Any) -> Restored:
    return restore(settings(folder), clock, backup.folder, agents=["agent"], by="operator test", **options)


async def held(harness: Harness) -> str:
    return pending_id(await harness.guard.call(make_instance(), NOTE))


def test_backup_of_a_ledger_in_use_is_one_file_that_verifies(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    backup = saved(harness)
    assert {path.name for path in backup.folder.iterdir()} == {FILE, "ledger.key", "ledger.pub", "checkpoint"}
    assert {path.stat().st_mode & 0o777 for path in (backup.folder / FILE, backup.folder / "ledger.key")} == {0o600}
    assert backup.folder.stat().st_mode & 0o777 == 0o700
    report = verify_ledger(backup.folder / FILE, backup.folder / "ledger.pub")
    assert (report.ok, report.receipts) == (True, backup.receipts)
    assert (backup.folder / "checkpoint").read_text() == report.checkpoint == backup.checkpoint


def test_backup_has_no_private_key_unless_it_is_asked_for(tmp_path: Path) -> None:
    backup = saved(open_harness(tmp_path), with_key=False)
    assert not (backup.folder / "ledger.key").exists()


def test_backup_overwrites_nothing(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    saved(harness)
    with pytest.raises(LedgerError, match="is not empty"):
        saved(harness)
    with pytest.raises(LedgerError, match="`/` is not empty") as refused:
        back_up(settings(harness.folder), Path("/"), with_key=False)
    assert refused.value.hint == "name a new folder for each backup"


async def test_guard_runs_on_an_empty_machine_after_a_restore(tmp_path: Path) -> None:
    harness = open_harness(tmp_path / "old")
    await harness.guard.call(make_instance(), NOTE)
    backup = saved(harness)
    harness.close()
    done = restored(tmp_path / "new", backup, harness.clock)
    assert (done.receipts, done.agents, done.replaced) == (backup.receipts, ("agent",), None)
    after = open_harness(tmp_path / "new")
    after.clock.time = harness.clock.time
    reply = await after.guard.call(make_instance("run_2", started=after.clock.time + 1), NOTE)
    assert reply["result"]["content"][0]["text"] == "done"
    after.close()
    report = verify_ledger(tmp_path / "new" / "state" / FILE, backup.folder / "ledger.pub")
    assert report.ok, report.problem
    assert report.receipts > backup.receipts


async def test_backup_is_restored_into_a_database_and_backed_up_from_there(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, ALLOW + HOLD)
    harness.approve(await held(harness))
    backup = saved(harness)
    harness.close()
    place = Database(server().new_database(), ORIGIN)
    new, seen = replace(settings(tmp_path / "new"), database=place), []

    def verify(source: ReceiptSource, keys: Path) -> None:
        assert not find_engine(place).exists(), "nobody sees it before it is verified"
        seen.append(verify_full(source, Requirements(read_keys(keys), workers=1)))

    done = restore(new, harness.clock, backup.folder, agents=["agent"], by="operator test", verify=verify)
    assert ([report.ok for report in seen], done.closed, done.replaced) == ([True], 1, None)
    with open_read_only(place) as store:
        assert [approval.state for approval in store.approvals()] == ["stale"]
        size = store.head().size
    again = back_up(new, tmp_path / "again", with_key=True)
    assert again.receipts == size == seen[0].receipts
    assert verify_ledger(again.folder / FILE, again.folder / "ledger.pub").ok
    with pytest.raises(LedgerError, match="there is a ledger already"):
        restore(new, harness.clock, backup.folder, agents=[], by="operator test", may_replace=True)


async def test_restore_into_a_database_that_does_not_verify_leaves_nothing(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    backup = saved(harness)
    harness.close()
    place = Database(server().new_database(), ORIGIN)
    new = replace(settings(tmp_path / "new"), database=place)

    def refuse(_source: ReceiptSource, _keys: Path) -> None:
        raise LedgerError("it does not verify")

    with pytest.raises(LedgerError, match="does not verify"):
        restore(new, harness.clock, backup.folder, agents=[], by="operator test", verify=refuse)
    assert not find_engine(place).exists()
    assert not (new.state_dir / "ledger.key").exists()


async def test_approval_that_was_used_after_the_backup_cannot_be_used_again(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, ALLOW + HOLD)
    harness.approve(await held(harness))
    backup = saved(harness)
    await harness.guard.call(make_instance(), NOTE)
    assert len(harness.upstream.writes()) == 1
    harness.close()
    assert restored(tmp_path, backup, harness.clock, may_replace=True).closed == 1
    after = open_harness(tmp_path, ALLOW + HOLD)
    after.clock.time = harness.clock.time
    await after.guard.call(make_instance(), NOTE)
    assert after.upstream.writes() == []
    [stale] = after.receipts("approval.stale")
    assert stale["note"] == f"restored from a backup of {backup.receipts} receipts"


async def test_grant_ends_with_a_restore(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, ALLOW + HOLD)
    harness.approve(await held(harness), terms=GrantTerms(3, 600, ("text",)))
    backup = saved(harness)
    harness.close()
    restored(tmp_path, backup, harness.clock, may_replace=True)
    after = open_harness(tmp_path)
    assert after.store.grants(state="active") == []
    assert len(after.receipts("grant.revoked")) == 1


def test_credential_that_was_revoked_after_the_backup_stays_revoked(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    instance = make_instance()
    writer = harness.ledger.writer
    writer.run(lambda tx: registry.issue(tx, instance, {}))
    backup = saved(harness)
    writer.run(lambda tx: registry.revoke(tx, ("instance", instance.id), "stolen", "test"))
    harness.close()
    restored(tmp_path, backup, harness.clock, may_replace=True)
    after = open_harness(tmp_path)
    assert "was revoked" in str(registry.why_barred(after.store, instance, harness.clock.time))


@pytest.mark.parametrize("agent", ["agent", "another"])
def test_nothing_that_was_written_into_a_backup_can_call_or_sign_in(tmp_path: Path, agent: str) -> None:
    harness = open_harness(tmp_path)
    instance, writer = make_instance(), harness.ledger.writer
    writer.run(lambda tx: registry.issue(tx, instance, {}))
    backup = saved(harness)
    harness.close()
    starts, never = harness.clock.time + 10**7, 2**62
    changes = (("$.started", starts), ("$.expires", never), ("$.on_behalf_of", "ceo"), ("$.agent.name", agent))
    with closing(sqlite3.connect(backup.folder / FILE)) as db, db:
        for name, value in changes:
            db.execute("UPDATE instance SET said = json_set(said, ?, ?)", (name, value))
        db.execute("INSERT INTO launch VALUES ('launch', ?, ?)", (instance.id, never))
        db.execute("INSERT INTO sign_in VALUES ('code', 'alice', 'enrolment_code', ?)", (never,))
    restored(tmp_path, backup, harness.clock, may_replace=True)
    store = open_harness(tmp_path).store
    row = store.instance(instance.id)
    assert row is not None
    assert row.instance.on_behalf_of == "ceo"
    assert "was revoked" in str(registry.why_barred(store, row.instance, starts + 1))
    assert not store.is_shared(instance.id)
    assert not store.has_sign_in("code")


def test_credentials_of_an_agent_that_is_no_longer_configured_are_revoked_too(tmp_path: Path) -> None:
    """It may have been revoked after the backup, when it was taken out of the configuration."""
    harness = open_harness(tmp_path)
    instance = make_instance()
    harness.ledger.writer.run(lambda tx: registry.issue(tx, instance, {}))
    backup = saved(harness)
    harness.close()
    done = restore(settings(tmp_path), harness.clock, backup.folder, agents=[], by="operator test", may_replace=True)
    assert done.agents == (instance.agent.name,)
    assert "was revoked" in str(registry.why_barred(open_harness(tmp_path).store, instance, harness.clock.time))


def test_restore_that_is_killed_before_its_last_step_leaves_what_a_killed_guard_had_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = open_harness(tmp_path)
    backup = saved(harness)
    harness.ledger.writer.run(lambda tx: registry.revoke(tx, ("user", "dana"), "left", "test"))
    killed = tmp_path / "killed"  # as the guard leaves it: the last commits are only in the write-ahead log
    shutil.copytree(tmp_path / "state", killed / "state", ignore=shutil.ignore_patterns("guards"))
    assert (killed / "state" / f"{FILE}-wal").stat().st_size

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mcp_guard.ledger.backup._move_keys_in", die)
    with pytest.raises(KeyboardInterrupt):
        restored(killed, backup, harness.clock, may_replace=True)
    with open_read_only(killed / "state" / FILE) as store:
        assert [key for key, _ in store.revocations()] == [("user", "dana")]


def test_backup_with_a_key_of_an_approver_that_no_receipt_enrolled_is_not_restored(tmp_path: Path) -> None:
    """Its receipts verify, and the table of keys is none of them: whoever could write the backup could vote."""
    harness = open_harness(tmp_path)
    ours = NewKey("ed25519", PrivateKey.generate().public_key().public_bytes_raw(), {})
    theirs = NewKey("ed25519", PrivateKey.generate().public_key().public_bytes_raw(), {})
    enrol(harness.ledger.writer, Approver("zoe", "Zoe"), ours)
    backup = saved(harness)
    harness.close()
    with closing(sqlite3.connect(backup.folder / FILE)) as db:
        db.execute("UPDATE approver_key SET id = ?, public = ? WHERE approver = 'zoe'", (theirs.id, theirs.text))
        db.commit()
    assert verify_ledger(backup.folder / FILE, backup.folder / "ledger.pub").ok
    before = {path.name for path in (tmp_path / "state").iterdir()}
    with pytest.raises(LedgerError, match="of `zoe` is not as its receipts say"):
        restored(tmp_path, backup, harness.clock, may_replace=True)
    assert {path.name for path in (tmp_path / "state").iterdir()} == before


def test_backup_in_which_a_removed_key_is_in_use_again_is_not_restored(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    key = enrol(
        harness.ledger.writer,
        Approver("zoe", "Zoe"),
        NewKey("ed25519", PrivateKey.generate().public_key().public_bytes_raw(), {}),
    )
    remove(harness.ledger.writer, "zoe", key.id, "lost")
    backup = saved(harness)
    harness.close()
    with closing(sqlite3.connect(backup.folder / FILE)) as db:
        db.execute("UPDATE approver_key SET removed = NULL")
        db.commit()
    with pytest.raises(LedgerError, match="is not as its receipts say"):
        restored(tmp_path, backup, harness.clock, may_replace=True)


def test_agent_that_is_disabled_in_the_backup_stays_disabled(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    harness.ledger.writer.run(lambda tx: registry.revoke(tx, ("agent", "agent"), "drifts", "test", registry.FOREVER))
    backup = saved(harness)
    harness.close()
    assert restored(tmp_path, backup, harness.clock, may_replace=True).agents == ()
    assert open_harness(tmp_path).store.revocations() == [(("agent", "agent"), registry.FOREVER)]


def test_restore_is_refused_while_a_guard_runs(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    backup = saved(harness)
    with pytest.raises(LedgerError, match="a guard is using"):
        restored(tmp_path, backup, harness.clock, may_replace=True)


def test_ledger_that_is_there_is_replaced_only_on_request_and_is_kept(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    backup = saved(harness)
    harness.ledger.writer.run(lambda tx: registry.revoke(tx, ("user", "dana"), "left", "test"))
    harness.close()
    with pytest.raises(LedgerError, match="there is a ledger already"):
        restored(tmp_path, backup, harness.clock)
    done = restored(tmp_path, backup, harness.clock, may_replace=True)
    assert done.replaced is not None
    assert (done.receipts, done.replaced_receipts) == (backup.receipts, backup.receipts + 1)
    assert verify_ledger(done.replaced / FILE, done.replaced / "ledger.pub").ok


def test_empty_ledger_that_a_look_at_the_new_machine_made_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    harness = open_harness(tmp_path / "old")
    backup = saved(harness)
    harness.close()
    (new := tmp_path / "new").mkdir()
    (new / "mcp-guard.toml").write_text(CONFIG)
    monkeypatch.chdir(new)
    assert main(["agents", "list"]) == 0
    assert "started a new ledger" in capsys.readouterr().err
    code, said, _ = run(capsys, "restore", str(backup.folder))
    assert code == 0
    assert "the ledger that was there (0 receipts) is in" in said
    assert run(capsys, "restore", str(backup.folder))[0] == 5


def test_restore_without_the_private_key_says_where_to_put_it_and_changes_nothing(tmp_path: Path) -> None:
    harness = open_harness(tmp_path / "old")
    backup = saved(harness, with_key=False)
    with pytest.raises(LedgerError, match="neither in the backup nor in") as error:
        restored(tmp_path / "new", backup, harness.clock)
    assert "--lost-key" in error.value.hint
    assert not (tmp_path / "new" / "state").exists()
    shutil.copy(tmp_path / "old" / "state" / "ledger.key", backup.folder)
    assert restored(tmp_path / "new", backup, harness.clock).receipts == backup.receipts


def test_lost_key_is_replaced_with_a_receipt_that_says_so(tmp_path: Path) -> None:
    harness = open_harness(tmp_path / "old")
    backup = saved(harness, with_key=False)
    done = restored(tmp_path / "new", backup, harness.clock, key_is_lost=True)
    state = tmp_path / "new" / "state"
    assert (state / "ledger.pub").read_text().splitlines()[-1] == done.verifier
    assert (state / "ledger.key").stat().st_mode & 0o777 == 0o600
    report = verify_ledger(state / FILE, state / "ledger.pub")
    assert (report.ok, report.kinds["key.replaced"]) == (True, 1), report.problem


@pytest.mark.parametrize("key_is_lost", [False, True])
def test_ledger_of_another_origin_is_not_restored(tmp_path: Path, key_is_lost: bool) -> None:
    """Its receipts would not verify together with those that follow."""
    harness = open_harness(tmp_path / "old")
    backup = saved(harness)
    other = LedgerSettings(tmp_path / "new" / "state", "test.example/another", ROUTES)
    with pytest.raises(LedgerError, match="the ledger has the origin"):
        restore(other, harness.clock, backup.folder, agents=[], by="operator test", key_is_lost=key_is_lost)
    assert not (tmp_path / "new" / "state").exists()


CONFIG = """
[guard]
origin = "test.example/ledger"
policies = "policies.cedar"

[agents.agent]
owner = "bob"
"""


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["ledger", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_commands_back_up_and_restore_and_say_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_harness(tmp_path).close()
    (tmp_path / "mcp-guard.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    code, said, hint = run(capsys, "backup", "copy")
    assert (code, said.splitlines()) == (0, ["backed up 1 receipt to copy, and verified the copy"])
    assert "the private key is not in it" in hint
    code, _, said = run(capsys, "restore", "copies")
    assert (code, "no backup in" in said) == (5, True)
    assert run(capsys, "restore", "copy")[0] == 5
    code, _, said = run(capsys, "restore", "copy", "--replace", "--against", "copy/chekpoint")
    assert (code, "cannot read the checkpoint `copy/chekpoint`: No such file" in said) == (5, True)
    assert said.endswith("hint: name a checkpoint that you kept: --against CHECKPOINT\n")
    (foreign := tmp_path / "foreign").mkdir()
    open_harness(foreign).close()
    (foreign / "mcp-guard.toml").write_text(CONFIG)
    monkeypatch.chdir(foreign)
    assert run(capsys, "backup", "copy")[0] == 0
    monkeypatch.chdir(tmp_path)
    code, _, said = run(capsys, "restore", "copy", "--replace", "--against", "foreign/copy/checkpoint")
    assert code == 5
    assert "if the checkpoint is of another ledger, name this one's with --against; if not, use another backup" in said
    code, said, _ = run(capsys, "restore", "copy", "--replace", "--against", "copy/checkpoint")
    assert code == 0
    assert said.startswith(f"restored 1 receipt of test.example/ledger to {tmp_path / 'state'}\n")
    assert "withdrew 0 open approvals and all credentials of agent: " in said
    for next_step in ("mcp-guard agents list", "mcp-guard approvers list", "mcp-guard tools list", "mcp-guard doctor"):
        assert next_step in said


def test_a_siem_gets_what_happens_after_a_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_harness(tmp_path).close()
    (tmp_path / "mcp-guard.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    run(capsys, "backup", "copy")
    ahead, behind, other = (Cursor(tmp_path / "state" / f"events-{name}.cursor") for name in ("otel-1", "otel-2", "x"))
    ahead.move(ORIGIN, 111)
    behind.move(ORIGIN, -1)
    other.move("other.example/ledger", 111)
    (tmp_path / "state" / "events-y.cursor").write_text("damaged")
    code, said, _ = run(capsys, "restore", "copy", "--replace")
    assert code == 0
    assert "set back 1 position of `mcp-guard ledger events`" in said
    assert "mcp-guard ledger events --cursor FILE --after 0 " in said
    assert (ahead.read(ORIGIN), behind.read(ORIGIN), other.read("other.example/ledger")) == (0, -1, 111)
    code, said, _ = run(capsys, "events", "--cursor", str(ahead.path))
    assert [json.loads(line)["id"] for line in said.splitlines()] == ["1"]


def test_damaged_backup_is_not_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    harness = open_harness(tmp_path)
    backup = saved(harness)
    harness.close()
    (tmp_path / "mcp-guard.toml").write_text(CONFIG)
    file = backup.folder / FILE
    file.write_bytes(file.read_bytes().replace(b"policy.loaded", b"policy.loadee"))
    before: Json = {path.name: path.stat().st_ino for path in (tmp_path / "state").iterdir()}
    monkeypatch.chdir(tmp_path)
    code, _, said = run(capsys, "restore", "backup", "--replace")
    assert code == 5
    assert "does not verify" in said
    assert {path.name: path.stat().st_ino for path in (tmp_path / "state").iterdir()} == before
