"""Sealed `requestState`: a client keeps it between two rounds of one request, and can neither read nor change it.

AES-256-GCM (NIST SP 800-38D) with a key for one instance, derived from one that all gateways of a ledger share: so any
of them opens what another has sealed, and none opens that of another ledger or instance, or one that has expired. A
state grants nothing: the caller is the session's instance, and approvals are in the ledger.
"""

import base64
import binascii
import hmac
import os

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcp_guard.core.model import HOUR, Json, Micros

DOMAIN = b"mcp-guard/request-state/v2\0"
NONCE_BYTES = 12
LIFETIME: Micros = HOUR
"""How long a client may take to come back."""


class RequestStateCipher:
    """Seals and opens the states of one instance."""

    def __init__(self, shared_key: bytes, instance: str) -> None:
        bound = DOMAIN + instance.encode()
        self._key = AESGCM(hmac.digest(shared_key, bound, "sha256"))
        self._associated_data = bound

    def seal(self, state: Json, now: Micros) -> str:
        nonce = os.urandom(NONCE_BYTES)
        text = orjson.dumps({**state, "until": now + LIFETIME})
        return base64.urlsafe_b64encode(nonce + self._key.encrypt(nonce, text, self._associated_data)).decode()

    def open(self, sealed: object, now: Micros) -> Json | None:
        """The state that was sealed, or None if it was not sealed for this instance, or too long ago."""
        try:
            raw = base64.urlsafe_b64decode(sealed) if isinstance(sealed, str) else b""
            if base64.urlsafe_b64encode(raw).decode() != sealed:  # only one spelling is accepted
                return None
            state: Json = orjson.loads(self._key.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], self._associated_data))
        except (binascii.Error, ValueError, InvalidTag):
            return None
        return state if now <= state.pop("until") else None
