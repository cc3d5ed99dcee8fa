"""Lines of a pipe are passed on in order and completely, a few in each turn, and not while reading is paused.

Frames are written in order, and when a pipe breaks, it is known which of them nobody has read anything of.
"""

import asyncio
import os

from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.protocol.stdio import LINES_PER_TURN, Line, Pipes
from tests.proof_size import sized

COUNT = 5000


class Reading:
    """Reads a pipe into `lines`; `largest` is the most lines that came in one turn of the loop."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.largest = 0
        self.ended = asyncio.Event()
        self.pipes = Pipes(self.ended.set)
        near, self.far = os.pipe()
        self._source, self._sink = os.fdopen(near, "rb", 0), open(os.devnull, "wb")

    async def open(self) -> None:
        await self.pipes.open(
            self._source, self._sink, limit=1000, on_line=self.lines.append, on_pressure=lambda _: None
        )
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            before = len(self.lines)
            await asyncio.sleep(0)
            self.largest = max(self.largest, len(self.lines) - before)

    async def close(self) -> None:
        self._watching.cancel()
        self.pipes.close()
        await asyncio.sleep(0)
        self._sink.close()


async def test_a_flood_is_passed_on_in_turns_and_the_end_comes_last() -> None:
    reading = Reading()
    await reading.open()
    sent = [b"%d" % number for number in range(COUNT)]
    os.write(reading.far, b"\n".join(sent) + b"\n")
    os.close(reading.far)
    await asyncio.wait_for(reading.ended.wait(), 10)
    assert reading.lines == sent
    assert reading.largest <= 2 * LINES_PER_TURN
    await reading.close()


async def test_nothing_is_passed_on_while_paused() -> None:
    reading = Reading()
    await reading.open()
    os.write(reading.far, b"x\n" * COUNT)
    while not reading.lines:
        await asyncio.sleep(0)
    reading.pipes.throttle(True)
    before = len(reading.lines)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(reading.lines) == before < COUNT
    reading.pipes.throttle(False)
    os.close(reading.far)
    await asyncio.wait_for(reading.ended.wait(), 10)
    assert len(reading.lines) == COUNT
    await reading.close()


class Writing:
    """Writes to a pipe of which the test holds the far end."""

    def __init__(self) -> None:
        self.pressure: list[bool] = []
        self.ended = asyncio.Event()
        self.pipes = Pipes(self.ended.set, remembers_frames=True)
        self._near, self._silent = os.pipe()
        self.far, sink = os.pipe()
        self._source, self._sink = os.fdopen(self._near, "rb", 0), os.fdopen(sink, "wb", 0)

    async def open(self) -> None:
        await self.pipes.open(
            self._source, self._sink, limit=1000, on_line=lambda _: None, on_pressure=self.pressure.append
        )

    async def read(self, most: int) -> bytes:
        os.set_blocking(self.far, False)
        while True:
            try:
                return os.read(self.far, most)
            except BlockingIOError:
                await asyncio.sleep(0)

    def close(self) -> None:
        self.pipes.close()
        os.close(self._silent)


async def test_frames_arrive_in_order_however_slowly_they_are_read() -> None:
    writing = Writing()
    await writing.open()
    frames = [b"%d" % number * 5000 + b"\n" for number in range(200)]
    for frame in frames:
        writing.pipes.write(frame)
    received = b""
    while len(received) < sum(map(len, frames)):
        received += await writing.read(50_000)
    assert received == b"".join(frames)
    assert writing.pressure == [True, False]
    assert writing.pipes.take_unsent() == []
    os.close(writing.far)
    writing.close()


async def test_a_frame_to_a_pipe_that_was_closed_is_unsent() -> None:
    writing = Writing()
    await writing.open()
    os.close(writing.far)
    writing.pipes.write(b"never\n")
    assert writing.pipes.take_unsent() == [b"never\n"]
    await asyncio.wait_for(writing.ended.wait(), 5)
    writing.close()


async def test_a_frame_that_a_living_reader_could_still_read_is_not_called_unsent() -> None:
    writing = Writing()
    await writing.open()
    writing.pipes.write(b"in the pipe\n")
    assert writing.pipes.take_unsent() == []
    writing.pipes.write(b"after the end\n")
    assert os.read(writing.far, 100) == b"in the pipe\n"
    os.close(writing.far)
    writing.close()


async def test_a_waiting_frame_can_be_withdrawn_and_one_that_has_begun_to_leave_cannot() -> None:
    writing = Writing()
    await writing.open()
    first, second, third = b"1" * 100_000 + b"\n", b"2" * 10 + b"\n", b"3" * 10 + b"\n"
    for frame in (first, second, third):
        writing.pipes.write(frame)
    assert not writing.pipes.withdraw(lambda frame: frame == first)
    assert writing.pipes.withdraw(lambda frame: frame == second)
    assert not writing.pipes.withdraw(lambda frame: frame == second)
    received = b""
    while len(received) < len(first) + len(third):
        received += await writing.read(50_000)
    assert received == first + third
    os.close(writing.far)
    writing.close()


async def test_a_frame_in_a_pipe_without_a_reader_counts_as_withdrawn() -> None:
    writing = Writing()
    await writing.open()
    writing.pipes.write(b"read\n")
    assert os.read(writing.far, 100) == b"read\n"
    writing.pipes.write(b"in the pipe\n")
    assert not writing.pipes.withdraw(lambda frame: frame == b"in the pipe\n")
    os.close(writing.far)
    await asyncio.wait_for(writing.ended.wait(), 5)
    assert writing.pipes.withdraw(lambda frame: frame == b"in the pipe\n")
    assert not writing.pipes.withdraw(lambda frame: frame == b"read\n")
    writing.close()


@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=12), st.integers(0, 200_000))
@settings(max_examples=sized(60, 20), deadline=None)
def test_exactly_the_frames_that_nobody_has_read_anything_of_are_unsent(sizes: list[int], reads: int) -> None:
    async def run() -> None:
        writing = Writing()
        await writing.open()
        frames = [b"x" * (size - 1) + b"\n" for size in sizes]
        for frame in frames:
            writing.pipes.write(frame)
        total, left = 0, min(reads, sum(sizes))
        while total < left:
            total += len(await writing.read(left - total))
        os.close(writing.far)
        starts = [sum(sizes[:n]) for n in range(len(sizes))]
        expected = [frame for frame, start in zip(frames, starts, strict=True) if start >= total]
        assert writing.pipes.take_unsent() == expected
        writing.close()

    asyncio.run(run())
