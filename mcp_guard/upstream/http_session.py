"""A session with an upstream over HTTP: streamable HTTP (2025-03-26 on, 2026-07-28 too) or HTTP with SSE (2024-11-05).

Frames are sent in the order in which they were written; the answer to a request is a document or a stream of events.
No request is sent twice: if its answer is lost, whoever made it is told so. A request with the envelope of 2026-07-28
has headers that mirror it and belongs to no session; it is cancelled by closing the stream of its answer.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import httpx2 as httpx
import orjson

from mcp_guard.core.model import Json
from mcp_guard.network import Network
from mcp_guard.protocol.jsonrpc import Id, request_id
from mcp_guard.protocol.methods import CANCELLED, INITIALIZE
from mcp_guard.protocol.sse import SseEvent, SseParser, StreamPosition
from mcp_guard.protocol.versions import is_stateless
from mcp_guard.upstream.http_body import ACCEPT_ENCODING, READ_ERRORS, read_decoded
from mcp_guard.upstream.transport import MessageHandler

SESSION, VERSION = "mcp-session-id", "mcp-protocol-version"
CONNECT_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 3.0
"""How long an idle connection is used again. Node, uvicorn and Apache close it after five seconds: of a call that is
sent just then nobody can tell whether it ran."""
RETRY_SECONDS = 1.0
ONE_WAY_SECONDS = 30.0
"""How long an upstream may take to accept a notification or a reply; others wait behind it."""
CANCEL_SECONDS = 5.0
"""How long the answer to a cancelled request is still read."""
DRAIN_SECONDS = 2.0
"""How long the stream of an answer may stay open after the reply, which should be its last message."""
MAX_QUEUED_REPLY_BYTES = 1024 * 1024
"""Replies that an upstream may leave waiting; more of them are dropped."""
DELETE_SECONDS = 4.0
TOO_MUCH_AT_ONCE = "its unfinished responses take too much memory together"
EVENTS_PER_TURN = 32
MAX_ERROR_BYTES = 1024 * 1024
"""The largest body of an error status that is read."""
ACCEPT = "application/json, text/event-stream"
OPENING_METHODS = (INITIALIZE, "server/discover")
LISTEN = "subscriptions/listen"
SESSION_ID = r"[\x21-\x7e]{1,1024}"
"""A session id is visible ASCII (2025-03-26, "Session Management")."""
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where an upstream is. `headers` are sent with each request, secrets included; `old` means HTTP with SSE."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    old: bool = False
    network: Network = field(default_factory=Network)


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
        self._http = address.network.async_client(
            timeout=httpx.Timeout(CONNECT_SECONDS, read=None, pool=None),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=KEEP_ALIVE_SECONDS),
        )
        self._tasks = asyncio.TaskGroup()
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._queued_bytes = 0
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._session_headers: dict[str, str] = {}
        self._post_url = address.url
        self._is_over = False
        self._open: dict[Id, asyncio.Task[None]] = {}
        """Open requests."""
        self._stateless: set[Id] = set()
        """Those of them that are cancelled by closing their streams."""
        self._unsent: set[Id] = set()
        """Requests whose body has not begun to leave: the upstream cannot have run them."""

    def write(self, frame: bytes, is_reply: bool) -> None:
        if is_reply and self._queued_bytes > MAX_QUEUED_REPLY_BYTES:
            self._handler.on_unread("it does not take the replies to its own requests")
            return
        self._queued_bytes += len(frame)
        self._outgoing.put_nowait(frame)
        if (request := request_id(frame)) is not None:
            self._unsent.add(request)

    def withdraw(self, request: Id) -> bool:
        """As `Transport.withdraw`."""
        if request not in self._unsent:
            return False
        self._unsent.discard(request)
        if (task := self._open.get(request)) is not None:
            task.cancel()
        return True

    def take_unsent(self) -> list[Id]:
        """As `Transport.take_unsent`."""
        ids = [id for id in list(self._unsent) if self.withdraw(id)]
        while not self._outgoing.empty():
            self._outgoing.get_nowait()
        self._queued_bytes = 0
        return ids

    def throttle(self, slow: bool) -> None:
        """Stop reading, or go on."""
        if slow:
            self._may_read.clear()
        else:
            self._may_read.set()

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
                self._end(str(endings.exceptions[0]))
            except* Exception as defects:  # the edge: a defect must cost this session and no other
                self._end(f"caused an internal error: {_first_leaf(defects)!r}"[:500])

    def _end(self, reason: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._handler.on_closed(reason)

    async def _send_all(self) -> None:
        while True:
            frame = await self._outgoing.get()
            self._queued_bytes -= len(frame)
            message = orjson.loads(frame)
            is_request = "method" in message and "id" in message
            if message.get("method") == CANCELLED and self._cancel(message):
                continue
            failure = await self._sign_in()
            if is_request and message["id"] not in self._unsent:
                continue  # it was withdrawn
            if is_request and failure is not None:
                self._refuse(message, failure)
            elif is_request:
                self._begin_request(frame, message)
            elif failure is None:
                await self._send_one_way(frame)

    def _begin_request(self, frame: bytes, message: Json) -> None:
        id, headers = message["id"], dict[str, str]()
        if is_stateless(message["method"], message.get("params") or {}) and not self._address.old:
            from mcp_guard.protocol.headers import mirror_headers  # needed by the stateless revision only

            headers = mirror_headers(message, self._handler.input_schema)
            self._stateless.add(id)
        self._open[id] = task = self._tasks.create_task(self._request(frame, message, headers))
        task.add_done_callback(lambda _: self._forget(id))

    def _forget(self, id: Id) -> None:
        self._open.pop(id, None)
        self._stateless.discard(id)
        if id in self._unsent:
            self._not_sent(id, "was closed before the request was sent")

    def _cancel(self, notification: Json) -> bool:
        """Stop reading the answer to a request: at once if it is stateless, else a while after the notification.

        Returns whether that is all: False if the notification must be sent, because the upstream had a handshake.
        """
        id = notification["params"]["requestId"]
        task, closes_stream = self._open.get(id), id in self._stateless
        if task is not None and closes_stream:
            task.cancel()
        elif task is not None:
            asyncio.get_running_loop().call_later(CANCEL_SECONDS, task.cancel)
        return closes_stream or (VERSION not in self._session_headers and not self._address.old)

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
        self, method: str, frame: bytes | None = None, extra: Mapping[str, str] = NO_HEADERS, id: Id | None = None
    ) -> AsyncIterator[httpx.Response]:
        """One request and its response; `id` is that of a JSON-RPC request, which is `_unsent` until its body leaves.

        INVARIANT: it is sent a second time only after status 401, which means that it was not acted on, and only with
        another token.
        """
        url, accept = (self._post_url, ACCEPT) if method == "POST" else (self._address.url, "text/event-stream")
        for is_last in (self._token_provider is None, True):
            token = self._token_provider.headers() if self._token_provider else {}
            headers = {"accept": accept, "accept-encoding": ACCEPT_ENCODING, **self._headers(extra), **token}
            content: bytes | AsyncGenerator[bytes, None] | None = frame
            if frame is not None and id is not None:
                content, headers["content-length"] = self._body(frame, id), str(len(frame))
            async with self._http.stream(method, url, content=content, headers=headers) as response:
                if is_last or response.status_code != 401 or not await self._renew_token(token):
                    yield response
                    return

    async def _body(self, frame: bytes, id: Id) -> AsyncGenerator[bytes, None]:
        """The body of a request. It is asked for once the connection is there and the headers have been written."""
        self._unsent.discard(id)
        yield frame

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
            async with asyncio.timeout(ONE_WAY_SECONDS), self._exchange("POST", frame) as response:
                status = response.status_code
        except httpx.TransportError as error:
            raise _SessionEnded(_explain(error)) from None
        except TimeoutError:
            raise _SessionEnded(f"did not accept a notification within {ONE_WAY_SECONDS:g} s") from None
        if status == 404 and SESSION in self._session_headers:
            raise _SessionEnded("has ended its session")

    async def _request(self, frame: bytes, message: Json, mirrored: Mapping[str, str]) -> None:
        try:
            async with self._exchange("POST", frame, mirrored, message["id"]) as response:
                if self._address.old and response.status_code < 300:
                    return  # the answer arrives on the stream that was opened first
                await self._read_answer(response, message)
        except READ_ERRORS as error:
            not_connected = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            if message["method"] in OPENING_METHODS or (not_connected and message["method"] == LISTEN):
                raise _SessionEnded(_explain(error)) from None
            self._fail(message["id"], _explain(error))
        except _SessionEnded:
            raise
        except Exception as defect:  # the edge: a defect must cost this request and no other
            self._fail(message["id"], f"caused an internal error: {defect!r}"[:500])

    async def _read_answer(self, response: httpx.Response, message: Json) -> None:
        if response.status_code == 404 and SESSION in self._session_headers:
            raise _SessionEnded("has ended its session")
        content_type = response.headers.get("content-type", "")
        if content_type.startswith("text/event-stream"):
            await self._read_answer_stream(response, message)
        elif response.status_code >= 300:
            body = await self._read_body(response, min(self._max_message_bytes, MAX_ERROR_BYTES))
            self._read_error_answer(message, response.status_code, body)
        else:
            self._handler.on_message(await self._read_body(response, self._max_message_bytes))
            self._handler.on_request_lost(message["id"], "sent a response that does not answer this request")
            self._adopt_session(response, message)

    async def _read_body(self, response: httpx.Response, max_bytes: int) -> bytes | None:
        """The body; None if it is over the limit. Raises: httpx.DecodingError, httpx.TransportError."""
        body = bytearray()
        with self._handler.budget.hold() as holding:
            async with aclosing(read_decoded(response, self._handler.charge)) as pieces:
                async for piece in pieces:
                    if len(body) + len(piece) > max_bytes:
                        return None
                    if not holding.resize(len(body) + len(piece)):
                        raise httpx.DecodingError(TOO_MUCH_AT_ONCE)
                    body += piece
                    await self._may_read.wait()
            return bytes(body)

    async def _read_events(self, response: httpx.Response, position: StreamPosition) -> AsyncGenerator[SseEvent, None]:
        """The events of a stream, at the pace of the caller; `position` is kept up to date."""
        parser, count = SseParser(self._max_message_bytes, position), 0
        with self._handler.budget.hold() as holding:
            async with aclosing(read_decoded(response, self._handler.charge)) as pieces:
                async for piece in pieces:
                    for event in parser.feed(piece):
                        yield event
                        count += 1
                        if count % EVENTS_PER_TURN == 0:
                            await asyncio.sleep(0)
                        await self._may_read.wait()
                    if wasted := parser.take_waste():
                        self._handler.charge(wasted)
                    if not holding.resize(parser.held):
                        raise httpx.DecodingError(TOO_MUCH_AT_ONCE)
                    await self._may_read.wait()

    async def _read_messages(
        self, response: httpx.Response, position: StreamPosition
    ) -> AsyncGenerator[bytes | None, None]:
        """The data of each message event; None for one over the limit."""
        async with aclosing(self._read_events(response, position)) as events:
            async for event in events:
                if event.name == "message" and event.data != b"":
                    yield event.data

    async def _read_answer_stream(self, response: httpx.Response, message: Json) -> None:
        """Read the stream of an answer, and its continuation if it ends early (2025-11-25, "Resumability")."""
        id = message["id"]
        position, answered = await self._read_until_end(response, message)
        while not answered and position.id and SESSION in self._session_headers:
            await asyncio.sleep(position.retry)
            async with self._exchange("GET", extra={"last-event-id": position.id}) as continuation:
                if continuation.status_code != 200:
                    break
                before, (position, answered) = position, await self._read_until_end(continuation, message)
            if position == before and not answered:
                break  # nothing new arrived, and nothing will
        if not answered:
            self._handler.on_request_lost(id, "the stream of its answer ended early")

    async def _read_until_end(self, response: httpx.Response, message: Json) -> tuple[StreamPosition, bool]:
        """Pass on each message; returns where the stream ended, and whether the reply to `message` was among them."""
        position, draining = StreamPosition(), None
        try:
            async with aclosing(self._read_messages(response, position)) as messages:
                async for data in messages:
                    is_reply = draining is None and _is_reply_to(data, message["id"])
                    self._handler.on_message(data)
                    if is_reply and (task := self._open.get(message["id"])) is not None:
                        self._adopt_session(response, message)
                        draining = asyncio.get_running_loop().call_later(DRAIN_SECONDS, task.cancel)
        finally:
            if draining is not None:
                draining.cancel()
        return position, draining is not None

    def _adopt_session(self, response: httpx.Response, message: Json) -> None:
        """Send the session id and the version with all requests after `initialize`."""
        if message["method"] == INITIALIZE and response.status_code < 300:
            if re.fullmatch(SESSION_ID, id := response.headers.get(SESSION, "")):
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

    def _fail(self, id: Id, reason: str) -> None:
        """The answer to a request will not come; whether it may have run depends on whether its body has left."""
        if id in self._unsent:
            self._not_sent(id, reason)
        else:
            self._handler.on_request_lost(id, reason)

    def _not_sent(self, id: Id, reason: str) -> None:
        self._unsent.discard(id)
        self._handler.on_request_not_sent(id, reason)

    def _refuse(self, message: Json, reason: str) -> None:
        """Do not send a request."""
        if message["method"] in OPENING_METHODS:
            self._unsent.discard(message["id"])
            self._reject(message, reason)
        else:
            self._not_sent(message["id"], reason)

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
                    async with aclosing(self._read_messages(response, StreamPosition())) as messages:
                        async for data in messages:
                            self._handler.on_message(data)
            except READ_ERRORS as error:
                raise _SessionEnded(_explain(error)) from None
            await asyncio.sleep(RETRY_SECONDS)

    async def _read_old_stream(self, opened: asyncio.Event) -> None:
        """The one stream of HTTP with SSE: first the URL for requests, then all messages."""
        try:
            async with self._exchange("GET") as response:
                if response.status_code != 200:
                    raise _SessionEnded(f"answered with HTTP status {response.status_code}")
                async with aclosing(self._read_events(response, StreamPosition())) as events:
                    async for event in events:
                        if event.name == "endpoint":
                            self._post_url = self._endpoint(event.data or b"")
                            opened.set()
                        elif event.data != b"":
                            self._handler.on_message(event.data)
        except READ_ERRORS as error:
            raise _SessionEnded(_explain(error)) from None
        raise _SessionEnded("closed its stream")

    def _endpoint(self, data: bytes) -> str:
        """The URL for requests that the upstream named. Raises: _SessionEnded if it is on another host."""
        try:
            url = urljoin(self._address.url, data.decode())
            if _origin(url) == _origin(self._address.url):
                return str(httpx.URL(url))
        except (ValueError, httpx.InvalidURL):
            raise _SessionEnded("named an address for requests that is not a URL") from None
        raise _SessionEnded("asked for its requests to be sent to another host")

    async def delete(self) -> None:
        """End the session at the upstream, if it has one."""
        if SESSION not in self._session_headers:
            return
        try:
            async with asyncio.timeout(DELETE_SECONDS), self._address.network.async_client(timeout=2) as http:
                token = self._token_provider.headers() if self._token_provider else {}
                async with http.stream("DELETE", self._address.url, headers={**self._headers(), **token}):
                    return  # its body is of no interest
        except (httpx.HTTPError, TimeoutError):
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


def _explain(error: httpx.RequestError) -> str:
    what = "sent a response that cannot be read" if isinstance(error, httpx.DecodingError) else "cannot be reached"
    return f"{what}: {type(error).__name__}{f': {error}' if str(error) else ''}"


def _first_leaf(group: BaseExceptionGroup[Exception]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _is_reply_to(data: bytes | None, id: Id) -> bool:
    """Whether this frame is the reply. One over the size limit counts, because it may be."""
    if data is None:
        return True
    try:
        message = orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return isinstance(message, dict) and "method" not in message and message.get("id") == id
