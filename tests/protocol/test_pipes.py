"""Lines of a pipe are passed on in order and completely, a few in each turn, and not while reading is paused."""

import asyncio
import os

from mcp_guard.protocol.stdio import LINES_PER_TURN, Pipes

COUNT = 5000


class Reading:
    """Reads a pipe into `lines`; `largest` is the most lines that came in one turn of the loop."""

    def __init__(self) -> None:
        self.lines: list[bytes | None] = []
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
