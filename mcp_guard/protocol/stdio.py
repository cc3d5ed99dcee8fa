"""A conversation over two pipes: bytes to lines on the way in, frames and back-pressure on the way out."""

import asyncio
import os
import signal
import stat
from collections.abc import Callable
from typing import IO

# Newline-delimited frames (MCP stdio transport) with a bound on their size. Parses nothing.


class LineSplitter:
    """Splits a byte stream into lines. A line over `limit` bytes is dropped whole and reported as None."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._dropping = False

    def feed(self, data: bytes) -> list[bytes | None]:
        """The lines that this chunk completes, without their newline; blank lines are left out."""
        end = data.find(b"\n")
        if end < 0:
            self._keep(data)
            return []
        if end == len(data) - 1 <= self._limit and not self._buffer and not self._dropping:  # one whole line, mostly
            return [] if data.isspace() else [data[:-1]]
        first, *rest = data.split(b"\n")
        self._keep(first)
        lines: list[bytes | None] = [self._take()]
        tail = rest.pop()
        lines += [line if len(line) <= self._limit else None for line in rest]
        self._keep(tail)
        return [line for line in lines if line is None or line.strip()]

    def _keep(self, data: bytes) -> None:
        if self._dropping:
            return
        self._buffer += data
        if len(self._buffer) > self._limit:
            self._buffer.clear()
            self._dropping = True

    def _take(self) -> bytes | None:
        dropped, self._dropping = self._dropping, False
        line = bytes(self._buffer)
        self._buffer.clear()
        return None if dropped else line


# Signals to this process, told to the event loop.


def on_signal(number: signal.Signals, tell: Callable[[], object]) -> None:
    """From now on, call `tell` for each such signal: in the event loop if one runs, else at once.

    `loop.add_signal_handler` does the former, but asks `inspect` first, which is 0.7 MiB for one question.
    """

    def hear(*_: object) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            tell()
        else:
            loop.call_soon_threadsafe(tell)

    signal.signal(number, hear)


DRAIN_SECONDS = 0.5
"""How long we go on reading from a far end that has closed its input: what it has said already still counts."""


class _Reader(asyncio.Protocol):
    def __init__(
        self, lines: LineSplitter, on_line: Callable[[bytes | None], None], on_end: Callable[[], None]
    ) -> None:
        self._lines, self._on_line, self._on_end = lines, on_line, on_end

    def data_received(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            self._on_line(line)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_end()


class _Writer(asyncio.BaseProtocol):
    def __init__(self, on_pressure: Callable[[bool], None], on_broken: Callable[[], object]) -> None:
        self._on_pressure, self._on_broken = on_pressure, on_broken

    def pause_writing(self) -> None:
        self._on_pressure(True)

    def resume_writing(self) -> None:
        self._on_pressure(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_broken()


def _is_file(stream: IO[bytes]) -> bool:
    """Read and written at once: a regular file, or a device that cannot be waited on, such as /dev/null."""
    mode = os.fstat(stream.fileno()).st_mode
    return stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not stream.isatty())


class Pipes:
    """Two open pipes. `on_line` gets each line (None for one over the limit), `on_end` is told once when either breaks.

    `on_pressure(True)` says that the reader at the far end is slow, `on_pressure(False)` that it caught up.
    """

    def __init__(self, on_line: Callable[[bytes | None], None], on_end: Callable[[], None]) -> None:
        self._on_line, self._on_end = on_line, on_end
        self.on_pressure: Callable[[bool], None] = lambda _: None
        self._reading: asyncio.ReadTransport | None = None
        self._writing: asyncio.WriteTransport | None = None
        self._file: IO[bytes] | None = None
        """The sink, where it is a file (redirected output): those are written at once."""
        self._ended = False

    async def open(self, source: IO[bytes], sink: IO[bytes], limit: int) -> None:
        loop = asyncio.get_running_loop()
        if _is_file(sink):
            self._file = sink
        else:
            writer = _Writer(
                lambda slow: self.on_pressure(slow),  # noqa: PLW0108 - it is set later
                lambda: loop.call_later(DRAIN_SECONDS, self._end),
            )
            self._writing, _ = await loop.connect_write_pipe(lambda: writer, sink)
        reader = _Reader(LineSplitter(limit), self._on_line, self._end)
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
        """Send a frame; on one pipe, what it belongs to makes no difference."""
        if self._writing is not None and not self._writing.is_closing():
            self._writing.write(frame)
        elif self._file is not None:
            self._file.write(frame)
            self._file.flush()

    def throttle(self, slow: bool) -> None:
        """Stop or resume reading, while those that we write to are slow."""
        if self._reading is None or self._reading.is_closing():
            return
        if slow:
            self._reading.pause_reading()
        else:
            self._reading.resume_reading()

    def close(self, flush: bool = False) -> None:
        """Stop both ways; with `flush`, what was written still goes out."""
        self._ended = True
        if self._reading is not None:
            self._reading.close()
        if self._writing is not None and not self._writing.is_closing():
            if flush:
                self._writing.close()
            else:
                self._writing.abort()
