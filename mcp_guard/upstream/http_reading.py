"""Reads what an upstream sends over HTTP, at the pace and within the budget of its connection."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Self

import httpx2 as httpx

from mcp_guard.protocol.sse import SseEvent, SseParser, StreamPosition, is_json
from mcp_guard.upstream.http_body import read_decoded
from mcp_guard.upstream.transport import MessageHandler

TOO_MUCH_AT_ONCE = "its unfinished responses take too much memory together"
EVENTS_PER_TURN = 32
QUIET_SECONDS = 0.5
"""How long after its last character a document without an end of the body is looked at; twice as long after each look
in vain, because one takes time."""


def is_event_stream(response: httpx.Response) -> bool:
    """By its content type, in any case and with any parameters (RFC 9110 §8.3.1)."""
    return media_type(response) == "text/event-stream"


def media_type(response: httpx.Response) -> str:
    """The content type in lower case, without parameters; empty if there is none."""
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


class ResponseReader:
    """Reads responses for one connection. `max_message_bytes` limits a document and an event."""

    def __init__(self, handler: MessageHandler, max_message_bytes: int) -> None:
        self._handler = handler
        self.max_message_bytes = max_message_bytes
        self._may_read = asyncio.Event()
        self._may_read.set()

    def throttle(self, slow: bool) -> None:
        """Stop reading, or go on."""
        if slow:
            self._may_read.clear()
        else:
            self._may_read.set()

    async def read_body(self, response: httpx.Response, max_bytes: int) -> bytes | None:
        """The body; None if it is over the limit.

        Complete JSON counts as the whole body, even if the connection then breaks, or nothing follows for a while.

        Raises: httpx.DecodingError, httpx.TransportError.
        """
        body = bytearray()
        with self._handler.budget.hold() as holding:
            try:
                async with (
                    asyncio.timeout(None) as deadline,
                    aclosing(read_decoded(response, self._handler.charge)) as pieces,
                ):
                    with _QuietEnd(body, deadline) as end:
                        async for piece in pieces:
                            if len(body) + len(piece) > max_bytes:
                                return None
                            if not holding.resize(len(body) + len(piece)):
                                raise httpx.DecodingError(TOO_MUCH_AT_ONCE)
                            body += piece
                            await self._may_read.wait()
                            end.look_later()
            except (TimeoutError, httpx.TransportError):
                if not is_json(body):
                    raise
            return bytes(body)

    async def read_events(self, response: httpx.Response, position: StreamPosition) -> AsyncGenerator[SseEvent, None]:
        """The events of a stream, at the pace of the caller; `position` is kept up to date.

        An event that the end of the stream cuts off before its empty line is the last one.

        Raises: httpx.DecodingError, httpx.TransportError.
        """
        parser, count = SseParser(self.max_message_bytes, position), 0
        with self._handler.budget.hold() as holding:
            try:
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
            except httpx.TransportError:
                for event in parser.finish():
                    yield event
                raise
            for event in parser.finish():
                yield event

    async def read_messages(
        self, response: httpx.Response, position: StreamPosition
    ) -> AsyncGenerator[bytes | None, None]:
        """The data of each message event; None for one over the limit. Raises as `read_events`."""
        async with aclosing(self.read_events(response, position)) as events:
            async for event in events:
                if event.name == "message" and event.data != b"":
                    yield event.data


class _QuietEnd:
    """Ends the reading of a body by its time-out once it is complete JSON and nothing has followed for a while."""

    def __init__(self, body: bytearray, deadline: asyncio.Timeout) -> None:
        self._body = body
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._quiet_seconds = QUIET_SECONDS

    def look_later(self) -> None:
        """After each piece."""
        self._cancel()
        if self._body.endswith((b"}", b"]", b"\n")):
            self._timer = self._loop.call_later(self._quiet_seconds, self._look)

    def _look(self) -> None:
        self._quiet_seconds *= 2
        if is_json(self._body):
            self._deadline.reschedule(self._loop.time())

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self._cancel()
