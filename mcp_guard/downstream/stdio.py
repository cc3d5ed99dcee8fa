"""The stdio front: one client on our own standard input and output, one session, until either end is gone."""

import asyncio
import signal
import sys
from typing import IO

from mcp_guard.core.printable import printable
from mcp_guard.downstream.session import Session
from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.protocol.stdio import Pipes, on_signal

GRACE_SECONDS = 5.0
"""How long calls in flight may finish after the client has closed its end."""


class StdioDownstreamTransport:
    """Implements `session.DownstreamTransport`. Standard output belongs to the protocol; notes go to standard error."""

    def __init__(self, message_bytes: int) -> None:
        self._limit = message_bytes
        self._ended = asyncio.Event()
        self._hurried = False
        self._session: Session
        self._pipes = Pipes(self._on_line, self._ended.set)

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        self._pipes.write(frame)

    def throttle(self, slow: bool) -> None:
        self._pipes.throttle(slow)

    def note(self, text: str) -> None:
        print("\n".join(map(printable, f"mcp-guard: {text}".splitlines())), file=sys.stderr, flush=True)

    def _on_line(self, line: bytes | None) -> None:
        self._session.receive_line(line)

    def heed_signals(self) -> None:
        """End on SIGTERM and SIGINT. To be called before there is a loop, or asyncio takes SIGINT for itself."""
        for name in (signal.SIGTERM, signal.SIGINT):
            on_signal(name, self._stop)

    def _stop(self) -> None:
        self._hurried = True
        self._ended.set()

    async def serve(self, session: Session, streams: tuple[IO[bytes], IO[bytes]] | None = None) -> None:
        """Serve one session; returns when the client is gone, or on a signal, with every upstream ended."""
        self._session = session
        self._pipes.on_pressure = session.upstreams.throttle
        source, sink = streams or (sys.stdin.buffer, sys.stdout.buffer)
        async with asyncio.TaskGroup() as tasks:
            session.open(tasks)
            await self._pipes.open(source, sink, self._limit)
            await self._ended.wait()
            await session.close(0 if self._hurried else GRACE_SECONDS)
            await session.upstreams.close()
            self._pipes.close(flush=True)
