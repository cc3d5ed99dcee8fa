"""Verifying a ledger with the public key alone. Stands by itself: nothing but the standard library and `cryptography`.

    python -m mcp_guard.ledger.verify LEDGER --key ledger.pub

Proves, receipt by receipt and with bounded memory: no gap in the sequence, each signature, each leaf, the links between
receipts, the commitments of the payloads that are still kept; then the tree's root against the signed checkpoint.
Stops at the first thing that it could not prove. Formats: RFC 8785, RFC 6962 §2.1, c2sp.org/tlog-checkpoint.
"""

import argparse
import base64
import binascii
import hashlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

OK, FAILED, UNUSABLE = 0, 1, 2
PAYLOADS = ("request", "facts", "material", "response", "subject")
SALT_BYTES = 16
Receipt = dict[str, Any]


class Failed(Exception):
    """Something could not be proved."""

    def __init__(self, seq: int | None, problem: str) -> None:
        super().__init__(problem)
        self.seq = seq
        self.problem = problem


class Unusable(Exception):
    """The input is not what it should be, so nothing can be said."""


@dataclass
class Report:
    """What was proved. `failed_at` is the sequence number of the first receipt that could not be (None: the whole)."""

    ok: bool = False
    origin: str = ""
    receipts: int = 0
    root: str = ""
    checkpoint: str = ""
    kinds: dict[str, int] = field(default_factory=dict)
    payloads_checked: int = 0
    payloads_not_kept: int = 0
    calls_without_outcome: int = 0
    failed_at: int | None = None
    problem: str = ""


def read_key(path: Path) -> tuple[str, bytes, Ed25519PublicKey]:
    """Origin, key id and key of a C2SP verifier line. Raises: Unusable."""
    try:
        origin, key_id, encoded = path.read_text().strip().split("+", 2)
        raw = base64.b64decode(encoded, validate=True)
        expected = hashlib.sha256(origin.encode() + b"\n" + raw).digest()[:4]
        if raw[0] != 1 or expected.hex() != key_id:
            raise ValueError("the key id does not belong to the key")
        return origin, expected, Ed25519PublicKey.from_public_bytes(raw[1:])
    except (OSError, ValueError, IndexError, binascii.Error) as error:
        raise Unusable(f"cannot read the public key `{path}`: {error}") from None


class Tree:
    """The right edge of the RFC 6962 tree."""

    def __init__(self) -> None:
        self.size = 0
        self.edge: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        self.edge.append(leaf)
        size = self.size
        while size & 1:
            right = self.edge.pop()
            self.edge[-1] = hashlib.sha256(b"\x01" + self.edge[-1] + right).digest()
            size >>= 1
        self.size += 1

    def root(self) -> bytes:
        if not self.edge:
            return hashlib.sha256(b"").digest()
        *rest, top = self.edge
        for left in reversed(rest):
            top = hashlib.sha256(b"\x01" + left + top).digest()
        return top


class Links:
    """Follows each call and approval through its receipts; keeps only what is still open."""

    def __init__(self) -> None:
        self.intents: dict[int, str] = {}
        self.approvals: dict[str, str] = {}
        self.granted: dict[str, str] = {}

    def check(self, seq: int, receipt: Receipt) -> None:
        """Raises: Failed."""
        kind = receipt["kind"]
        follows = receipt.get("follows", [])
        if not all(isinstance(number, int) and 0 <= number < seq for number in follows):
            raise Failed(seq, f"follows {follows}, which is not before it")
        if kind == "intent":
            self._intent(seq, receipt)
        elif kind == "outcome":
            if self.intents.pop(follows[0] if follows else -1, None) != receipt["call"]:
                raise Failed(seq, f"an outcome of call `{receipt['call']}` without its intent, or a second one")
        elif kind.startswith("approval."):
            self._approval(seq, receipt, kind)

    def _intent(self, seq: int, receipt: Receipt) -> None:
        self.intents[seq] = receipt["call"]
        if receipt.get("purpose") == "facts":
            return
        outcome = receipt["outcome"]
        if outcome not in ("allow", "require_approval"):
            raise Failed(seq, f"an intent of call `{receipt['call']}` whose decision does not let it happen")
        consumed = receipt.get("approval", {}).get("id")
        if outcome == "require_approval":
            if self.approvals.pop(consumed, None) != "approval.consumed":
                raise Failed(seq, "an intent that needed approval, without one consumed for it")
            if self.granted.pop(consumed, None) != receipt["approval"]["decision_hash"]:
                raise Failed(seq, f"approval `{consumed}` was not granted for this decision")

    def _approval(self, seq: int, receipt: Receipt, kind: str) -> None:
        id = receipt["approval"]
        before = self.approvals.get(id)
        if (before is None) != (kind == "approval.requested"):
            raise Failed(seq, f"`{kind}` of approval `{id}` that is {'unknown' if before is None else 'known already'}")
        if kind == "approval.granted" and not receipt.get("missing"):
            self.granted[id] = receipt["decision_hash"]
        if kind == "approval.consumed" and id not in self.granted:
            raise Failed(seq, f"approval `{id}` is consumed without having been granted")
        self.approvals[id] = kind
        if kind in ("approval.denied", "approval.expired", "approval.stale"):
            del self.approvals[id]
            self.granted.pop(id, None)


def verify_ledger(path: Path, key_file: Path) -> Report:
    """Verify a ledger file. Raises: Unusable if there is nothing to verify."""
    origin, key_id, key = read_key(key_file)
    if not path.is_file():
        raise Unusable(f"no ledger at `{path}`")
    report = Report(origin=origin)
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")
            _verify_receipts(db, key, report)
            _verify_head(db, (origin, key_id, key), report)
    except Failed as failure:
        report.failed_at, report.problem = failure.seq, failure.problem
        return report
    except sqlite3.Error as error:
        raise Unusable(f"cannot read `{path}`: {error}") from None
    report.ok = True
    return report


def _verify_receipts(db: sqlite3.Connection, key: Ed25519PublicKey, report: Report) -> None:
    tree, links = Tree(), Links()
    payloads = _Payloads(db)
    receipts = db.execute("SELECT seq, kind, body, signature, leaf FROM receipt ORDER BY seq")
    for seq, kind, body, signature, leaf in receipts:
        if seq != tree.size:
            raise Failed(seq, f"receipt {tree.size} is missing")
        if not all(isinstance(cell, bytes) for cell in (body, signature, leaf)):
            raise Failed(seq, "is not stored as bytes any more")
        try:
            key.verify(signature, body)
        except InvalidSignature:
            raise Failed(seq, "its signature is not the guard's") from None
        receipt = _read(seq, body, report.origin)
        if receipt["kind"] != kind:
            raise Failed(seq, f"is filed as `{kind}` but says `{receipt['kind']}`")
        if hashlib.sha256(b"\x00" + body + b"\n" + base64.b64encode(signature)).digest() != leaf:
            raise Failed(seq, "its leaf in the tree is not its own")
        try:
            links.check(seq, receipt)
        except KeyError as missing:
            raise Failed(seq, f"it lacks {missing}") from None
        payloads.check(seq, receipt, report)
        tree.append(leaf)
        report.kinds[kind] = report.kinds.get(kind, 0) + 1
    report.receipts, report.root = tree.size, base64.b64encode(tree.root()).decode()
    report.calls_without_outcome = len(links.intents)


def _read(seq: int, body: bytes, origin: str) -> Receipt:
    try:
        receipt = json.loads(body)
    except ValueError:
        raise Failed(seq, "is not JSON") from None
    if not isinstance(receipt, dict) or receipt.get("seq") != seq or receipt.get("origin") != origin:
        raise Failed(seq, "does not say its own place or ledger")
    return receipt


class _Payloads:
    """Checks the payloads that are still kept against their commitments, in step with the receipts."""

    def __init__(self, db: sqlite3.Connection) -> None:
        rows = db.execute(f"SELECT seq, {', '.join(PAYLOADS)} FROM payload ORDER BY seq")
        self._rows: Iterator[tuple[Any, ...]] = iter(rows)
        self._next = next(self._rows, None)

    def check(self, seq: int, receipt: Receipt, report: Report) -> None:
        cells: list[Any] = []
        if self._next is not None and self._next[0] <= seq:
            at, *cells = self._next
            self._next = next(self._rows, None)
            if at != seq:
                raise Failed(seq, f"payloads are kept under the number {at} of no receipt")
        for name, cell in zip_longest(PAYLOADS, cells):
            if cell is not None and name not in receipt:
                raise Failed(seq, f"a payload `{name}` that the receipt does not speak of")
            if cell is None or len(cell) <= SALT_BYTES:
                report.payloads_not_kept += name in receipt
            elif "sha256:" + hashlib.sha256(cell).hexdigest() != receipt[name]:
                raise Failed(seq, f"its payload `{name}` is not what it commits to")
            else:
                report.payloads_checked += 1


def _verify_head(db: sqlite3.Connection, signer: tuple[str, bytes, Ed25519PublicKey], report: Report) -> None:
    """The stored checkpoint: signed by the key, and of exactly this tree."""
    origin, key_id, key = signer
    row = db.execute("SELECT size, checkpoint FROM head").fetchone()
    if row is None or (row[0] == 0 and report.receipts == 0):
        raise Failed(None, "the ledger is empty: there is no checkpoint to hold it against")
    size, note = row
    text, _, lines = note.partition("\n\n")
    signatures = [line.split(" ")[2] for line in lines.splitlines() if line.startswith(f"— {origin} ")]
    raw = base64.b64decode(signatures[0]) if signatures else b""
    try:
        key.verify(raw[4:], (text + "\n").encode())
    except InvalidSignature:
        raise Failed(None, "the checkpoint is not signed by this key") from None
    if raw[:4] != key_id or text.split("\n") != [origin, str(size), report.root] or size != report.receipts:
        raise Failed(None, f"the signed checkpoint is of {size} receipts and another tree than these {report.receipts}")
    report.checkpoint = note


def describe(report: Report) -> str:
    """The report for a person."""
    if not report.ok:
        where = "the ledger as a whole" if report.failed_at is None else f"receipt {report.failed_at}"
        return f"NOT VERIFIED: {where}: {report.problem}"
    return "\n".join(
        [
            f"verified: {report.receipts} receipts of {report.origin}",
            "  every signature is the guard's; none is missing, changed, inserted or out of order",
            "  every outcome has its intent, every intent its decision, every approval used was granted and used once",
            f"  payloads: {report.payloads_checked} match their commitments, {report.payloads_not_kept} not kept",
            f"  calls without an outcome: {report.calls_without_outcome}",
            f"  root {report.root}",
            "not proved: that no later receipt was removed together with its checkpoint; keep this one elsewhere:",
            *(f"  {line}" for line in report.checkpoint.splitlines()),
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="mcp_guard.ledger.verify", description="Verify a ledger with its public key.")
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--key", type=Path, required=True, help="the verifier key file, ledger.pub")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        report = verify_ledger(options.ledger, options.key)
    except Unusable as error:
        print(f"cannot verify: {error}", file=sys.stderr)
        return UNUSABLE
    print(json.dumps(asdict(report), indent=2) if options.json else describe(report))
    return OK if report.ok else FAILED


if __name__ == "__main__":
    sys.exit(main())
