"""What arrives from one upstream, searched for secrets and handed on in the order in which it arrived.

A long frame is searched in a thread, because that takes up to a second, and all agents share the event loop. The thread
gives way to the loop every millisecond. There is one for the whole process: how many agents ask for long replies makes
no difference to those who do not.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import cache

from mcp_guard.core.secret_scrubber import Scrubber

LONG_FRAME_BYTES = 32 * 1024
"""A longer frame is searched in the thread. A shorter one takes less than what is free (`LoopShare`)."""
SWITCH_SECONDS = 0.001
"""How long the thread computes before the event loop has its turn."""


@cache
def _thread() -> Executor:
    from concurrent.futures import ThreadPoolExecutor  # most guards never need it

    sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))
    return ThreadPoolExecutor(1, "scrubbing")


def _clean(scrubber: Scrubber, frame: bytes) -> tuple[bytes, float]:
    """The frame without its secrets, and the processor time that this took, in seconds."""
    began = time.thread_time()
    return scrubber.clean(frame), time.thread_time() - began


class Arrivals:
    """Hands on frames without secrets, and what else happens, in order.

    `on_busy(True)` is called when something has to wait, so that no more is read, and `on_busy(False)` when nothing
    does any more. `on_work` is called with the processor time that each long frame has taken, in seconds.
    """

    def __init__(
        self, scrubber: Scrubber, on_busy: Callable[[bool], None], on_work: Callable[[float], None] = lambda _: None
    ) -> None:
        self._scrubber = scrubber
        self._on_busy = on_busy
        self._on_work = on_work
        self._waiting: deque[tuple[bytes, Callable[[bytes], None]]] = deque()
        self._searching: asyncio.Task[None] | None = None

    def take(self, frame: bytes, handle: Callable[[bytes], None]) -> None:
        """Hand the frame on without its secrets: at once if it is short and nothing is before it."""
        if self._searching is None and len(frame) <= LONG_FRAME_BYTES:
            handle(self._scrubber.clean(frame) if self._scrubber else frame)
        elif self._searching is None and not self._scrubber:
            began = time.thread_time()
            handle(frame)
            self._on_work(time.thread_time() - began)
        else:
            self._wait(frame, handle)

    def then(self, happen: Callable[[], None]) -> None:
        """Do this after everything that arrived before."""
        if self._searching is None:
            happen()
        else:
            self._wait(b"", lambda _: happen())

    def drop(self) -> None:
        """Forget what waits: the connection that it came over has ended."""
        self._waiting.clear()
        if self._searching is not None:
            self._searching.cancel()
            self._end()

    def _wait(self, frame: bytes, handle: Callable[[bytes], None]) -> None:
        self._waiting.append((frame, handle))
        if self._searching is None:
            self._searching = asyncio.get_running_loop().create_task(self._hand_on())
            self._on_busy(True)

    def _end(self) -> None:
        self._searching = None
        self._on_busy(False)

    async def _hand_on(self) -> None:
        loop, this = asyncio.get_running_loop(), self._searching
        while self._waiting and self._searching is this:
            frame, handle = self._waiting.popleft()
            try:
                if len(frame) > LONG_FRAME_BYTES:
                    frame, seconds = await loop.run_in_executor(_thread(), _clean, self._scrubber, frame)
                else:
                    await asyncio.sleep(0)
                    frame, seconds = _clean(self._scrubber, frame)
                began = time.thread_time()
                handle(frame)
                self._on_work(seconds + time.thread_time() - began)
            except Exception as defect:  # the edge: a defect must cost this frame and none after it
                loop.call_exception_handler({"message": "a message of an upstream was dropped", "exception": defect})
        if self._searching is this:
            self._end()
