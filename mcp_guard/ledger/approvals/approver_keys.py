"""Approvers' keys: enrolled, removed and rotated, each with a receipt, so that `verify` knows whose word is whose."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from mcp_guard.core import canonical
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json
from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.approvals.votes import Approver, usable_key
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.storage.approvals import ApproverKey


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
    def text(self) -> str:
        return base64.b64encode(self.public).decode()


def enrol(writer: Writer, person: Approver, new: NewKey) -> ApproverKey:
    """Enrol a key. Raises: ApprovalError if it was ever anybody's: one key, one person, one enrolment."""
    return writer.run(lambda tx: _enrol(tx, person, new, {}))


def remove(writer: Writer, approver: str, key: str, why: str) -> None:
    """Take a key out of use. Raises: ApprovalError."""
    writer.run(lambda tx: _remove(tx, usable_key(tx.store.approver_keys(), key, approver), why))


def rotate(writer: Writer, person: Approver, old: str, new: NewKey, sign: Callable[[bytes], bytes]) -> ApproverKey:
    """Replace a key by another for which the old one vouches: its signature over `voucher` is in the receipt."""
    signature = base64.b64encode(sign(voucher(writer.key.origin, person.id, new))).decode()

    def op(tx: Transaction) -> ApproverKey:
        current = usable_key(tx.store.approver_keys(), old, person.id)
        made = _enrol(tx, person, new, {"vouched_by": {"key": old, "signature": signature}})
        _remove(tx, current, "rotated")
        return made

    return writer.run(op)


def voucher(origin: str, approver: str, new: NewKey) -> bytes:
    """What the old key signs of the new one."""
    said = {"type": "mcp-guard/approver-key/v1", "origin": origin, "approver": approver}
    return canonical.canonicalize(said | {"key": new.id, "method": new.method, "public": new.text})


def _enrol(tx: Transaction, person: Approver, new: NewKey, more: Json) -> ApproverKey:
    for known in tx.store.approver_keys():
        if known.id == new.id:
            state = "was" if known.removed is not None else "is"
            raise ApprovalError(
                f"this key {state} `{known.approver}`'s already", "make a new one; a key is one person's"
            )
    about = {"approver": person.id, "name": person.name, "key": new.id, "method": new.method, "public": new.text}
    seq = tx.add(Draft("approver.enrolled", about | {"details": new.details} | more))
    key = ApproverKey(new.id, person.id, new.method, new.text, new.details, seq)
    tx.store.add_approver_key(key)
    return key


def _remove(tx: Transaction, key: ApproverKey, why: str) -> None:
    seq = tx.add(Draft("approver.removed", {"approver": key.approver, "key": key.id, "note": why}))
    tx.store.remove_approver_key(key.id, seq)
