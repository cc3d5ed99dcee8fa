"""Self-contained proof of one receipt: its entry, the proof that the ledger contains it, and the ledger's signed head.

The proof is a C2SP tlog-proof (c2sp.org/tlog-proof) of the entry, whose leaf hash the reader computes.
"""

import base64
from collections.abc import Iterable, Mapping

import orjson

FORM = "mcp-guard/bundle/v1"
PROOF = "c2sp.org/tlog-proof@v1"
Cells = Mapping[str, tuple[bytes, bytes]]
"""Payloads by name, each as its salt and its bytes."""


def proof_text(index: int, path: Iterable[bytes], checkpoint: str) -> str:
    """`path` is the inclusion proof of entry `index` in the tree of the checkpoint, a signed note."""
    lines = [PROOF, f"index {index}", *(base64.b64encode(hash).decode() for hash in path)]
    return "\n".join([*lines, "", checkpoint])


def bundle(entry: bytes, proof: str, payloads: Cells | None = None) -> bytes:
    """One line of JSON. Payloads, if given, can be checked against the commitments in the entry."""
    document: dict[str, object] = {"form": FORM, "entry": entry.decode(), "proof": proof}
    if payloads is not None:
        document["payloads"] = payload_fields(payloads)
    return orjson.dumps(document)


def payload_fields(payloads: Cells) -> dict[str, dict[str, str]]:
    """Payloads as JSON: `{name: {"salt": base64, "payload": base64}}`."""
    encoded = {name: tuple(base64.b64encode(part).decode() for part in cell) for name, cell in payloads.items()}
    return {name: {"salt": salt, "payload": payload} for name, (salt, payload) in encoded.items()}
