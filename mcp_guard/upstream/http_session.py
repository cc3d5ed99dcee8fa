"""A session with an upstream over HTTP: streamable HTTP (2025-03-26 on, 2026-07-28 too) or HTTP with SSE (2024-11-05).

Frames are sent in the order in which they were written; the answer to a request is a document or a stream of events.
No request is sent twice: if its answer is lost, whoever made it is told so. A request with the envelope of 2026-07-28
has headers that mirror it and belongs to no session; it is cancelled by closing the stream of its answer.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import httpx2 as httpx
import orjson

from mcp_guard.core.bounded import join_bounded
from mcp_guard.core.model import Json
from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.protocol.methods import CANCELLED, INITIALIZE
from mcp_guard.protocol.versions import is_stateless
from mcp_guard.upstream.transport import MessageHandler

SESSION, VERSION = "mcp-session-id", "mcp-protocol-version"
CONNECT_SECONDS = 10.0
RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0
ACCEPT = "application/json, text/event-stream"
OPENING_METHODS = (INITIALIZE, "server/discover")
LISTEN = "subscriptions/listen"
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where an upstream is. `headers` are sent with each request, secrets included; `old` means HTTP with SSE."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    old: bool = False


class TokenProvider(Protocol):
    """Supplies the headers of an access token that changes with time."""

    def headers(self) -> dict[str, str]: ...

    async def ready(self) -> None:
        """Make sure that the token is valid for a while. Raises: NoToken."""

    async def renew(self, refused: dict[str, str]) -> None:
        """Replace the token in these headers, which was refused. Raises: NoToken."""


class UpstreamHttpSession:
    """One session with one upstream. `handler` receives what arrives, and that the session ended."""

    def __init__(
        self,
        address: ServerAddress,
        handler: MessageHandler,
        max_message_bytes: int,
        token_provider: TokenProvider | None = None,
    ) -> None:
        self._address = address
        self._handler = handler
        self._max_message_bytes = max_message_bytes
        self._token_provider = token_provider
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(CONNECT_SECONDS, read=None, pool=None),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )
        self._tasks = asyncio.TaskGroup()
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._session_headers: dict[str, str] = {}
        self._post_url = address.url
        self._is_over = False
        self._stateless: dict[Id, asyncio.Task[None]] = {}
        """Open requests that are cancelled by closing their streams."""

    def write(self, frame: bytes) -> None:
        self._outgoing.put_nowait(frame)

    async def run(self, opened: asyncio.Event) -> None:
        """Send frames until cancelled or until the session is over; `opened` is set once they can be sent."""
        async with self._http:
            try:
                async with self._tasks:
                    if self._address.old:
                        self._tasks.create_task(self._read_old_stream(opened))
                    else:
                        opened.set()
                    await self._send_all()
            except* _SessionEnded as endings:
                if not self._is_over:
                    self._is_over = True
                    self._handler.on_closed(str(endings.exceptions[0]))

    async def _send_all(self) -> None:
        while True:
            frame = await self._outgoing.get()
            message = orjson.loads(frame)
            is_request = "method" in message and "id" in message
            if message.get("method") == CANCELLED and self._cancel(message):
                continue
            if failure := await self._sign_in():
                if is_request:
                    self._reject(message, failure)
            elif is_request:
                self._begin_request(frame, message)
            else:
                await self._send_one_way(frame)

    def _begin_request(self, frame: bytes, message: Json) -> None:
        if not is_stateless(message["method"], message.get("params") or {}) or self._address.old:
            self._tasks.create_task(self._request(frame, message, {}))
            return
        from mcp_guard.protocol.headers import mirror_headers  # needed by the stateless revision only

        id = message["id"]
        headers = mirror_headers(message, self._handler.input_schema)
        task = self._tasks.create_task(self._request(frame, message, headers))
        self._stateless[id] = task
        task.add_done_callback(lambda _: self._stateless.pop(id, None))

    def _cancel(self, notification: Json) -> bool:
        """Cancel a stateless request. False if the notification must be sent: the upstream had a handshake."""
        task = self._stateless.get(notification["params"]["requestId"])
        if task is not None:
            task.cancel()
        return task is not None or (VERSION not in self._session_headers and not self._address.old)

    async def _sign_in(self) -> str | None:
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
    async def _exchange(
        self, method: str, frame: bytes | None = None, extra: Mapping[str, str] = NO_HEADERS
    ) -> AsyncIterator[httpx.Response]:
        """One request and its response.

        INVARIANT: it is sent a second time only after status 401, which means that it was not acted on, and only with
        another token.
        """
        url, accept = (self._post_url, ACCEPT) if method == "POST" else (self._address.url, "text/event-stream")
        for is_last in (self._token_provider is None, True):
            token = self._token_provider.headers() if self._token_provider else {}
            headers = {"accept": accept, **self._headers(extra), **token}
            async with self._http.stream(method, url, content=frame, headers=headers) as response:
                if is_last or response.status_code != 401 or not await self._renew_token(token):
                    yield response
                    return

    async def _renew_token(self, refused: dict[str, str]) -> bool:
        from mcp_guard.upstream.oauth.discovery import NoToken

        assert self._token_provider is not None
        try:
            await self._token_provider.renew(refused)
        except NoToken:
            return False  # the answer with status 401 stays
        return True

    def _headers(self, extra: Mapping[str, str] = NO_HEADERS) -> dict[str, str]:
        return {"content-type": "application/json", **self._session_headers, **extra, **self._address.headers}

    async def _send_one_way(self, frame: bytes) -> None:
        """Send a notification or a reply."""
        try:
            async with self._exchange("POST", frame) as response:
                status = response.status_code
        except httpx.TransportError as error:
            raise _SessionEnded(_explain(error)) from None
        if status == 404 and SESSION in self._session_headers:
            raise _SessionEnded("has ended its session")

    async def _request(self, frame: bytes, message: Json, mirrored: Mapping[str, str]) -> None:
        try:
            async with self._exchange("POST", frame, mirrored) as response:
                if self._address.old and response.status_code < 300:
                    return  # the answer arrives on the stream that was opened first
                await self._read_answer(response, message)
        except httpx.TransportError as error:
            not_connected = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            if message["method"] in OPENING_METHODS or (not_connected and message["method"] == LISTEN):
                raise _SessionEnded(_explain(error)) from None
            self._handler.on_request_lost(message["id"], _explain(error))

    async def _read_answer(self, response: httpx.Response, message: Json) -> None:
        if response.status_code == 404 and SESSION in self._session_headers:
            raise _SessionEnded("has ended its session")
        content_type = response.headers.get("content-type", "")
        if content_type.startswith("text/event-stream"):
            await self._read_answer_stream(response, message["id"])
        elif response.status_code >= 300:
            self._read_error_answer(message, response.status_code, await self._read_body(response))
        else:
            self._handler.on_message(await self._read_body(response))
            self._handler.on_request_lost(message["id"], "sent a response that does not answer this request")
        self._adopt_session(response, message)

    async def _read_body(self, response: httpx.Response) -> bytes | None:
        return await join_bounded(response.aiter_bytes(), self._max_message_bytes)

    async def _read_answer_stream(self, response: httpx.Response, id: Id) -> None:
        """Read the stream of an answer, and its continuation if it ends early (2025-11-25, "Resumability")."""
        position, answered = await self._read_until_end(response, id)
        while not answered and position.id and SESSION in self._session_headers:
            await asyncio.sleep(position.retry)
            async with self._exchange("GET", extra={"last-event-id": position.id}) as continuation:
                if continuation.status_code != 200:
                    break
                before, (position, answered) = position, await self._read_until_end(continuation, id)
            if position == before and not answered:
                break  # nothing new arrived, and nothing will
        if not answered:
            self._handler.on_request_lost(id, "the stream of its answer ended early")

    async def _read_until_end(self, response: httpx.Response, id: Id) -> tuple["StreamPosition", bool]:
        """Pass on each message; returns where the stream ended, and whether the reply to `id` was among them."""
        position, answered = StreamPosition(), False
        async for data in events(response, self._max_message_bytes, position):
            self._handler.on_message(data)
            answered = answered or _is_reply_to(data, id)
        return position, answered

    def _adopt_session(self, response: httpx.Response, message: Json) -> None:
        """Send the session id and the version with all requests after `initialize`."""
        if message["method"] == INITIALIZE and response.status_code < 300:
            if id := response.headers.get(SESSION):
                self._session_headers[SESSION] = id
            self._session_headers[VERSION] = message["params"]["protocolVersion"]
            self._tasks.create_task(self._listen())

    def _read_error_answer(self, message: Json, status: int, body: bytes | None) -> None:
        """A reply can have any status. Without one, only the status is reported: the body may hold anything.

        An error under another id, or none, counts as the reply where it means that the request was refused unread.
        """
        reason, is_opening = f"answered with HTTP status {status}", message["method"] in OPENING_METHODS
        if reply := _reply_in(body or b"", message["id"], any_id=status < 500 or is_opening):
            self._handler.on_message(reply)
        elif status >= 500 and not is_opening:
            self._handler.on_request_lost(message["id"], reason)  # it may have run
        else:
            self._reject(message, reason)

    def _reject(self, message: Json, reason: str) -> None:
        error = {"code": -32000, "message": f"the upstream {reason}"}
        self._handler.on_message(orjson.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}))

    async def _listen(self) -> None:
        """Read the stream of what the upstream sends without being asked; not every upstream has one."""
        while True:
            try:
                async with self._exchange("GET") as response:
                    if response.status_code != 200:
                        return
                    async for data in events(response, self._max_message_bytes):
                        self._handler.on_message(data)
            except httpx.TransportError as error:
                raise _SessionEnded(_explain(error)) from None
            await asyncio.sleep(RETRY_SECONDS)

    async def _read_old_stream(self, opened: asyncio.Event) -> None:
        """The one stream of HTTP with SSE: first the URL for requests, then all messages."""
        try:
            async with self._exchange("GET") as response:
                if response.status_code != 200:
                    raise _SessionEnded(f"answered with HTTP status {response.status_code}")
                async for name, data in named_events(response, self._max_message_bytes):
                    if name == "endpoint":
                        self._post_url = urljoin(self._address.url, (data or b"").decode(errors="replace"))
                        if _origin(self._post_url) != _origin(self._address.url):
                            raise _SessionEnded("asked for its requests to be sent to another host")
                        opened.set()
                    else:
                        self._handler.on_message(data)
        except httpx.TransportError as error:
            raise _SessionEnded(_explain(error)) from None
        raise _SessionEnded("closed its stream")

    async def delete(self) -> None:
        """End the session at the upstream, if it has one."""
        if SESSION not in self._session_headers:
            return
        try:
            async with httpx.AsyncClient(timeout=2, trust_env=False) as http:
                token = self._token_provider.headers() if self._token_provider else {}
                await http.delete(self._address.url, headers={**self._headers(), **token})
        except httpx.HTTPError:
            return  # unreachable, or it does not support this: either way the session is of no use any more


class _SessionEnded(Exception):
    """The session is over; the message says why."""


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _reply_in(body: bytes, id: Id, any_id: bool) -> bytes | None:
    """The reply to this request in a body; with `any_id`, also an error under another id, with the id corrected."""
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(message, dict):
        return None
    if message.get("id") == id and ("error" in message or "result" in message):
        return body
    if any_id and isinstance(message.get("error"), dict):
        return orjson.dumps({"jsonrpc": "2.0", "id": id, "error": message["error"]})
    return None


def _explain(error: httpx.TransportError) -> str:
    return f"cannot be reached: {type(error).__name__}{f': {error}' if str(error) else ''}"


@dataclass(slots=True)
class StreamPosition:
    """How far a stream of events was read: the last event id, and the seconds to wait before resuming."""

    id: str = ""
    retry: float = RETRY_SECONDS


def _is_reply_to(data: bytes | None, id: Id) -> bool:
    """Whether this frame is the reply. One over the size limit counts, because it may be."""
    if data is None:
        return True
    try:
        message = orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return isinstance(message, dict) and "method" not in message and message.get("id") == id


async def events(
    response: httpx.Response, max_bytes: int, position: StreamPosition | None = None
) -> AsyncIterator[bytes | None]:
    """The data of each message event; None for one over the limit."""
    async for name, data in named_events(response, max_bytes, position):
        if name == "message" and data != b"":
            yield data


async def named_events(
    response: httpx.Response, max_bytes: int, position: StreamPosition | None = None
) -> AsyncIterator[tuple[str, bytes | None]]:
    """Server-sent events (HTML Living Standard §9.2.6): name and data; data is None if it is over the limit.

    `position` is kept up to date while they are read.
    """
    name, data, size = "message", list[str](), 0
    position = position or StreamPosition()
    async for line in response.aiter_lines():
        if not line:
            if data or size:
                yield name, "\n".join(data).encode() if size <= max_bytes else None
            name, data, size = "message", [], 0
            continue
        field_name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field_name == "event":
            name = value
        elif field_name == "id":
            position.id = value
        elif field_name == "retry" and value.isdecimal():
            position.retry = min(int(value) / 1000, MAX_RETRY_SECONDS)
        elif field_name == "data":
            size += len(value)
            if size <= max_bytes:
                data.append(value)
