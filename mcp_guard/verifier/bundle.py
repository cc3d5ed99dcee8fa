"""One receipt with its proof as a self-contained text: the entry, its inclusion proof and a checkpoint
(c2sp.org/tlog-proof), and optionally its payloads."""

import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .files import decode_base64, parse_json
from .merkle import leaf_hash, root_from_proof
from .notes import SignedCheckpoint, parse_checkpoint
from .signatures import PAYLOADS

FORM = "mcp-guard/bundle/v1"
PROOF = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True)
class Bundle:
    """`leaf` is the hash of the entry. `payloads` maps names to salt and payload, concatenated as they were hashed."""

    seq: int
    body: bytes
    signature: bytes
    leaf: bytes
    proof: tuple[bytes, ...]
    checkpoint: SignedCheckpoint
    payloads: Mapping[str, bytes] = field(default_factory=dict)

    def check_inclusion(self) -> None:
        """Raises: ValueError."""
        root = root_from_proof(self.seq, self.checkpoint.size, self.leaf, self.proof)
        if root != self.checkpoint.root:
            raise ValueError("the inclusion proof does not lead to the root of the checkpoint")


def parse_bundle(text: str | bytes) -> Bundle:
    """Raises: ValueError."""
    document = parse_json(text)
    if not isinstance(document, dict) or document.get("form") != FORM:
        raise ValueError(f"not a bundle: `form` is not `{FORM}`")
    try:
        entry = document["entry"].encode()
        body, signature = split_entry(entry)
        seq, proof, checkpoint = parse_proof(document["proof"])
        payloads = read_payloads(document.get("payloads", {}))
    except (KeyError, AttributeError, TypeError, binascii.Error) as error:
        raise ValueError(f"not a bundle: {type(error).__name__}: {error}") from None
    return Bundle(seq, body, signature, leaf_hash(entry), proof, checkpoint, payloads)


def split_entry(entry: bytes) -> tuple[bytes, bytes]:
    """The document and the signature of an entry. Raises: ValueError."""
    body, newline, signature = entry.rpartition(b"\n")
    if not newline:
        raise ValueError("not an entry: expected a document, a newline and a signature")
    return body, decode_base64(signature)


def parse_proof(text: str) -> tuple[int, tuple[bytes, ...], SignedCheckpoint]:
    """The index, inclusion proof and checkpoint of a tlog-proof. Raises: ValueError."""
    head, separator, note = text.partition("\n\n")
    form, *lines = head.split("\n")
    if lines and lines[0].startswith("extra "):
        del lines[0]
    index = lines[0].removeprefix("index ") if lines else ""
    if form != PROOF or not separator or not lines[0].startswith("index ") or index != str(int(index)):
        raise ValueError("not a tlog-proof")
    hashes = tuple(decode_base64(line) for line in lines[1:])
    if any(len(hash) != 32 for hash in hashes):
        raise ValueError("not a tlog-proof: a hash does not have 32 bytes")
    return int(index), hashes, parse_checkpoint(note)


def read_payloads(payloads: Mapping[str, Any]) -> dict[str, bytes]:
    """Salt and payload of each name, concatenated as they were hashed. Raises: ValueError."""
    try:
        if unknown := sorted(set(payloads) - set(PAYLOADS)):
            raise ValueError(f"unknown payload names: {unknown}")
        return {
            name: b"".join(decode_base64(parts.get(part, "")) for part in ("salt", "payload"))
            for name, parts in payloads.items()
        }
    except (AttributeError, TypeError, binascii.Error) as error:
        raise ValueError(f"malformed payloads: {error}") from None
