"""A connection with an upstream over streamable HTTP (2025-03-26 to 2026-07-28), or HTTP with SSE (2024-11-05).

Requests are sent in the order in which they were written. No request that may have been acted on is sent again, but for
the handshake and listings. When the upstream ends its session, the handler starts another over the same connection, and
requests that are being answered go on. A request with the envelope of 2026-07-28 has headers that mirror it and belongs
to no session; it is cancelled by closing the stream of its answer.
"""

import asyncio
import re
from collections import deque
from contextlib import AbstractAsyncContextManager, suppress
from itertools import chain, repeat

import httpx2 as httpx

from mcp_guard.core import exact_json
from mcp_guard.core.model import Json
from mcp_guard.core.request_meta import trace_headers
from mcp_guard.protocol.jsonrpc import Id, request_id
from mcp_guard.protocol.methods import CANCELLED, INITIALIZED
from mcp_guard.protocol.versions import is_stateless
from mcp_guard.upstream.http_answer_reader import MAX_ERROR_BYTES, AnswerReader
from mcp_guard.upstream.http_body import READ_ERRORS
from mcp_guard.upstream.http_client import ServerAddress, TokenProvider, UpstreamHttpClient, describe_status, explain
from mcp_guard.upstream.http_old_stream import OldSseStream, SessionEnded
from mcp_guard.upstream.http_one_way import MAX_QUEUED_BYTES, ORDER_SECONDS, OneWayLane, OneWayMessage
from mcp_guard.upstream.http_reading import ResponseReader, is_event_stream
from mcp_guard.upstream.http_server_session import (
    BUSY,
    SAFE_METHODS,
    UNKNOWN_SESSION,
    AwaitedRequest,
    ServerSession,
    ServerSessions,
)
from mcp_guard.upstream.http_standing_stream import StandingStream
from mcp_guard.upstream.transport import MessageHandler

RETRY_PAUSES = (0.2, 1.0)
REACH_PAUSES = (1.0, 2.0, 5.0, 10.0)
"""Seconds between pings of an upstream that cannot be reached; the last one repeats."""
MAX_RETRY_AFTER_SECONDS, MAX_REPLY_RETRY_AFTER_SECONDS = 3.0, 30.0
"""How long an upstream may put off a request, and a reply to its own: nobody else waits for that."""
ONE_WAY_SECONDS = 30.0
"""How long an upstream may take to accept a notification or a reply."""
OLD_STREAM_SECONDS, OLD_STREAM_TRIAL_SECONDS = 30.0, 5.0
"""How long the stream of HTTP with SSE may take to name the address for requests: if it is configured, and if not."""
CANCEL_SECONDS = 5.0
"""How long the answer to a cancelled request is still read."""
DELETE_SECONDS = 1.5
MAX_ACCEPTED = 256


class UpstreamHttpSession:
    """The connection with one upstream. `handler` receives what arrives, and that a session or the whole ended."""

    def __init__(
        self,
        address: ServerAddress,
        handler: MessageHandler,
        max_message_bytes: int,
        token_provider: TokenProvider | None = None,
    ) -> None:
        self._url = address.url
        self._is_old = address.is_old
        self._sends_trace = address.sends_trace
        self._handler = handler
        self._tasks = asyncio.TaskGroup()
        self._client = UpstreamHttpClient(address, token_provider, self._on_reached)
        self._is_unreachable = asyncio.Event()
        self._reader = ResponseReader(handler, max_message_bytes)
        self._open: dict[Id, AwaitedRequest] = {}
        self._sessions = ServerSessions(address.url, self._client, self._reader, handler, self._tasks, self._open.keys)
        self._answers = AnswerReader(
            self._sessions, self._reader, handler, self._open.keys, self._try_old_transport, self._comes_on_stream
        )
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._queued: set[Id] = set()
        """Ids of the requests in it that were not withdrawn."""
        self._notifications = OneWayLane(self._send_one_way, ORDER_SECONDS)
        self._replies = OneWayLane(self._send_one_way, 0)
        self._is_announced = asyncio.Event()
        """Whether no `notifications/initialized` is on its way."""
        self._is_announced.set()
        self._standing: asyncio.Task[None] | None = None
        self._standing_stream: StandingStream | None = None
        self._accepted: deque[Id] = deque(maxlen=MAX_ACCEPTED)
        """The last requests whose replies were to come on the standing stream."""
        self._is_over = False

    def write(self, frame: bytes, is_reply: bool) -> None:
        if not is_reply:
            self._outgoing.put_nowait(frame)
            if (request := request_id(frame)) is not None:
                self._queued.add(request)
        elif self._replies.queued_bytes <= MAX_QUEUED_BYTES:
            self._replies.put(OneWayMessage(frame))
        else:
            self._handler.on_unread("it does not take the replies to its own requests")

    def withdraw(self, id: Id) -> bool:
        """As `Transport.withdraw`."""
        if id in self._queued:
            self._queued.discard(id)
            return True
        request = self._open.get(id)
        if request is None or request.task is None or request.sending.has_begun or request.is_withdrawn:
            return False
        request.is_withdrawn = True
        request.task.cancel()
        return True

    def take_unsent(self) -> list[Id]:
        """As `Transport.take_unsent`."""
        while not self._outgoing.empty():
            self._outgoing.get_nowait()
        return [id for id in (*self._queued, *self._open) if self.withdraw(id)]

    def throttle(self, slow: bool) -> None:
        """Stop reading, or go on."""
        self._reader.throttle(slow)

    async def run(self, opened: asyncio.Event) -> None:
        """Send frames until cancelled or until the connection is over; `opened` is set once they can be sent."""
        try:
            async with self._tasks:
                if self._is_old:
                    await self._open_old_stream(OLD_STREAM_SECONDS)
                opened.set()
                self._tasks.create_task(self._notifications.run())
                self._tasks.create_task(self._replies.run())
                self._tasks.create_task(self._ping_while_unreachable())
                await self._send_all()
        except* SessionEnded as endings:
            self._end(str(endings.exceptions[0]))
        except* Exception as defects:  # the edge: a defect must cost this connection and no other
            self._end(f"caused an internal error: {_first_leaf(defects)!r}"[:500])

    def _end(self, reason: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._handler.on_closed(reason)

    def _on_reached(self, failure: str | None) -> None:
        if failure is None:
            self._is_unreachable.clear()
            self._handler.on_reachable()
        else:
            self._is_unreachable.set()
            self._handler.on_unreachable(failure)

    async def _ping_while_unreachable(self) -> None:
        """So that its return is noticed although nobody calls, and a session that it has lost is replaced."""
        while True:
            await self._is_unreachable.wait()
            for pause in chain(REACH_PAUSES, repeat(REACH_PAUSES[-1])):
                await asyncio.sleep(pause)
                if not self._is_unreachable.is_set():
                    break
                session = self._sessions.current
                if await self._sessions.has_ended(session) and session.has_id:
                    self._sessions.lose(session)

    async def close(self) -> None:
        """End the session at the upstream, if it has one, once `run` has ended."""
        session = self._sessions.current
        try:
            if session.has_id and not session.is_lost:
                with suppress(httpx.HTTPError, TimeoutError):  # it may be unreachable, or not support this
                    async with asyncio.timeout(DELETE_SECONDS), self._sessions.exchange("DELETE", session):
                        pass  # its body is of no interest
        finally:
            await self._client.close()

    # Requests

    async def _send_all(self) -> None:
        while True:
            frame = await self._outgoing.get()
            message = exact_json.loads(frame)
            method = message["method"]
            if "id" in message:
                with suppress(TimeoutError):
                    async with asyncio.timeout(ORDER_SECONDS):
                        await self._is_announced.wait()
                if message["id"] in self._queued:
                    self._queued.discard(message["id"])
                    self._begin_request(frame, message)
            elif method != CANCELLED or self._cancel(message):
                if method == INITIALIZED:
                    self._is_announced.clear()
                elif self._notifications.queued_bytes > MAX_QUEUED_BYTES:
                    self._handler.note("a notification was dropped: it does not take those before it")
                    continue
                self._notifications.put(OneWayMessage(frame, method))

    def _begin_request(self, frame: bytes, message: Json) -> None:
        id, method, mirrored = message["id"], message["method"], dict[str, str]()
        if is_stateless(method, message.get("params") or {}) and not self._is_old:
            from mcp_guard.protocol.headers import mirror_headers  # needed by the stateless revision only

            mirrored = mirror_headers(message, self._handler.input_schema)
        trace = trace_headers(message) if self._sends_trace else {}
        self._open[id] = request = AwaitedRequest(id, method, frame, self._sessions.current, mirrored, trace)
        request.task = self._tasks.create_task(self._request(request))
        request.task.add_done_callback(lambda _: self._forget(request))

    def _forget(self, request: AwaitedRequest) -> None:
        del self._open[request.id]
        is_cancelled = request.task is not None and request.task.cancelled()
        if is_cancelled and not request.sending.has_begun and not request.is_withdrawn:
            self._handler.on_request_not_sent(request.id, "was closed before the request was sent")

    def _cancel(self, notification: Json) -> bool:
        """Stop reading the answer to a request: at once if it is stateless, else a while after the notification.

        Returns whether the notification must be sent, because the upstream had a handshake.
        """
        request = self._open.get(notification["params"]["requestId"])
        if request is not None and request.task is not None:
            if request.is_stateless:
                request.task.cancel()
                return False
            asyncio.get_running_loop().call_later(CANCEL_SECONDS, request.task.cancel)
        return self._is_old or self._sessions.current.has_begun

    async def _request(self, request: AwaitedRequest) -> None:
        try:
            if failure := await self._client.sign_in():
                self._answers.refuse(request, failure)
            elif request.is_in_session and request.session.is_lost:
                self._answers.refuse_by_lost_session(request)
            else:
                await self._send_request(request)
        except READ_ERRORS as error:
            if request.is_opening:
                raise SessionEnded(explain(error)) from None
            if isinstance(error, httpx.DecodingError):
                self._handler.on_request_failed(request.id, f"what cannot be read: {error}")
            else:
                self._end_unanswered(request, explain(error))
        except SessionEnded:
            raise
        except Exception as defect:  # the edge: a defect must cost this request and no other
            self._end_unanswered(request, f"caused an internal error: {defect!r}"[:500])

    def _end_unanswered(self, request: AwaitedRequest, reason: str) -> None:
        if request.sending.has_begun:
            self._handler.on_request_lost(request.id, reason)
        else:
            self._handler.on_request_not_sent(request.id, reason)

    async def _send_request(self, request: AwaitedRequest) -> None:
        """Send it and read the answer. The handshake and listings are repeated if the answer fails on its way."""
        pauses = list(RETRY_PAUSES) if request.method in SAFE_METHODS else []
        while True:
            try:
                async with self._sessions.post(request) as response:
                    is_busy = pauses and response.status_code in BUSY
                    pause = _retry_after(response, pauses, MAX_RETRY_AFTER_SECONDS) if is_busy else None
                    if pause is None:
                        await self._settle(response, request)
                        return
            except httpx.TransportError:
                if not pauses or not request.sending.has_begun:
                    raise
                pause = pauses[0]
            del pauses[0]
            await asyncio.sleep(pause)

    async def _settle(self, response: httpx.Response, request: AwaitedRequest) -> None:
        if not self._is_old:
            await self._answers.settle(response, request)
            return
        if response.status_code in UNKNOWN_SESSION:
            self._handler.on_request_not_sent(request.id, "has ended its session")
            raise SessionEnded("has ended its session")
        await self._answers.settle_by_stream(response, request)

    # Notifications and replies

    async def _send_one_way(self, message: OneWayMessage) -> None:
        """Send a notification or a reply. If that fails, only this message is lost."""
        session, what = self._sessions.current, f"`{message.method}`" if message.method else "a reply"
        try:
            if failure := await self._client.sign_in():
                self._handler.note(f"{what} was not sent: {failure}")
            elif not session.is_lost:
                await self._post_one_way(message, session)
        except (httpx.RequestError, TimeoutError) as error:
            self._handler.note(f"{what} was not accepted: {type(error).__name__}")
        except Exception as defect:  # a defect is noted; in this task group it would end the requests of the upstream
            self._handler.note(f"internal error: {what} was dropped: {defect!r}")
        if message.method == INITIALIZED:
            self._is_announced.set()
            self._open_standing_stream(session)

    async def _post_one_way(self, message: OneWayMessage, session: ServerSession) -> None:
        """A reply is sent again after a refusal that passes, because the upstream waits for it."""
        pauses = [] if message.method else list(RETRY_PAUSES)
        while True:
            exchange = self._sessions.exchange("POST", session, message.frame, is_one_way=True)
            async with asyncio.timeout(ONE_WAY_SECONDS), exchange as response:
                if not is_event_stream(response):
                    await self._reader.read_body(response, MAX_ERROR_BYTES)  # so that the connection is used again
            is_busy = pauses and response.status_code in BUSY
            pause = _retry_after(response, pauses, MAX_REPLY_RETRY_AFTER_SECONDS) if is_busy else None
            if pause is None:
                break
            del pauses[0]
            await asyncio.sleep(pause)
        is_missing = response.status_code in UNKNOWN_SESSION
        if is_missing and session.has_id and await self._sessions.is_unknown(session):
            self._sessions.lose(session)
        elif response.status_code >= 300 and not message.method:
            self._handler.note(f"a reply was not accepted: it {describe_status(response)}")

    def _open_standing_stream(self, session: ServerSession) -> None:
        """Listen to what the upstream sends without being asked, for as long as this session lasts."""
        if self._standing is not None:
            self._standing.cancel()
        if session.has_begun and not session.is_lost:
            self._standing = self._tasks.create_task(self._listen(session))

    def _comes_on_stream(self, id: Id) -> bool:
        is_open = self._standing_stream is not None and self._standing_stream.is_open
        self._accepted.extend([id] if is_open else [])
        return is_open

    async def _listen(self, session: ServerSession) -> None:
        async def may_go_on() -> bool:
            if session.has_id and await self._sessions.is_unknown(session):
                self._sessions.lose(session)
            return not session.is_lost

        def connect(last_event_id: str) -> AbstractAsyncContextManager[httpx.Response]:
            return self._sessions.get_stream(session, last_event_id)

        self._standing_stream = StandingStream(connect, self._reader, self._handler, may_go_on)
        try:
            await self._standing_stream.run()
        finally:
            while self._accepted:  # no effect on those that were answered
                self._handler.on_request_lost(self._accepted.popleft(), "ended the stream that had its answer")

    # HTTP with SSE

    async def _open_old_stream(self, seconds: float) -> None:
        """Open the stream that brings all messages. Raises: SessionEnded if there is none."""
        session = ServerSession(self._url)
        stream = OldSseStream(self._url, lambda: self._sessions.get_stream(session), self._reader, self._handler)
        reading = self._tasks.create_task(stream.run())
        try:
            async with asyncio.timeout(seconds):
                self._sessions.start_at(await asyncio.shield(stream.endpoint))
        except TimeoutError:
            reading.cancel()
            raise SessionEnded("named no address for requests on its stream") from None

    async def _try_old_transport(self, request: AwaitedRequest, refusal: str) -> str | None:
        """Send `initialize` over HTTP with SSE, after a `POST` was refused. Returns why that failed too, or None."""
        if self._is_old:
            return refusal
        try:
            await self._open_old_stream(OLD_STREAM_TRIAL_SECONDS)
        except SessionEnded as failure:
            return f"{refusal}, and to `GET` it {failure}"
        self._is_old = True
        await self._send_request(request)
        return None


def _retry_after(response: httpx.Response, pauses: list[float], patience: float) -> float | None:
    """Seconds until a message is sent again; None if the upstream asks for more than `patience`."""
    value = response.headers.get("retry-after", "").strip()
    wanted = float(value) if re.fullmatch(r"\d{1,9}", value) else 0.0
    return max(wanted, pauses[0]) if wanted <= patience else None


def _first_leaf(group: BaseExceptionGroup[Exception]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
