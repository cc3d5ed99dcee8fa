"""The token that requests to one upstream carry: had when it is needed, renewed before it ends and once it is refused.

Every token, old and new, is taught to the scrubber before it is used.
"""

import asyncio
import base64
import re
import time
from collections import deque
from collections.abc import Callable
from urllib.parse import quote

import httpx2 as httpx

from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.settings import OAuthSettings
from mcp_guard.upstream.oauth.discovery import (
    MAX_BYTES,
    Endpoints,
    NoToken,
    discover_endpoints,
    http_client,
    is_secure_url,
)
from mcp_guard.upstream.oauth.token_storage import Tokens, TokenStorage

MAX_SCRUBBED_TOKENS = 32
"""How many tokens of an upstream are scrubbed: those in use and those before them, which have ended by then."""


class OAuthTokenProvider:
    """Implements `http_session.TokenProvider` for one upstream. `secret` is the client secret, or empty."""

    def __init__(self, url: str, said: OAuthSettings, keeping: TokenStorage, scrubber: Scrubber) -> None:
        self.secret = ""
        self._url, self._said, self._keeping = url, said, keeping
        self._scrubber = scrubber
        self._learnt: deque[str] = deque()
        self._tokens: Tokens | None = None
        self._endpoints: Endpoints | None = None
        self._one = asyncio.Lock()
        self.clock: Callable[[], float] = time.time

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._tokens.access}"} if self._tokens else {}

    async def ready(self) -> None:
        """Have a token that lasts a while. Raises: NoToken."""
        if not self._is_good(self._tokens):
            await self.renew(self.headers())

    async def renew(self, refused: dict[str, str]) -> None:
        """Have another token than the one in these headers. Raises: NoToken."""
        async with self._one:
            if self.headers() != refused:
                return  # somebody else had the same thought
            asking = asyncio.ensure_future(self._refresh() if self._said.is_interactive else self._ask_anew())
            try:
                self._take(await asyncio.shield(asking))
            except asyncio.CancelledError:
                await asyncio.gather(asking, return_exceptions=True)  # a refresh token may be spent: keep the next one
                raise

    def _is_good(self, tokens: Tokens | None) -> bool:
        return tokens is not None and (not tokens.renew_at or self.clock() < tokens.renew_at)

    async def _ask_anew(self) -> Tokens:
        async with http_client() as http:
            self._endpoints = self._endpoints or await discover_endpoints(http, self._url, self._said)
            form = {"grant_type": "client_credentials"}
            return await request_tokens(http, self._endpoints, self._said, self.secret, form)

    async def _refresh(self) -> Tokens:
        """INVARIANT: one refresh at a time over all processes, and what it gave is kept before it is used."""
        async with self._keeping.locked():
            kept = await asyncio.to_thread(self._keeping.read)
            if kept is None:
                raise NoToken(f"nobody has signed in; mcp-guard upstreams login {self._keeping.name}")
            self._learn(kept)
            if self._is_good(kept) and (self._tokens is None or kept.access != self._tokens.access):
                return kept  # another process has refreshed it
            if not kept.refresh:
                raise NoToken(f"the sign-in has ended; mcp-guard upstreams login {self._keeping.name}")
            endpoints = Endpoints(kept.token_endpoint, "", "", kept.resource, kept.posts_secret)
            form = {"grant_type": "refresh_token", "refresh_token": kept.refresh}
            async with http_client() as http:
                try:
                    new = await request_tokens(http, endpoints, self._said, self.secret, form)
                except NoToken as error:
                    raise NoToken(f"{error}; mcp-guard upstreams login {self._keeping.name}") from None
            self._learn(new)
            await asyncio.to_thread(self._keeping.write, new)
            return new

    def _take(self, tokens: Tokens) -> None:
        self._learn(tokens)
        self._tokens = tokens

    def _learn(self, tokens: Tokens) -> None:
        for what, value in (("access token", tokens.access), ("refresh token", tokens.refresh)):
            if value and value not in self._learnt and self._scrubber.learn(f"{self._keeping.name} {what}", value):
                self._learnt.append(value)
        while len(self._learnt) > MAX_SCRUBBED_TOKENS:
            self._scrubber.forget(self._learnt.popleft())


# Asking a token endpoint (RFC 6749 §4.4, §4.1.3, §6; RFC 7636; RFC 8707). Nothing is asked twice by itself.

RENEWAL_MARGIN_SECONDS = 30.0


async def request_tokens(
    http: httpx.AsyncClient, endpoints: Endpoints, said: OAuthSettings, secret: str, form: dict[str, str]
) -> Tokens:
    """One request to the token endpoint. Raises: NoToken, which holds no token and nothing that the server wrote."""
    if not is_secure_url(endpoints.token):
        raise NoToken("the token endpoint is neither https nor on this machine")
    body = {**form, "resource": endpoints.resource, **({"scope": said.scope} if said.scope else {})}
    headers = {"accept": "application/json"}
    if secret and not endpoints.posts_secret:
        pair = f"{quote(said.client_id, safe='')}:{quote(secret, safe='')}"
        headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    else:
        body |= {"client_id": said.client_id} | ({"client_secret": secret} if secret else {})
    try:
        response = await http.post(endpoints.token, data=body, headers=headers)
    except httpx.HTTPError as error:
        raise NoToken(f"the token endpoint cannot be reached: {type(error).__name__}") from None
    return read_tokens(response, endpoints, form.get("refresh_token", ""))


def read_tokens(response: httpx.Response, endpoints: Endpoints, refresh: str) -> Tokens:
    """The tokens in an answer; `refresh` is the refresh token that stays good if there is no other."""
    try:
        found = response.json() if len(response.content) <= MAX_BYTES else None
    except ValueError:
        found = None
    found = found if isinstance(found, dict) else {}
    if response.status_code != 200:
        said = str(found.get("error", ""))
        code = f" (`{said}`)" if re.fullmatch(r"[a-z_]{1,40}", said) else ""
        raise NoToken(f"the token endpoint answered with HTTP status {response.status_code}{code}")
    access, kind = found.get("access_token"), str(found.get("token_type", "")).lower()
    if not isinstance(access, str) or not re.fullmatch(r"[\x21-\x7e]+", access) or kind != "bearer":
        raise NoToken("the token endpoint gave no bearer token")
    lasts, new = found.get("expires_in"), found.get("refresh_token")
    renew_at = 0.0
    if isinstance(lasts, int | float) and lasts > 0:
        renew_at = time.time() + lasts - min(RENEWAL_MARGIN_SECONDS, lasts / 4)
    refresh = new if isinstance(new, str) and new else refresh
    return Tokens(access, refresh, renew_at, endpoints.token, endpoints.resource, endpoints.posts_secret)
