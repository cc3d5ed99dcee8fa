"""Which signatures count: across rotations, from any key of the chain, and never without proof."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.keys import SigningKey, signing_key
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.storage.engines import open_store
from mcp_guard.verifier import Report
from mcp_guard.verifier.checkpoints import Requirements
from mcp_guard.verifier.full import verify_full
from mcp_guard.verifier.notes import parse_checkpoint, parse_key
from mcp_guard.verifier.range import verify_range
from mcp_guard.verifier.sources.sqlite import LedgerSource
from mcp_guard.verifier.workers import CHUNK
from tests.ledger.sized_ledger import ORIGIN, FrozenClock, fill
from tests.proof_size import in_full

Json = dict[str, object]


def make_key(number: int, origin: str = ORIGIN) -> SigningKey:
    private = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    return signing_key(origin, private.public_key(), private.sign)


ONE, TWO, THREE, FOREIGN = make_key(1), make_key(2), make_key(3), make_key(4, "other.example/ledger")


def open_writer(folder: Path) -> Writer:
    keys = {key.verifier: key for key in (ONE, TWO, THREE, FOREIGN)}
    folder.mkdir(exist_ok=True)
    return Writer(open_store(folder / "ledger.sqlite", True), ONE, FrozenClock(), find_key=lambda _, line: keys[line])


def change_key(
    writer: Writer, new: SigningKey, kind: str = "key.rotated", signer: SigningKey | None = None, **more: object
) -> None:
    """The receipt and the key change as the guard writes them; `signer` signs for the new key, `more` falsifies."""

    def op(tx: Transaction) -> None:
        said: Json = {"old": old, "new": new.verifier, "origin": ORIGIN, "seq": tx.size}
        text = json.dumps(said | {"type": "mcp-guard/key-rotation/v1"}, sort_keys=True, separators=(",", ":")).encode()
        possession = base64.b64encode((signer or new).sign(text)).decode()
        tx.add(Draft(kind, {"old": said["old"], "new": new.verifier, "possession": possession} | more))
        if kind == "key.rotated":
            tx.change_key(new)

    old = writer.store.head().key
    if kind == "key.replaced":  # the old one is lost: a writer of the new one, as `rotation.replace` makes it
        writer = Writer(writer.store, new, FrozenClock(), find_key=lambda *_: new)
    writer.run(op)


def lines(*keys: SigningKey) -> Requirements:
    return Requirements(tuple(parse_key(key.verifier) for key in keys))


def verify(folder: Path, *keys: SigningKey) -> Report:
    return verify_full(LedgerSource(folder / "ledger.sqlite"), lines(*keys))


@pytest.fixture
def rotated(tmp_path: Path) -> Path:
    """Signed by one key, then another, then a third."""
    writer = open_writer(tmp_path)
    fill(writer, 5)
    change_key(writer, TWO)
    fill(writer, 5)
    change_key(writer, THREE)
    fill(writer, 5)
    writer.store.close()
    return tmp_path


@pytest.mark.parametrize("given", [(ONE,), (TWO,), (THREE,), (ONE, THREE), (THREE, TWO, ONE)])
def test_any_key_of_the_chain_verifies(rotated: Path, given: tuple[SigningKey, ...]) -> None:
    report = verify(rotated, *given)
    assert report.ok, report.problem
    assert [item["key"] for item in report.keys] == [ONE.verifier, TWO.verifier, THREE.verifier]
    assert [item["since"] for item in report.keys] == [0, 6, 12]
    for first, last in ((0, 16), (5, 5), (6, 6), (8, 13), (16, 16)):
        part = verify_range(LedgerSource(rotated / "ledger.sqlite"), lines(*given), first, last)
        assert part.ok, part.problem


def test_a_key_outside_the_chain_proves_nothing(rotated: Path) -> None:
    other = make_key(9)
    assert "none of the given keys" in verify(rotated, other).problem
    assert "none of the given keys" in verify_range(LedgerSource(rotated / "ledger.sqlite"), lines(other), 3, 3).problem


@pytest.mark.parametrize(("given", "expected"), [((ONE,), "rolled back, or "), ((ONE, TWO), "rolled back: ")])
def test_a_copy_from_before_a_rotation_is_rolled_back_against_a_later_checkpoint(
    tmp_path: Path, given: tuple[SigningKey, ...], expected: str
) -> None:
    """Whether or not the later key is known, and also against the checkpoint of the last verification."""
    (tmp_path / "old").mkdir()
    ahead, behind = open_writer(tmp_path / "new"), open_writer(tmp_path / "old")
    for writer in (ahead, behind):
        fill(writer, 5)
    change_key(ahead, TWO)
    fill(ahead, 5)
    later = parse_checkpoint(ahead.store.checkpoint())
    for writer in (ahead, behind):
        writer.store.close()
    source, requirements = LedgerSource(tmp_path / "old" / "ledger.sqlite"), replace(lines(*given), against=(later,))
    for report in (verify_full(source, requirements), verify_range(source, requirements, 2, 3)):
        assert (report.ok, report.problem.startswith(expected)) == (False, True), report.problem
    assert verify_full(LedgerSource(tmp_path / "new" / "ledger.sqlite"), requirements).ok
    remembered = verify_full(source, replace(lines(*given), remembered=(later,)))
    assert (remembered.ok, remembered.problem.startswith("rolled back")) == (False, True), remembered.problem


def test_head_after_a_rotation_verifies_with_both_signatures(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    fill(writer, 3)
    change_key(writer, TWO)
    assert writer.store.checkpoint().count("— ") == 2
    writer.store.close()
    for key in (ONE, TWO):
        assert verify(tmp_path, key).ok


@in_full
def test_chunks_assigned_before_a_rotation_are_checked_again(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    fill(writer, CHUNK - 7)
    change_key(writer, TWO)
    fill(writer, 4 * CHUNK)
    writer.store.close()
    for workers in (1, 2):
        requirements = Requirements((parse_key(ONE.verifier),), workers=workers)
        report = verify_full(LedgerSource(tmp_path / "ledger.sqlite"), requirements)
        assert report.ok, report.problem
        assert report.receipts == 5 * CHUNK - 6


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda writer: change_key(writer, TWO, signer=THREE), "the new key did not sign its own introduction"),
        (lambda writer: change_key(writer, TWO, old=THREE.verifier), "the old key is not the key in use"),
        (lambda writer: change_key(writer, FOREIGN), "the new key is not a key for this ledger"),
        (lambda writer: change_key(writer, ONE), "the new key is not a key for this ledger"),
        (lambda writer: change_key(writer, TWO, possession="x"), "invalid change of the guard's key"),
    ],
)  # fmt: skip
def test_invalid_key_change_is_found(tmp_path: Path, spoil: Callable[[Writer], None], expected: str) -> None:
    writer = open_writer(tmp_path)
    fill(writer, 3)
    spoil(writer)
    writer.store.close()
    report = verify(tmp_path, ONE, TWO)
    assert report.failed_at == 3
    assert expected in report.problem


def test_receipts_signed_by_a_retired_key_are_refused(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    fill(writer, 3)
    change_key(writer, TWO)

    def op(tx: Transaction) -> None:
        tx.key = ONE
        tx.add(Draft("decision", {"reasons": ["the old key still signs"]}))

    writer.run(op)
    writer.store.close()
    report = verify(tmp_path, ONE, TWO)
    assert (report.failed_at, report.problem) == (4, "not signed by the guard's key")


def test_replaced_key_verifies_only_with_both_keys_given(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    fill(writer, 3)
    change_key(writer, TWO, "key.replaced")
    fill(writer, 3)
    writer.store.close()
    for key in (ONE, TWO):
        report = verify(tmp_path, key)
        assert report.failed_at == 3
        assert "to accept the change, give both keys" in report.problem
    report = verify(tmp_path, ONE, TWO)
    assert report.ok, report.problem
    assert "the previous key did not sign the change" in str(report.keys[1]["by"])
    assert report.keys[1]["since"] == 3
