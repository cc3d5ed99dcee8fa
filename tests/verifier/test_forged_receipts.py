"""Receipts that somebody with the guard's key could write, and that `verify` refuses."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.receipt import Draft
from mcp_guard.core.tlog import note
from mcp_guard.verifier import verify_ledger
from tests.ledger.sized_ledger import ORIGIN, fill, open_filled
from tests.verifier.resign import sign_anew

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Twenty receipts; number 10 says that a witness saw the first ten."""
    writer = open_filled(tmp_path, 10)
    head, _ = note.parse(writer.store.checkpoint())
    seen = {"witness": "shelf", "method": "file", "size": 10, "root": base64.b64encode(head.root).decode()}
    writer.run(lambda tx: tx.add(Draft("checkpoint.witnessed", seen)))
    fill(writer, 9)
    writer.store.close()
    return tmp_path


def at_ten(**more: Any) -> Change:
    def change(receipt: dict[str, Any]) -> None:
        if receipt["seq"] == 10:
            receipt.update(more)

    return change


def written_as(write: Callable[[str], str]) -> Change:
    def change(receipt: dict[str, Any]) -> None:
        if receipt["seq"] == 10:
            text = json.dumps(receipt, sort_keys=True, separators=(",", ":"))
            receipt["as it is"] = write(text).encode()

    return change


def test_unchanged_ledger_verifies_after_resigning(state: Path) -> None:
    report = verify_ledger(state / "ledger.sqlite", state / "ledger.pub")
    assert report.ok, report.problem
    sign_anew(state, ORIGIN)
    assert verify_ledger(state / "ledger.sqlite", state / "ledger.pub").ok


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (written_as(lambda text: text.replace(",", ", ")), "is not in the form of a receipt"),
        (written_as(lambda text: text[:-1] + ',"seq":10}'), "is not in the form of a receipt"),
        (written_as(lambda text: text + " "), "is not in the form of a receipt"),
        (written_as(lambda text: text[:-1]), "is not JSON"),
        (written_as(lambda text: "[" * 100_000), "is not JSON"),
        (written_as(lambda text: "[10]"), "does not say its own place or ledger"),
        (at_ten(seq=11), "does not say its own place or ledger"),
        (at_ten(origin="other.example/ledger"), "does not say its own place or ledger"),
        (at_ten(follows=[10]), "which is not before it"),
        (at_ten(follows=[-1]), "which is not before it"),
        (at_ten(follows=7), "which is not before it"),
        (at_ten(policy_version=7), "is not in the form of a receipt"),
        (at_ten(policy_version="sha256:0"), "is not kept"),
        (at_ten(size=9), "saw another tree of 9 receipts"),
        (at_ten(size=11), "saw 11 receipts"),
        (at_ten(root="AAAA"), "saw another tree of 10 receipts"),
        (at_ten(kind="outcome", call="call_1"), "an outcome of call `call_1` without its intent"),
        (at_ten(kind="outcome"), "it lacks 'call'"),
        (at_ten(kind="approval.granted", approval=["x"]), "is not in the form of a receipt"),
        (at_ten(kind="payload.erased", seqs=[[3, 12]]), "which are not before it"),
        (at_ten(kind="payload.erased", seqs=[[3, 4]]), "and they are still kept"),
        (at_ten(kind="payload.erased", seqs="all"), "says that the payloads of a were erased"),
        (at_ten(kind="key.rotated"), "the change of the guard's key is not in order"),
    ],
)
def test_forged_receipts_are_found(state: Path, change: Change, expected: str) -> None:
    sign_anew(state, ORIGIN, change)
    report = verify_ledger(state / "ledger.sqlite", state / "ledger.pub")
    assert not report.ok
    assert expected in report.problem
    assert report.failed_at == (3 if "still kept" in expected else 10)
