"""One receipt with its proof, as text that stands by itself: entry, inclusion proof, checkpoint
(c2sp.org/tlog-proof), and perhaps its payloads."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .merkle import leaf_hash, root_from_proof
from .notes import SignedCheckpoint, parse_checkpoint
from .signatures import PAYLOADS

FORM = "mcp-guard/bundle/v1"
PROOF = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True)
class Bundle:
    """`cells` are the payloads, each with its salt before it; `leaf` is the hash of the entry."""

    seq: int
    body: bytes
    signature: bytes
    leaf: bytes
    proof: tuple[bytes, ...]
    checkpoint: SignedCheckpoint
    cells: Mapping[str, bytes] = field(default_factory=dict)

    def check_inclusion(self) -> None:
        """Raises: ValueError."""
        root = root_from_proof(self.seq, self.checkpoint.size, self.leaf, self.proof)
        if root != self.checkpoint.root:
            raise ValueError("its inclusion proof does not lead to the root of the checkpoint")


def parse_bundle(text: str | bytes) -> Bundle:
    """Raises: ValueError."""
    said = json.loads(text)
    if not isinstance(said, dict) or said.get("form") != FORM:
        raise ValueError(f"not a bundle: its form is not `{FORM}`")
    try:
        body, signature = split_entry(said["entry"].encode())
        seq, proof, checkpoint = parse_proof(said["proof"])
        cells = read_cells(said.get("payloads", {}))
    except (KeyError, AttributeError, TypeError, binascii.Error) as error:
        raise ValueError(f"not a bundle: {type(error).__name__}: {error}") from None
    return Bundle(seq, body, signature, leaf_hash(said["entry"].encode()), proof, checkpoint, cells)


def split_entry(entry: bytes) -> tuple[bytes, bytes]:
    """Document and signature. Raises: ValueError."""
    body, newline, signature = entry.rpartition(b"\n")
    if not newline:
        raise ValueError("not an entry: a document, a newline and a signature")
    return body, base64.b64decode(signature, validate=True)


def parse_proof(text: str) -> tuple[int, tuple[bytes, ...], SignedCheckpoint]:
    """Index, inclusion proof and checkpoint of a tlog-proof. Raises: ValueError."""
    head, separator, note = text.partition("\n\n")
    form, *lines = head.split("\n")
    if lines and lines[0].startswith("extra "):
        del lines[0]
    index = lines[0].removeprefix("index ") if lines else ""
    if form != PROOF or not separator or not lines[0].startswith("index ") or index != str(int(index)):
        raise ValueError("not a proof in the form of tlog-proof")
    hashes = tuple(base64.b64decode(line, validate=True) for line in lines[1:])
    if any(len(hash) != 32 for hash in hashes):
        raise ValueError("not a proof in the form of tlog-proof")
    return int(index), hashes, parse_checkpoint(note)


def read_cells(payloads: Mapping[str, Any]) -> dict[str, bytes]:
    """Salt and payload of each name, as they were hashed. Raises: ValueError."""
    try:
        if not set(payloads) <= set(PAYLOADS):
            raise ValueError(f"payloads of unknown names: {sorted(set(payloads) - set(PAYLOADS))}")
        return {
            name: b"".join(base64.b64decode(said.get(part, ""), validate=True) for part in ("salt", "payload"))
            for name, said in payloads.items()
        }
    except (AttributeError, TypeError, binascii.Error) as error:
        raise ValueError(f"payloads not in their form: {error}") from None
