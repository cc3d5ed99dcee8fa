"""Signed notes and the keys that sign them, in the formats of C2SP.

Verifier keys and notes are c2sp.org/signed-note, checkpoints tlog-checkpoint, and cosignatures tlog-cosignature (the
Ed25519 kind, `cosignature/v1`). `Signer` follows the guard's key from one to the next, through the receipts that change
it.
"""

import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from .files import MAX_KEYS, decode_base64, parse_json, read_limited, reason_of
from .report import HEADING, UnusableInput, VerificationFailed
from .signatures import Receipt

ED25519, COSIGNATURE = 1, 4
MAX_SIGNATURES = 64
ROTATED, REPLACED = "key.rotated", "key.replaced"


@dataclass(frozen=True)
class VerifierKey:
    """`<name>+<key id in hex>+<base64 of one byte of kind and the public key>`."""

    name: str
    id: bytes
    kind: int
    public: bytes
    line: str

    def verifies(self, data: bytes, signature: bytes) -> bool:
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    @cached_property
    def _key(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.public)


@dataclass(frozen=True)
class SignedCheckpoint:
    """A signed head of a ledger. `text` is signed by `signatures`: name, key id and signature of each."""

    origin: str
    size: int
    root: bytes
    text: bytes
    signatures: tuple[tuple[str, bytes, bytes], ...]
    note: str


@dataclass(frozen=True)
class Cosignature:
    """A witness's signature on a checkpoint. `at` is the witness's own time, in seconds since the epoch."""

    witness: str
    at: int


def parse_key(line: str) -> VerifierKey:
    """Raises: ValueError."""
    parts = line.strip().split("+", 2)
    if len(parts) != 3 or not parts[0]:
        raise ValueError("not a verifier key: expected `<name>+<key id>+<key>`")
    name, id, encoded = parts
    raw = decode_base64(encoded)
    if len(raw) != 33 or raw[0] not in (ED25519, COSIGNATURE):
        raise ValueError("not an Ed25519 key")
    expected = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
    if expected.hex() != id:
        raise ValueError("the key id does not match the key")
    return VerifierKey(name, expected, raw[0], raw[1:], line.strip())


def read_keys(path: Path, kind: int = ED25519) -> tuple[VerifierKey, ...]:
    """The verifier keys of a file, one per line. Raises: UnusableInput."""
    try:
        keys = tuple(parse_key(line) for line in read_limited(path, MAX_KEYS).decode().splitlines() if line.strip())
        if not keys:
            raise ValueError("the file contains no key")
        if any(key.kind != kind for key in keys):
            raise ValueError("it is a witness's key" if kind == ED25519 else "it is not a witness's key")
    except (OSError, ValueError, binascii.Error) as error:
        raise UnusableInput(f"cannot read the public key `{path}`: {reason_of(error)}") from None
    return keys


def parse_checkpoint(note: str) -> SignedCheckpoint:
    """Raises: ValueError."""
    text, separator, lines = note.partition("\n\n")
    parts = text.split("\n")
    if not separator or len(parts) < 3 or not all(parts):
        raise ValueError("not a checkpoint: expected origin, size and root hash")
    if not (parts[1].isascii() and parts[1].isdecimal()) or parts[1] != str(int(parts[1])):
        raise ValueError(f"not a checkpoint: `{parts[1]}` is not a size")
    root = decode_base64(parts[2])
    signature_lines = lines.removesuffix("\n").split("\n")
    if len(root) != 32 or not lines.endswith("\n") or len(signature_lines) > MAX_SIGNATURES:
        raise ValueError("not a checkpoint: malformed root hash or signatures")
    signatures = tuple(_parse_signature(line) for line in signature_lines)
    return SignedCheckpoint(parts[0], int(parts[1]), root, f"{text}\n".encode(), signatures, note)


def parse_checkpoints(text: str) -> tuple[SignedCheckpoint, ...]:
    """All checkpoints of a text, as a file witness collects them: with empty lines between them and at the end.

    INVARIANT: nothing is skipped, so a checkpoint that was cut or changed is an error. Raises: ValueError.
    """
    blocks = [block.strip("\n") for block in re.split(r"\n{2,}", text.replace("\r\n", "\n")) if block.strip("\n")]
    if not blocks:
        raise ValueError("it is empty")
    if blocks[0].startswith(HEADING):
        raise ValueError(
            "it begins with the heading that `verify` prints above a checkpoint; keep only the lines below"
        )
    checkpoints = []
    for number, (body, signatures) in enumerate(zip_longest(blocks[::2], blocks[1::2], fillvalue=""), 1):
        try:
            checkpoints.append(parse_checkpoint(f"{body}\n\n{signatures}\n"))
        except ValueError as error:
            where = f"checkpoint {number} in it: " if len(blocks) > 2 else ""
            raise ValueError(f"{where}{error}") from None
    return tuple(checkpoints)


def _parse_signature(line: str) -> tuple[str, bytes, bytes]:
    parts = line.split(" ")
    raw = decode_base64(parts[2]) if len(parts) == 3 else b""
    if len(raw) < 5 or parts[0] != "—" or not parts[1]:
        raise ValueError(f"not a signature line: `{line}`")
    return parts[1], raw[:4], raw[4:]


def signers(checkpoint: SignedCheckpoint, keys: Iterable[VerifierKey]) -> list[VerifierKey]:
    """Those of the keys that signed the checkpoint. Lines of unknown keys are ignored, as signed-note requires.

    Raises: ValueError if a line names one of the keys and its signature does not verify.
    """
    signing_keys = []
    for name, id, signature in checkpoint.signatures:
        for key in keys:
            if (key.name, key.id, key.kind) == (name, id, ED25519):
                if not key.verifies(checkpoint.text, signature):
                    raise ValueError(f"the signature of `{name}` does not verify")
                signing_keys.append(key)
    return signing_keys


def cosignatures(checkpoint: SignedCheckpoint, witnesses: Iterable[VerifierKey]) -> list[Cosignature]:
    """The cosignatures of these witnesses, one for each.

    Raises: ValueError if a line names one of the witnesses and its cosignature does not verify.
    """
    by_key: dict[VerifierKey, Cosignature] = {}
    for name, id, signature in checkpoint.signatures:
        for key in witnesses:
            if (key.name, key.id, key.kind) == (name, id, COSIGNATURE):
                at = int.from_bytes(signature[:8], "big")
                signed = f"cosignature/v1\ntime {at}\n".encode() + checkpoint.text
                if len(signature) != 72 or at >= 1 << 63 or not key.verifies(signed, signature[8:]):
                    raise ValueError(f"the cosignature of `{name}` does not verify")
                by_key[key] = Cosignature(name, at)
    return list(by_key.values())


@dataclass(frozen=True)
class Signer:
    """The guard's key in use, and the keys given to the verifier. A key that was replaced without its own signature is
    accepted only between given keys."""

    key: VerifierKey
    given: tuple[VerifierKey, ...]

    def accepts(self, body: bytes, signature: bytes) -> bool:
        """Whether the key in use signed the receipt, or its successor if the receipt replaces a lost key."""
        if self.key.verifies(body, signature):
            return True
        if b'"kind":"key.replaced"' not in body:
            return False
        try:
            receipt = parse_json(body)
            return receipt["kind"] == REPLACED and parse_key(receipt["new"]).verifies(body, signature)
        except (ValueError, KeyError, TypeError, AttributeError):
            return False

    def after(self, seq: int, receipt: Receipt) -> "Signer":
        """The signer after a receipt that changes the key. Raises: VerificationFailed."""
        try:
            old, new = receipt["old"], parse_key(receipt["new"])
            if new.kind != ED25519 or new.name != self.key.name or new == self.key:
                raise ValueError("the new key is not a key for this ledger")
            if old != self.key.line:
                raise ValueError("the old key is not the key in use")
            if not new.verifies(possession(receipt), decode_base64(receipt["possession"])):
                raise ValueError("the new key did not sign its own introduction")
            if receipt["kind"] == REPLACED and not {self.key, new} <= set(self.given):
                raise ValueError(
                    f"the old key did not sign; to accept the change, give both keys: {self.key.line} and {new.line}"
                )
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise VerificationFailed(seq, f"invalid change of the guard's key: {error}") from None
        return Signer(new, self.given)


def possession(receipt: Receipt) -> bytes:
    """The text that a new key signs to prove possession of its private key (RFC 8785)."""
    claim = {name: receipt[name] for name in ("new", "old", "origin", "seq")} | {"type": "mcp-guard/key-rotation/v1"}
    return json.dumps(claim, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def find_first_key(
    first: tuple[bytes, bytes], given: tuple[VerifierKey, ...], hints: Callable[[], list[str]], origin: str
) -> VerifierKey:
    """The key that signed the first receipt: a given one, or one that a given key must be shown to succeed.

    `first` is the document and the signature. `hints` returns verifier lines that nobody has vouched for yet.

    Raises: VerificationFailed.
    """
    for key in given:
        if key.name == origin and key.verifies(*first):
            return key
    for line in hints():
        try:
            key = parse_key(line)
        except ValueError:
            continue
        if key.name == origin and key.kind == ED25519 and key.verifies(*first):
            return key
    raise VerificationFailed(0, "not signed by the guard's key")
