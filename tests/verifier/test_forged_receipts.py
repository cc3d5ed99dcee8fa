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
    """Twenty receipts; number 10 records that a witness saw the first ten."""
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
        (written_as(lambda text: text.replace(",", ", ")), "not a valid receipt"),
        (written_as(lambda text: text[:-1] + ',"seq":10}'), "not a valid receipt"),
        (written_as(lambda text: text + " "), "not a valid receipt"),
        (written_as(lambda text: text[:-1]), "not a JSON document"),
        (written_as(lambda text: "[" * 100_000), "not a JSON document"),
        (written_as(lambda text: "[10]"), "does not match its place in this ledger"),
        (at_ten(seq=11), "does not match its place in this ledger"),
        (at_ten(origin="other.example/ledger"), "does not match its place in this ledger"),
        (at_ten(follows=[10]), "which are not earlier receipts"),
        (at_ten(follows=[-1]), "which are not earlier receipts"),
        (at_ten(follows=7), "which are not earlier receipts"),
        (at_ten(policy_version=7), "not a valid receipt"),
        (at_ten(policy_version="sha256:0"), "is not stored"),
        (at_ten(size=9), "a witnessed checkpoint of 9 receipts of another tree"),
        (at_ten(size=11), "a witnessed checkpoint of invalid size `11`"),
        (at_ten(root="AAAA"), "a witnessed checkpoint of 10 receipts of another tree"),
        (at_ten(kind="outcome", call="call_1"), "an outcome of call `call_1` without an open intent"),
        (at_ten(kind="outcome"), "member 'call' is missing"),
        (at_ten(kind="approval.granted", approval=["x"]), "not a valid receipt"),
        (at_ten(kind="payload.erased", seqs=[[3, 12]]), "which are not earlier receipts"),
        (at_ten(kind="payload.erased", seqs=[[3, 4]]), "but they are stored"),
        (at_ten(kind="payload.erased", seqs="all"), "records erased payloads of a"),
        (at_ten(kind="key.rotated"), "invalid change of the guard's key"),
    ],
)
def test_forged_receipts_are_found(state: Path, change: Change, expected: str) -> None:
    sign_anew(state, ORIGIN, change)
    report = verify_ledger(state / "ledger.sqlite", state / "ledger.pub")
    assert not report.ok
    assert expected in report.problem
    assert report.failed_at == (3 if "they are stored" in expected else 10)
