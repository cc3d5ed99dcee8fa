"""Approvers' keys: enrolled, rotated and removed, each with a receipt, so that `verify` knows which key is whose."""

import base64
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mcp_guard.core import canonical
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json
from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.storage.approvals import ApproverKey

ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410 §4)."""


@dataclass(frozen=True, slots=True)
class Approver:
    """An approver as configured: id, and name as receipts print it."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class NewKey:
    """A public key to enrol; `details` of a passkey are its relying party, page and credential id."""

    method: str
    public: bytes
    details: Json

    @property
    def id(self) -> str:
        return hashlib.sha256(self.method.encode() + b"\0" + self.public).hexdigest()[:16]

    @property
    def point(self) -> bytes:
        """The key itself, whichever method it is used with: an Ed25519 key's 32 bytes, or the SubjectPublicKeyInfo."""
        return self.public.removeprefix(ED25519_SPKI)

    @property
    def text(self) -> str:
        return base64.b64encode(self.public).decode()


def enrol(writer: Writer, approver: Approver, new: NewKey) -> ApproverKey:
    """Enrol a key. Raises: ApprovalError if it was ever enrolled, by anybody; LedgerError."""
    return writer.run(lambda tx: _enrol(tx, approver, new, {}))


def remove(writer: Writer, approver: str, key: str, why: str) -> None:
    """Take a key out of use. Raises: ApprovalError, LedgerError."""
    writer.run(lambda tx: _remove(tx, usable_key(tx.store.approver_keys(), key, approver), why))


def rotate(writer: Writer, approver: Approver, old: str, new: NewKey, sign: Callable[[bytes], bytes]) -> ApproverKey:
    """Replace a key by a new one that the old one vouches for: its signature over `voucher` is in the receipt.

    `old` is the id of the old key, and `sign` signs with it. Raises: ApprovalError, LedgerError.
    """
    signature = base64.b64encode(sign(voucher(writer.key.origin, approver.id, new))).decode()

    def op(tx: Transaction) -> ApproverKey:
        old_key = usable_key(tx.store.approver_keys(), old, approver.id)
        new_key = _enrol(tx, approver, new, {"vouched_by": {"key": old, "signature": signature}})
        _remove(tx, old_key, "rotated")
        return new_key

    return writer.run(op)


def voucher(origin: str, approver: str, new: NewKey) -> bytes:
    """What the old key signs to vouch for the new one (RFC 8785)."""
    members = {"type": "mcp-guard/approver-key/v1", "origin": origin, "approver": approver}
    return canonical.canonicalize(members | {"key": new.id, "method": new.method, "public": new.text})


def usable_key(keys: Iterable[ApproverKey], id: str, approver: str) -> ApproverKey:
    """The key of this approver with this id. Raises: ApprovalError if there is none in use."""
    for key in keys:
        if key.id == id and key.approver == approver and key.removed is None:
            return key
    hint = f"mcp-guard approvers list; to enrol one: mcp-guard approvers add {approver}"
    raise ApprovalError(f"`{approver}` has no enrolled key `{id}`", hint)


def _enrol(tx: Transaction, approver: Approver, new: NewKey, more: Json) -> ApproverKey:
    for key in tx.store.approver_keys():
        if base64.b64decode(key.public).removeprefix(ED25519_SPKI) == new.point:
            verb = "was" if key.removed is not None else "is"
            raise ApprovalError(
                f"this key {verb} already enrolled for `{key.approver}`",
                "create a new key; each key belongs to one person and is enrolled once",
            )
    fields = {"approver": approver.id, "name": approver.name, "key": new.id, "method": new.method, "public": new.text}
    seq = tx.add(Draft("approver.enrolled", fields | {"details": new.details} | more))
    key = ApproverKey(new.id, approver.id, new.method, new.text, new.details, seq)
    tx.store.add_approver_key(key)
    return key


def _remove(tx: Transaction, key: ApproverKey, why: str) -> None:
    seq = tx.add(Draft("approver.removed", {"approver": key.approver, "key": key.id, "note": why}))
    tx.store.remove_approver_key(key.id, seq)
