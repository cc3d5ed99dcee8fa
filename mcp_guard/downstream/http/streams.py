"""The HTTP transport of one client: which response each frame goes out on.

A reply goes out on the response to its request, after all other frames that belong to the request. What an upstream
sends of its own accord goes out on the latest open response, else on the standalone one (the client's GET), else it
waits for one. Stream format: server-sent events (HTML Living Standard §9.2).
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakSet

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from mcp_guard.downstream.http.accept import ReplyFormat
from mcp_guard.inbound import HttpConnection
from mcp_guard.protocol.jsonrpc import Id

MAX_FRAMES = 1000
"""How many frames a stream keeps for a client that does not read it; older ones are dropped."""
MAX_REPLAYED_FRAMES = 100
"""How many frames of a response that were sent already are kept for a client that lost its connection."""
MAX_DETACHED_STREAMS = 16
"""How many responses of a session may wait for their client to come back."""
DOCUMENT_SECONDS = 1.0
"""How long a response may stay undecided between one JSON document and a stream."""
RESUMABLE_DOCUMENT_SECONDS = 0.1
"""The same for a resumable response, whose client needs an event id to come back with."""
HEARTBEAT_SECONDS = 15.0
RETRY_MS = 1000
STANDALONE = "standing"
"""The name of the stream that belongs to no request; others are numbered."""
EVENT_ID = re.compile(r"(?:standing|[0-9]{1,12})-[0-9]{1,12}")
RawHeaders = tuple[tuple[bytes, bytes], ...]
"""Headers as ASGI has them."""
SSE_HEADERS: RawHeaders = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
JSON_HEADERS: RawHeaders = ((b"content-type", b"application/json"),)

MAX_KEPT_BYTES = 32 * 1024 * 1024
"""How much is kept for the clients of one instance, on all streams of all its sessions together. A reply is kept
however large it is, but while more than this is being sent, nothing more is read from upstreams."""
SMALL_STREAM_BYTES = 64 * 1024
"""A stream with less than this is not asked to give anything up."""


class StreamFrame(NamedTuple):
    """A frame of a stream: its number there, from 1, and whether it is the reply."""

    number: int
    data: bytes
    is_reply: bool


class Stream:
    """The frames of one response. `readers` are the responses that send it: none while the client is away."""

    def __init__(self, name: str, kept: "KeptFrames") -> None:
        self.name = name
        self.readers: list[StreamReader] = []
        self.kept_bytes = 0
        """The size of its frames."""
        self._kept = kept
        kept.streams.add(self)
        self._frames: deque[StreamFrame] = deque()
        self._last_number = 0
        """The number of the latest frame that was put."""
        self._last_read = 0
        """The number of the latest frame that anybody has read."""
        self.has_ended = False
        self.status = 503
        """The HTTP status of a response to which no frame was put before the end."""

    def put(self, data: bytes, is_reply: bool) -> None:
        self._last_number += 1
        self._frames.append(StreamFrame(self._last_number, data, is_reply))
        self.kept_bytes += len(data)
        self._drop_old()
        if self.kept_bytes > SMALL_STREAM_BYTES:
            self._kept.apply_pressure()
        self._wake_readers()

    def end(self, status: int = 503) -> None:
        """No frame will be put any more."""
        self.has_ended, self.status = True, status
        self._wake_readers()

    def remove_reader(self, reader: "StreamReader") -> None:
        self.readers.remove(reader)
        if self._kept.is_slow:
            self._kept.apply_pressure()

    def _wake_readers(self) -> None:
        for reader in self.readers:
            reader.wake()

    def _drop_old(self) -> None:
        frames = self._frames
        while len(frames) > MAX_FRAMES or (frames and self._last_read - frames[0].number >= MAX_REPLAYED_FRAMES):
            self.kept_bytes -= len(frames.popleft().data)
        if self.kept_bytes > SMALL_STREAM_BYTES and len(frames) > 1:
            excess = self._kept.excess()
            while excess > 0 and len(frames) > 1:  # the latest may be the reply
                dropped = len(frames.popleft().data)
                self.kept_bytes -= dropped
                excess -= dropped

    @property
    def last_read(self) -> int:
        return self._last_read

    @property
    def is_delivered(self) -> bool:
        """Whether the reply was read by a response."""
        return bool(self._frames and self._frames[-1].is_reply) and self._last_read == self._last_number

    def take_over(self) -> "Stream":
        """A stream with the same frames, while whoever reads this one is at its end."""
        successor = Stream(self.name, self._kept)
        successor._frames, self._frames = self._frames, successor._frames
        successor.kept_bytes, self.kept_bytes = self.kept_bytes, 0
        successor._last_number, successor._last_read = self._last_number, self._last_read
        self.end()
        return successor

    def read(self, after: int) -> StreamFrame | None:
        """The first kept frame after this number, if there is one."""
        if after >= self._last_number or not self._frames:
            return None
        first = self._frames[0].number
        frame = self._frames[max(after + 1 - first, 0)]
        self._last_read = max(self._last_read, frame.number)
        self._drop_old()
        return frame


class StreamReader:
    """Reads a stream for one response. `after` is the number of the last frame that the client has."""

    def __init__(self, stream: Stream, after: int = 0) -> None:
        self.stream = stream
        self.after = after
        self.has_client_left = False
        self._changed = asyncio.Event()

    def leave(self) -> None:
        """The client has gone."""
        self.has_client_left = True
        self.wake()

    def wake(self) -> None:
        self._changed.set()

    async def next(self, seconds: float | None = None) -> StreamFrame | None:
        """The next frame, once there is one; None if there will be none. Raises: TimeoutError, ClientDisconnect."""
        async with asyncio.timeout(seconds):
            while not self.has_client_left:
                if (frame := self.stream.read(self.after)) is not None:
                    self.after = frame.number
                    return frame
                if self.stream.has_ended:
                    return None
                self._changed.clear()
                await self._changed.wait()
            raise ClientDisconnect


class KeptFrames:
    """The streams of one instance, over all its sessions. `is_slow`: its clients read more slowly than is sent to them.

    Then `throttles`, one for each session, stop its upstreams: replies that nobody reads would fill the memory.
    """

    def __init__(self) -> None:
        self.streams: WeakSet[Stream] = WeakSet()
        self.is_slow = False
        self._throttles: list[Callable[[bool], None]] = []

    @contextmanager
    def throttling(self, throttle: Callable[[bool], None]) -> Iterator[None]:
        """For as long as a session is open."""
        self._throttles.append(throttle)
        throttle(self.is_slow)
        try:
            yield
        finally:
            self._throttles.remove(throttle)

    def apply_pressure(self) -> None:
        being_sent = sum(stream.kept_bytes for stream in self.streams if stream.readers)
        if (is_slow := being_sent > MAX_KEPT_BYTES) is not self.is_slow:
            self.is_slow = is_slow
            for throttle in self._throttles:
                throttle(is_slow)

    def excess(self) -> int:
        """How many bytes more than allowed are kept."""
        return sum(stream.kept_bytes for stream in self.streams) - MAX_KEPT_BYTES


class HttpDownstreamTransport:
    """Implements `session.DownstreamTransport`. `kept` is shared by the sessions of an instance.

    With `is_single_stream`, everything goes out on the standalone stream, replies too (2024-11-05).
    """

    def __init__(
        self, note: Callable[[str], None], *, kept: KeptFrames | None = None, is_single_stream: bool = False
    ) -> None:
        self.note = note
        self._kept = kept if kept is not None else KeptFrames()
        self.is_single_stream = is_single_stream
        self.unaddressed_reply: bytes | None = None
        """The latest reply that names no request, because the frame that it answers had no usable id."""
        self._streams: dict[Id, Stream] = {}
        """Open responses, by their request."""
        self._detached: dict[str, Stream] = {}
        """Responses, by name, that a client may come back to."""
        self._standalone = Stream(STANDALONE, self._kept)
        self._last_number = 0

    def drop_reply(self, request: Id) -> None:
        if stream := self._streams.pop(request, None):
            stream.end(status=202)

    def throttle(self, slow: bool) -> None:
        """A client over HTTP waits for its answers anyway."""

    def open_stream(self, request: Id) -> Stream:
        """The stream of the response to a new request."""
        self._last_number += 1
        stream = self._streams[request] = Stream(str(self._last_number), self._kept)
        return stream

    def discard(self, request: Id) -> None:
        """The client has left this response and cannot come back: drop what belongs to it."""
        self._streams.pop(request, None)

    def detach(self, stream: Stream) -> None:
        """The client has left this response and may come back: keep its frames."""
        if stream.name == STANDALONE:
            return
        waiting = [other for other in self._detached.values() if not other.readers and not other.is_delivered]
        self._detached = {kept.name: kept for kept in (*waiting[-MAX_DETACHED_STREAMS:], stream)}
        self._drop_detached()

    def _drop_detached(self) -> None:
        """Give up the oldest responses that nobody reads, if more is kept for this instance than allowed."""
        excess = self._kept.excess()
        for name, stream in [*self._detached.items()]:
            if excess > 0 and not stream.readers:
                excess -= stream.kept_bytes
                del self._detached[name]

    def standalone_stream(self) -> Stream:
        """The stream of the client's GET. A response that was reading it before ends."""
        if self._standalone.readers:
            self._standalone = self._standalone.take_over()
        return self._standalone

    def find_stream(self, event_id: str) -> tuple[Stream, int] | None:
        """The stream that an event belongs to, and the event's number in it."""
        if not EVENT_ID.fullmatch(event_id):
            return None
        name, _, number = event_id.rpartition("-")
        if name == STANDALONE:
            stream: Stream | None = self._standalone
        else:
            stream = self._detached.get(name) or next((s for s in self._streams.values() if s.name == name), None)
        return (stream, int(number)) if stream is not None else None

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        if last and about is None:
            self.unaddressed_reply = frame
        elif about is not None:
            stream = self._streams.pop(about, None) if last else self._streams.get(about)
            if stream is not None:
                stream.put(frame, last)
                if not stream.readers and stream.kept_bytes > SMALL_STREAM_BYTES:
                    self._drop_detached()
            elif self.is_single_stream:
                self._standalone.put(frame, False)
        else:
            attended = (stream for stream in reversed(self._streams.values()) if stream.readers)
            next(attended, self._standalone).put(frame, False)

    def close(self) -> None:
        for stream in (*self._streams.values(), *self._detached.values(), self._standalone):
            stream.end()


def sse_event(data: bytes, name: bytes = b"message", id: str = "") -> bytes:
    """One server-sent event; `data` is one line."""
    id_line = b"id: " + id.encode() + b"\n" if id else b""
    return id_line + b"event: " + name + b"\ndata: " + data.rstrip(b"\n") + b"\n\n"


class McpResponse:
    """The response to one request: a JSON document if its reply comes soon and alone, else a stream of events.

    - `on_disconnect` is called if the client leaves before the end.
    - `status_of` gives the HTTP status of a reply that is sent alone; without it, that is 200.
    - With `is_standalone` there is no reply to wait for: it is a stream from the start.
    - With `is_resumable` (2025-11-25) it is always a stream and its events have ids, so that a client that loses it can
      come back. `after` is the number of the last frame that the client has.
    - `opening` is sent as the first event.
    - `reply_format` is what the client reads. One that reads documents only gets the reply alone, when it is there.
    """

    def __init__(
        self,
        stream: Stream,
        on_disconnect: Callable[[], None],
        *,
        extra_headers: RawHeaders = (),
        status_of: Callable[[bytes], int] | None = None,
        is_standalone: bool = False,
        is_resumable: bool = False,
        after: int = 0,
        opening: bytes = b"",
        reply_format: ReplyFormat = ReplyFormat.ANY,
    ) -> None:
        self._stream = stream
        self._reader = StreamReader(stream, after)
        self._format = reply_format
        self._on_disconnect = on_disconnect
        self._extra_headers = extra_headers
        self._status_of = status_of
        self._is_standalone = is_standalone
        self._is_resumable = is_resumable
        self._opening = opening

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        connection, reader = HttpConnection.of(scope), self._reader
        self._stream.readers.append(reader)
        try:
            connection.watch(reader.leave)
            await self._send(send)
        except ClientDisconnect:
            pass
        finally:
            self._stream.remove_reader(reader)
            connection.unwatch(reader.leave)
        if reader.has_client_left:
            self._on_disconnect()

    async def _send(self, send: Send) -> None:
        resumed_from, first = self._reader.after, None
        if self._format is ReplyFormat.DOCUMENT:
            while (frame := await self._reader.next()) is not None and not frame.is_reply:
                pass
            await self._send_document(send, frame)
            return
        if not self._is_standalone:
            try:
                first = await self._reader.next(RESUMABLE_DOCUMENT_SECONDS if self._is_resumable else DOCUMENT_SECONDS)
            except TimeoutError:
                pass
            else:
                if first is None or first.is_reply:
                    await self._send_document(send, first)
                    return
        await self._start(send, 200, SSE_HEADERS)
        if self._is_resumable:  # so that it can be resumed even if nothing else was sent
            start = f"id: {self._stream.name}-{resumed_from}\nretry: {RETRY_MS}\ndata:\n\n".encode()
            await send({"type": "http.response.body", "body": start, "more_body": True})
        if self._opening:
            await send({"type": "http.response.body", "body": self._opening, "more_body": True})
        async for data in self._events(first):
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _send_document(self, send: Send, reply: StreamFrame | None) -> None:
        """Send the reply alone and in one piece, if need be as the only event of a stream."""
        body, headers = reply.data if reply else b"", JSON_HEADERS
        status = self._stream.status if reply is None else self._status_of(body) if self._status_of is not None else 200
        is_event = self._is_resumable or self._format is ReplyFormat.STREAM
        if reply is not None and is_event and status == 200:
            body, headers = self._event(reply), SSE_HEADERS
        await self._start(send, status, (*headers, (b"content-length", b"%d" % len(body))))
        await send({"type": "http.response.body", "body": body})

    async def _start(self, send: Send, status: int, headers: RawHeaders) -> None:
        await send({"type": "http.response.start", "status": status, "headers": (*headers, *self._extra_headers)})

    def _event(self, frame: StreamFrame) -> bytes:
        return sse_event(frame.data, id=f"{self._stream.name}-{frame.number}" if self._is_resumable else "")

    async def _events(self, first: StreamFrame | None) -> AsyncIterator[bytes]:
        """Each frame as an event, and heartbeats between them, until the reply or the end of the stream."""
        frame = first
        while True:
            if frame is not None:
                yield self._event(frame)
                if frame.is_reply:
                    return
            try:
                frame = await self._reader.next(HEARTBEAT_SECONDS)
            except TimeoutError:
                frame = None
                yield b": still here\n\n"
                continue
            if frame is None:
                return
