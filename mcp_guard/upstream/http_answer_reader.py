"""Reads the response to one request and settles it: by its reply, as failed, as perhaps run, or as not sent."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import aclosing, suppress

import httpx2 as httpx
import orjson

from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.protocol.methods import INITIALIZE
from mcp_guard.protocol.sse import MAX_RETRY_SECONDS, StreamPosition
from mcp_guard.upstream.http_answers import HttpAnswer, HttpAnswerKind, begins_as_reply, read_answers
from mcp_guard.upstream.http_body import READ_ERRORS
from mcp_guard.upstream.http_client import describe_status, explain
from mcp_guard.upstream.http_reading import ResponseReader, is_event_stream, media_type
from mcp_guard.upstream.http_server_session import BUSY, UNKNOWN_SESSION, AwaitedRequest, ServerSessions
from mcp_guard.upstream.transport import MessageHandler

DRAIN_SECONDS = 2.0
"""How long the stream of an answer may stay open after the reply, which should be its last message."""
REFUSAL_SECONDS = 2.0
"""A server that does not know a session says so at once. What it says later may be about a call that has run, while its
session ended."""
MAX_FAILED_RESUMPTIONS = 3
"""In a row. An accepted one counts as none even if it brings nothing: a server may let itself be polled (SEP-1699)."""
MAX_ERROR_BYTES = 1024 * 1024
"""The largest body of an error status that is read."""
NOT_ACTED_ON = (301, 302, 307, 308, 405, 406, 407, 411, 413, 414, 415, 421, 425, 426, 429, 431)
"""Statuses by which a server refuses a request before it looks at what is asked for (RFC 9110 §15)."""
UNAUTHORIZED = (401,)
"""The same, but some servers answer with it to a session that they have forgotten."""
NOT_OF_THE_TRANSPORT = (401, 407, 408, 429)
"""Statuses from 400 to 499 that do not mean that the server may speak another transport."""


class AnswerReader:
    """Settles the requests of one connection. `open_ids` gives the ids of those that are awaiting an answer.

    `try_old_transport` is called with the reason of a refusal that may be one of revision 2024-11-05. It takes the
    request over and returns None, or returns the reason with its own. `comes_on_stream` tells whether the reply to an
    accepted request may still come on the standing stream; if so, the owner settles it.
    """

    def __init__(
        self,
        sessions: ServerSessions,
        reader: ResponseReader,
        handler: MessageHandler,
        open_ids: Callable[[], Collection[Id]],
        try_old_transport: Callable[[AwaitedRequest, str], Awaitable[str | None]],
        comes_on_stream: Callable[[Id], bool],
    ) -> None:
        self._sessions = sessions
        self._reader = reader
        self._handler = handler
        self._open_ids = open_ids
        self._try_old_transport = try_old_transport
        self._comes_on_stream = comes_on_stream

    async def settle(self, response: httpx.Response, request: AwaitedRequest) -> None:
        """Read the response until the request is settled. Raises: httpx.TransportError, httpx.DecodingError."""
        if response.status_code >= 300:
            await self._read_refusal(response, request)
        elif is_event_stream(response):
            await self._read_stream(response, request)
        else:
            await self._read_document(response, request)
        if request.is_refused and request.is_in_session:
            self._sessions.check_in_background(request.session)

    async def settle_by_stream(self, response: httpx.Response, request: AwaitedRequest) -> None:
        """The same for the transport of 2024-11-05, whose answers arrive on its stream: most bodies say nothing."""
        if response.status_code >= 300:
            await self._read_refusal(response, request)
        elif not is_event_stream(response):
            body = await self._reader.read_body(response, self._reader.max_message_bytes)
            for answer in self._read_answers(body or b"", request):
                if answer.kind is HttpAnswerKind.REPLY:
                    self._handler.on_message(answer.frame)

    async def _read_document(self, response: httpx.Response, request: AwaitedRequest) -> None:
        body = await self._reader.read_body(response, self._reader.max_message_bytes)
        if body is None:
            self._handler.on_message(None)
            self._handler.on_request_failed(request.id, f"over {self._reader.max_message_bytes} bytes")
            return
        for answer in sorted(self._read_answers(body, request), key=lambda answer: answer.has_other_id):
            if answer.frame.lstrip()[:1] == b"{":
                await self._hand_on(answer, response, request)
        if response.status_code == 202 and not request.is_stateless and self._comes_on_stream(request.id):
            return  # the reply comes on the standing stream, as from the Ruby SDK
        request.is_refused |= not body
        what = f"a body of type `{media_type(response)}`" if body else "no body"
        self._handler.on_request_failed(request.id, f"HTTP status {response.status_code} and {what}, but no reply")

    def _read_answers(self, data: bytes, request: AwaitedRequest) -> list[HttpAnswer]:
        if request.method != INITIALIZE and begins_as_reply(data, request.id):
            return [HttpAnswer(HttpAnswerKind.REPLY, data, is_result=True)]
        return read_answers(data, request.id, self._open_ids())

    async def _hand_on(self, answer: HttpAnswer, response: httpx.Response, request: AwaitedRequest) -> None:
        seconds = request.sending.seconds()
        if (
            (answer.kind is HttpAnswerKind.UNIDENTIFIED_ERROR or answer.names_session)
            and request.is_in_session
            and await self._sessions.is_unknown(request.session)
        ):
            self.refuse_by_lost_session(request, seconds)
            return
        request.is_worked_on |= answer.kind is not HttpAnswerKind.UNREADABLE
        request.is_refused |= answer.is_refusal
        if answer.kind is HttpAnswerKind.REPLY and response.status_code < 300:
            self._sessions.adopt(answer, response, request)
        self._handler.on_message(answer.frame)

    async def _read_stream(self, response: httpx.Response, request: AwaitedRequest) -> None:
        """Read the stream of an answer, and its continuation if it ends early (2025-11-25, "Resumability")."""
        position, failures, reason = StreamPosition(), 0, "the stream of its answer ended early"
        try:
            if await self._read_until_settled(response, request, position):
                return
        except httpx.TransportError as error:
            reason = explain(error)
        while position.id and not request.is_stateless and failures < MAX_FAILED_RESUMPTIONS:
            await asyncio.sleep(min(position.retry * 2**failures, MAX_RETRY_SECONDS))
            failures += 1
            with suppress(httpx.TransportError):
                async with self._sessions.get_stream(request.session, position.id) as continuation:
                    if continuation.status_code == 200 and is_event_stream(continuation):
                        failures = 0
                        if await self._read_until_settled(continuation, request, position):
                            return
                    elif continuation.status_code == 200 and await self._read_reply(continuation, request):
                        return
                    elif continuation.status_code not in BUSY:
                        break
        self._handler.on_request_lost(request.id, reason)

    async def _read_reply(self, response: httpx.Response, request: AwaitedRequest) -> bool:
        """Hand on the reply in a document that came instead of the rest of a stream; False if there is none."""
        body = await self._reader.read_body(response, self._reader.max_message_bytes)
        for answer in self._read_answers(body or b"", request):
            if answer.kind is HttpAnswerKind.REPLY and not answer.has_other_id:
                await self._hand_on(answer, response, request)
                return True
        return False

    async def _read_until_settled(
        self, response: httpx.Response, request: AwaitedRequest, position: StreamPosition
    ) -> bool:
        """Hand on each message; returns whether the request is settled. `position` is kept up to date.

        Raises: httpx.TransportError, httpx.DecodingError.
        """
        failure, is_answered, other, loop = "", False, list[HttpAnswer](), asyncio.get_running_loop()
        try:
            async with (
                asyncio.timeout(None) as deadline,
                aclosing(self._reader.read_messages(response, position)) as messages,
            ):
                async for data in messages:
                    was_answered, what = await self._take(data, response, request, other)
                    is_answered, failure = is_answered or was_answered, failure or what
                    if (is_answered or failure or other) and deadline.when() is None:
                        deadline.reschedule(loop.time() + DRAIN_SECONDS)
        except TimeoutError:
            pass  # what follows an answer is of no interest
        except httpx.TransportError:
            if not is_answered and not failure and not other:
                raise
        if other and not is_answered:
            await self._hand_on(other[0], response, request)
            is_answered = True
        if is_answered or failure:
            self._handler.on_request_failed(request.id, failure or "what cannot be read")
        return is_answered or failure != ""

    async def _take(
        self, data: bytes | None, response: httpx.Response, request: AwaitedRequest, other: list[HttpAnswer]
    ) -> tuple[bool, str]:
        """Hand on what an event holds; replies under the id of no request go to `other`.

        Returns whether it held the answer, and what came instead of one.
        """
        if data is None:
            self._handler.on_message(None)
            return False, f"over {self._reader.max_message_bytes} bytes"
        is_answered, failure = False, ""
        for answer in self._read_answers(data, request):
            if answer.has_other_id:
                other.append(answer)
                continue
            await self._hand_on(answer, response, request)
            is_answered |= answer.kind in (HttpAnswerKind.REPLY, HttpAnswerKind.UNIDENTIFIED_ERROR)
            failure = failure or ("what cannot be read" if answer.kind is HttpAnswerKind.UNREADABLE else "")
        return is_answered, failure

    async def _read_refusal(self, response: httpx.Response, request: AwaitedRequest) -> None:
        """A reply can have any status. Without one, only the status is reported: the body may hold anything.

        An error under another id, or none, counts as the reply where it means that the request was refused unread.
        """
        status, reason, seconds = response.status_code, describe_status(response), request.sending.seconds()
        answers = {answer.kind: answer for answer in await self._read_error_body(response, request)}
        reply, unidentified = answers.get(HttpAnswerKind.REPLY), answers.get(HttpAnswerKind.UNIDENTIFIED_ERROR)
        if request.is_in_session and status in UNKNOWN_SESSION and not await self._is_of_the_call(reply, request):
            self.refuse_by_lost_session(request, seconds)
        elif reply is not None:
            await self._hand_on(reply, response, request)
        elif status in NOT_ACTED_ON and not request.is_opening:
            request.is_refused = status not in BUSY
            self.refuse(request, reason)
        elif request.is_in_session and status < 500 and await self._sessions.is_unknown(request.session):
            self.refuse_by_lost_session(request, seconds)
        elif request.method == INITIALIZE and _may_be_old(status):
            if (failure := await self._try_old_transport(request, reason)) and unidentified is not None:
                self._handler.on_message(unidentified.frame)
            elif failure:
                self.refuse(request, failure)
        elif unidentified is not None and (status < 500 or request.is_opening):
            request.is_refused = unidentified.is_refusal
            self._handler.on_message(unidentified.frame)
        else:
            await self._settle_by_status(status, request, reason)

    async def _is_of_the_call(self, reply: HttpAnswer | None, request: AwaitedRequest) -> bool:
        """Whether a reply with the status of a lost session is about the call, which may have run, and no refusal."""
        return reply is not None and (reply.is_result or not await self._sessions.is_unknown(request.session))

    async def _settle_by_status(self, status: int, request: AwaitedRequest, reason: str) -> None:
        if request.is_opening:
            self._answer_with_error(request, reason)
        elif status >= 500 or status == 408:  # a proxy answers so as well, after it has passed the request on
            self._handler.on_request_lost(request.id, reason)  # it may have run
            if request.is_in_session:
                await self._sessions.note_trouble(request.session)
        elif status in UNAUTHORIZED:
            self.refuse(request, reason)
        else:
            self._answer_with_error(request, reason)

    async def _read_error_body(self, response: httpx.Response, request: AwaitedRequest) -> list[HttpAnswer]:
        try:
            if is_event_stream(response):
                async with (
                    asyncio.timeout(DRAIN_SECONDS),
                    aclosing(self._reader.read_messages(response, StreamPosition())) as messages,
                ):
                    body = await anext(messages, None)
            else:
                body = await self._reader.read_body(response, min(self._reader.max_message_bytes, MAX_ERROR_BYTES))
        except (*READ_ERRORS, TimeoutError):
            return []
        return self._read_answers(body, request) if body else []

    def refuse_by_lost_session(self, request: AwaitedRequest, seconds: float = 0.0) -> None:
        """It was refused, after so many seconds, because the upstream does not know its session any more."""
        settle = self._handler.on_request_not_sent
        if request.is_worked_on or seconds > REFUSAL_SECONDS:
            settle = self._handler.on_request_lost
        settle(request.id, "has ended its session, so a new one is started")
        self._sessions.lose(request.session)

    def refuse(self, request: AwaitedRequest, reason: str) -> None:
        """The request was not acted on. A handshake is answered with an error, which operators are shown."""
        if request.is_opening:
            self._answer_with_error(request, reason)
        else:
            self._handler.on_request_not_sent(request.id, reason)

    def _answer_with_error(self, request: AwaitedRequest, reason: str) -> None:
        error = {"code": -32000, "message": f"the upstream {reason}"}
        self._handler.on_message(orjson.dumps({"jsonrpc": "2.0", "id": request.id, "error": error}))


def _may_be_old(status: int) -> bool:
    """Whether `initialize` was refused as by a server of revision 2024-11-05 ("Backwards Compatibility")."""
    return 400 <= status < 500 and status not in NOT_OF_THE_TRANSPORT
