"""Checks of a rotated ledger, independent of `verify`: which key signed what."""

import base64
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mcp_guard.core.receipt import entry
from mcp_guard.core.tlog import merkle, note
from mcp_guard.ledger.key_chain import possession

Json = dict[str, Any]


def public(verifier: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(note.parse_verifier(verifier)[2])


def receipts(folder: Path) -> list[tuple[Json, bytes, bytes]]:
    """Each receipt's document, bytes and signature."""
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as db:
        rows = db.execute("SELECT body, signature FROM receipt ORDER BY seq").fetchall()
    return [(json.loads(body), body, signature) for body, signature in rows]


def checkpoint(folder: Path) -> str:
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as db:
        return str(db.execute("SELECT checkpoint FROM head").fetchone()[0])


def signers(note_text: str) -> list[str]:
    """The key ids of a checkpoint's signature lines, in order."""
    return [id.hex() for _, id, _ in note.parse(note_text)[1]]


def chain(folder: Path, first: str) -> Iterator[str]:
    """Checks every receipt against the key that must have signed it; yields each key as it becomes active."""
    key, edge = first, []  # type: ignore[var-annotated]
    yield key
    for seq, (said, body, signature) in enumerate(receipts(folder)):
        assert said["seq"] == seq
        if said["kind"] == "key.replaced":
            assert said["old"] == key
            key = said["new"]
            yield key
        public(key).verify(signature, body)
        edge = merkle.append(edge, seq, merkle.leaf_hash(entry(body, signature)))
        if said["kind"] in ("key.rotated", "key.replaced"):
            proof = base64.b64decode(said["possession"])
            public(said["new"]).verify(proof, possession(said["old"], said["new"], said["origin"], seq))
        if said["kind"] == "key.rotated":
            assert said["old"] == key
            key = said["new"]
            yield key
    head, lines = note.parse(checkpoint(folder))
    assert head.root == merkle.root(edge)
    assert note.parse_verifier(key)[1] in [id for _, id, _ in lines]
    for name, id, signature in lines:
        assert name == head.origin
        [signer] = [line for line in (folder / "ledger.pub").read_text().splitlines() if f"+{id.hex()}+" in line]
        public(signer).verify(signature, head.text().encode())


def signs(verifier: str, signature: bytes, body: bytes) -> bool:
    try:
        public(verifier).verify(signature, body)
    except InvalidSignature:
        return False
    return True
