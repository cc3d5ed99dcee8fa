"""One-time codes for signing in to the inbox. A code lets somebody look and enrol a passkey; it approves nothing."""

import hashlib
import secrets

from mcp_guard.ledger.writer import Writer

ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"
LENGTH = 10
LIFETIME = 10 * 60 * 1_000_000


def make_code(writer: Writer, approver: str) -> str:
    """A fresh code, kept hashed: about 49 bits, valid once, for ten minutes. Raises: LedgerError."""
    code = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
    writer.run(lambda tx: tx.store.add_sign_in(_hash(code), approver, tx.now + LIFETIME))
    return f"{code[:5]}-{code[5:]}"


def take_code(writer: Writer, code: str) -> str | None:
    """The approver whose code it is, once; None for any other text. Raises: LedgerError."""
    plain = code.strip().upper().replace("-", "")
    return writer.run(lambda tx: tx.store.take_sign_in(_hash(plain), tx.now))


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
