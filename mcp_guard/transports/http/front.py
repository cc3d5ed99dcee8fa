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

from mcp_guard.wire.peer import Id

KEPT_FRAMES = 1000
PATIENCE_SECONDS = 1.0
"""How long a response may stay undecided between one JSON document and a stream."""
HEARTBEAT_SECONDS = 15.0
SSE_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no"}


class Stream:
    """The frames of one response, in order; `last` of a frame says that it is the reply."""

    def __init__(self) -> None:
        self._frames: asyncio.Queue[tuple[bytes, bool] | None] = asyncio.Queue()

    def put(self, frame: bytes, last: bool) -> None:
        self._frames.put_nowait((frame, last))

    def end(self) -> None:
        self._frames.put_nowait(None)

    async def next(self) -> tuple[bytes, bool] | None:
        return await self._frames.get()


class HttpFront:
    """Implements `session.Front`."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self.is_single = False
        """Whether everything goes out on the standing response, replies too (2024-11-05)."""
        self.stray: bytes | None = None
        """The answer to a frame that had no id to answer to."""
        self._streams: dict[Id, Stream] = {}
        self._standing: Stream | None = None
        self._kept: deque[bytes] = deque(maxlen=KEPT_FRAMES)

    def throttle(self, slow: bool) -> None:
        """A client over HTTP waits for its answers anyway."""

    def open(self, request: Id) -> Stream:
        self._streams[request] = Stream()
        return self._streams[request]

    def leave(self, request: Id) -> None:
        self._streams.pop(request, None)

    def stand(self) -> Stream:
        """The standing response; one before it ends."""
        if self._standing is not None:
            self._standing.end()
        self._standing = Stream()
        while self._kept:
            self._standing.put(self._kept.popleft(), False)
        return self._standing

    def sit(self, stream: Stream) -> None:
        """The standing response is over."""
        if self._standing is stream:
            self._standing = None

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        if last and about is None:
            self.stray = frame
        elif about is not None:
            stream = self._streams.pop(about, None) if last else self._streams.get(about)
            if stream is not None:
                stream.put(frame, last)
            elif self.is_single and self._standing is not None:
                self._standing.put(frame, False)
        elif stream := next(reversed(self._streams.values()), None) or self._standing:
            stream.put(frame, False)
        else:
            self._kept.append(frame)

    def close(self) -> None:
        for stream in self._streams.values():
            stream.end()
        if self._standing is not None:
            self._standing.end()


def event(frame: bytes, name: bytes = b"message") -> bytes:
    return b"event: " + name + b"\ndata: " + frame.rstrip(b"\n") + b"\n\n"


@dataclass(frozen=True, slots=True)
class How:
    """How a request is answered: further headers, the HTTP status of a reply, and whether the stream just stands."""

    headers: Mapping[str, str] = field(default_factory=dict)
    status: Callable[[bytes], int] = lambda _: 200
    standing: bool = False


class Answer(Response):
    """The response to one request: a JSON document if its reply comes soon and alone, else a stream of events.

    `on_gone` is told if the client leaves before the reply.
    """

    def __init__(self, stream: Stream, on_gone: Callable[[], None], how: "How") -> None:
        self._stream = stream
        self._on_gone = on_gone
        self._how = how

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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

    async def _answer(self, send: Send) -> None:
        first: tuple[bytes, bool] | None = None
        if not self._how.standing:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    first = await self._stream.next()
            except TimeoutError:
                pass
            else:
                if first is None or first[1]:
                    await self._send_document(send, first)
                    return
        await self._start(send, 200, SSE_HEADERS)
        async for data in self._events(first):
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _send_document(self, send: Send, first: tuple[bytes, bool] | None) -> None:
        body = first[0] if first else b""
        status = self._how.status(body) if first else 503
        await self._start(send, status, {"content-type": "application/json", "content-length": str(len(body))})
        await send({"type": "http.response.body", "body": body})

    async def _start(self, send: Send, status: int, headers: dict[str, str]) -> None:
        raw = [(name.encode(), value.encode()) for name, value in {**headers, **self._how.headers}.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})

    async def _events(self, first: tuple[bytes, bool] | None) -> AsyncIterator[bytes]:
        found = first
        while True:
            if found is not None:
                yield event(found[0])
                if found[1]:
                    return
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    found = await self._stream.next()
            except TimeoutError:
                found = None
                yield b": still here\n\n"
                continue
            if found is None:
                return


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
