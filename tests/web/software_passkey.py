"""A passkey in software: what an attacker without any hardware can answer WebAuthn ceremonies with."""

import base64
import hashlib
import json
import os
import struct
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

Json = dict[str, Any]
PRESENT_AND_VERIFIED, HAS_KEY = 0x05, 0x40


@dataclass(frozen=True)
class SoftwarePasskey:
    """One P-256 key, which claims that its user was verified. `origin` is the page that it claims to be used on."""

    origin: str
    id: bytes = field(default_factory=lambda: os.urandom(16))
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def register(self, options: Json) -> Json:
        """The answer to `navigator.credentials.create`."""
        point = self.key.public_key().public_numbers()
        cose = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: point.x.to_bytes(32, "big"), -3: point.y.to_bytes(32, "big")})
        attested = bytes(16) + struct.pack(">H", len(self.id)) + self.id + cose
        data = self._authenticator_data(PRESENT_AND_VERIFIED | HAS_KEY) + attested
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        client = self._client_data("webauthn.create", options["challenge"])
        credential = self._credential({"clientDataJSON": client, "attestationObject": attestation})
        return credential | {"sealed": options.get("sealed")}

    def sign(self, options: Json) -> Json:
        """The answer to `navigator.credentials.get`."""
        client, data = (
            self._client_data("webauthn.get", options["challenge"]),
            self._authenticator_data(PRESENT_AND_VERIFIED),
        )
        signature = self.key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        credential = self._credential({"clientDataJSON": client, "authenticatorData": data, "signature": signature})
        return credential | {"sealed": options.get("sealed")}

    def _authenticator_data(self, flags: int) -> bytes:
        """For the host of `origin`, as a browser would have it."""
        host = urlsplit(self.origin).hostname or ""
        return hashlib.sha256(host.encode()).digest() + bytes([flags]) + struct.pack(">I", 0)

    def _client_data(self, kind: str, challenge: str) -> bytes:
        data = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False}
        return json.dumps(data).encode()

    def _credential(self, response: dict[str, bytes]) -> Json:
        id = _base64url(self.id)
        members = {name: _base64url(value) for name, value in response.items()}
        return {"id": id, "rawId": id, "type": "public-key", "response": members}


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
