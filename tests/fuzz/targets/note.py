"""Checkpoints: the guard's parser and the verifier's, which share no code, never disagree."""

import base64
import hashlib

from mcp_guard.core.tlog import note
from mcp_guard.verifier import notes
from tests.fuzz.targets.credential import KEY

ORIGIN, PUBLIC = "example.com/ledger", KEY.public_key().public_bytes_raw()
ID = note.key_id(ORIGIN, PUBLIC)
HEAD = note.Checkpoint(ORIGIN, 17, hashlib.sha256(b"").digest())
SIGNED = note.sign(HEAD.text(), ORIGIN, ID, KEY.sign)
SEEDS = (
    SIGNED.encode(), (SIGNED + note.signature_line("witness", b"1234", bytes(72))).encode(),
    note.verifier(ORIGIN, PUBLIC).encode(), f"{ORIGIN}\n00\n{base64.b64encode(bytes(32)).decode()}\n\n".encode(),
    SIGNED.replace("— e", "— \f").encode(), SIGNED.replace("\n17", "\n017").encode(),
    SIGNED.replace(" ", "  ").encode(), SIGNED.replace("FU=\n", "FV=\n").encode(),
    "a\n１\nAA==\n\n— a AAAAAAAA\n".encode(),
)  # fmt: skip


def check(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    theirs = ours = None
    try:
        theirs = notes.parse_checkpoint(text)
    except ValueError as refused:
        assert str(refused)
    try:
        ours = note.parse(text)
    except ValueError as refused:
        assert str(refused)
    assert (theirs is None) == (ours is None), "one reader takes what the other does not"
    if theirs is not None and ours is not None:
        head, signatures = ours
        assert (head.origin, head.size, head.root) == (theirs.origin, theirs.size, theirs.root)
        assert tuple(signatures) == theirs.signatures
        key = notes.parse_key(note.verifier(ORIGIN, PUBLIC))
        try:
            is_signed = key in notes.signers(theirs, [key])
        except ValueError:
            is_signed = False
        assert not is_signed or theirs.text == HEAD.text().encode(), "a text that was not signed was taken"
    _parse_key(text)


def _parse_key(text: str) -> None:
    try:
        key = notes.parse_key(text)
    except ValueError:
        return
    if key.kind == notes.ED25519 and text == text.strip():
        assert note.parse_verifier(text) == (key.name, key.id, key.public)
