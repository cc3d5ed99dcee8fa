"""Sealed `requestState`: a client keeps it between two rounds of one request, and can neither read nor change it.

AES-256-GCM (NIST SP 800-38D) with a key of this session alone, bound to the instance: a state of another session, or
from before a restart of the guard, does not open. A state grants nothing: the caller is the session's instance, and
approvals are in the ledger.
"""

import base64
import binascii
import os

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcp_guard.core.model import Json

DOMAIN = b"mcp-guard/request-state/v1\0"
NONCE_BYTES = 12


class RequestStateCipher:
    """Seals and opens the states of one session."""

    def __init__(self, instance: str) -> None:
        self._key = AESGCM(os.urandom(32))
        self._associated_data = DOMAIN + instance.encode()

    def seal(self, state: Json) -> str:
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._key.encrypt(nonce, orjson.dumps(state), self._associated_data)
        return base64.urlsafe_b64encode(nonce + sealed).decode()

    def open(self, sealed: object) -> Json | None:
        """The state that was sealed, or None if this session did not seal it."""
        try:
            raw = base64.urlsafe_b64decode(sealed) if isinstance(sealed, str) else b""
            if base64.urlsafe_b64encode(raw).decode() != sealed:  # only one spelling is accepted
                return None
            state: Json = orjson.loads(self._key.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], self._associated_data))
        except (binascii.Error, ValueError, InvalidTag):
            return None
        return state
