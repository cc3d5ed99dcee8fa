"""The guard's Ed25519 key: made on first use, readable by its owner alone; and the line by which others verify."""

import base64
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mcp_guard.core import note
from mcp_guard.core.errors import LedgerError

PRIVATE = "PRIVATE+KEY+"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The key that signs receipts and checkpoints under the ledger's origin."""

    origin: str
    private: Ed25519PrivateKey
    id: bytes

    @property
    def public(self) -> Ed25519PublicKey:
        return self.private.public_key()

    def verifier(self) -> str:
        """The C2SP verifier key: `<origin>+<key id in hex>+<base64 of 0x01 and the public key>`."""
        encoded = base64.b64encode(note.ED25519 + self.public.public_bytes_raw()).decode()
        return f"{self.origin}+{self.id.hex()}+{encoded}"


def load_key(folder: Path, origin: str) -> SigningKey:
    """The key in `folder/ledger.key`, made if there is none; its verifier line is in `folder/ledger.pub`.

    The file has the form of Go's note package, `PRIVATE+KEY+<origin>+<key id in hex>+<base64 of 0x01 and the seed>`.

    Raises: LedgerError if it cannot be read, belongs to another origin, or can be read by others than its owner.
    """
    path = folder / "ledger.key"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(path, origin)
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise LedgerError(f"`{path}` can be read by others than its owner", f"chmod 600 {path}")
        key = _parse(path.read_text().strip())
        if key.origin != origin:
            hint = "set guard.origin back, or begin a new ledger in another state_dir"
            raise LedgerError(f"the key `{path}` is for the origin `{key.origin}`, not `{origin}`", hint)
        published = folder / "ledger.pub"
        if not published.exists() or published.read_text() != key.verifier() + "\n":
            published.write_text(key.verifier() + "\n")
    except (OSError, ValueError) as error:
        raise LedgerError(f"the ledger key cannot be used: `{path}`: {error}", "restore the key from a copy") from None
    return key


def _parse(text: str) -> SigningKey:
    """Raises: ValueError."""
    if not text.startswith(PRIVATE):
        raise ValueError(f"it does not begin with {PRIVATE}")
    origin, id, encoded = text.removeprefix(PRIVATE).split("+", 2)
    raw = base64.b64decode(encoded, validate=True)
    private = Ed25519PrivateKey.from_private_bytes(raw[1:])
    key = SigningKey(origin, private, note.key_id(origin, private.public_key().public_bytes_raw()))
    if raw[:1] != note.ED25519 or key.id.hex() != id:
        raise ValueError("the key id does not belong to the key")
    return key


def _create(path: Path, origin: str) -> None:
    """Make the key once; of several processes, whoever links first wins."""
    if path.exists():
        return
    private = Ed25519PrivateKey.generate()
    id = note.key_id(origin, private.public_key().public_bytes_raw()).hex()
    encoded = base64.b64encode(note.ED25519 + private.private_bytes_raw()).decode()
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{PRIVATE}{origin}+{id}+{encoded}\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
