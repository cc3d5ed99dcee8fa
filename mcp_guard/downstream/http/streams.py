"""One client over HTTP: which response each frame goes out on.

A reply goes out on the response to its request, and what belongs to a request before it. What an upstream says or asks
of its own accord goes out on the latest open response, else on the standing one (the client's GET), else it waits for
one. Format of a stream: server-sent events (HTML Living Standard §9.2).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mcp_guard.protocol.jsonrpc import Id

KEPT_FRAMES = 1000
REPLAYED_FRAMES = 100
"""How many frames of a response that were sent already are kept for a client that lost its connection."""
LEFT_STREAMS = 16
"""How many responses of a session may wait for such a client to come back."""
PATIENCE_SECONDS = 1.0
"""How long a response may stay undecided between one JSON document and a stream."""
PRIMED_SECONDS = 0.1
"""The same where the client needs to have something to come back with."""
HEARTBEAT_SECONDS = 15.0
RETRY_MS = 1000
STANDING = "standing"
"""The name of the response that belongs to no request; others are numbered."""
SSE_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"}


class Stream:
    """The frames of one response, numbered from 1; `last` of a frame says that it is the reply.

    `readers` counts the responses that send it: none while the client is away.
    """

    def __init__(self, name: str, kept: int = KEPT_FRAMES) -> None:
        self.name = name
        self.readers = 0
        self._kept = kept
        self._frames: deque[tuple[bytes, bool]] = deque()
        self._gone = self._read = 0
        """How many frames are kept no more, and have been read by anybody."""
        self._news = asyncio.Event()
        self._ended = False

    def put(self, frame: bytes, last: bool) -> None:
        self._frames.append((frame, last))
        self._forget()
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    def _forget(self) -> None:
        while len(self._frames) > self._kept or self._read - self._gone > REPLAYED_FRAMES:
            self._frames.popleft()
            self._gone += 1

    @property
    def read(self) -> int:
        return self._read

    @property
    def is_delivered(self) -> bool:
        return bool(self._frames and self._frames[-1][1]) and self._read == self._gone + len(self._frames)

    def anew(self) -> "Stream":
        """The same, with what there is; whoever reads this one is at its end."""
        made = Stream(self.name, self._kept)
        made._frames, self._frames = self._frames, made._frames
        made._gone, made._read = self._gone, self._read
        self.end()
        return made

    async def next(self, after: int) -> tuple[int, bytes, bool] | None:
        """The first frame after this number, once there is one; None if there will be none."""
        while after >= self._gone + len(self._frames):
            if self._ended:
                return None
            self._news.clear()
            await self._news.wait()
        number = max(after, self._gone) + 1
        frame, last = self._frames[number - self._gone - 1]
        self._read = max(self._read, number)
        self._forget()
        return number, frame, last


class HttpDownstreamTransport:
    """Implements `session.DownstreamTransport`."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self.is_single = False
        """Whether everything goes out on the standing response, replies too (2024-11-05)."""
        self.stray: bytes | None = None
        """The answer to a frame that had no id to answer to."""
        self._streams: dict[Id, Stream] = {}
        self._left: dict[str, Stream] = {}
        """Responses, by name, that a client may come back to."""
        self._standing = Stream(STANDING)
        self._last = 0

    def throttle(self, slow: bool) -> None:
        """A client over HTTP waits for its answers anyway."""

    def open(self, request: Id) -> Stream:
        self._last += 1
        stream = self._streams[request] = Stream(str(self._last))
        return stream

    def leave(self, request: Id) -> None:
        """The client is gone from this response, for good."""
        self._streams.pop(request, None)

    def keep(self, stream: Stream) -> None:
        """The client is gone from this response, perhaps to come back."""
        if stream.name == STANDING:
            return
        away = [each for each in self._left.values() if not each.readers and not each.is_delivered]
        self._left = {each.name: each for each in (*away[-LEFT_STREAMS:], stream)}

    def stand(self) -> Stream:
        """What goes out on the standing response; one before it ends."""
        if self._standing.readers:
            self._standing = self._standing.anew()
        return self._standing

    def find(self, event: str) -> tuple[Stream, int] | None:
        """The response that an event belonged to, and the event's number in it."""
        name, _, number = event.rpartition("-")
        open_ones = (each for each in self._streams.values() if each.name == name)
        stream = self._standing if name == self._standing.name else self._left.get(name) or next(open_ones, None)
        return (stream, int(number)) if stream is not None and number.isdecimal() else None

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        if last and about is None:
            self.stray = frame
        elif about is not None:
            stream = self._streams.pop(about, None) if last else self._streams.get(about)
            if stream is not None:
                stream.put(frame, last)
            elif self.is_single:
                self._standing.put(frame, False)
        else:
            attended = (each for each in reversed(self._streams.values()) if each.readers)
            next(attended, self._standing).put(frame, False)

    def close(self) -> None:
        for stream in (*self._streams.values(), *self._left.values(), self._standing):
            stream.end()


def event(frame: bytes, name: bytes = b"message", id: str = "") -> bytes:
    said = b"id: " + id.encode() + b"\n" if id else b""
    return said + b"event: " + name + b"\ndata: " + frame.rstrip(b"\n") + b"\n\n"


@dataclass(frozen=True, slots=True)
class How:
    """How a request is answered: further headers, the HTTP status of a reply, whether the stream just stands, and
    whether a client that loses it can come back (2025-11-25): its events then have ids, and it is always a stream.
    `after` is the number of the last frame that the client has."""

    headers: Mapping[str, str] = field(default_factory=dict)
    status: Callable[[bytes], int] = lambda _: 200
    standing: bool = False
    resumable: bool = False
    after: int = 0


Frame = tuple[int, bytes, bool]


class McpResponse(Response):
    """The response to one request: a JSON document if its reply comes soon and alone, else a stream of events.

    `on_gone` is told if the client leaves before the reply.
    """

    def __init__(self, stream: Stream, on_gone: Callable[[], None], how: "How") -> None:
        self._stream = stream
        self._on_gone = on_gone
        self._how = how
        self._number = how.after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._stream.readers += 1
        gone = asyncio.ensure_future(_until_gone(receive))
        answering = asyncio.ensure_future(self._answer(send))
        try:
            await asyncio.wait((gone, answering), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                self._on_gone()
        finally:
            gone.cancel()
            answering.cancel()
            await asyncio.gather(gone, answering, return_exceptions=True)
            self._stream.readers -= 1

    async def _next(self, seconds: float) -> Frame | None:
        """Raises: TimeoutError."""
        async with asyncio.timeout(seconds):
            found = await self._stream.next(self._number)
        if found is not None:
            self._number = found[0]
        return found

    async def _answer(self, send: Send) -> None:
        first: Frame | None = None
        if not self._how.standing:
            try:
                first = await self._next(PRIMED_SECONDS if self._how.resumable else PATIENCE_SECONDS)
            except TimeoutError:
                pass
            else:
                if first is None or first[2]:
                    await self._send_whole(send, first)
                    return
        await self._start(send, 200, SSE_HEADERS)
        if self._how.resumable:  # so that it can be resumed even if nothing else came
            start = f"id: {self._stream.name}-{self._how.after}\nretry: {RETRY_MS}\ndata:\n\n".encode()
            await send({"type": "http.response.body", "body": start, "more_body": True})
        async for data in self._events(first):
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _send_whole(self, send: Send, first: Frame | None) -> None:
        """The reply alone, in one piece."""
        body, headers = first[1] if first else b"", {"content-type": "application/json"}
        status = self._how.status(body) if first else 503
        if first is not None and self._how.resumable:
            body, headers = self._event(first), SSE_HEADERS
        await self._start(send, status, {**headers, "content-length": str(len(body))})
        await send({"type": "http.response.body", "body": body})

    async def _start(self, send: Send, status: int, headers: dict[str, str]) -> None:
        raw = [(name.encode(), value.encode()) for name, value in {**headers, **self._how.headers}.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})

    def _event(self, frame: Frame) -> bytes:
        return event(frame[1], id=f"{self._stream.name}-{frame[0]}" if self._how.resumable else "")

    async def _events(self, first: Frame | None) -> AsyncIterator[bytes]:
        found = first
        while True:
            if found is not None:
                yield self._event(found)
                if found[2]:
                    return
            try:
                found = await self._next(HEARTBEAT_SECONDS)
            except TimeoutError:
                found = None
                yield b": still here\n\n"
                continue
            if found is None:
                return


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
