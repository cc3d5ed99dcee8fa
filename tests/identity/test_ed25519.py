"""Keys of libsodium and of cryptography are interchangeable, and unsigned data does not verify."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.identity.ed25519 import InvalidSignature, PrivateKey, PublicKey

RFC_8032 = (  # §7.1, test 2: seed, public key, message, signature
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    "72",
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
)


def test_rfc_8032_example_verifies() -> None:
    seed, public, message, signature = map(bytes.fromhex, RFC_8032)
    key = PrivateKey.from_private_bytes(seed)
    assert (key.public_key().public_bytes_raw(), key.sign(message)) == (public, signature)
    assert key.private_bytes_raw() == seed


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=2000))
def test_both_libraries_produce_the_same_signature(seed: bytes, data: bytes) -> None:
    ours, theirs = PrivateKey.from_private_bytes(seed), Ed25519PrivateKey.from_private_bytes(seed)
    assert ours.public_key().public_bytes_raw() == theirs.public_key().public_bytes_raw()
    assert ours.sign(data) == theirs.sign(data)
    ours.public_key().verify(theirs.sign(data), data)


def test_altered_message_does_not_verify() -> None:
    key, other = PrivateKey.generate(), PrivateKey.generate()
    signature = key.sign(b"data")
    public = key.public_key()
    public.verify(signature, b"data")
    forged = [
        (signature, b"date"), (other.sign(b"data"), b"data"), (signature[::-1], b"data"), (bytes(64), b"data"),
        (b"", signature + b"data"), (signature[:-1], signature[-1:] + b"data"), (signature + b"da", b"ta"),
    ]  # fmt: skip
    for item in forged:
        with pytest.raises(InvalidSignature):
            public.verify(*item)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_keys_of_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        PublicKey.from_public_bytes(bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        PrivateKey.from_private_bytes(bytes(length))


def test_repr_does_not_show_the_key() -> None:
    key = PrivateKey.generate()
    assert repr(key) == "PrivateKey()"
