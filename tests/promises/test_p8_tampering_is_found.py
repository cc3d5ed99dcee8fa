"""P8: whatever is done to a ledger without the guard's key is found with its public keys alone, at the receipt where it
was done; what is done with the guard's key is found by whoever remembers a checkpoint.

The ledger has hundreds of receipts, of every kind, written by the guard's own code, with a rotated key.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.receipt import KINDS
from mcp_guard.core.tlog import note
from mcp_guard.ledger.keys import signing_key
from mcp_guard.verifier import Report
from mcp_guard.verifier.checkpoints import Requirements
from mcp_guard.verifier.full import verify_full
from mcp_guard.verifier.notes import parse_checkpoint, read_keys
from mcp_guard.verifier.report import describe
from mcp_guard.verifier.sources.sqlite import LedgerSource
from tests.ledger.sample_ledger import ORIGIN, live, reopen, write_history
from tests.proof_size import sized
from tests.verifier.resign import sign_anew

Database = sqlite3.Connection
SIZE = sized(1000, 600)
"""More than two tiles."""
WRONG = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger, closed, one file."""
    folder = tmp_path_factory.mktemp("past")
    harness = await write_history(folder, SIZE)
    harness.close()
    return folder / "state"


@pytest.fixture(scope="module")
def positions(past: Path) -> list[int]:
    """The first receipt, the last, and the first of each kind before and after the rotation."""
    with closing(sqlite3.connect(past / "ledger.sqlite")) as db:
        first = db.execute("SELECT min(seq) FROM receipt GROUP BY kind").fetchall()
        (last,) = db.execute("SELECT max(seq) FROM receipt").fetchone()
    return sorted({0, last, *(seq for (seq,) in first)})


class Scene:
    """A copy of the ledger that can be tampered with repeatedly."""

    def __init__(self, past: Path, here: Path) -> None:
        self.past, self.here = past, here
        shutil.copytree(past, here, dirs_exist_ok=True)

    def restore(self) -> None:
        for name in ("ledger.sqlite-wal", "ledger.sqlite-shm"):
            (self.here / name).unlink(missing_ok=True)
        shutil.copyfile(self.past / "ledger.sqlite", self.here / "ledger.sqlite")

    def after(self, tamper: Callable[[Database], object]) -> Report:
        """The verification report after this change to the untouched ledger."""
        self.restore()
        with closing(sqlite3.connect(self.here / "ledger.sqlite")) as db:
            tamper(db)
            db.commit()
        return self.verify()

    def verify(self, *against: str) -> Report:
        checkpoints = tuple(parse_checkpoint(item) for item in against)
        requirements = Requirements(read_keys(self.past / "ledger.pub"), against=checkpoints, workers=1)
        return verify_full(LedgerSource(self.here / "ledger.sqlite"), requirements)


@pytest.fixture
def scene(past: Path, tmp_path: Path) -> Scene:
    return Scene(past, tmp_path / "state")


def test_sample_ledger_verifies_and_has_every_kind(scene: Scene) -> None:
    report = scene.verify()
    assert report.ok, report.problem
    assert report.receipts >= SIZE
    elsewhere = {
        "approval.missed",
        "policy.proposed",
        "policy.approved",
        "policy.denied",
        "policy.withdrawn",
    }
    assert set(KINDS) - set(report.kinds) <= {"key.replaced", "ledger.migrated"} | elsewhere
    assert len(report.keys) == 2


# Without the guard's key: found at the receipt where it was done


def change(db: Database, seq: int, last: int) -> int | None:
    (body,) = db.execute("SELECT body FROM receipt WHERE seq = ?", (seq,)).fetchone()
    db.execute("UPDATE receipt SET body = ? WHERE seq = ?", (body.replace(b"2026", b"2027", 1), seq))
    return seq


def drop(db: Database, seq: int, last: int) -> int | None:
    for table in ("receipt", "payload"):
        db.execute(f"DELETE FROM {table} WHERE seq = ?", (seq,))
    return seq if seq < last else None


def drop_and_close_up(db: Database, seq: int, last: int) -> int | None:
    drop(db, seq, last)
    shift(db, seq, -1)
    return seq if seq < last else None


def insert_a_copy(db: Database, seq: int, last: int) -> int | None:
    shift(db, seq, 1)
    columns = "kind, at, call, body, signature, leaf"
    db.execute(f"INSERT INTO receipt (seq, {columns}) SELECT seq + 1, {columns} FROM receipt WHERE seq = ?", (seq,))
    return seq + 1


def insert_a_made_up_one(db: Database, seq: int, last: int) -> int | None:
    shift(db, seq - 1, 1)
    body = json.dumps(
        {"kind": "decision", "origin": ORIGIN, "seq": seq}, sort_keys=True, separators=(",", ":")
    ).encode()
    values = (seq, "decision", 0, None, body, WRONG.sign(body), bytes(32))
    db.execute("INSERT INTO receipt VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    return seq


def swap(db: Database, seq: int, last: int) -> int | None:
    first = min(seq, last - 1)
    for table in ("receipt", "payload"):
        for before, after in ((first, -1), (first + 1, first), (-1, first + 1)):
            db.execute(f"UPDATE {table} SET seq = ? WHERE seq = ?", (after, before))
    return first


def sign_with_a_wrong_key(db: Database, seq: int, last: int) -> int | None:
    (body,) = db.execute("SELECT body FROM receipt WHERE seq = ?", (seq,)).fetchone()
    db.execute("UPDATE receipt SET signature = ? WHERE seq = ?", (WRONG.sign(body), seq))
    return seq


def change_the_leaf(db: Database, seq: int, last: int) -> int | None:
    db.execute("UPDATE receipt SET leaf = zeroblob(32) WHERE seq = ?", (seq,))
    return seq


def file_under_another_kind(db: Database, seq: int, last: int) -> int | None:
    db.execute("UPDATE receipt SET kind = 'approval.lost' WHERE seq = ?", (seq,))
    return seq


def file_at_another_time(db: Database, seq: int, last: int) -> int | None:
    db.execute("UPDATE receipt SET at = at - 1 WHERE seq = ?", (seq,))
    return seq


def file_under_another_call(db: Database, seq: int, last: int) -> int | None:
    db.execute("UPDATE receipt SET call = 'call_9' WHERE seq = ?", (seq,))
    return seq


def truncate(db: Database, seq: int, last: int) -> int | None:
    for table in ("receipt", "payload"):
        db.execute(f"DELETE FROM {table} WHERE seq >= ?", (seq,))
    return None


def truncate_with_the_head(db: Database, seq: int, last: int) -> int | None:
    truncate(db, seq, last)
    (signed,) = db.execute("SELECT checkpoint FROM head").fetchone()
    lines = signed.split("\n")
    db.execute("UPDATE head SET size = ?, checkpoint = ?", (seq, "\n".join([lines[0], str(seq), *lines[2:]])))
    return None


def shift(db: Database, after: int, by: int) -> None:
    """Renumber the receipts after this one, with their payloads."""
    for table in ("receipt", "payload"):
        db.execute(f"UPDATE {table} SET seq = -seq - 2 WHERE seq > ?", (after,))
        db.execute(f"UPDATE {table} SET seq = -seq - 2 + ? WHERE seq < 0", (by,))


@pytest.mark.parametrize(
    "tamper",
    [
        change, drop, drop_and_close_up, insert_a_copy, insert_a_made_up_one, swap, sign_with_a_wrong_key,
        change_the_leaf, file_under_another_kind, file_at_another_time, file_under_another_call, truncate,
        truncate_with_the_head,
    ],
)  # fmt: skip
def test_tampering_is_found_at_every_kind_of_position(
    scene: Scene, positions: list[int], tamper: Callable[[Database, int, int], int | None]
) -> None:
    for seq in sized(positions, [*positions[::4], positions[-1]]):
        where: list[int | None] = []
        report = scene.after(lambda db, seq=seq, where=where: where.append(tamper(db, seq, positions[-1])))  # type: ignore[misc]
        assert not report.ok, seq
        assert report.failed_at == where[0], (seq, report.problem)


def test_resigning_with_a_wrong_key_is_found_where_it_begins(scene: Scene, positions: list[int]) -> None:
    wrong = signing_key(ORIGIN, WRONG.public_key(), WRONG.sign)
    for seq in positions[::6]:
        scene.restore()
        sign_anew(scene.here, ORIGIN, first=seq, key=wrong)
        assert scene.verify().failed_at == seq


@given(data=st.data())
@settings(max_examples=sized(25, 12), deadline=None, derandomize=True)
def test_any_flipped_bit_of_a_receipt_is_found(
    past: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    scene = Scene(past, tmp_path_factory.mktemp("bit"))
    column, seq = data.draw(st.sampled_from(["body", "signature", "leaf"])), data.draw(st.integers(0, SIZE - 1))

    def flip(db: Database) -> None:
        (cell,) = db.execute(f"SELECT {column} FROM receipt WHERE seq = ?", (seq,)).fetchone()
        at = data.draw(st.integers(0, len(cell) * 8 - 1))
        changed = bytearray(cell)
        changed[at // 8] ^= 1 << at % 8
        db.execute(f"UPDATE receipt SET {column} = ? WHERE seq = ?", (bytes(changed), seq))

    assert scene.after(flip).failed_at == seq


# What stands beside the receipts


def beside() -> Iterator[tuple[str, str]]:
    """A SQL statement, and the expected report."""
    kept = "(SELECT min(seq) FROM payload WHERE length({0}) > 16 AND seq > 30)"
    for name in ("request", "facts", "material", "response", "subject"):
        at = kept.format(name)
        yield (
            f"UPDATE payload SET {name} = CAST({name} || 'x' AS BLOB) WHERE seq = {at}",
            "does not match its commitment",
        )
        yield f"UPDATE payload SET {name} = NULL WHERE seq = {at}", "no receipt records that it was erased"
        if name != "response":
            yield f"UPDATE payload SET {name} = substr({name}, 1, 16) WHERE seq = {at}", "was emptied"
    asked = kept.format("request")
    yield f"UPDATE payload SET request = substr(request, 1, 9) WHERE seq = {asked}", "was emptied"
    yield f"UPDATE payload SET subject = request WHERE seq = {asked}", "that the receipt does not commit to"
    yield f"UPDATE payload SET request = 'text' WHERE seq = {asked}", "not stored as bytes"
    yield "INSERT INTO payload (seq) VALUES (9)", "but they are stored"
    yield "DELETE FROM payload WHERE seq = (SELECT max(seq) FROM payload)", "no receipt records that it was erased"
    yield f"DELETE FROM payload WHERE seq >= {SIZE - 50}", "no receipt records that it was erased"
    yield "INSERT INTO payload (seq, request) VALUES (5000, x'00')", "belongs to no receipt"
    yield "INSERT INTO payload (seq, request) VALUES (-5, x'00')", "belongs to no receipt"
    yield "UPDATE policy_version SET material = CAST(material || ' ' AS BLOB)", "of its policy version"
    yield "DELETE FROM policy_version", "is not stored"
    yield (
        "UPDATE node SET hash = zeroblob(32) WHERE idx = 0",
        "the stored node 0 of level 1 does not match the receipts below it",
    )
    yield "DELETE FROM node WHERE idx = 1", "the stored node 1 of level 1 does not match the receipts below it"
    yield "INSERT INTO node VALUES (1, 77, zeroblob(32))", "the stored nodes are"
    yield "INSERT INTO node VALUES (2, 0, zeroblob(32))", "the stored nodes are"
    yield (
        "UPDATE head SET edge = zeroblob(length(edge))",
        "the stored head, to which the next receipt would be appended",
    )
    yield "UPDATE head SET size = size - 1", "the stored head, to which the next receipt would be appended"
    yield "UPDATE head SET key = 'another'", "the stored head names another key"
    yield "DELETE FROM guard_key WHERE id = 1", "the table of the guard's keys"
    yield (
        "UPDATE head SET checkpoint = replace(checkpoint, '— ', '— x')",
        "the checkpoint is not signed by the guard's key",
    )
    yield "UPDATE head SET checkpoint = substr(checkpoint, 1, 60)", "cannot read the checkpoint"
    yield "UPDATE head SET checkpoint = ''", "cannot read the checkpoint"
    yield "DELETE FROM head", "cannot read the checkpoint"
    yield "UPDATE receipt SET body = 'text' WHERE seq = 7", "not stored as bytes"
    yield "UPDATE receipt SET seq = -3 WHERE seq = 0", "it is missing"


@pytest.mark.parametrize(("statement", "expected"), tuple(beside()))
def test_data_beside_the_receipts_is_verified_too(scene: Scene, statement: str, expected: str) -> None:
    report = scene.after(lambda db: db.execute(statement))
    assert expected in report.problem
    assert describe(report).count("receipt 0") <= 1, "it is named once"


def test_reply_with_only_its_salt_left_counts_as_not_kept(scene: Scene) -> None:
    """Replies over a limit are not stored, so this looks the same as tampering; the report says what is missing."""
    report = scene.after(
        lambda db: db.execute("UPDATE payload SET response = substr(response, 1, 16) WHERE response IS NOT NULL")
    )
    assert report.ok
    assert report.payloads_not_kept > SIZE / 10
    assert any(item.check == "payloads" for item in report.not_proved)


# With the guard's key: found by those who remember a checkpoint


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ledgers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An early ledger, its continuation, and another continuation signed with the same key."""
    folder = tmp_path_factory.mktemp("ledgers")
    harness = await write_history(folder / "early", 300)
    harness.close()
    result = {"early": folder / "early" / "state"}
    for name, rounds in (("later", 2), ("fork", 2), ("longer", 3)):
        shutil.copytree(folder / "early", folder / name)
        harness = reopen(folder / name)
        for number in range(rounds):
            await live(harness, f"{name} {number}")
        harness.close()
        result[name] = folder / name / "state"
    return result


def signed_head(state: Path) -> str:
    with closing(sqlite3.connect(state / "ledger.sqlite")) as db:
        return str(db.execute("SELECT checkpoint FROM head").fetchone()[0])


def held_against(state: Path, *others: Path) -> Report:
    checkpoints = tuple(parse_checkpoint(signed_head(other)) for other in others)
    return verify_full(
        LedgerSource(state / "ledger.sqlite"), Requirements(read_keys(state / "ledger.pub"), against=checkpoints)
    )


def test_each_forked_ledger_verifies_on_its_own(ledgers: dict[str, Path]) -> None:
    for name in ("later", "fork", "longer"):
        report = held_against(ledgers[name], ledgers["early"], ledgers[name])
        assert report.ok, report.problem
        assert len(report.against) == 2


def test_a_rolled_back_copy_is_found_with_a_later_checkpoint(ledgers: dict[str, Path]) -> None:
    assert held_against(ledgers["early"]).ok
    assert "rolled back" in held_against(ledgers["early"], ledgers["later"]).problem
    assert "rolled back" in held_against(ledgers["early"], ledgers["early"], ledgers["later"]).problem


def test_a_fork_made_with_the_guards_key_is_found_with_a_checkpoint(ledgers: dict[str, Path]) -> None:
    sizes = {name: note.parse(signed_head(state))[0].size for name, state in ledgers.items()}
    assert sizes["fork"] == sizes["later"] < sizes["longer"]
    assert "split view" in held_against(ledgers["fork"], ledgers["later"]).problem
    assert "split view" in held_against(ledgers["longer"], ledgers["later"]).problem


def test_one_receipt_changed_with_the_guards_key_is_found_with_a_checkpoint(scene: Scene) -> None:
    before = signed_head(scene.past)
    scene.restore()

    def forge(receipt: dict[str, object]) -> None:
        if receipt["kind"] == "guard.stopped":
            receipt["guard"] = "guard_2"

    sign_anew(scene.here, ORIGIN, forge, first=SIZE - 10)
    assert scene.verify().ok
    assert "split view" in scene.verify(before).problem
