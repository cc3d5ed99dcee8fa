"""The ledger's key: storage, rotation and replacement, and crashes at every point of a rotation."""

import base64
import fcntl
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.config.ledger import SignerConfig
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import ToolCallRequest
from mcp_guard.core.receipt import Draft
from mcp_guard.core.tlog import note
from mcp_guard.ledger import key_rotation
from mcp_guard.ledger.key_chain import possession
from mcp_guard.ledger.keys import SigningKey, parse_private, private_text, publish, signing_key
from mcp_guard.ledger.open import LedgerSettings, open_writer
from mcp_guard.ledger.signers import SIGNERS, make_ledger_keys
from mcp_guard.ledger.signers.file import create_key_file
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.settings import SignerSettings
from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import open_store
from mcp_guard.storage.place import Database
from mcp_guard.verifier import verify_ledger
from tests.kill_points import killed_at
from tests.ledger.rotation_checks import chain, checkpoint, receipts, signers, signs
from tests.promises.harness import Clock, make_instance, open_harness
from tests.storage.contract.engines import postgres
from tests.storage.postgres_server import server

ORIGIN = "test.example/ledger"
SIGNER = Path(__file__).parent.parent / "servers" / "signer.py"
NOTE = Draft("guard.started", {"guard": "guard_1"})


def settings(folder: Path, *held: SignerSettings) -> LedgerSettings:
    return LedgerSettings(folder / "state", ORIGIN, signers=held or (SignerSettings(),))


def test_a_state_folder_is_of_one_origin(tmp_path: Path) -> None:
    """What is kept in it beside a database does not say of which ledger it is."""
    publish(tmp_path, [note.verifier("one.example", bytes(32))])
    publish(tmp_path, [note.verifier("one.example", bytes(range(32)))])
    with pytest.raises(LedgerError, match=r"is that of the origin `one\.example`") as refused:
        publish(tmp_path, [note.verifier("two.example", bytes(32))])
    assert "guard.state_dir" in refused.value.hint


def write(writer: Writer) -> int:
    return writer.run(lambda tx: tx.add(NOTE))


def published(folder: Path) -> list[str]:
    return (folder / "state" / "ledger.pub").read_text().splitlines()


def external(folder: Path, name: str = "token", seconds: float = 20) -> SignerSettings:
    """A command signer with its own key, and its verifier line."""
    private = Ed25519PrivateKey.generate()
    (folder / name).write_text(private.private_bytes_raw().hex())
    verifier = note.verifier(ORIGIN, private.public_key().public_bytes_raw())
    return SignerSettings("command", (sys.executable, str(SIGNER), str(folder / name)), verifier, seconds, folder)


@pytest.fixture
def keyring_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    import keyring

    from tests.ledger.file_keyring import FileKeyring

    monkeypatch.setenv("TEST_KEYRING", str(tmp_path / "keyring.json"))
    before = keyring.get_keyring()
    keyring.set_keyring(FileKeyring())  # type: ignore[no-untyped-call]
    yield tmp_path / "keyring.json"
    keyring.set_keyring(before)


def test_every_way_to_hold_the_key_can_be_configured() -> None:
    words, command = get_args(SignerConfig)
    assert {*get_args(words), "command"} == set(SIGNERS)
    assert "command" in command.model_fields


# A file


def test_ledger_key_file_is_private(tmp_path: Path) -> None:
    write(open_writer(settings(tmp_path), Clock()))
    path = tmp_path / "state" / "ledger.key"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(LedgerError, match="is accessible to other users"):
        open_writer(settings(tmp_path), Clock())


def test_a_new_key_is_never_made_for_a_ledger_that_has_one(tmp_path: Path) -> None:
    write(open_writer(settings(tmp_path), Clock()))
    (tmp_path / "state" / "ledger.key").unlink()
    with pytest.raises(LedgerError, match="is not where it is configured") as caught:
        open_writer(settings(tmp_path), Clock())
    assert "keys replace --lost" in caught.value.hint
    assert not (tmp_path / "state" / "ledger.key").exists()


def test_truncated_key_file_is_reported_and_not_overwritten(tmp_path: Path) -> None:
    write(open_writer(settings(tmp_path), Clock()))
    path = tmp_path / "state" / "ledger.key"
    path.write_text(path.read_text()[:40])
    with pytest.raises(LedgerError, match="cannot be used"):
        open_writer(settings(tmp_path), Clock())
    assert len(path.read_text()) == 40


# Rotation


def test_rotation_is_signed_by_both_keys_and_removes_the_old_one(tmp_path: Path) -> None:
    writer = open_writer(settings(tmp_path), Clock())
    write(writer)
    before = (tmp_path / "state" / "ledger.key").read_text()
    old, new = key_rotation.rotate(settings(tmp_path), Clock(), "every year")
    said, body, signature = receipts(tmp_path / "state")[-1]
    assert (said["kind"], said["old"], said["new"], said["reason"]) == ("key.rotated", old, new, "every year")
    assert signs(old, signature, body)
    assert not signs(new, signature, body)
    assert signers(checkpoint(tmp_path / "state")) == [old.split("+")[1], new.split("+")[1]]
    write(open_writer(settings(tmp_path), Clock()))
    assert signers(checkpoint(tmp_path / "state")) == [new.split("+")[1]]
    assert list(chain(tmp_path / "state", old)) == [old, new] == published(tmp_path)
    for path in (tmp_path / "state").iterdir():
        assert before.strip().encode() not in path.read_bytes(), path
    assert not (tmp_path / "state" / "ledger.key.new").exists()


async def test_running_guard_continues_with_the_new_key(tmp_path: Path) -> None:
    first, second = open_harness(tmp_path), open_harness(tmp_path)
    await first.guard.call(make_instance(), ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 150}))
    await second.guard.call(make_instance(), ToolCallRequest("crm__update_deal", {"deal_id": "2", "amount": 150}))
    old, new = key_rotation.rotate(settings(tmp_path), Clock())
    for harness in (first, second):
        reply = await harness.guard.call(
            make_instance(), ToolCallRequest("crm__update_deal", {"deal_id": "3", "amount": 1})
        )
        assert "error" not in reply
        assert harness.ledger.writer.key.verifier == new
        harness.close()
    assert len(first.upstream.writes()) == len(second.upstream.writes()) == 2
    assert list(chain(tmp_path / "state", old)) == [old, new]


def test_key_can_be_rotated_repeatedly(tmp_path: Path) -> None:
    writer = open_writer(settings(tmp_path), Clock())
    write(writer)
    keys = [writer.key.verifier]
    for _ in range(3):
        keys.append(key_rotation.rotate(settings(tmp_path), Clock())[1])
        write(writer)
    assert list(chain(tmp_path / "state", keys[0])) == keys == published(tmp_path)
    assert [key.since for key in writer.store.guard_keys()] == [0, 2, 4, 6]


def test_a_ledger_that_was_never_rotated_verifies(tmp_path: Path) -> None:
    write(open_writer(settings(tmp_path), Clock()))
    assert verify_ledger(tmp_path / "state" / "ledger.sqlite", tmp_path / "state" / "ledger.pub").ok


def test_a_rotation_in_a_database_waits_for_a_key_that_every_running_gateway_has(tmp_path: Path) -> None:
    database = Database(server().url, ORIGIN)
    here, there = (LedgerSettings(tmp_path / name, ORIGIN, database=database) for name in ("here", "there"))
    first = open_writer(here, Clock())
    write(first)
    for folder in (there.state_dir, tmp_path / "kept"):
        shutil.copytree(here.state_dir, folder)
    other = open_writer(there, Clock())
    with pytest.raises(LedgerError, match="gateways with other state folders could not get the new key") as refused:
        key_rotation.rotate(here, Clock())
    assert "mcp-guard keys create ledger.key.new; " in refused.value.hint
    made = create_key_file(tmp_path / "kept" / "ledger.key.new", ORIGIN)
    for settings in (here, there):
        shutil.copy(tmp_path / "kept" / "ledger.key.new", settings.state_dir)
    assert key_rotation.rotate(here, Clock()) == (first.key.verifier, made)
    for writer, folder in ((first, here.state_dir), (other, there.state_dir)):
        write(writer)
        assert writer.key.verifier == made
        assert parse_private((folder / "ledger.key").read_text().strip()).verifier == made
        assert not (folder / "ledger.key.new").exists()
        writer.close()


def test_concurrent_rotations_are_refused(tmp_path: Path) -> None:
    write(open_writer(settings(tmp_path), Clock()))
    lock = os.open(tmp_path / "state" / "rotation.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(LedgerError, match="another process is changing the key"):
        key_rotation.rotate(settings(tmp_path), Clock())
    os.close(lock)
    key_rotation.rotate(settings(tmp_path), Clock())


def test_a_rotation_that_cannot_be_recorded_changes_nothing(tmp_path: Path) -> None:
    writer = open_writer(settings(tmp_path), Clock())
    write(writer)
    blocker = open_store(tmp_path / "state" / "ledger.sqlite")
    blocker.begin()
    with pytest.raises(LedgerError, match="another process has locked the ledger"):
        key_rotation.rotate(settings(tmp_path), Clock())
    blocker.rollback()
    assert list(chain(tmp_path / "state", writer.key.verifier)) == published(tmp_path)
    assert open_writer(settings(tmp_path), Clock()).key.verifier == writer.key.verifier


# The table of keys


@pytest.mark.parametrize("row", ["the first", "the last", "no verifier line", "an unsigned replacement"])
def test_a_key_that_no_receipt_puts_in_force_is_not_published_and_destroys_none(tmp_path: Path, row: str) -> None:
    writer = open_writer(settings(tmp_path), Clock())
    write(writer)
    key_rotation.rotate(settings(tmp_path), Clock())
    private = Ed25519PrivateKey.generate()
    foreign = signing_key(ORIGIN, private.public_key(), private.sign)
    if row == "an unsigned replacement":
        forge_replacement(writer.store, foreign)
    else:
        id, line = 1 if row == "the first" else 100, "no key" if row == "no verifier line" else foreign.verifier
        execute(tmp_path, "UPDATE guard_key SET id = id + 10", ())
        execute(tmp_path, "INSERT INTO guard_key VALUES (?, 0, ?)", (id, line))
    files = {name: (tmp_path / "state" / name).read_bytes() for name in ("ledger.key", "ledger.pub")}
    with pytest.raises(LedgerError, match="`guard_key`, is not as the signed receipts say") as refused:
        open_writer(settings(tmp_path), Clock())
    assert "mcp-guard verify" in refused.value.hint
    with pytest.raises(LedgerError, match="is not as the signed receipts say"):
        key_rotation.rotate(settings(tmp_path), Clock())
    assert {name: (tmp_path / "state" / name).read_bytes() for name in files} == files


def execute(folder: Path, sql: str, values: tuple[object, ...]) -> None:
    with closing(sqlite3.connect(folder / "state" / "ledger.sqlite")) as db:
        db.execute(sql, values)
        db.commit()


def forge_replacement(store: Store, foreign: SigningKey) -> None:
    """As someone without the key in force can write it, who leaves the head as it is."""
    head = store.head()
    store.begin()
    tx = Transaction(store, foreign, head, head.hashes(), 1)
    said = possession(head.key, foreign.verifier, ORIGIN, head.size)
    proof = base64.b64encode(foreign.sign(said)).decode()
    tx.add(Draft("key.replaced", {"old": head.key, "new": foreign.verifier, "possession": proof, "reason": ""}))
    store.add_guard_key(head.size, foreign.verifier)
    store.commit()


# Killed


def rotate_until(folder: Path, at: Callable[[str], None]) -> None:
    """Rotate; `at` is called for every file opened, moved or removed in the folder, and for the commit."""

    def heard(event: str, arguments: tuple[object, ...]) -> None:
        about = str(arguments[0]) if arguments else ""
        if event in ("open", "os.rename", "os.remove", "os.link") and about.startswith(str(folder)) and listening:
            at(f"{event} {Path(about).name}")

    listening = [True]
    commit = Writer.run

    def told_run(writer: Writer, op: object) -> object:
        at("before commit")
        done = commit(writer, op)  # type: ignore[arg-type, var-annotated]
        at("after commit")
        return done

    sys.addaudithook(heard)
    Writer.run = told_run  # type: ignore[assignment, method-assign]
    try:
        key_rotation.rotate(settings(folder), Clock())
    finally:
        Writer.run = commit  # type: ignore[method-assign]
        listening.clear()


def test_rotation_killed_at_any_step_leaves_a_working_key(tmp_path: Path) -> None:
    number, died = 0, True
    while died:
        folder = tmp_path / str(number)
        folder.mkdir()
        old = open_writer(settings(folder), Clock())
        write(old)
        died = killed_at(number, partial(rotate_until, folder))
        after = open_writer(settings(folder), Clock())
        write(after)
        write(old)  # a guard that ran throughout
        keys = list(chain(folder / "state", published(folder)[0]))
        assert keys == published(folder), number
        assert after.key.verifier == old.key.verifier == keys[-1]
        assert len(keys) in ((1, 2) if died else (2,))
        held = (folder / "state" / "ledger.key").read_text()
        assert f"+{keys[-1].split('+')[1]}+" in held
        assert key_rotation.rotate(settings(folder), Clock())[0] == keys[-1]
        assert not list((folder / "state").glob("ledger.key.*"))
        number += 1
    assert number > 12


# Lost


def test_replacement_of_a_lost_key_is_recorded_as_unsigned(tmp_path: Path) -> None:
    write(open_writer(settings(tmp_path), Clock()))
    (tmp_path / "state" / "ledger.key").unlink()
    old, new = key_rotation.replace(settings(tmp_path), Clock(), "the disk died")
    said, body, signature = receipts(tmp_path / "state")[-1]
    assert (said["kind"], said["old"], said["new"], said["reason"]) == ("key.replaced", old, new, "the disk died")
    assert signs(new, signature, body)
    assert signers(checkpoint(tmp_path / "state")) == [new.split("+")[1]]
    write(open_writer(settings(tmp_path), Clock()))
    assert list(chain(tmp_path / "state", old)) == [old, new] == published(tmp_path)


def test_a_damaged_key_file_is_replaced_too(tmp_path: Path) -> None:
    write(open_writer(settings(tmp_path), Clock()))
    (tmp_path / "state" / "ledger.key").write_text("PRIVATE+KEY+rubbish\n")
    _, new = key_rotation.replace(settings(tmp_path), Clock())
    assert open_writer(settings(tmp_path), Clock()).key.verifier == new


def test_a_damaged_key_is_replaced_by_one_of_another_signer(tmp_path: Path) -> None:
    held = external(tmp_path)
    write(open_writer(settings(tmp_path), Clock()))
    (tmp_path / "state" / "ledger.key").write_text("PRIVATE+KEY+rubbish\n")
    both = settings(tmp_path, SignerSettings(), held)
    assert key_rotation.replace(both, Clock())[1] == held.public
    assert open_writer(both, Clock()).key.verifier == held.public
    assert (tmp_path / "state" / "ledger.key").read_text() == "PRIVATE+KEY+rubbish\n"  # any content is left alone


def test_a_key_that_was_lost_before_it_signed_anything_is_replaced(tmp_path: Path) -> None:
    write(open_writer(settings(tmp_path), Clock()))
    old, lost = key_rotation.rotate(settings(tmp_path), Clock())
    for _ in range(2):
        (tmp_path / "state" / "ledger.key").unlink()
        _, new = key_rotation.replace(settings(tmp_path), Clock())
    _, rotated = key_rotation.rotate(settings(tmp_path), Clock())
    keys = list(chain(tmp_path / "state", old))
    assert keys == published(tmp_path)
    assert (keys[:2], keys[3:]) == ([old, lost], [new, rotated])


def test_replacing_a_key_needs_receipts(tmp_path: Path) -> None:
    open_writer(settings(tmp_path), Clock())
    with pytest.raises(LedgerError, match="no receipts"):
        key_rotation.replace(settings(tmp_path), Clock())


# The keyring


def test_keyring_holds_the_key_and_no_file_does(tmp_path: Path, keyring_file: Path) -> None:
    held = settings(tmp_path, SignerSettings("keyring"))
    first = open_writer(held, Clock())
    write(first)
    assert not list((tmp_path / "state").glob("ledger.key*"))
    assert open_writer(held, Clock()).key.verifier == first.key.verifier
    old, new = key_rotation.rotate(held, Clock())
    write(first)
    assert list(chain(tmp_path / "state", old)) == [old, new] == published(tmp_path)
    assert old.split("+")[1] not in keyring_file.read_text()
    assert new.split("+")[1] in keyring_file.read_text()


def test_a_key_of_a_keyring_is_not_rotated_under_gateways_of_a_database(tmp_path: Path, keyring_file: Path) -> None:
    place = postgres(tmp_path)
    assert isinstance(place.place, Database)
    held = LedgerSettings(
        tmp_path / "state", place.place.origin, database=place.place, signers=(SignerSettings("keyring"),)
    )
    held.state_dir.mkdir()
    writer = open_writer(held, Clock())
    write(writer)
    [presence] = place.present("guard_1")
    with pytest.raises(LedgerError, match="and some run: guard_1"):
        key_rotation.rotate(held, Clock())
    presence.release()
    _, new = key_rotation.rotate(held, Clock())
    write(writer)
    assert writer.key.verifier == new
    writer.close()


def test_two_ledgers_of_one_origin_share_no_key_in_the_keyring(tmp_path: Path, keyring_file: Path) -> None:
    results = []
    for name in ("a", "b"):
        writer = open_writer(LedgerSettings(tmp_path / name, ORIGIN, signers=(SignerSettings("keyring"),)), Clock())
        write(writer)
        results.append(writer.key.verifier)
    assert len(set(results)) == 2


def test_key_missing_from_the_keyring_is_reported(tmp_path: Path, keyring_file: Path) -> None:
    held = settings(tmp_path, SignerSettings("keyring"))
    write(open_writer(held, Clock()))
    keyring_file.unlink()
    with pytest.raises(LedgerError, match="is not where it is configured"):
        open_writer(held, Clock())


# A command


def test_command_signer_signs(tmp_path: Path) -> None:
    held = external(tmp_path)
    writer = open_writer(settings(tmp_path, held), Clock())
    write(writer)
    assert list(chain(tmp_path / "state", held.public)) == [held.public]
    assert not list((tmp_path / "state").glob("ledger.key*"))


@pytest.mark.parametrize(
    ("mood", "told"),
    [
        ("sleep", "did not answer within 1 s"),
        ("fail", "exited with status 1"),
        ("babble", "did not sign with its `public` key"),
        ("other", "did not sign with its `public` key"),
    ],
)
def test_failing_signer_refuses_the_write(tmp_path: Path, mood: str, told: str) -> None:
    held = external(tmp_path, seconds=20)
    writer = open_writer(settings(tmp_path, held), Clock())
    write(writer)
    (tmp_path / "token.mood").write_text(mood)
    impatient = open_writer(settings(tmp_path, external_like(held, 1 if mood == "sleep" else 20)), Clock())
    with pytest.raises(LedgerError, match=told) as caught:
        write(impatient)
    assert "calls are refused" in caught.value.hint
    (tmp_path / "token.mood").unlink()
    assert write(writer) == 1  # nothing was written in between


def external_like(held: SignerSettings, seconds: float) -> SignerSettings:
    return SignerSettings(held.kind, held.command, held.public, seconds, held.base_dir)


async def test_a_call_whose_intent_cannot_be_signed_is_not_sent(tmp_path: Path) -> None:
    held = external(tmp_path)
    harness = open_harness(tmp_path, signed_by=make_ledger_keys(tmp_path / "state", ORIGIN, [held]).first_key())
    (tmp_path / "token.mood").write_text("fail")
    reply = await harness.guard.call(
        make_instance(), ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 150})
    )
    assert "the ledger cannot be used: signer failed. Nothing was sent" in str(reply)
    assert harness.upstream.sent == []
    harness.close()


def test_guard_not_configured_for_the_new_signer_refuses_after_rotation(tmp_path: Path) -> None:
    held = external(tmp_path)
    knowing, unknowing = settings(tmp_path, SignerSettings(), held), settings(tmp_path)
    writers = [open_writer(knowing, Clock()), open_writer(unknowing, Clock())]
    write(writers[0])
    old, new = key_rotation.rotate(knowing, Clock())
    assert new == held.public
    write(writers[0])
    with pytest.raises(LedgerError, match="is not where it is configured"):
        write(writers[1])
    assert not (tmp_path / "state" / "ledger.key").exists()
    assert list(chain(tmp_path / "state", old)) == [old, new] == published(tmp_path)
    assert open_writer(settings(tmp_path, held), Clock()).key.verifier == new


def test_rotation_to_a_failing_signer_is_refused(tmp_path: Path) -> None:
    held = external(tmp_path)
    knowing = settings(tmp_path, SignerSettings(), held)
    writer = open_writer(knowing, Clock())
    write(writer)
    (tmp_path / "token.mood").write_text("fail")
    with pytest.raises(LedgerError, match="exited with status"):
        key_rotation.rotate(knowing, Clock())
    assert write(writer) == 1


def test_command_signer_does_not_rotate_to_itself(tmp_path: Path) -> None:
    held = external(tmp_path)
    write(open_writer(settings(tmp_path, held), Clock()))
    with pytest.raises(LedgerError, match="already in force"):
        key_rotation.rotate(settings(tmp_path, held), Clock())


def test_key_round_trips_through_its_text() -> None:
    private = Ed25519PrivateKey.generate()
    key = signing_key(ORIGIN, private.public_key(), private.sign)
    assert private_text(ORIGIN, private).startswith(f"PRIVATE+KEY+{ORIGIN}+{key.id.hex()}+")
    assert note.parse_verifier(key.verifier) == (ORIGIN, key.id, private.public_key().public_bytes_raw())
