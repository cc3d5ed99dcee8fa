"""The tokens of one upstream with the ledger, for all gateways: sealed with a key that only the gateways have.

AES-256-GCM (NIST SP 800-38D); the name of the upstream is bound, so that one upstream never gets the tokens of another.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcp_guard.core.errors import LedgerError
from mcp_guard.shared_secret import SharedSecret
from mcp_guard.storage.sign_ins import HeldSignIn, SignIns
from mcp_guard.upstream.oauth.discovery import NoToken
from mcp_guard.upstream.oauth.token_storage import HeldTokens, Tokens, parse_tokens, tokens_text

PURPOSE = "sign-ins"
DOMAIN = b"mcp-guard/sign-in/v1\0"
ID_BYTES, NONCE_BYTES = 8, 12


@dataclass(frozen=True, slots=True)
class SharedTokenStorage:
    """Implements `TokenStorage`."""

    sign_ins: SignIns
    name: str
    secret: SharedSecret
    where: str = "with the ledger"

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[HeldTokens]:
        try:
            async with self.sign_ins.locked(self.name) as held:
                yield _SealedTokens(held, self.name, self.secret)
        except LedgerError as error:
            raise NoToken(f"the sign-in cannot be shared: {error.message}") from None


@dataclass(frozen=True, slots=True)
class _SealedTokens:
    """Implements `HeldTokens`."""

    held: HeldSignIn
    name: str
    secret: SharedSecret

    async def read(self) -> Tokens | None:
        sealed = await self.held.read()
        return self._open(sealed) if sealed else None

    async def write(self, tokens: Tokens) -> None:
        nonce = os.urandom(NONCE_BYTES)
        text = self._key().encrypt(nonce, tokens_text(tokens).encode(), self._bound())
        await self.held.write(bytes.fromhex(self.secret.id) + nonce + text)

    async def remove(self) -> bool:
        was_signed_in = bool(await self.held.read())
        if was_signed_in:
            await self.held.write(b"")
        return was_signed_in

    def _open(self, sealed: bytes) -> Tokens:
        """Raises: NoToken."""
        id, nonce, text = sealed[:ID_BYTES], sealed[ID_BYTES:][:NONCE_BYTES], sealed[ID_BYTES + NONCE_BYTES :]
        if id.hex() != self.secret.id:
            raise NoToken(
                "the sign-in was sealed with another `ledger.shared_secret`; "
                f"give all gateways the same, or: mcp-guard upstreams login {self.name}"
            )
        try:
            return parse_tokens(self._key().decrypt(nonce, text, self._bound()))
        except (InvalidTag, ValueError, TypeError):
            raise NoToken(f"the stored sign-in was changed; mcp-guard upstreams login {self.name}") from None

    def _key(self) -> AESGCM:
        return AESGCM(self.secret.derive(PURPOSE))

    def _bound(self) -> bytes:
        return DOMAIN + self.name.encode()
