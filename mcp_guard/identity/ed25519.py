"""Ed25519 (RFC 8032) by libsodium, for what a running guard signs and verifies: its ledger and its credentials.

Commands, and guards with more features configured, also load the package `cryptography`; see docs/decisions/0036. The
methods have the names used there, so that keys of both packages are an `AnyPrivateKey` or an `AnyPublicKey`.
"""

from dataclasses import dataclass, field
from typing import Protocol, Self

from nacl import bindings as sodium
from nacl.exceptions import BadSignatureError


class InvalidSignature(ValueError):
    """The signature is not by this key over this data."""


class AnyPublicKey(Protocol):
    """A key that verifies. `verify` raises if the signature is not by this key."""

    def public_bytes_raw(self) -> bytes: ...

    def verify(self, signature: bytes, data: bytes) -> None: ...


class AnyPrivateKey(Protocol):
    """A key that signs."""

    def private_bytes_raw(self) -> bytes: ...

    def public_key(self) -> AnyPublicKey: ...

    def sign(self, data: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Implements `AnyPublicKey`."""

    raw: bytes

    @classmethod
    def from_public_bytes(cls, raw: bytes) -> Self:
        """Raises: ValueError."""
        if len(raw) != sodium.crypto_sign_PUBLICKEYBYTES:
            raise ValueError("an Ed25519 public key is 32 bytes long")
        return cls(raw)

    def public_bytes_raw(self) -> bytes:
        return self.raw

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raises: InvalidSignature."""
        if len(signature) != sodium.crypto_sign_BYTES:  # INVARIANT: libsodium takes signature and data joined
            raise InvalidSignature("an Ed25519 signature is 64 bytes long")
        try:
            sodium.crypto_sign_open(signature + data, self.raw)
        except BadSignatureError as error:
            raise InvalidSignature(str(error)) from None


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """Implements `AnyPrivateKey`."""

    raw: bytes = field(repr=False)
    expanded: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        return cls.from_private_bytes(sodium.randombytes(sodium.crypto_sign_SEEDBYTES))

    @classmethod
    def from_private_bytes(cls, raw: bytes) -> Self:
        """Raises: ValueError."""
        if len(raw) != sodium.crypto_sign_SEEDBYTES:
            raise ValueError("an Ed25519 private key is 32 bytes long")
        return cls(raw, sodium.crypto_sign_seed_keypair(raw)[1])

    def private_bytes_raw(self) -> bytes:
        return self.raw

    def public_key(self) -> PublicKey:
        return PublicKey(self.expanded[sodium.crypto_sign_SEEDBYTES :])

    def sign(self, data: bytes) -> bytes:
        return sodium.crypto_sign(data, self.expanded)[: sodium.crypto_sign_BYTES]
