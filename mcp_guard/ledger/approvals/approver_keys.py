"""Approvers' keys: enrolled, rotated and removed, each with a receipt, so that `verify` knows which key is whose.

The first key of an approver is enrolled by the operator, or with a one-time code from the operator's terminal. Each
further one needs the operator again, a code that says so, or the signature of a key that the approver already has.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from mcp_guard.core import canonical
from mcp_guard.core.approval import OPEN
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json
from mcp_guard.core.receipt import Draft
from mcp_guard.core.sign_in import SignIn
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import ApproverKey

CodeKind = Literal["sign_in_code", "enrolment_code"]
"""What a one-time code permits beside signing in: to enrol the approver's first key, or a key in any case."""

ENROLLED = "enrolled"
"""The event of the message about a new key."""
METHODS = {"webauthn": "passkey", "ed25519": "key file"}
AUTHORIZATIONS = {
    "terminal": "by the operator, on the command line",
    "sign_in_code": "with a one-time code, as the first key",
    "enrolment_code": "with a one-time code for a further key",
    "key": "with another key of the approver",
    "oidc": "after a sign-in with the identity provider, as the first key",
}
"""How the enrolment of a key was authorized, in words."""


def authorization(enrolment: Json) -> str:
    """By the receipt of the enrolment, which says so from format 5 of the ledger on."""
    return str(enrolment.get("authorized_by", "unrecorded"))


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


def enrol(writer: Writer, approver: Approver, new: NewKey, notify: Iterable[str] = ()) -> ApproverKey:
    """Enrol a key on the word of the operator, who writes to the ledger. `notify` names the notifiers that report it.

    Raises: ApprovalError if it was ever enrolled, by anybody; LedgerError.
    """
    return writer.run(lambda tx: _enrol(tx, approver, new, {"authorized_by": "terminal"}, notify))


async def enrol_with_code(
    writer: Writer, approver: Approver, new: NewKey, kind: CodeKind, notify: Iterable[str]
) -> ApproverKey:
    """Enrol a key for somebody who has just signed in with a code of this kind.

    Raises: ApprovalError as `enrol` does, or if the code permits only a first key and there ever was one; LedgerError.
    """

    def op(tx: Transaction) -> ApproverKey:
        if kind != "enrolment_code" and ever_had_key(tx.store.approver_keys(), approver.id):
            raise ApprovalError(
                f"`{approver.id}` has or had a key, and this code permits only a first one",
                f"sign in with the passkey, or with a new code: mcp-guard approvers code {approver.id} --enrol",
            )
        return _enrol(tx, approver, new, {"authorized_by": kind}, notify)

    return await writer.submit(op)


async def enrol_with_key(
    writer: Writer, approver: Approver, new: NewKey, key: str, signature: Json, notify: Iterable[str]
) -> ApproverKey:
    """Enrol a key that another key of the same approver vouches for. `signature` is by that key over `voucher`.

    Raises: ApprovalError as `enrol` does, or if the signature is not by this key; LedgerError.
    """
    from mcp_guard.verifier import check_signature  # guards read keys, and check no voucher

    def op(tx: Transaction) -> ApproverKey:
        old = usable_key(tx.store.approver_keys(), key, approver.id)
        text = voucher(writer.key.origin, approver.id, new)
        try:
            check_signature(old.method, old.public, old.details, text, signature)
        except ValueError as error:
            raise ApprovalError(f"key `{key}` does not vouch for the new one: {error}", "try again") from None
        vouched = {"authorized_by": "key", "vouched_by": {"key": key} | signature}
        return _enrol(tx, approver, new, vouched, notify)

    return await writer.submit(op)


async def enrol_with_sign_in(
    writer: Writer, approver: Approver, new: NewKey, sign_in: SignIn, notify: Iterable[str]
) -> ApproverKey:
    """Enrol the first key of somebody whom the identity provider has just signed in.

    Raises: ApprovalError as `enrol` does, or if they ever had a key; LedgerError.
    """

    def op(tx: Transaction) -> ApproverKey:
        if ever_had_key(tx.store.approver_keys(), approver.id):
            raise ApprovalError(
                f"`{approver.id}` has or had a key, and a sign-in permits only a first one",
                f"sign in with a code: mcp-guard approvers code {approver.id} --enrol",
            )
        return _enrol(tx, approver, new, {"authorized_by": "oidc", "signed_in": sign_in.to_json()}, notify)

    return await writer.submit(op)


def remove(writer: Writer, approver: str, key: str, why: str) -> None:
    """Take a key out of use. Raises: ApprovalError, LedgerError."""
    writer.run(lambda tx: _remove(tx, usable_key(tx.store.approver_keys(), key, approver), why))


def find_usable(store: Store, key: str) -> dict[str, str]:
    """The open approvals and active grants for which this key has signed a vote: `requested`, `approved` or `grant`."""
    signed = [(approval.id, str(approval.state), approval) for approval in store.approvals(OPEN)]
    for grant in store.grants(state="active"):
        if (row := store.approval(grant.approval)) is not None:
            signed.append((grant.id, "grant", row[0]))
    return {id: state for id, state, approval in signed if any(vote.key == key for vote in approval.votes)}


def rotate(
    writer: Writer,
    approver: Approver,
    old: str,
    new: NewKey,
    sign: Callable[[bytes], bytes],
    notify: Iterable[str] = (),
) -> ApproverKey:
    """Replace a key by a new one that the old one vouches for: its signature over `voucher` is in the receipt.

    `old` is the id of the old key, and `sign` signs with it. Raises: ApprovalError, LedgerError.
    """
    signature = base64.b64encode(sign(voucher(writer.key.origin, approver.id, new))).decode()

    def op(tx: Transaction) -> ApproverKey:
        old_key = usable_key(tx.store.approver_keys(), old, approver.id)
        vouched = {"authorized_by": "key", "vouched_by": {"key": old, "signature": signature}}
        new_key = _enrol(tx, approver, new, vouched, notify)
        _remove(tx, old_key, "rotated")
        return new_key

    return writer.run(op)


def voucher(origin: str, approver: str, new: NewKey) -> bytes:
    """What the old key signs to vouch for the new one (RFC 8785)."""
    members = {"type": "mcp-guard/approver-key/v1", "origin": origin, "approver": approver}
    return canonical.canonicalize(members | {"key": new.id, "method": new.method, "public": new.text})


def keys_in_use(keys: Iterable[ApproverKey], approver: str) -> list[ApproverKey]:
    return [key for key in keys if key.approver == approver and key.removed is None]


def ever_had_key(keys: Iterable[ApproverKey], approver: str) -> bool:
    """Removed keys count: whoever has found a lost one may have found a code as well."""
    return any(key.approver == approver for key in keys)


def usable_key(keys: Iterable[ApproverKey], id: str, approver: str) -> ApproverKey:
    """The key of this approver with this id. Raises: ApprovalError if there is none in use."""
    keys = list(keys)
    usable = keys_in_use(keys, approver)
    for key in usable:
        if key.id == id:
            return key
    adding = f"mcp-guard approvers add {approver}"
    if any(key.id == id for key in keys):  # removed, or somebody else's
        hint = f"to enrol a new key, in a new file that you then name here, too: {adding} --key-file FILE"
    else:
        hint = f"to enrol the key of your key file: {adding}"
    if usable:
        in_use = ", ".join(key.id for key in usable)
        hint = f"keys of {approver} in use: {in_use}; to sign with one of them: --key-file FILE; {hint}"
    else:
        hint = f"mcp-guard approvers list; {hint}"
    raise ApprovalError(f"`{approver}` has no enrolled key `{id}`", hint)


def _enrol(tx: Transaction, approver: Approver, new: NewKey, authorization: Json, notify: Iterable[str]) -> ApproverKey:
    for key in tx.store.approver_keys():
        if base64.b64decode(key.public).removeprefix(ED25519_SPKI) == new.point:
            verb = "was" if key.removed is not None else "is"
            raise ApprovalError(
                f"this key {verb} already enrolled for `{key.approver}`",
                "create a new key; each key belongs to one person and is enrolled once",
            )
        if "credential" in new.details and new.details["credential"] == key.details.get("credential"):
            raise ApprovalError("a passkey with this credential id was enrolled before", "create a new passkey")
    fields = {"approver": approver.id, "name": approver.name, "key": new.id, "method": new.method, "public": new.text}
    seq = tx.add(Draft("approver.enrolled", fields | {"details": new.details} | authorization))
    key = ApproverKey(new.id, approver.id, new.method, new.text, new.details, seq)
    tx.store.add_approver_key(key)
    for notifier in notify:
        tx.store.add_delivery(key.id, notifier, ENROLLED, tx.now)
    return key


def _remove(tx: Transaction, key: ApproverKey, why: str) -> None:
    seq = tx.add(Draft("approver.removed", {"approver": key.approver, "key": key.id, "note": why}))
    tx.store.remove_approver_key(key.id, seq)
