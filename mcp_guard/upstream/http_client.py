"""One HTTP request to an upstream and its response: tokens, redirects, and whether anything of it was sent."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import httpx2 as httpx
import orjson

from mcp_guard.core.bounded import join_bounded
from mcp_guard.core.server_address import origin
from mcp_guard.network import Network
from mcp_guard.upstream.http_body import ACCEPT_ENCODING, read_decoded

CONNECT_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 3.0
"""How long an idle connection is used again: less than the 5 s after which Node.js and uvicorn close theirs, because a
call that meets a connection being closed may or may not have run."""
MAX_USED_CONNECTIONS = 16
"""How many are remembered, to see whether the server keeps them open."""
MAX_REDIRECTS = 5
REFUSED_TOKEN = (401, 403)
MAX_REFUSAL_BYTES = 256 * 1024
REDIRECTS = (301, 302, 307, 308)
UNREACHED = (502, 503, 504)
"""What a gateway answers when it cannot reach the server behind it."""
KEEPS_METHOD: tuple[int, ...] = (307, 308)
"""The redirects after which a `POST` is repeated as it was (RFC 9110 §15.4)."""
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where an upstream is. `headers` are sent with each request, secrets included; `is_old` means HTTP with
    SSE (2024-11-05). With `sends_trace`, headers also repeat the trace context of a request, for what is on its way."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    is_old: bool = False
    network: Network = field(default_factory=Network)
    sends_trace: bool = False


class TokenProvider(Protocol):
    """Supplies the headers of an access token that changes with time."""

    def headers(self) -> dict[str, str]: ...

    async def ready(self) -> None:
        """Make sure that the token is valid for a while. Raises: NoToken."""

    async def renew(self, refused: dict[str, str]) -> None:
        """Replace the token in these headers, which was refused. Raises: NoToken."""

    async def widen(self, refused: dict[str, str], scopes: tuple[str, ...]) -> None:
        """Replace the token in these headers, which lacks these scopes. Raises: NoToken."""


class Sending:
    """How far the sending of one request has come.

    INVARIANT: `has_begun` is set before the first byte of its body leaves. Without its body no request can be acted on.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self._began_at = 0.0

    def seconds(self) -> float:
        """How long ago it began; 0 if it has not."""
        return asyncio.get_running_loop().time() - self._began_at if self.has_begun else 0.0

    async def body(self, frame: bytes) -> AsyncGenerator[bytes, None]:
        """The frame, which is asked for once there is a connection and the headers have been written."""
        self.has_begun, self._began_at = True, asyncio.get_running_loop().time()
        yield frame


class UpstreamHttpClient:
    """Sends requests to one upstream. Cookies are kept, because load balancers tell sessions apart by them.

    `on_reached` is called after each exchange: with None if the upstream answered, else with why it cannot be reached.
    """

    def __init__(
        self, address: ServerAddress, token_provider: TokenProvider | None, on_reached: Callable[[str | None], None]
    ) -> None:
        self._address = address
        self._token_provider = token_provider
        self._on_reached = on_reached
        self._http = self._open(httpx.Limits(max_connections=None, keepalive_expiry=KEEP_ALIVE_SECONDS))
        self._unshared: httpx.AsyncClient | None = None
        """Opens a connection for each request."""
        self._used_connections: set[object] = set()
        self._keeps_alive = False
        """Whether the server has answered two requests over one connection."""

    def _open(self, limits: httpx.Limits) -> httpx.AsyncClient:
        timeout = httpx.Timeout(CONNECT_SECONDS, read=None, pool=None)
        return self._address.network.async_client(timeout=timeout, limits=limits)

    async def close(self) -> None:
        await self._http.aclose()
        if self._unshared is not None:
            await self._unshared.aclose()

    def _client_for(self, needs_certainty: bool) -> httpx.AsyncClient:
        """Where a server may close a connection after each response without saying so, one is used only once."""
        if self._keeps_alive or not needs_certainty:
            return self._http
        if self._unshared is None:
            self._unshared = self._open(httpx.Limits(max_connections=None, max_keepalive_connections=0))
            self._unshared.cookies = self._http.cookies
        return self._unshared

    def _note_connection(self, response: httpx.Response) -> None:
        if not self._keeps_alive and (stream := response.extensions.get("network_stream")) is not None:
            address = stream.get_extra_info("client_addr")
            self._keeps_alive = address in self._used_connections
            if len(self._used_connections) >= MAX_USED_CONNECTIONS:
                self._used_connections.clear()
            self._used_connections.add(address)

    async def sign_in(self) -> str | None:
        """Make sure of a token, if one is needed. Returns why there is none, or None."""
        if self._token_provider is None:
            return None
        from mcp_guard.upstream.oauth.discovery import NoToken

        try:
            await self._token_provider.ready()
        except NoToken as failure:
            return f"sign-in failed: {failure}"
        return None

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        url: str,
        frame: bytes | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        sending: Sending | None = None,
        redirects: tuple[int, ...] = KEEPS_METHOD,
        needs_certainty: bool = False,
        is_one_way: bool = False,
    ) -> AsyncIterator[httpx.Response]:
        """One request and its response; `response.url` is where redirects within the origin have led.

        `needs_certainty`: it must not meet a connection that the server is just closing. `is_one_way`: the frame is
        no request of MCP, so that a refusal says nothing of the server.

        INVARIANT: a request is sent again only with another token, after status 401 or after 403 and the challenge
        `insufficient_scope`, at most once each (decision 53), or after a redirect. All mean that it was not acted on.
        No header of ours is sent to another origin.
        """
        if frame is not None:
            headers = {**headers, "content-length": str(len(frame))}
        sending = sending or Sending()
        replaceable, redirects_left = set(REFUSED_TOKEN if self._token_provider else ()), MAX_REDIRECTS
        while True:
            token = self._token_provider.headers() if self._token_provider else {}
            async with self._response(
                self._client_for(needs_certainty),
                method,
                url,
                content=None if frame is None else sending.body(frame),
                headers={"accept-encoding": ACCEPT_ENCODING, **headers, **self._address.headers, **token},
                is_asked=method == "POST" and not is_one_way,
            ) as response:
                answer = response
                if response.status_code in replaceable:
                    replaceable.remove(response.status_code)
                    if (refusal := await self._replace_token(response, token)) is None:
                        sending.has_begun = False
                        continue
                    answer = refusal
                elif response.status_code in redirects and redirects_left > 0:
                    redirects_left -= 1
                    if (target := _target_within_origin(response)) is not None:
                        sending.has_begun = False
                        url = target
                        continue
                yield answer
                return

    @asynccontextmanager
    async def _response(
        self,
        client: httpx.AsyncClient,
        method: str,
        url: str,
        content: AsyncGenerator[bytes, None] | None,
        headers: Mapping[str, str],
        is_asked: bool,
    ) -> AsyncIterator[httpx.Response]:
        has_answered = False
        try:
            async with client.stream(method, url, content=content, headers=headers) as response:
                has_answered = True
                self._note_answer(response, is_asked)
                yield response
        except httpx.TransportError as error:
            if not has_answered:
                self._on_reached(explain(error))
            raise

    def _note_answer(self, response: httpx.Response, is_asked: bool) -> None:
        """`is_asked`: it answers a request of MCP. Some servers refuse everything else as a failing gateway does."""
        self._note_connection(response)
        if response.status_code not in UNREACHED:
            self._on_reached(None)
        elif is_asked:
            self._on_reached(describe_status(response))

    async def _replace_token(self, response: httpx.Response, refused: dict[str, str]) -> httpx.Response | None:
        """Get another token after a refusal. None if there is one; else the response that stays, with the reason.

        A refusal that is a message of MCP is not one of the token alone: the server has read the request.
        """
        from mcp_guard.upstream.oauth.challenges import find_challenge
        from mcp_guard.upstream.oauth.discovery import NoToken

        assert self._token_provider is not None
        try:
            if response.status_code == 401:
                await self._token_provider.renew(refused)
                return None
            challenge = find_challenge(response.headers.get_list("www-authenticate"), "error")
            if challenge is None or challenge.parameters["error"].lower() != "insufficient_scope":
                return response
            body = await join_bounded(read_decoded(response), MAX_REFUSAL_BYTES)
            headers = {"content-type": response.headers.get("content-type", "")}
            request = response.request
            response = httpx.Response(403, headers=headers, content=_replay(body or b""), request=request)
            if body is not None and not _is_message(body):
                await self._token_provider.widen(refused, challenge.scopes)
                return None
        except NoToken as failure:
            response.extensions["reason"] = str(failure)
        return response


async def _replay(body: bytes) -> AsyncGenerator[bytes, None]:
    """A body that was read, as if it were still to be read."""
    yield body


def _is_message(body: bytes) -> bool:
    """Whether it is JSON of JSON-RPC, or may be: an event stream is."""
    try:
        message = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        return b"jsonrpc" in body
    return isinstance(message, list) or (isinstance(message, dict) and "jsonrpc" in message)


def _target_within_origin(response: httpx.Response) -> str | None:
    """Where a redirect leads; None if that is another origin."""
    asked = str(response.request.url)
    try:
        target = urljoin(asked, response.headers.get("location", ""))
        httpx.URL(target)
        return target if target != asked and origin(target) == origin(asked) else None
    except (ValueError, httpx.InvalidURL):
        return None


def describe_status(response: httpx.Response) -> str:
    """What a response means whose body says nothing, as the end of a sentence."""
    status, location = response.status_code, response.headers.get("location")
    if status < 300 or status >= 400 or not location:
        why = response.extensions.get("reason")
        return f"answered with HTTP status {status}{f': {why}' if why else ''}"
    try:
        url = urljoin(str(response.request.url), location)
        httpx.URL(url)
        parts = urlsplit(url)
        target = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
    except (ValueError, httpx.InvalidURL):
        return f"redirects to what is not a URL (HTTP status {status})"
    return f"redirects to `{target}` (HTTP status {status}); if that is the server, set `url` to it"


def explain(error: httpx.RequestError) -> str:
    """Why there was no response, or none that can be read."""
    what = "sent a response that cannot be read" if isinstance(error, httpx.DecodingError) else "cannot be reached"
    return f"{what}: {type(error).__name__}{f': {error}' if str(error) else ''}"
