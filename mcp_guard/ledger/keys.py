"""The guard's Ed25519 key as the ledger uses it: it signs, and others verify by its line. `signers/` stores it."""

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.tlog import note
from mcp_guard.files import replace_file
from mcp_guard.identity.ed25519 import AnyPrivateKey, AnyPublicKey, PrivateKey

PRIVATE = "PRIVATE+KEY+"
PUBLISHED = "ledger.pub"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The key that signs receipts and checkpoints under the ledger's origin. `sign` raises LedgerError if it cannot.

    `verifier` is its C2SP verifier line, by which the ledger's head names the key in force.
    """

    origin: str
    public: AnyPublicKey
    id: bytes
    verifier: str
    sign: Callable[[bytes], bytes]


def signing_key(origin: str, public: AnyPublicKey, sign: Callable[[bytes], bytes]) -> SigningKey:
    raw = public.public_bytes_raw()
    return SigningKey(origin, public, note.key_id(origin, raw), note.verifier(origin, raw), sign)


def private_text(origin: str, private: AnyPrivateKey) -> str:
    """As Go's note package writes it: `PRIVATE+KEY+<origin>+<key id in hex>+<base64 of 0x01 and the seed>`."""
    id = note.key_id(origin, private.public_key().public_bytes_raw()).hex()
    encoded = base64.b64encode(note.ED25519 + private.private_bytes_raw()).decode()
    return f"{PRIVATE}{origin}+{id}+{encoded}"


def parse_private(text: str) -> SigningKey:
    """Raises: ValueError."""
    if not text.startswith(PRIVATE):
        raise ValueError(f"it does not begin with {PRIVATE}")
    origin, id, encoded = text.removeprefix(PRIVATE).split("+", 2)
    raw = base64.b64decode(encoded, validate=True)
    private = PrivateKey.from_private_bytes(raw[1:])
    key = signing_key(origin, private.public_key(), private.sign)
    if raw[:1] != note.ED25519 or key.id.hex() != id:
        raise ValueError("the key id does not belong to the key")
    return key


def publish(folder: Path, verifiers: Iterable[str]) -> None:
    """Write the verifier lines, oldest key first, for those who verify.

    INVARIANT: a state folder is of one origin. What is kept in it beside a database, such as the search index, does not
    say of which ledger it is.

    Raises: LedgerError, also if another origin's are there.
    """
    path, text = folder / PUBLISHED, "".join(f"{line}\n" for line in verifiers)
    try:
        there = path.read_text() if path.exists() else ""
        if there == text:
            return
        if (other := _origin_of(there)) and other != _origin_of(text):
            hint = f"set guard.state_dir to a folder of its own; if `{other}` is given up, move `{path}` away"
            raise LedgerError(f"the state folder `{folder}` is that of the origin `{other}`", hint)
        replace_file(path, text.encode(), 0o644)
    except OSError as error:
        raise LedgerError(f"cannot write `{path}`: {error.strerror}", "check the folder's owner and mode") from None


def _origin_of(verifiers: str) -> str:
    """Empty if there is none."""
    try:
        return note.parse_verifier(verifiers.partition("\n")[0])[0]
    except ValueError:
        return ""
