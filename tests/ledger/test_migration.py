"""Ledgers of older formats are migrated in one step, with no receipt changed, and verify against old checkpoints."""

import base64
import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.errors import ApprovalError, LedgerError
from mcp_guard.core.receipt import Draft
from mcp_guard.files import FileLock
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey, enrol
from mcp_guard.ledger.migration import Migrated, migrate
from mcp_guard.ledger.open import LedgerSettings, open_writer
from mcp_guard.ledger.place import FILE
from mcp_guard.storage.engines import open_read_only, open_store
from mcp_guard.storage.presence import GUARDS
from mcp_guard.storage.sql.schema import VERSION
from mcp_guard.storage.sqlite import migrations, schema, store
from mcp_guard.verifier import LedgerSource, Requirements, read_keys, verify_full, verify_ledger, verify_range
from mcp_guard.verifier.cli import read_checkpoints
from mcp_guard.verifier.consistency import ConsistencyChecker
from mcp_guard.verifier.format_4 import Format4Checker
from mcp_guard.verifier.report import VerificationFailed
from tests.kill_points import Tell, killed_at
from tests.ledger.older_ledger import unpack
from tests.promises.harness import Clock
from tests.verifier.resign import sign_anew

Change = Callable[[dict[str, Any]], None]
COPIED = ("receipt", "payload", "node", "guard_key", "rate_use", "pin", "policy_version", "approver_key", "witnessed")
"""Tables that no migration changes, but for receipts that are added."""


def rows(file: Path, table: str) -> list[Any]:
    with closing(sqlite3.connect(file)) as db:
        return db.execute(f"SELECT * FROM {table}").fetchall()


def edit(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def clock_after(settings: LedgerSettings) -> Clock:
    """A clock that has passed the last receipt."""
    clock = Clock()
    clock.time = rows(settings.state_dir / FILE, "receipt")[-1][2] + 1_000_000
    return clock


def migrated(settings: LedgerSettings, **options: Any) -> Migrated:
    done = migrate(settings, clock_after(settings), settings.state_dir / FILE, "operator test", **options)
    assert done is not None
    return done


def is_verified(settings: LedgerSettings) -> bool:
    """Also against the checkpoint that the ledger had before."""
    state = settings.state_dir
    earlier = read_checkpoints(state.parent / "checkpoint")
    report = verify_full(LedgerSource(state / FILE), Requirements(read_keys(state / "ledger.pub"), against=earlier))
    assert report.ok, report.problem
    return report.against == [62]


def test_migrated_ledger_has_the_same_receipts_and_verifies_against_its_old_checkpoint(tmp_path: Path) -> None:
    settings = unpack(tmp_path)
    before = {table: rows(settings.state_dir / FILE, table) for table in COPIED}
    assert is_verified(settings)
    done = migrated(settings)
    assert (done.before, done.after, done.receipts, done.ended) == (4, 5, 62, 3)
    assert done.checkpoint == (tmp_path / "checkpoint").read_text()
    assert is_verified(settings)
    for table, stored in before.items():
        assert rows(settings.state_dir / FILE, table)[: len(stored)] == stored
        assert rows(done.backup, table) == stored
    last = json.loads(rows(settings.state_dir / FILE, "receipt")[-1][4])
    assert (last["kind"], last["from"], last["to"], last["by"]) == ("ledger.migrated", 4, 5, "operator test")
    assert done.backup.stat().st_mode & 0o777 == 0o600


def test_migrated_ledger_is_one_of_today_and_is_not_migrated_again(tmp_path: Path) -> None:
    settings = unpack(tmp_path)
    migrated(settings)
    ledger = settings.state_dir / FILE
    assert migrate(settings, Clock(), ledger, "operator test") is None
    with closing(open_store(ledger)) as store:
        assert store.approvals()
        assert store.grants()
        assert len(store.instances()) == 4
        assert [key.approver for key in store.approver_keys()] == ["alice", "carol"]
    with closing(sqlite3.connect(ledger)) as db:
        schema.check_schema(db, ledger)


def test_what_was_open_in_the_older_format_ends_with_it(tmp_path: Path) -> None:
    settings = unpack(tmp_path)
    migrated(settings)
    with open_read_only(settings.state_dir / FILE) as store:
        states = sorted(approval.state for approval in store.approvals())
        assert states == ["consumed", "consumed", "consumed", "denied", "stale", "stale"]
        assert [grant.state for grant in store.grants()] == ["revoked", "revoked"]
        stale = [approval for approval in store.approvals() if approval.state == "stale"]
        assert {(approval.nonce, approval.lookup) for approval in stale} == {("", "")}
        assert all("ask again" in approval.note for approval in stale)


def test_sign_in_codes_of_the_older_format_permit_a_first_key_at_most(tmp_path: Path) -> None:
    settings = unpack(tmp_path)
    migrated(settings)
    assert [(approver, kind) for _, approver, kind, _ in rows(settings.state_dir / FILE, "sign_in")] == [
        ("alice", "sign_in_code")
    ]


def test_two_instances_of_one_credential_are_kept_apart(tmp_path: Path) -> None:
    settings = unpack(tmp_path)
    edit(settings.state_dir / FILE, "UPDATE instance SET credential = 'cred_same' WHERE agent = 'tester'")
    migrated(settings)
    credentials = [row[1] for row in rows(settings.state_dir / FILE, "instance") if row[2] == "tester"]
    assert credentials.count("cred_same") == 1
    assert len(set(credentials)) == 3


def test_a_revoked_token_of_another_issuer_stays_revoked(tmp_path: Path) -> None:
    settings = unpack(tmp_path)
    edit(
        settings.state_dir / FILE,
        "UPDATE instance SET said = json_set(said, '$.credential_id', 'cred_000000000000000000000000') "
        "WHERE agent = 'second'",
    )
    assert migrated(settings).revoked == ("second",)
    kinds = [row[1] for row in rows(settings.state_dir / FILE, "receipt")]
    assert kinds[-2:] == ["ledger.migrated", "credential.revoked"]
    assert is_verified(settings)


def test_migration_is_refused_while_a_guard_runs(tmp_path: Path) -> None:
    settings = unpack(tmp_path)
    (settings.state_dir / GUARDS).mkdir()
    with FileLock(settings.state_dir / GUARDS / "guard_abc.lock"), pytest.raises(LedgerError, match="guard_abc"):
        migrated(settings)
    assert [path.name for path in settings.state_dir.glob(f"{FILE}*")] == [FILE]
    migrated(settings)


def test_changed_tables_are_not_migrated(tmp_path: Path) -> None:
    settings = unpack(tmp_path)
    edit(settings.state_dir / FILE, "CREATE TRIGGER mine AFTER INSERT ON receipt BEGIN SELECT 1; END")
    with pytest.raises(LedgerError, match="TRIGGER mine"):
        migrated(settings)


def test_guards_name_the_command_that_migrates(tmp_path: Path) -> None:
    settings = unpack(tmp_path)
    with pytest.raises(LedgerError) as refused:
        open_writer(settings, Clock())
    assert refused.value.message == "the ledger has format 4; this version reads 5"
    assert refused.value.hint.endswith(f"mcp-guard ledger migrate --ledger {settings.state_dir / FILE}")


def test_every_older_format_has_a_step_and_tables() -> None:
    older = set(range(schema.OLDEST, VERSION))
    assert set(migrations.STEPS) == set(migrations.OLDER_TABLES) == older


# Interrupted

FILE_EVENTS = ("sqlite3.connect", "os.rename", "os.remove")
STEP = ("BEGIN", "ALTER", "CREATE", "DROP", "INSERT", "UPDATE", "PRAGMA user_version", "COMMIT")


def report_steps(at: Tell) -> None:
    """Make each change to a file or a table a point at which to be killed."""
    connect = store.connect_for_writing

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(lambda statement: at(statement) if statement.startswith(STEP) else None)
        return connection

    migrations.connect_for_writing = traced  # type: ignore[attr-defined]
    sys.addaudithook(lambda event, _: at(event) if event in FILE_EVENTS else None)


def test_migration_killed_at_any_step_is_done_by_the_next(tmp_path: Path) -> None:
    number = 0
    while True:
        settings = unpack(tmp_path / str(number))
        clock = clock_after(settings)

        def work(at: Tell, settings: LedgerSettings = settings, clock: Clock = clock) -> None:
            report_steps(at)
            migrate(settings, clock, settings.state_dir / FILE, "operator test")

        was_killed = killed_at(number, work)
        ledger = settings.state_dir / FILE
        with closing(sqlite3.connect(ledger)) as db:
            assert db.execute("PRAGMA user_version").fetchone() in ((4,), (5,))
        migrate(settings, clock, ledger, "operator test")
        assert [row[1] for row in rows(ledger, "receipt")].count("ledger.migrated") == 1
        backups = list(settings.state_dir.glob(f"{FILE}.format-4-*"))
        assert len(backups) == 1
        assert len(rows(backups[0], "receipt")) == 62
        if number % 10 == 0 or not was_killed:
            assert is_verified(settings)
        if not was_killed:
            break
        number += 1
    assert number > 20


# What a verifier refuses, and what it does not


def changed(of: str, /, **members: Any) -> Change:
    """Give these members to the receipts of this kind."""
    return lambda receipt: receipt.update(members) if receipt["kind"] == of else None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (changed("approval.granted", rationale="gladly"), "is not signed by them"),
        (changed("approval.granted", terms={"free": [], "seconds": 9, "uses": 9}), "is not signed by them"),
        (changed("approval.consumed", follows=[50]), "does not follow"),
        (changed("grant.used", use=2), "is used beyond its limits"),
        (changed("approval.requested", commitment="sha256:00"), "of a newer format"),
        (changed("ledger.migrated", **{"from": 3}), "a migration from format 3"),
        (changed("ledger.migrated", kind="guard.stopped"), "enrolled without authorization"),
    ],
)
def test_forged_receipts_of_an_older_format_do_not_verify(tmp_path: Path, change: Change, problem: str) -> None:
    settings = unpack(tmp_path)
    migrated(settings)
    sign_anew(settings.state_dir, settings.origin, change, first=35)
    report = verify_ledger(settings.state_dir / FILE, settings.state_dir / "ledger.pub")
    assert problem in report.problem


def test_a_ledger_is_migrated_once(tmp_path: Path) -> None:
    settings = unpack(tmp_path)
    migrated(settings)
    with closing(open_writer(settings, clock_after(settings))) as writer:
        writer.run(lambda tx: tx.add(Draft("ledger.migrated", {"from": 4, "to": 5, "by": "operator", "ended": 0})))
    report = verify_ledger(settings.state_dir / FILE, settings.state_dir / "ledger.pub")
    assert (report.failed_at, "cannot be here" in report.problem) == (63, True)


def test_receipts_of_today_are_not_judged_by_the_rules_of_an_older_format() -> None:
    enrolled = {"kind": "approver.enrolled", "approver": "eve", "key": "k", "method": "ed25519", "public": "AA=="}
    with pytest.raises(VerificationFailed, match="in a newer format"):
        Format4Checker().check(0, enrolled | {"authorized_by": "terminal"})
    with pytest.raises(VerificationFailed, match="without authorization"):
        ConsistencyChecker().check(0, enrolled)


def test_keys_of_the_older_format_are_known_after_the_migration(tmp_path: Path) -> None:
    """So nobody can enrol the key of one approver for another."""
    settings = unpack(tmp_path)
    migrated(settings)
    public = base64.b64decode(rows(settings.state_dir / FILE, "approver_key")[1][3])
    with closing(open_writer(settings, clock_after(settings))) as writer, pytest.raises(ApprovalError, match="carol"):
        enrol(writer, Approver("bob", "Bob"), NewKey("ed25519", public, {}))


def test_parts_of_a_migrated_ledger_verify(tmp_path: Path) -> None:
    settings = unpack(tmp_path)
    migrated(settings)
    state = settings.state_dir
    for first, last in ((0, 62), (40, 62), (8, 8), (13, 13), (18, 18), (62, 62)):
        requirements = Requirements(read_keys(state / "ledger.pub"))
        assert verify_range(LedgerSource(state / FILE), requirements, first, last).problem == ""
