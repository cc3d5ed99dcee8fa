"""Signed notes and checkpoints as other transparency-log tools read them."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mcp_guard.core.tlog import note


def test_the_published_note_verifies_with_the_published_key() -> None:
    """The example of C2SP signed-note."""
    name, id, encoded = "example.com/foo", "530d903a", "AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    text = "This is an example message.\n"
    line = "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
    key, signature = base64.b64decode(encoded), base64.b64decode(line)
    assert key[:1] == note.ED25519
    assert note.key_id(name, key[1:]).hex() == id == signature[:4].hex()
    Ed25519PublicKey.from_public_bytes(key[1:]).verify(signature[4:], text.encode())
    written = note.sign(text, name, signature[:4], lambda _: signature[4:])
    assert written == f"{text}\n— {name} {line}\n"


def test_published_checkpoint_is_parsed() -> None:
    """The example of C2SP tlog-checkpoint; the specification does not name its key."""
    line = "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8="
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    checkpoint, [(name, id, signature)] = note.parse(f"{text}\n— example.com/behind-the-sofa {line}\n")
    assert (checkpoint.origin, checkpoint.size, len(checkpoint.root)) == ("example.com/behind-the-sofa", 20852163, 32)
    assert checkpoint.text() == text
    assert (name, id.hex(), len(signature)) == ("example.com/behind-the-sofa", "033de0ae", 64)


def test_a_checkpoint_reads_back_and_its_signature_verifies() -> None:
    key = Ed25519PrivateKey.generate()
    id = note.key_id("example.com/log", key.public_key().public_bytes_raw())
    checkpoint = note.Checkpoint("example.com/log", 7, b"\x01" * 32)
    signed = note.sign(checkpoint.text(), "example.com/log", id, key.sign)
    assert signed.splitlines()[:3] == ["example.com/log", "7", base64.b64encode(b"\x01" * 32).decode()]
    parsed, [(name, found_id, signature)] = note.parse(signed)
    assert (parsed, name, found_id) == (checkpoint, "example.com/log", id)
    key.public_key().verify(signature, checkpoint.text().encode())


@pytest.mark.parametrize(("written", "other"), [("AQE=\n\n", "AQF=\n\n"), ("Ag==\n", "Ah==\n")])
def test_only_the_written_spelling_of_a_checkpoint_is_taken(written: str, other: str) -> None:
    """Base64 leaves bits unused at its end (RFC 4648 §3.5)."""
    signed = note.sign(note.Checkpoint("x", 7, b"\x01" * 32).text(), "x", b"\x02" * 4, lambda _: b"\x02" * 63)
    assert note.parse(signed)
    with pytest.raises(ValueError, match="not canonical base64"):
        note.parse(signed.replace(written, other))


@pytest.mark.parametrize("text", ["", "x\n", "a\nb\nAA==\n\n— x AAAAAAAA\n", "a\n1\nAA==\n\n- x AAAAAAAA\n"])
def test_invalid_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        note.parse(text)
