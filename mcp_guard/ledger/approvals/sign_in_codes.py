"""One-time codes for signing in to the inbox. A code lets somebody look, and depending on its kind enrol a passkey; it
approves nothing."""

import hashlib
import secrets

from mcp_guard.core.model import MINUTE
from mcp_guard.ledger.approvals.approver_keys import CodeKind
from mcp_guard.ledger.writer import Writer
from mcp_guard.storage.background import BackgroundReader

ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
LENGTH = 10
LIFETIME = 10 * MINUTE


def make_code(writer: Writer, approver: str, kind: CodeKind = "sign_in_code") -> str:
    """A fresh code, kept hashed: about 49 bits, valid once, for ten minutes. Raises: LedgerError."""
    code = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
    writer.run(lambda tx: tx.store.add_sign_in(_hash(code), approver, kind, tx.now, tx.now + LIFETIME))
    return f"{code[:5]}-{code[5:]}"


async def take_code(reader: BackgroundReader, writer: Writer, code: str) -> tuple[str, CodeKind] | None:
    """The approver whose code it is, and its kind, once; None for any other text, which costs a read and no write.

    Wrong codes are not counted: a limit would let anybody lock an approver out, and at 49 bits a thousand guesses a
    second find one of ten codes within its ten minutes with a probability of 10⁻⁸.

    Raises: LedgerError.
    """
    hash = _hash(code.strip().upper().replace("-", ""))
    if not await reader.read(lambda store: store.has_sign_in(hash)):
        return None
    found = await writer.submit(lambda tx: tx.store.take_sign_in(hash, tx.now))
    if found is None:
        return None
    approver, kind = found
    return approver, "enrolment_code" if kind == "enrolment_code" else "sign_in_code"


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode(errors="replace")).hexdigest()
