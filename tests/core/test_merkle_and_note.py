"""The tree against a naive one, and checkpoints as other transparency-log tools read them."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core import merkle, note


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, as written there."""
    if not leaves:
        return merkle.EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return merkle.node_hash(naive_root(leaves[:half]), naive_root(leaves[half:]))


@given(st.integers(0, 300))
def test_the_compact_range_has_the_root_of_the_whole_tree(size: int) -> None:
    leaves = [merkle.leaf_hash(str(number).encode()) for number in range(size)]
    edge: list[bytes] = []
    for number, leaf in enumerate(leaves):
        edge = merkle.append(edge, number, leaf)
    assert merkle.root(edge) == naive_root(leaves)
    assert len(edge) == bin(size).count("1")


def test_roots_of_the_published_test_vectors() -> None:
    """Inputs and roots of the certificate-transparency reference test data (RFC 6962 Merkle tree)."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    edge: list[bytes] = []
    for number, text in enumerate(inputs):
        edge = merkle.append(edge, number, merkle.leaf_hash(bytes.fromhex(text)))
        if number + 1 in roots:
            assert merkle.root(edge).hex() == roots[number + 1]


def test_a_checkpoint_reads_back_and_its_signature_verifies() -> None:
    key = Ed25519PrivateKey.generate()
    id = note.key_id("example.com/log", key.public_key().public_bytes_raw())
    checkpoint = note.Checkpoint("example.com/log", 7, b"\x01" * 32)
    signed = note.sign(checkpoint.text(), "example.com/log", id, key.sign)
    assert signed.splitlines()[:3] == ["example.com/log", "7", base64.b64encode(b"\x01" * 32).decode()]
    parsed, [(name, found_id, signature)] = note.parse(signed)
    assert (parsed, name, found_id) == (checkpoint, "example.com/log", id)
    key.public_key().verify(signature, checkpoint.text().encode())


@pytest.mark.parametrize("text", ["", "x\n", "a\nb\nAA==\n\n— x AAAAAAAA\n", "a\n1\nAA==\n\n- x AAAAAAAA\n"])
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        note.parse(text)
