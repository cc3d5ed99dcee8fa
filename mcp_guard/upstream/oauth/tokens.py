"""The access token for requests to one upstream: requested when needed, renewed before it expires and if refused.

Every token, old and new, is registered with the scrubber before it is used.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.network import Network
from mcp_guard.settings import OAuthSettings
from mcp_guard.upstream.oauth.challenges import MAX_SCOPES
from mcp_guard.upstream.oauth.discovery import (
    Endpoints,
    NoToken,
    allowed_scopes,
    discover_endpoints,
    http_client,
)
from mcp_guard.upstream.oauth.exchange import UserExchange
from mcp_guard.upstream.oauth.registration import client_of
from mcp_guard.upstream.oauth.token_endpoint import TOKEN_SECONDS, ClientCredentials, TokenClient
from mcp_guard.upstream.oauth.token_storage import HeldTokens, Tokens, TokenStorage
from mcp_guard.upstream.transport import TokenState

MAX_SCRUBBED_TOKENS = 32
"""How many tokens of an upstream are scrubbed: those in use and their predecessors, which have expired by then."""
CHECK_SECONDS = 1.0
"""How long a user's sign-in is used for requests that are no calls before it is looked whether it is still kept."""
MIN_CHANGES = 6
"""How often a random token changes between small letters, capitals and digits, at least, but for a
capital that begins a word; names and dates do less often."""


class OAuthTokenProvider:
    """Implements `http_session.TokenProvider` for one upstream.

    Its tokens are removed from what this upstream sends. From what the others send they are removed only if they look
    random: an upstream may issue its own tokens, and one that is a word of another's data would be cut out of that.
    """

    def __init__(
        self,
        name: str,
        url: str,
        settings: OAuthSettings,
        network: Network,
        credentials: Callable[[], ClientCredentials],
        *,
        storage: TokenStorage | None,
        exchange: UserExchange | None,
        scrubber: Scrubber,
    ) -> None:
        """`storage` has the sign-in of a user, if one signs in; `exchange` gets tokens for the user who calls."""
        self._name = name
        self._url, self._settings, self._network, self._credentials = url, settings, network, credentials
        self._storage, self._exchange = storage, exchange
        self._scrubber = scrubber
        self._scrubbed: deque[tuple[Scrubber, str]] = deque()
        self._tokens: Tokens | None = None
        self._endpoints: Endpoints | None = None
        self._scopes: tuple[str, ...] = ()
        """What the upstream demanded besides."""
        self._renewing = asyncio.Lock()
        self._refreshing: asyncio.Task[Tokens] | None = None
        """The latest refresh. No cancellation of whoever waits for it reaches it."""
        self._checked_at = time.monotonic()

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._tokens.access}"} if self._tokens else {}

    async def ready(self) -> None:
        """Make sure that the token is valid for a while. Raises: NoToken."""
        if self._tokens is None or _is_due(self._tokens) or time.monotonic() - self._checked_at > CHECK_SECONDS:
            await self.check()

    async def check(self) -> None:
        """As `ready`; of a user's own sign-in, also that it is still the one that is kept: they may have signed out or
        in elsewhere. Raises: NoToken."""
        if self._storage is not None and self._settings.as_user:
            async with self._renewing:
                stored = await self._storage.look()
                if stored is None:
                    self._tokens = None
                elif self._tokens is not None and stored != self._tokens:
                    self._scrub(stored)
                    self._tokens = stored
            self._checked_at = time.monotonic()
        if self._tokens is None or _is_due(self._tokens):
            await self.renew(self.headers())

    async def find(self) -> TokenState:
        """Whether there is a user's sign-in, in use or not yet. Raises: NoToken."""
        if self._storage is None or not self._settings.as_user:
            return TokenState.USED
        stored = await self._storage.look()
        if stored is None:
            return TokenState.MISSING
        return TokenState.ARRIVED if self._tokens is None else TokenState.USED

    async def renew(self, refused: dict[str, str]) -> None:
        """Replace the token in these headers. Raises: NoToken."""
        async with self._renewing:
            if self.headers() != refused:
                return  # another request has renewed it
            self._use(await (self._refreshed() if self._settings.is_interactive else self._request_new()))

    async def widen(self, refused: dict[str, str], scopes: tuple[str, ...]) -> None:
        """Replace the token in these headers, which lacks scopes, by a new authorization (RFC 6750 §3.1).

        A refresh cannot add scopes (RFC 6749 §6), so a user has to sign in again. Raises: NoToken.
        """
        async with self._renewing:
            if self.headers() != refused:
                return  # another request has renewed it
            if self._settings.is_interactive:
                self._use(await self._signed_in_again(scopes))
                return
            added = allowed_scopes(scopes, self._url, self._settings)
            if not set(added) - set(self._scopes) or len(self._scopes) > MAX_SCOPES:
                hint = "add it to oauth.scope, or name it in oauth.allowed_scopes"
                raise NoToken(f"it requires the scope `{' '.join(scopes)[:300]}`; {hint}")
            self._scopes = tuple(dict.fromkeys((*self._scopes, *added)))
            self._use(await self._request_new())

    async def settle(self) -> None:
        """Wait until a refresh that was begun is over, whoever has given it up: its refresh token may be spent, and the
        next one must be stored before the process ends."""
        if self._refreshing is not None:
            await asyncio.wait([self._refreshing], timeout=TOKEN_SECONDS)

    async def _refreshed(self) -> Tokens:
        """Raises: NoToken."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
            self._refreshing.add_done_callback(lambda task: task.cancelled() or task.exception())  # if nobody waits
        await asyncio.wait([self._refreshing])
        return self._refreshing.result()

    def _use(self, tokens: Tokens) -> None:
        self._scrub(tokens)
        self._tokens = tokens

    async def _signed_in_again(self, scopes: tuple[str, ...]) -> Tokens:
        """The tokens of a sign-in since. Raises: NoToken."""
        assert self._storage is not None
        stored = await self._storage.look()
        if stored is not None and (self._tokens is None or stored.access != self._tokens.access):
            return stored
        wanted = " ".join(scopes)[:300]
        raise NoToken(f"it requires the scope `{wanted}`; {self._storage.login} --scope '{wanted}'")

    async def _request_new(self) -> Tokens:
        async with http_client(self._network) as http:
            endpoints = self._endpoints or await discover_endpoints(http, self._url, self._settings)
            scope = " ".join(dict.fromkeys((*endpoints.scope.split(), *self._scopes)))
            form = {"grant_type": "client_credentials"}
            if self._exchange is not None:
                form = await self._exchange.form(http, replace(endpoints, scope=scope))
                self._learn("assertion", form.get("assertion", ""))
            client = TokenClient(http, self._network, self._url, self._settings, self._credentials())
            tokens = await client.request(replace(endpoints, scope=scope), form)
            self._endpoints = replace(endpoints, resource=tokens.resource)
            return tokens

    async def _refresh(self) -> Tokens:
        """Raises: NoToken."""
        assert self._storage is not None
        async with self._storage.locked() as held:
            return await self._refresh_held(held, await held.read())

    async def _refresh_held(self, held: HeldTokens, stored: Tokens | None) -> Tokens:
        """INVARIANT: one refresh at a time over all processes, and new tokens are stored before they are used."""
        assert self._storage is not None
        login = self._storage.login
        if stored is None:
            raise NoToken(self._storage.missing)
        self._scrub(stored)
        if not _is_due(stored) and (self._tokens is None or stored.access != self._tokens.access):
            return stored  # another process has refreshed it
        if not stored.refresh:
            raise NoToken(f"the sign-in has expired; {login}")
        endpoints = _endpoints_of(stored)
        form = {"grant_type": "refresh_token", "refresh_token": stored.refresh}
        own = client_of(stored, self._settings, self._credentials())
        async with http_client(self._network) as http:
            client = TokenClient(http, self._network, self._url, own.settings, own.credentials)
            try:
                tokens = own.keep_with(await client.request(endpoints, form))
            except NoToken as error:
                raise NoToken(f"{error}; {login}") from None
        self._scrub(tokens)
        await held.write(tokens)
        return tokens

    def _scrub(self, tokens: Tokens) -> None:
        self._learn("access token", tokens.access)
        self._learn("refresh token", tokens.refresh)
        self._learn("client secret", tokens.client_secret)

    def _learn(self, kind: str, value: str) -> None:
        scrubber = self._scrubber.base if _looks_random(value) else self._scrubber
        known = any(value == scrubbed for _, scrubbed in self._scrubbed)
        if value and not known and scrubber.learn(f"{self._name} {kind}", value):
            self._scrubbed.append((scrubber, value))
        while len(self._scrubbed) > MAX_SCRUBBED_TOKENS:
            scrubber, value = self._scrubbed.popleft()
            scrubber.forget(value)


def _looks_random(token: str) -> bool:
    """Whether its characters are those of a token (RFC 6750 §2.1), in such disorder that it is no word or name."""
    kinds = ["a" if c.islower() else "A" if c.isupper() else "0" if c.isdigit() else "-" for c in token]
    changes = sum("-" not in pair and pair not in (("A", "a"), pair[:1] * 2) for pair in pairwise(kinds))
    return changes >= MIN_CHANGES and bool(re.fullmatch(r"[A-Za-z0-9._~+/-]{20,}=*", token))


def _endpoints_of(stored: Tokens) -> Endpoints:
    """Where a refresh token is sent, and how."""
    method = "client_secret_post" if stored.posts_secret else "client_secret_basic"
    return Endpoints(
        stored.token_endpoint,
        "",
        "",
        stored.resource,
        auth_methods=(method,),
        vouched_by=stored.vouched_by,
        scope=stored.scope,
    )


def _is_due(tokens: Tokens) -> bool:
    """Whether it is time to renew them."""
    return bool(tokens.renew_at) and time.time() >= tokens.renew_at
