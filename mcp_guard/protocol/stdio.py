"""The MCP stdio transport over two pipes: newline-delimited frames of bounded size, back-pressure, and signals.

Of the messages it only tells where they end.
"""

import asyncio
import os
import select
import signal
import stat
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from mcp_guard.core.message_remains import HEAD_BYTES, TAIL_BYTES, OversizedLine, bracket_depth, strip_noise

Line = bytes | OversizedLine
MIN_PART_BYTES = 4096
"""Shorter pieces of a line are joined as they come: each object takes memory of its own."""


class LineSplitter:
    """Splits a byte stream into lines. Of a line over `limit` bytes only both ends are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        """The pieces of the line that is not complete yet."""
        self._size = 0
        self._dropped: OversizedLine | None = None
        """What is kept of the line that is being dropped."""

    @property
    def pending_bytes(self) -> int:
        """The size of the line that is not complete yet."""
        return self._size

    def feed(self, data: bytes) -> list[Line]:
        """The lines that this chunk completes, without their newline; blank lines are left out."""
        end = data.find(b"\n")
        if end < 0:
            self._append(data)
            return []
        # The usual case: one whole line.
        if end == len(data) - 1 <= self._limit and not self._size and self._dropped is None:
            return [] if data.isspace() else [data[:-1]]
        first, *rest = data.split(b"\n")
        self._append(first)
        lines = [self._finish_line()]
        tail = rest.pop()
        lines += [line if len(line) <= self._limit else both_ends(line) for line in rest]
        self._append(tail)
        return [line for line in lines if not isinstance(line, bytes) or line.strip()]

    def finish(self) -> list[Line]:
        """The last line, if the stream ended without a newline."""
        line = self._finish_line()
        return [line] if not isinstance(line, bytes) or line.strip() else []

    def take_unended(self) -> Line | None:
        """The line that is not complete yet, if it seems to end a message: its sender has left out the newline.

        That is, it is an object whose brackets are all closed, or the last line of indented JSON.
        """
        text = strip_noise(b"".join(self._parts))
        is_complete = text == b"}" or (text.startswith(b"{") and bracket_depth(text) == 0)
        return self._finish_line() if is_complete else None

    def _append(self, data: bytes) -> None:
        if self._dropped is not None:
            self._dropped = OversizedLine(self._dropped.head, (self._dropped.tail + data[-TAIL_BYTES:])[-TAIL_BYTES:])
            return
        if self._parts and len(self._parts[-1]) < MIN_PART_BYTES:
            self._parts[-1] += data
        else:
            self._parts.append(data)
        self._size += len(data)
        if self._size > self._limit:
            self._dropped = both_ends(self._take_parts())

    def _finish_line(self) -> Line:
        dropped, self._dropped = self._dropped, None
        return self._take_parts() if dropped is None else dropped

    def _take_parts(self) -> bytes:
        line = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return line


def both_ends(line: bytes) -> OversizedLine:
    return OversizedLine(bytes(line[:HEAD_BYTES]), bytes(line[-TAIL_BYTES:]))


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


QUIET_SECONDS, SEARCHED_BYTES_PER_SECOND = 0.5, 10_000_000
"""How long a line may be without its newline before it is looked at: longer for a long line, which takes time."""

MAX_BLANKS = 16
"""How many blanks may follow the brace."""


class _PipeReader(asyncio.Protocol):
    """Passes lines on, a few in each turn of the event loop, so that a peer that sends many delays nobody else."""

    def __init__(self, lines: LineSplitter, on_line: Callable[[Line], None], on_end: Callable[[], None]) -> None:
        self._lines, self._on_line, self._on_end = lines, on_line, on_end
        self._waiting: deque[Line] = deque()
        self._transport: asyncio.ReadTransport | None = None
        self._is_paused = self._is_scheduled = self._has_ended = self._is_stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.ReadTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        lines = self._lines.feed(data)
        if data[-MAX_BLANKS:].rstrip().endswith(b"}") and (size := self._lines.pending_bytes):
            quiet = QUIET_SECONDS + size / SEARCHED_BYTES_PER_SECOND
            asyncio.get_running_loop().call_later(quiet, self._take_unended, size)
        if len(lines) <= LINES_PER_TURN and not self._waiting and not self._is_paused:
            for line in lines:
                self._on_line(line)
            return
        self._waiting.extend(lines)
        self._schedule()
        self._apply_pause()

    def _take_unended(self, size: int) -> None:
        """Nothing has followed a brace for a while: it may end a message whose sender leaves out the newline."""
        if size == self._lines.pending_bytes and not self._is_stopped:
            line = self._lines.take_unended()
            if line is not None:
                self._waiting.append(line)
                self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._is_paused and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._pass_on)

    def _pass_on(self) -> None:
        self._is_scheduled = False
        if self._is_paused or self._is_stopped:
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

    def stop(self) -> None:
        """Pass on nothing more."""
        self._is_stopped = True
        self._waiting.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_ended = True
        if not self._is_stopped:
            self._waiting.extend(self._lines.finish())
        if self._waiting:
            self._schedule()
        else:
            self._on_end()


HIGH_WATER_BYTES, LOW_WATER_BYTES = 64 * 1024, 16 * 1024
"""How much may wait for a slow reader before there is pressure, and when that ends."""
REMEMBERED_BYTES = 64 * 1024
"""How much of what has left is remembered: a pipe holds no more, so anything older was read."""
FRAMES_PER_TURN = 64


class _PipeWriter:
    """Writes frames to a pipe, in order, and knows which of them nobody has got anything of.

    A transport of asyncio does not tell how far it has come when its pipe breaks. `on_broken` is called once, when
    the far end was closed. With `remembers_frames`, frames that lie in the pipe can be told from those that were read.
    """

    def __init__(
        self,
        sink: IO[bytes],
        on_pressure: Callable[[bool], None],
        on_broken: Callable[[], object],
        remembers_frames: bool,
    ) -> None:
        self._sink, self._fd = sink, sink.fileno()
        self._on_pressure, self._on_broken = on_pressure, on_broken
        self._remembers_frames = remembers_frames
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._written = 0
        """Bytes of the first waiting frame that have left."""
        self._left: deque[bytes] = deque()
        """The latest frames that have left."""
        self._left_bytes = 0
        self._is_slow = self._is_scheduled = self._is_broken = self._is_closing = self._is_closed = False
        os.set_blocking(self._fd, False)
        mode = os.fstat(self._fd).st_mode
        self._is_pipe = stat.S_ISFIFO(mode)
        if self._is_pipe or stat.S_ISSOCK(mode):
            self._loop.add_reader(self._fd, self._on_event)

    def write(self, frame: bytes) -> None:
        if self._is_closing:
            return
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)
        if len(self._waiting) == 1 and not self._is_broken:
            self._write_on()
        if not self._is_slow and self._waiting_bytes > HIGH_WATER_BYTES:
            self._is_slow = True
            self._on_pressure(True)

    def _write_on(self) -> None:
        """Write until the pipe is full, but not for long."""
        turns = 0
        while self._waiting and turns < FRAMES_PER_TURN:
            turns += 1
            frame = self._waiting[0]
            try:
                self._written += os.write(self._fd, memoryview(frame)[self._written :] if self._written else frame)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self._break()
                return
            if self._written < len(frame):
                break
            self._finish_first(frame)
        if self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.add_writer(self._fd, self._write_on)
        elif not self._waiting and self._is_scheduled:
            self._stop_writing()
            if self._is_closing:
                self.close()
        if self._is_slow and self._waiting_bytes <= LOW_WATER_BYTES:
            self._is_slow = False
            self._on_pressure(False)

    def _finish_first(self, frame: bytes) -> None:
        self._waiting.popleft()
        self._waiting_bytes -= len(frame)
        self._written = 0
        if self._remembers_frames:
            self._left.append(frame)
            self._left_bytes += len(frame)
            while self._left_bytes > REMEMBERED_BYTES:
                self._left_bytes -= len(self._left.popleft())

    def _on_event(self) -> None:
        if self._poll() & (select.POLLERR | select.POLLHUP):
            self._break()
        else:  # a socket that is read under another number
            self._loop.remove_reader(self._fd)

    def _poll(self) -> int:
        poll = select.poll()
        poll.register(self._fd, 0)
        return sum(events for _, events in poll.poll(0))

    def _break(self) -> None:
        if self._is_broken or self._is_closed:
            return
        self._is_broken = True
        self._unregister()
        self._on_broken()

    def _stop_writing(self) -> None:
        self._is_scheduled = False
        self._loop.remove_writer(self._fd)

    def _unregister(self) -> None:
        self._loop.remove_reader(self._fd)
        self._stop_writing()

    def withdraw(self, is_it: Callable[[bytes], bool]) -> bool:
        """Drop a frame that nobody has read any of, nor could. Returns whether there is one."""
        if self._is_broken:
            return any(map(is_it, self._unsent()))
        for index, frame in enumerate(self._waiting):
            if is_it(frame) and (index > 0 or not self._written):
                del self._waiting[index]
                self._waiting_bytes -= len(frame)
                return True
        return False

    def take_unsent(self) -> list[bytes]:
        """Write no more; returns the frames that nobody has read any of: still here, or in a pipe without a reader."""
        self._is_closing = True
        if self._is_closed:
            return []
        frames = self._unsent()
        self._waiting.clear()
        self._left.clear()
        self._waiting_bytes = self._left_bytes = self._written = 0
        self._stop_writing()
        return frames

    def _unsent(self) -> list[bytes]:
        """The frames of which nothing has left, or all lies unread in a pipe that has no reader any more."""
        started, unread = self._written, self._unread_bytes()
        frames = list(self._waiting)[started > unread :]
        unread -= started
        for frame in reversed(self._left):
            unread -= len(frame)
            if unread < 0:
                break
            frames.insert(0, frame)
        return frames

    def _unread_bytes(self) -> int:
        """Bytes in the pipe that nobody will ever read; 0 while somebody could, or where the system cannot tell."""
        if not self._is_pipe or not self._poll() & select.POLLERR:
            return 0
        import fcntl
        import termios

        try:
            return int.from_bytes(fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)), sys.byteorder)
        except OSError:
            return 0

    def close(self, flush: bool = False) -> None:
        """Close the pipe; with `flush`, once everything that waits has left."""
        self._is_closing = True
        if self._is_closed or (flush and self._waiting and not self._is_broken):
            return
        self._is_closed = True
        self._unregister()
        with suppress(OSError):
            self._sink.close()


def _is_file(stream: IO[bytes]) -> bool:
    """Whether a stream is read and written directly: a regular file, or a device that cannot be polled (/dev/null)."""
    mode = os.fstat(stream.fileno()).st_mode
    return stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not stream.isatty())


class Pipes:
    """A pair of pipes to one peer: lines come in on one, frames go out on the other.

    `on_end` is called once, when either pipe breaks or the peer closes its end. `remembers_frames` makes `take_unsent`
    exact, for a peer that closes its end with frames still in the pipe.
    """

    def __init__(self, on_end: Callable[[], None], remembers_frames: bool = False) -> None:
        self._on_end = on_end
        self._remembers_frames = remembers_frames
        self._reading: asyncio.ReadTransport | None = None
        self._reader: _PipeReader | None = None
        self._writer: _PipeWriter | None = None
        self._file: IO[bytes] | None = None
        """The sink, if it is a file (redirected output): files are written to directly."""
        self._ended = False

    async def open(
        self,
        source: IO[bytes],
        sink: IO[bytes],
        *,
        limit: int,
        on_line: Callable[[Line], None],
        on_pressure: Callable[[bool], None],
    ) -> None:
        """Start to read and write.

        `on_line` gets each line; of one of more than `limit` bytes, both ends. `on_pressure(True)` reports that the
        reader at the far end is slow, `on_pressure(False)` that it has caught up.
        """
        loop = asyncio.get_running_loop()
        if _is_file(sink):
            self._file = sink
        else:
            self._writer = _PipeWriter(
                sink, on_pressure, lambda: loop.call_later(DRAIN_SECONDS, self._end), self._remembers_frames
            )
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
        if self._writer is not None:
            self._writer.write(frame)
        elif self._file is not None:
            self._file.write(frame)
            self._file.flush()

    def withdraw(self, is_it: Callable[[bytes], bool]) -> bool:
        """Drop a frame of which the peer has read nothing, nor could. Returns whether there is one."""
        return self._writer is not None and self._writer.withdraw(is_it)

    def take_unsent(self) -> list[bytes]:
        """Write no more; returns the frames of which the peer has read nothing and never will."""
        return self._writer.take_unsent() if self._writer is not None else []

    def throttle(self, slow: bool) -> None:
        """Stop reading (True) or go on (False), while whoever gets what is read is slow."""
        if self._reader is not None:
            self._reader.pause(slow)

    def close(self, flush: bool = False) -> None:
        """Close both pipes; with `flush`, frames that were written still go out."""
        self._ended = True
        if self._reader is not None:
            self._reader.stop()
        if self._reading is not None:
            self._reading.close()
        if self._writer is not None:
            self._writer.close(flush)
