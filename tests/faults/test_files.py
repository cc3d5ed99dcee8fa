"""Ledger files that are read-only, missing, replaced, rolled back or damaged: refused, reported, never overwritten."""

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.ledger.recovery import recover
from mcp_guard.storage.engines import open_store
from mcp_guard.verifier import UnusableInput, verify_ledger
from tests.faults.disks import immutable
from tests.live.running_guard import Client, scripted, seen, text, write_config
from tests.promises.harness import Harness, make_instance, open_harness
from tests.promises.harness import text as said
from tests.proof_size import sized

NOBODY = 65534


async def call(harness: Harness) -> str:
    return said(await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "x"})))


def assert_hinted(error: LedgerError) -> None:
    assert error.hint


def files(harness: Harness) -> tuple[Path, Path]:
    path = harness.folder / "state" / "ledger.sqlite"
    return path, path.with_name("ledger.sqlite-wal")


async def refused(harness: Harness, why: str) -> None:
    """The call is refused for this reason, and nothing was sent."""
    sent = len(harness.upstream.sent)
    reply = await call(harness)
    assert f"denied by mcp-guard: {why}" in reply, reply
    assert len(harness.upstream.sent) == sent


def is_verified(folder: Path) -> bool:
    try:
        return verify_ledger(folder / "state" / "ledger.sqlite", folder / "state" / "ledger.pub").ok
    except UnusableInput:
        return False


# Read-only


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """In memory, a file that is open already can still be written to."""
    with TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


def test_guard_refuses_calls_while_its_files_are_read_only(on_disk: Path) -> None:
    config = write_config(on_disk, scripted("up", on_disk))
    wal = on_disk / "state" / "ledger.sqlite-wal"
    with Client(config) as client:
        client.start()
        client.call("up__echo", {"text": "one"})
        with immutable(wal):
            reply = text(client.call("up__echo", {"text": "two"}))
        assert "Nothing was sent" in reply
        assert "three" in text(client.call("up__echo", {"text": "three"}))
    assert [item["arguments"]["text"] for item in seen(on_disk, "up")] == ["one", "three"]
    assert "the disk reports write errors" in client.stderr
    assert is_verified(on_disk)


@pytest.mark.parametrize("what", ["ledger.sqlite", "."])
def test_guard_does_not_start_on_a_read_only_ledger(tmp_path: Path, what: str) -> None:
    """As a user who owns none of the files."""
    if os.getuid() != 0:
        pytest.skip("only root can be somebody else")
    open_harness(tmp_path).close()
    state = tmp_path / "state"
    for path in (tmp_path, *tmp_path.parents[:2], state, *state.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    if what != ".":
        os.chown(state, NOBODY, NOBODY)

    def write() -> None:
        path = state / "ledger.sqlite"
        store = open_store(path)
        with store.reading():
            store.forget_uses("writes", "nobody", 0)

    said = as_nobody(write)
    assert said.startswith("the ledger cannot be written: it is read-only"), said
    assert "hint: check the owner, mode" in said


def as_nobody(work: Callable[[], None]) -> str:
    """The error in a process of a user who owns none of the files."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            work()
        except LedgerError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    os.wait()
    return said


# Removed, replaced, rolled back


@pytest.mark.parametrize("which", [0, 1])
async def test_removed_file_is_noticed_at_once_and_recovered_when_restored(tmp_path: Path, which: int) -> None:
    harness = open_harness(tmp_path)
    assert await call(harness) == "done"
    path = files(harness)[which]
    path.rename(tmp_path / "away")
    await refused(harness, "the ledger was removed or replaced while it was in use")
    assert not path.exists()
    (tmp_path / "away").rename(path)
    assert await call(harness) == "done"
    harness.close()
    assert is_verified(tmp_path)


async def test_ledger_removed_between_check_and_commit_runs_nothing(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    path, _ = files(harness)
    look: Callable[[], None] = harness.store.location.check

    def look_then_lose_it() -> None:
        look()
        if path.exists():
            path.rename(tmp_path / "away")

    harness.store.location.check = look_then_lose_it
    await refused(harness, "the ledger was removed or replaced")
    assert harness.upstream.sent == []


async def test_a_ledger_that_is_replaced_by_a_copy_is_not_written(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    path, _ = files(harness)
    await call(harness)
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(tmp_path / "copy")) as copy:
        live.backup(copy)
    os.replace(tmp_path / "copy", path)
    await refused(harness, "the ledger was removed or replaced while it was in use")
    harness.close()


async def test_rollback_under_a_running_guard_is_found_at_the_next_call(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    path, _ = files(harness)
    await call(harness)
    copied = len(harness.receipts())
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(tmp_path / "copy")) as copy:
        live.backup(copy)
    await call(harness)
    now = len(harness.receipts())
    with closing(sqlite3.connect(tmp_path / "copy")) as copy, closing(sqlite3.connect(path)) as live:
        copy.backup(live)
    await refused(
        harness, f"the ledger was rolled back: it had {now} receipts, and now has {copied} with another history"
    )
    harness.close()


async def test_another_history_of_the_same_length_is_not_continued(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    path, _ = files(harness)
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(tmp_path / "copy")) as copy:
        live.backup(copy)
    await call(harness)
    (tmp_path / "fork" / "state").mkdir(parents=True)
    (tmp_path / "copy").rename(tmp_path / "fork" / "state" / "ledger.sqlite")
    for name in ("ledger.key", "ledger.pub"):
        shutil.copy(tmp_path / "state" / name, tmp_path / "fork" / "state")
    fork = open_harness(tmp_path / "fork")
    await call(fork)
    fork.close()
    with closing(sqlite3.connect(files(fork)[0])) as copy, closing(sqlite3.connect(path)) as live:
        copy.backup(live)
    await refused(harness, "the ledger was rolled back")
    harness.close()


CHANGES = (
    "UPDATE head SET edge = zeroblob(length(edge))",
    "UPDATE head SET size = size + 1",
    "UPDATE head SET checkpoint = 'nothing'",
    "UPDATE head SET checkpoint = replace(checkpoint, '/', '+')",
)


@pytest.mark.parametrize("change", CHANGES)
async def test_unsigned_head_is_not_continued(tmp_path: Path, change: str) -> None:
    harness = open_harness(tmp_path)
    await call(harness)
    await call(harness)
    harness.close()
    with closing(sqlite3.connect(files(harness)[0])) as db, db:
        db.execute(change)
    before = receipts(tmp_path)
    after = open_harness(tmp_path)
    await refused(after, "the head of the ledger does not match its signature")
    after.close()
    assert receipts(tmp_path) == before


# Keys


def other_key(folder: Path) -> None:
    open_harness(folder / "other").close()
    shutil.copy(folder / "other" / "state" / "ledger.key", folder / "state" / "ledger.key")


@pytest.mark.parametrize("lose", [lambda folder: (folder / "state" / "ledger.key").unlink(), other_key])
async def test_guard_without_the_ledger_key_writes_nothing(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    harness = open_harness(tmp_path)
    await call(harness)
    harness.close()
    key = (tmp_path / "state" / "ledger.key").read_bytes()
    public = (tmp_path / "state" / "ledger.pub").read_bytes()
    lose(tmp_path)
    before = receipts(tmp_path)
    with pytest.raises(LedgerError, match=r"the private key in force, .* is not where it is configured") as refusal:
        open_harness(tmp_path)
    assert_hinted(refusal.value)
    assert receipts(tmp_path) == before
    (tmp_path / "state" / "ledger.key").write_bytes(key)
    (tmp_path / "state" / "ledger.key").chmod(0o600)
    (tmp_path / "state" / "ledger.pub").write_bytes(public)
    again = open_harness(tmp_path)
    assert await call(again) == "done"
    again.close()
    assert is_verified(tmp_path)


async def test_a_running_guard_does_not_need_the_key_file(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    (tmp_path / "state" / "ledger.key").unlink()
    assert await call(harness) == "done"
    harness.close()


# Damage


def receipts(folder: Path) -> list[Json]:
    with closing(sqlite3.connect(f"file:{folder / 'state' / 'ledger.sqlite'}?mode=ro", uri=True)) as db:
        return db.execute("SELECT seq, body FROM receipt ORDER BY seq").fetchall()


async def past(folder: Path) -> int:
    """A ledger with some calls in it; returns its number of pages."""
    harness = open_harness(folder)
    for _ in range(8):
        await call(harness)
    harness.close()
    path = files(harness)[0]
    shutil.copytree(folder / "state", folder / "safe")
    return path.stat().st_size // 4096


@pytest.mark.parametrize("length", [1, 3000])
async def test_damage_anywhere_is_found_and_a_copy_restores_the_ledger(tmp_path: Path, length: int) -> None:
    """At the call or by `verify`; damage to unused pages is harmless."""
    pages = await past(tmp_path)
    whole, safe = receipts(tmp_path), (tmp_path / "safe" / "ledger.sqlite").read_bytes()
    found: Counter[str] = Counter()
    for at in range(50, pages * 4096, sized(1013, 3037)):
        folder = tmp_path / str(at)
        shutil.copytree(tmp_path / "safe", folder / "state")
        path, data = folder / "state" / "ledger.sqlite", bytearray(safe)
        data[at : at + length] = bytes(byte ^ 0xA5 for byte in data[at : at + length])
        path.write_bytes(data)
        found[await what_is_found(folder, whole)] += 1
    assert found["refused"] > 0, found
    assert found["verify"] > 0, found
    harness = open_harness(tmp_path)
    assert await call(harness) == "done"
    harness.close()
    assert is_verified(tmp_path)


async def what_is_found(folder: Path, whole: list[Json]) -> str:
    try:
        harness = open_harness(folder)
    except LedgerError as error:
        assert_hinted(error)
        return "refused"
    reply = await call(harness)
    harness.close()
    if "denied by mcp-guard" in reply:
        assert "Nothing was sent" in reply
        return "refused"
    if not is_verified(folder):
        return "verify"
    assert receipts(folder)[: len(whole)] == whole
    return "harmless"


def test_undecodable_damaged_name_is_still_reported(tmp_path: Path) -> None:
    """sqlite3 raises UnicodeDecodeError then, as it did for a byte of the schema that was flipped."""
    store = open_store(tmp_path / "ledger.sqlite")
    with pytest.raises(LedgerError, match="the ledger file is damaged"), store.reading():
        raise UnicodeDecodeError("utf-8", b"\xd5", 0, 1, "invalid continuation byte")


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
async def test_truncated_ledger_is_not_continued(tmp_path: Path, part: float) -> None:
    pages = await past(tmp_path)
    path = tmp_path / "state" / "ledger.sqlite"
    os.truncate(path, int(pages * part) * 4096)
    cut = path.read_bytes()
    with pytest.raises(LedgerError, match="the ledger file is damaged") as refusal:
        open_harness(tmp_path)
    assert "mcp-guard doctor" in refusal.value.hint
    assert path.read_bytes()[: len(cut)] == cut


def test_foreign_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ledger.sqlite").write_text("my notes, " * 1000)
    with pytest.raises(LedgerError, match="the file is not a ledger"):
        open_harness(tmp_path)
    assert (tmp_path / "state" / "ledger.sqlite").read_text() == "my notes, " * 1000


async def test_damaged_write_ahead_log_leaves_a_valid_shorter_ledger(tmp_path: Path) -> None:
    """At every position, as after a power loss. A kept checkpoint reveals what is missing."""
    harness = open_harness(tmp_path)
    for _ in range(3):
        await call(harness)
    path, wal = files(harness)
    whole = receipts(tmp_path)
    main, log = path.read_bytes(), wal.read_bytes()
    harness.close()
    lengths = set()
    for at in range(4096, len(log), 4096 * 3):
        for torn in (log[:at], log[:at] + bytes(byte ^ 0xFF for byte in log[at : at + 64]) + log[at + 64 :]):
            folder = tmp_path / f"cut-{at}-{len(torn)}"
            (folder / "state").mkdir(parents=True)
            (folder / "state" / "ledger.sqlite").write_bytes(main)
            (folder / "state" / "ledger.sqlite-wal").write_bytes(torn)
            for name in ("ledger.key", "ledger.pub"):
                shutil.copy(tmp_path / "state" / name, folder / "state")
            after = open_harness(folder)
            recover(after.ledger.ledger)
            assert await call(after) == "done"
            after.close()
            kept = [row for row in receipts(folder) if row in whole]
            assert kept == whole[: len(kept)]
            lengths.add(len(kept))
            assert is_verified(folder)
    assert len(lengths) > 2
