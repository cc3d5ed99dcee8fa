"""Frames and events reach the connection in the order in which they came, whichever are searched in the thread."""

import asyncio
import threading
from functools import partial

import pytest

from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.upstream.arrivals import LONG_FRAME_BYTES, Arrivals

SECRET = "p4ss&word"
LONG = b"p4ss%26word" + b"x" * LONG_FRAME_BYTES


class Watched(Scrubber):
    """Notes in which thread each frame is searched."""

    def __init__(self) -> None:
        super().__init__()
        self.learn("TOKEN", SECRET)
        self.threads: list[bool] = []

    def clean(self, line: bytes) -> bytes:
        self.threads.append(threading.current_thread() is threading.main_thread())
        return super().clean(line)


async def until_idle(busy: list[bool]) -> None:
    async with asyncio.timeout(20):
        while busy.count(True) != busy.count(False):
            await asyncio.sleep(0.01)


def fail(_: bytes) -> None:
    raise ValueError("a defect")


async def test_order_is_kept_and_long_frames_leave_the_loop_free() -> None:
    scrubber, busy, seen = Watched(), list[bool](), list[bytes]()
    arrivals = Arrivals(scrubber, busy.append)
    arrivals.take(b"1 p4ss%26word", seen.append)
    assert seen == [b"1 [secret TOKEN]"]
    assert busy == []
    for frame in (LONG, b"2", LONG, b"3"):
        arrivals.take(frame, seen.append)
    arrivals.then(partial(seen.append, b"closed"))
    assert len(seen) == 1
    await until_idle(busy)
    assert [frame[:14] for frame in seen[1:]] == [b"[secret TOKEN]", b"2", b"[secret TOKEN]", b"3", b"closed"]
    assert scrubber.threads[:5] == [True, False, True, False, True]
    assert busy == [True, False]


async def test_a_defect_costs_one_frame() -> None:
    busy, seen, told = list[bool](), list[bytes](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    arrivals = Arrivals(Watched(), busy.append)
    arrivals.take(LONG, fail)
    arrivals.take(b"2", seen.append)
    await until_idle(busy)
    assert seen == [b"2"]
    assert len(told) == 1


async def test_what_an_ended_connection_sent_is_forgotten() -> None:
    busy, seen = list[bool](), list[bytes]()
    arrivals = Arrivals(Watched(), busy.append)
    arrivals.take(LONG, seen.append)
    arrivals.take(b"old", seen.append)
    await asyncio.sleep(0)
    arrivals.drop()
    assert busy == [True, False]
    arrivals.take(b"new", seen.append)
    await asyncio.sleep(0.3)
    assert seen == [b"new"]


@pytest.mark.parametrize("size", [10, 10 * LONG_FRAME_BYTES])
async def test_without_secrets_nothing_waits(size: int) -> None:
    seen = list[bytes]()
    Arrivals(Scrubber(), lambda _: pytest.fail("nothing is searched")).take(b"x" * size, seen.append)
    assert len(seen) == 1
