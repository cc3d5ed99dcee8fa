"""The access token for requests to one upstream: requested when needed, renewed before it expires and if refused.

Every token, old and new, is registered with the scrubber before it is used.
"""

import asyncio
import base64
import json
import re
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import TypeGuard
from urllib.parse import quote

import httpx2 as httpx

from mcp_guard.core.bounded import join_bounded
from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.network import Network, explain
from mcp_guard.settings import OAuthSettings
from mcp_guard.upstream.http_body import read_decoded
from mcp_guard.upstream.oauth.discovery import (
    MAX_METADATA_BYTES,
    Endpoints,
    NoToken,
    discover_endpoints,
    http_client,
    is_secure_url,
    is_trusted,
)
from mcp_guard.upstream.oauth.token_storage import Tokens, TokenStorage

MAX_SCRUBBED_TOKENS = 32
"""How many tokens of an upstream are scrubbed: those in use and their predecessors, which have expired by then."""
RENEWAL_MARGIN_SECONDS = 30.0
MIN_CHANGES = 6
"""How often a random token changes between small letters, capitals and digits, at least, but for a
capital that begins a word; names and dates do less often."""
TOKEN_SECONDS = 60.0
"""How long one request to a token endpoint may take altogether."""
MAX_LIFETIME_SECONDS = 10 * 365 * 86400
MAX_TOKEN_LENGTH = 16 * 1024


class OAuthTokenProvider:
    """Implements `http_session.TokenProvider` for one upstream. `client_secret` returns the secret, or empty text.

    Its tokens are removed from what this upstream sends. From what the others send they are removed only if they look
    random: an upstream may issue its own tokens, and one that is a word of another's data would be cut out of that.
    """

    def __init__(
        self,
        url: str,
        settings: OAuthSettings,
        network: Network,
        client_secret: Callable[[], str],
        storage: TokenStorage,
        scrubber: Scrubber,
    ) -> None:
        self._url, self._settings, self._network, self._client_secret = url, settings, network, client_secret
        self._storage = storage
        self._scrubber = scrubber
        self._scrubbed: deque[tuple[Scrubber, str]] = deque()
        self._tokens: Tokens | None = None
        self._endpoints: Endpoints | None = None
        self._renewing = asyncio.Lock()

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._tokens.access}"} if self._tokens else {}

    async def ready(self) -> None:
        """Make sure that the token is valid for a while. Raises: NoToken."""
        if self._tokens is None or _is_due(self._tokens):
            await self.renew(self.headers())

    async def renew(self, refused: dict[str, str]) -> None:
        """Replace the token in these headers. Raises: NoToken."""
        async with self._renewing:
            if self.headers() != refused:
                return  # another request has renewed it
            renewal = asyncio.ensure_future(self._refresh() if self._settings.is_interactive else self._request_new())
            try:
                tokens = await asyncio.shield(renewal)
            except asyncio.CancelledError:
                await asyncio.gather(renewal, return_exceptions=True)  # the refresh token may be spent: store the next
                raise
            self._scrub(tokens)
            self._tokens = tokens

    async def _request_new(self) -> Tokens:
        async with http_client(self._network) as http:
            self._endpoints = self._endpoints or await discover_endpoints(http, self._url, self._settings)
            form = {"grant_type": "client_credentials"}
            return await request_tokens(http, self._url, self._endpoints, self._settings, self._client_secret(), form)

    async def _refresh(self) -> Tokens:
        """INVARIANT: one refresh at a time over all processes, and new tokens are stored before they are used."""
        login = f"mcp-guard upstreams login {self._storage.name}"
        async with self._storage.locked():
            stored = await asyncio.to_thread(self._storage.read)
            if stored is None:
                raise NoToken(f"nobody has signed in; {login}")
            self._scrub(stored)
            if not _is_due(stored) and (self._tokens is None or stored.access != self._tokens.access):
                return stored  # another process has refreshed it
            if not stored.refresh:
                raise NoToken(f"the sign-in has expired; {login}")
            endpoints = Endpoints(stored.token_endpoint, "", "", stored.resource, stored.posts_secret)
            form = {"grant_type": "refresh_token", "refresh_token": stored.refresh}
            async with http_client(self._network) as http:
                try:
                    tokens = await request_tokens(
                        http, self._url, endpoints, self._settings, self._client_secret(), form
                    )
                except NoToken as error:
                    raise NoToken(f"{error}; {login}") from None
            self._scrub(tokens)
            await asyncio.to_thread(self._storage.write, tokens)
            return tokens

    def _scrub(self, tokens: Tokens) -> None:
        for kind, value in (("access token", tokens.access), ("refresh token", tokens.refresh)):
            scrubber = self._scrubber.base if _looks_random(value) else self._scrubber
            known = any(value == scrubbed for _, scrubbed in self._scrubbed)
            if value and not known and scrubber.learn(f"{self._storage.name} {kind}", value):
                self._scrubbed.append((scrubber, value))
        while len(self._scrubbed) > MAX_SCRUBBED_TOKENS:
            scrubber, value = self._scrubbed.popleft()
            scrubber.forget(value)


def _looks_random(token: str) -> bool:
    """Whether its characters are those of a token (RFC 6750 §2.1), in such disorder that it is no word or name."""
    kinds = ["a" if c.islower() else "A" if c.isupper() else "0" if c.isdigit() else "-" for c in token]
    changes = sum("-" not in pair and pair not in (("A", "a"), pair[:1] * 2) for pair in pairwise(kinds))
    return changes >= MIN_CHANGES and bool(re.fullmatch(r"[A-Za-z0-9._~+/-]{20,}=*", token))


def _is_due(tokens: Tokens) -> bool:
    """Whether it is time to renew them."""
    return bool(tokens.renew_at) and time.time() >= tokens.renew_at


async def request_tokens(
    http: httpx.AsyncClient,
    url: str,
    endpoints: Endpoints,
    settings: OAuthSettings,
    client_secret: str,
    form: dict[str, str],
) -> Tokens:
    """Get tokens for the upstream at `url`.

    Send one request to the token endpoint (RFC 6749 §4.1.3, §4.4, §6; RFC 7636; RFC 8707). It is not repeated.

    Raises: NoToken; its message has no token and nothing that the server wrote but the error code.
    """
    if not is_secure_url(endpoints.token):
        raise NoToken("the token endpoint is neither https nor on this machine")
    if not is_trusted(endpoints.token, url, settings):
        raise NoToken(f"the token endpoint `{endpoints.token[:200]}` is not on a host that the configuration names")
    body = {**form, "resource": endpoints.resource, **({"scope": settings.scope} if settings.scope else {})}
    headers = {"accept": "application/json"}
    if client_secret and not endpoints.posts_secret:
        pair = f"{quote(settings.client_id, safe='')}:{quote(client_secret, safe='')}"
        headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    else:
        body |= {"client_id": settings.client_id} | ({"client_secret": client_secret} if client_secret else {})
    try:
        async with (
            asyncio.timeout(TOKEN_SECONDS),
            http.stream("POST", endpoints.token, data=body, headers=headers) as response,
        ):
            answer = await join_bounded(read_decoded(response), MAX_METADATA_BYTES)
    except httpx.HTTPError as error:
        raise NoToken(f"the token endpoint cannot be reached: {explain(error)}") from None
    except TimeoutError:
        raise NoToken(f"the token endpoint did not answer completely within {TOKEN_SECONDS:g} s") from None
    return _read_tokens(response.status_code, answer, endpoints, form.get("refresh_token", ""))


def _read_tokens(status: int, body: bytes | None, endpoints: Endpoints, refresh: str) -> Tokens:
    """The tokens in an answer. `refresh` is the refresh token that stays valid unless the answer has another.

    Raises: NoToken.
    """
    try:
        answer = json.loads(body) if body is not None else None
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        answer = {}
    if status != 200:
        code = str(answer.get("error", ""))
        shown = f" (`{code}`)" if re.fullmatch(r"[a-z_]{1,40}", code) else ""
        raise NoToken(f"the token endpoint answered with HTTP status {status}{shown}")
    access, kind = answer.get("access_token"), str(answer.get("token_type", "")).lower()
    if not _is_usable(access) or kind != "bearer":
        raise NoToken("the token endpoint returned no bearer token")
    expires_in, new_refresh = answer.get("expires_in"), answer.get("refresh_token")
    renew_at = 0.0
    if isinstance(expires_in, int | float) and expires_in > 0:
        expires_in = min(expires_in, MAX_LIFETIME_SECONDS)
        renew_at = time.time() + expires_in - min(RENEWAL_MARGIN_SECONDS, expires_in / 4)
    if _is_usable(new_refresh):
        refresh = new_refresh
    return Tokens(access, refresh, renew_at, endpoints.token, endpoints.resource, endpoints.posts_secret)


def _is_usable(token: object) -> TypeGuard[str]:
    """Whether it can be sent as a token: visible ASCII (RFC 6750 §2.1), and not endless."""
    return isinstance(token, str) and len(token) <= MAX_TOKEN_LENGTH and bool(re.fullmatch(r"[\x21-\x7e]+", token))
