"""Sign-ins that all gateways share: sealed with a key that only the gateways have.

AES-256-GCM (NIST SP 800-38D). The origin, the upstream and the user are bound, so that no upstream and no user ever
gets the tokens of another.
"""

import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.people import Identity
from mcp_guard.shared_secret import SharedSecret
from mcp_guard.storage.sign_ins import HeldSignIn, SignIns
from mcp_guard.upstream.oauth.discovery import NoToken
from mcp_guard.upstream.oauth.token_storage import (
    HeldTokens,
    Tokens,
    login_command,
    parse_tokens,
    tokens_text,
)

PURPOSE = "sign-ins"
DOMAIN, USER_DOMAIN = b"mcp-guard/sign-in/v1\0", b"mcp-guard/user-sign-in/v1\0"
ID_BYTES, NONCE_BYTES = 8, 12
NOBODY = "nobody has signed in; "


@dataclass(frozen=True, slots=True)
class SharedTokenStorage:
    """Implements `TokenStorage`: the sign-in that all sessions use, or a `user`'s, who signs in at `page`."""

    sign_ins: SignIns
    name: str
    secret: SharedSecret
    user: Identity | None = None
    page: str = ""
    where: str = "with the ledger"

    @property
    def login(self) -> str:
        return f"sign in at {self.page}" if self.user else login_command(self.name)

    @property
    def missing(self) -> str:
        return f"user `{self.user.subject}` has not signed in; {self.login}" if self.user else NOBODY + self.login

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[HeldTokens]:
        with _explained():
            async with self.sign_ins.locked(self._row()) as held:
                yield _SealedTokens(held, self)

    async def look(self) -> Tokens | None:
        with _explained():
            sealed = await self.sign_ins.read(self._row())
        return self.open(sealed) if sealed else None

    def _row(self) -> str:
        """The name that the engine knows it by, which says nothing of the user to those who do not know them."""
        return f"{self.name}/{hashlib.sha256(self._bound()).hexdigest()[:32]}" if self.user else self.name

    def _bound(self) -> bytes:
        if self.user is None:
            return DOMAIN + self.name.encode()
        bound = [self.secret.origin, self.name, self.user.issuer, self.user.subject]
        return USER_DOMAIN + json.dumps(bound).encode()

    def seal(self, tokens: Tokens) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        text = self._key().encrypt(nonce, tokens_text(tokens).encode(), self._bound())
        return bytes.fromhex(self.secret.id) + nonce + text

    def open(self, sealed: bytes) -> Tokens:
        """Raises: NoToken."""
        id, nonce, text = sealed[:ID_BYTES], sealed[ID_BYTES:][:NONCE_BYTES], sealed[ID_BYTES + NONCE_BYTES :]
        if id.hex() != self.secret.id:
            raise NoToken(
                "the sign-in was sealed with another `ledger.shared_secret`; "
                f"give all gateways the same, or: {self.login}"
            )
        try:
            return parse_tokens(self._key().decrypt(nonce, text, self._bound()))
        except (InvalidTag, ValueError, TypeError):
            raise NoToken(f"the stored sign-in was changed; {self.login}") from None

    def _key(self) -> AESGCM:
        return AESGCM(self.secret.derive(PURPOSE))


@contextmanager
def _explained() -> Iterator[None]:
    """Raises: NoToken for a LedgerError."""
    try:
        yield
    except LedgerError as error:
        raise NoToken(f"the sign-in cannot be shared: {error.message}") from None


@dataclass(frozen=True, slots=True)
class _SealedTokens:
    """Implements `HeldTokens`."""

    held: HeldSignIn
    storage: SharedTokenStorage

    async def read(self) -> Tokens | None:
        sealed = await self.held.read()
        return self.storage.open(sealed) if sealed else None

    async def write(self, tokens: Tokens) -> None:
        await self.held.write(self.storage.seal(tokens))

    async def remove(self) -> bool:
        was_signed_in = bool(await self.held.read())
        if was_signed_in:
            await self.held.write(b"")
        return was_signed_in
