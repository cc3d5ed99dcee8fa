"""The MCP stdio transport over two pipes: newline-delimited frames of bounded size, back-pressure, and signals.

Parses nothing.
"""

import asyncio
import os
import signal
import stat
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


DRAIN_SECONDS = 0.5
"""How long to keep reading from a peer that has closed its input: what it has sent already still counts."""


class _PipeReader(asyncio.Protocol):
    def __init__(
        self, lines: LineSplitter, on_line: Callable[[bytes | None], None], on_end: Callable[[], None]
    ) -> None:
        self._lines, self._on_line, self._on_end = lines, on_line, on_end

    def data_received(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            self._on_line(line)

    def connection_lost(self, exc: Exception | None) -> None:
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
        reader = _PipeReader(LineSplitter(limit), on_line, self._end)
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
        if self._reading is None or self._reading.is_closing():
            return
        if slow:
            self._reading.pause_reading()
        else:
            self._reading.resume_reading()

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
