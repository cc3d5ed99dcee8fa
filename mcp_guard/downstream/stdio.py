"""The stdio transport: one client on our own standard input and output, one session, until either end closes."""

import asyncio
import signal
import sys
from collections.abc import Callable
from typing import IO

from mcp_guard.downstream.session import Session
from mcp_guard.protocol.batches import each_message
from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.protocol.stdio import Pipes, on_signal

GRACE_SECONDS, STOP_SECONDS = 0.8, 0.3
"""How long running calls may take to finish after the client has closed its end. The whole shutdown must be over before
a host loses patience (see `upstream/stdio.py`); after SIGTERM there is less time left."""


class StdioDownstreamTransport:
    """Implements `session.DownstreamTransport`. Standard output belongs to the protocol."""

    def __init__(self, message_bytes: int, note: Callable[[str], None]) -> None:
        self.note = note
        self._limit = message_bytes
        self._ended = asyncio.Event()
        self._is_stopped = False
        self._pipes = Pipes(self._ended.set)

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        self._pipes.write(frame)

    def drop_reply(self, request: Id) -> None:
        """Nothing waits for it."""

    def throttle(self, slow: bool) -> None:
        self._pipes.throttle(slow)

    def stop_on_signals(self) -> None:
        """End on SIGTERM and SIGINT. Call this before the event loop starts, or asyncio takes SIGINT for itself."""
        for number in (signal.SIGTERM, signal.SIGINT):
            on_signal(number, self._stop)

    def _stop(self) -> None:
        self._is_stopped = True
        self._ended.set()

    async def serve(self, session: Session, streams: tuple[IO[bytes], IO[bytes]] | None = None) -> None:
        """Serve one session; returns when the client is gone, or on a signal, with every upstream ended."""
        source, sink = streams or (sys.stdin.buffer, sys.stdout.buffer)
        async with session.tasks:
            await self._pipes.open(
                source,
                sink,
                limit=self._limit,
                on_line=each_message(session.receive_line),
                on_pressure=session.upstreams.throttle,
            )
            await self._ended.wait()
            if self._is_stopped:
                session.guard.approvals.stop_waiting()
            await session.close(STOP_SECONDS if self._is_stopped else GRACE_SECONDS)
            self._pipes.close(flush=True)
