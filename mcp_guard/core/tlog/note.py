"""C2SP signed notes and tlog checkpoints (c2sp.org/signed-note, c2sp.org/tlog-checkpoint), Ed25519 signatures only."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

ED25519 = b"\x01"
MAX_SIGNATURES = 64
COSIGNATURE = b"\x04"
"""Timestamped cosignatures of witnesses (c2sp.org/tlog-cosignature)."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a ledger: its origin, how many receipts, and the tree's root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return checkpoint_text(self.origin, self.size, self.root)


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """What is signed of a checkpoint (c2sp.org/tlog-checkpoint)."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def key_id(name: str, public_key: bytes, kind: bytes = ED25519) -> bytes:
    """The four bytes by which a signature line names its key."""
    return hashlib.sha256(name.encode() + b"\n" + kind + public_key).digest()[:4]


def verifier(name: str, public_key: bytes, kind: bytes = ED25519) -> str:
    """A verifier key: `<name>+<key id in hex>+<base64 of the kind and the public key>`."""
    return f"{name}+{key_id(name, public_key, kind).hex()}+{base64.b64encode(kind + public_key).decode()}"


def parse_verifier(line: str, kind: bytes = ED25519) -> tuple[str, bytes, bytes]:
    """Name, key id and public key of a verifier key. Raises: ValueError."""
    parts = line.split("+", 2)
    if len(parts) != 3 or not parts[0]:
        raise ValueError("not a verifier key: expected name, key id and key, separated by `+`")
    raw = _decode(parts[2])
    id = key_id(parts[0], raw[1:], kind)
    if raw[:1] != kind or len(raw) != 33:
        raise ValueError(f"not a verifier key of kind {kind[0]} with 32 bytes")
    if id.hex() != parts[1]:
        raise ValueError("the key id does not belong to the key")
    return parts[0], id, raw[1:]


def short_verifier(line: str) -> str:
    """`<name>+<key id in hex>` of a verifier key: what signature lines name the key by. Raises: ValueError."""
    name, id, _ = parse_verifier(line)
    return f"{name}+{id.hex()}"


def sign(text: str, name: str, key: bytes, signer: Callable[[bytes], bytes]) -> str:
    """A note with one signature line; `key` is the id from `key_id`."""
    return f"{text}\n{signature_line(name, key, signer(text.encode()))}"


def signature_line(name: str, key: bytes, signature: bytes) -> str:
    return f"— {name} {base64.b64encode(key + signature).decode()}\n"


def parse(note: str) -> tuple[Checkpoint, list[tuple[str, bytes, bytes]]]:
    """The checkpoint and its signatures as (name, key id, signature).

    Raises: ValueError if it is not a checkpoint.
    """
    text, separator, lines = note.partition("\n\n")
    parts = text.split("\n")
    if not separator or len(parts) < 3 or not all(parts):
        raise ValueError("not a checkpoint: expected origin, size and root hash")
    if not (parts[1].isascii() and parts[1].isdecimal()) or parts[1] != str(int(parts[1])):
        raise ValueError(f"not a checkpoint: `{parts[1][:40]}` is not a size")
    checkpoint = Checkpoint(parts[0], int(parts[1]), _decode(parts[2]))
    signed = lines.removesuffix("\n").split("\n")  # `splitlines` would also split at other Unicode line ends
    if len(checkpoint.root) != 32 or not lines.endswith("\n") or len(signed) > MAX_SIGNATURES:
        raise ValueError("not a checkpoint: malformed root or signatures")
    signatures = []
    for line in signed:
        dash, name, encoded = line.split(" ")
        raw = _decode(encoded)
        if dash != "—" or not name or len(raw) < 5:
            raise ValueError(f"not a signature line: `{line}`")
        signatures.append((name, raw[:4], raw[4:]))
    return checkpoint, signatures


def _decode(text: str) -> bytes:
    """Strict, as the verifier reads it: otherwise one signed note had many spellings. Raises: ValueError."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not canonical base64: unused bits are set")
    return data
