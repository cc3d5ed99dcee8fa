"""The standing `GET` stream of a session: what an upstream sends without being asked ("Listening for Messages").

It is optional, and its trouble is its own: it is opened again after a pause, from where it broke off, and ends nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from enum import Enum, auto

import httpx2 as httpx

from mcp_guard.protocol.batches import split_batch
from mcp_guard.protocol.sse import StreamPosition
from mcp_guard.upstream.http_body import READ_ERRORS
from mcp_guard.upstream.http_reading import ResponseReader, is_event_stream
from mcp_guard.upstream.transport import MessageHandler

BACK_OFF = 2.0
MAX_PAUSE_SECONDS = 60.0
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses that may be gone the next time; 409 where the server has not noticed yet that the last stream has ended."""
STABLE_SECONDS = 5.0
"""A stream that lasted this long, or brought an event, is opened again after the pause that the upstream names."""


class _Ending(Enum):
    """How one attempt went."""

    WORKED = auto()
    FAILED = auto()
    REFUSED = auto()
    """There is no such stream, or not for this session."""


class StandingStream:
    """`connect` opens the stream after the event of this id; `on_refused` is awaited if it was open before.

    What `on_refused` returns says whether to go on trying.
    """

    def __init__(
        self,
        connect: Callable[[str], AbstractAsyncContextManager[httpx.Response]],
        reader: ResponseReader,
        handler: MessageHandler,
        on_refused: Callable[[], Awaitable[bool]],
    ) -> None:
        self._connect = connect
        self._reader = reader
        self._handler = handler
        self._on_refused = on_refused
        self._position = StreamPosition()
        self._was_open = False
        self.is_open = False

    async def run(self) -> None:
        """Read until the upstream refuses the stream."""
        failures = 0
        while True:
            ending = await self._read_once()
            if ending is _Ending.REFUSED and not (self._was_open and await self._on_refused()):
                return
            failures = 0 if ending is _Ending.WORKED else failures + 1
            pause = self._position.retry * BACK_OFF ** max(failures - 1, 0)
            await asyncio.sleep(min(pause, MAX_PAUSE_SECONDS))

    async def _read_once(self) -> _Ending:
        loop, has_moved = asyncio.get_running_loop(), False
        opened_at, before = loop.time(), self._position.id
        try:
            async with self._connect(self._position.id) as response:
                if response.status_code != 200:
                    return _Ending.FAILED if response.status_code in PASSING else _Ending.REFUSED
                if not is_event_stream(response):
                    return _Ending.REFUSED
                self._was_open = self.is_open = True
                async with aclosing(self._reader.read_messages(response, self._position)) as messages:
                    async for data in messages:
                        has_moved = True
                        self._hand_on(data)
        except READ_ERRORS:
            pass
        finally:
            self.is_open = False
        has_moved |= self._position.id != before or loop.time() - opened_at >= STABLE_SECONDS
        return _Ending.WORKED if self._was_open and has_moved else _Ending.FAILED

    def _hand_on(self, data: bytes | None) -> None:
        for frame in [None] if data is None else split_batch(data):
            self._handler.on_message(frame)
