"""The MCP stdio transport over two pipes: newline-delimited frames of bounded size, back-pressure, and signals.

Parses nothing.
"""

import asyncio
import os
import signal
import stat
from collections import deque
from collections.abc import Callable
from typing import IO


class LineSplitter:
    """Splits a byte stream into lines. A line over `limit` bytes is dropped whole and reported as None."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._dropping = False

    @property
    def pending_bytes(self) -> int:
        """The size of the line that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes | None]:
        """The lines that this chunk completes, without their newline; blank lines are left out."""
        end = data.find(b"\n")
        if end < 0:
            self._append(data)
            return []
        if (
            end == len(data) - 1 <= self._limit and not self._buffer and not self._dropping
        ):  # the usual case: one whole line
            return [] if data.isspace() else [data[:-1]]
        first, *rest = data.split(b"\n")
        self._append(first)
        lines: list[bytes | None] = [self._finish_line()]
        tail = rest.pop()
        lines += [line if len(line) <= self._limit else None for line in rest]
        self._append(tail)
        return [line for line in lines if line is None or line.strip()]

    def _append(self, data: bytes) -> None:
        if self._dropping:
            return
        self._buffer += data
        if len(self._buffer) > self._limit:
            self._buffer.clear()
            self._dropping = True

    def _finish_line(self) -> bytes | None:
        dropped, self._dropping = self._dropping, False
        line = bytes(self._buffer)
        self._buffer.clear()
        return None if dropped else line


def on_signal(number: signal.Signals, handler: Callable[[], object]) -> None:
    """Call `handler` for each such signal from now on: in the event loop if one runs, else directly.

    `loop.add_signal_handler` would do for the former, but it imports `inspect`, which costs 0.7 MiB.
    """

    def on_arrival(*_: object) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            handler()
        else:
            loop.call_soon_threadsafe(handler)

    signal.signal(number, on_arrival)


LINES_PER_TURN = 64
"""How many lines of one peer are handled before others have their turn."""
DRAIN_SECONDS = 0.5
"""How long to keep reading from a peer that has closed its input: what it has sent already still counts."""


class _PipeReader(asyncio.Protocol):
    """Passes lines on, a few in each turn of the event loop, so that a peer that sends many delays nobody else."""

    def __init__(
        self, lines: LineSplitter, on_line: Callable[[bytes | None], None], on_end: Callable[[], None]
    ) -> None:
        self._lines, self._on_line, self._on_end = lines, on_line, on_end
        self._waiting: deque[bytes | None] = deque()
        self._transport: asyncio.ReadTransport | None = None
        self._is_paused = self._is_scheduled = self._has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.ReadTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        lines = self._lines.feed(data)
        if len(lines) <= LINES_PER_TURN and not self._waiting and not self._is_paused:
            for line in lines:
                self._on_line(line)
            return
        self._waiting.extend(lines)
        self._schedule()
        self._apply_pause()

    def _schedule(self) -> None:
        if self._waiting and not self._is_paused and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._pass_on)

    def _pass_on(self) -> None:
        self._is_scheduled = False
        if self._is_paused:
            return
        for _ in range(min(LINES_PER_TURN, len(self._waiting))):
            self._on_line(self._waiting.popleft())
        if self._waiting:
            self._schedule()
        elif self._has_ended:
            self._on_end()
        else:
            self._apply_pause()

    def pause(self, is_paused: bool) -> None:
        if is_paused == self._is_paused:
            return
        self._is_paused = is_paused
        self._apply_pause()
        self._schedule()

    def _apply_pause(self) -> None:
        """Read no more while lines wait."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._is_paused or self._waiting:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_ended = True
        if not self._waiting:
            self._on_end()


class _PipeWriter(asyncio.BaseProtocol):
    def __init__(self, on_pressure: Callable[[bool], None], on_broken: Callable[[], object]) -> None:
        self._on_pressure, self._on_broken = on_pressure, on_broken

    def pause_writing(self) -> None:
        self._on_pressure(True)

    def resume_writing(self) -> None:
        self._on_pressure(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_broken()


def _is_file(stream: IO[bytes]) -> bool:
    """Whether a stream is read and written directly: a regular file, or a device that cannot be polled (/dev/null)."""
    mode = os.fstat(stream.fileno()).st_mode
    return stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not stream.isatty())


class Pipes:
    """A pair of pipes to one peer: lines come in on one, frames go out on the other.

    `on_end` is called once, when either pipe breaks or the peer closes its end.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._reading: asyncio.ReadTransport | None = None
        self._reader: _PipeReader | None = None
        self._writing: asyncio.WriteTransport | None = None
        self._file: IO[bytes] | None = None
        """The sink, if it is a file (redirected output): files are written to directly."""
        self._ended = False

    async def open(
        self,
        source: IO[bytes],
        sink: IO[bytes],
        *,
        limit: int,
        on_line: Callable[[bytes | None], None],
        on_pressure: Callable[[bool], None],
    ) -> None:
        """Start to read and write.

        `on_line` gets each line; None for one of more than `limit` bytes. `on_pressure(True)` reports that the reader
        at the far end is slow, `on_pressure(False)` that it has caught up.
        """
        loop = asyncio.get_running_loop()
        if _is_file(sink):
            self._file = sink
        else:
            writer = _PipeWriter(on_pressure, lambda: loop.call_later(DRAIN_SECONDS, self._end))
            self._writing, _ = await loop.connect_write_pipe(lambda: writer, sink)
        self._reader = reader = _PipeReader(LineSplitter(limit), on_line, self._end)
        if _is_file(source):
            loop.call_soon(reader.data_received, source.read())
            loop.call_soon(reader.connection_lost, None)
        else:
            self._reading, _ = await loop.connect_read_pipe(lambda: reader, source)

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._on_end()

    def write(self, frame: bytes, about: object = None, last: bool = False) -> None:
        """Send a frame. There is one pipe, so it makes no difference which request the frame belongs to."""
        if self._writing is not None and not self._writing.is_closing():
            self._writing.write(frame)
        elif self._file is not None:
            self._file.write(frame)
            self._file.flush()

    def throttle(self, slow: bool) -> None:
        """Stop reading (True) or go on (False), while whoever gets what is read is slow."""
        if self._reader is not None:
            self._reader.pause(slow)

    def close(self, flush: bool = False) -> None:
        """Close both pipes; with `flush`, frames that were written still go out."""
        self._ended = True
        if self._reading is not None:
            self._reading.close()
        if self._writing is not None and not self._writing.is_closing():
            if flush:
                self._writing.close()
            else:
                self._writing.abort()
