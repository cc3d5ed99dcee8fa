"""Verifying one ledger file, receipt by receipt, in bounded memory. Formats: RFC 8785, RFC 6962 §2.1, C2SP."""

import base64
import binascii
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import zip_longest
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from .links import Links, read_approvers
from .report import Failed, Report, Unusable
from .signatures import Receipt

PAYLOADS = ("request", "facts", "material", "response", "subject")
SALT_BYTES = 16


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


def verify_ledger(path: Path, key_file: Path, approvers: Path | None = None) -> Report:
    """Verify a ledger file. Raises: Unusable if there is nothing to verify."""
    origin, key_id, key = read_key(key_file)
    links = Links(read_approvers(approvers) if approvers else None)
    if not path.is_file():
        raise Unusable(f"no ledger at `{path}`")
    report = Report(origin=origin)
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")
            _verify_receipts(db, key, links, report)
            _verify_head(db, (origin, key_id, key), report)
    except Failed as failure:
        report.failed_at, report.problem = failure.seq, failure.problem
        return report
    except sqlite3.Error as error:
        raise Unusable(f"cannot read `{path}`: {error}") from None
    report.ok = True
    return report


def _verify_receipts(db: sqlite3.Connection, key: Ed25519PublicKey, links: Links, report: Report) -> None:
    tree, payloads = Tree(), _Payloads(db)
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
    report.approvers_words, report.approvers_keys_given = links.words, links.trusted is not None


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
