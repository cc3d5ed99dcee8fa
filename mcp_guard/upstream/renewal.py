"""The time between the end of a session with an upstream and the next one."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mcp_guard.core.model import Json
from mcp_guard.protocol.jsonrpc import NotSent

PAUSE_SECONDS = 1.0
"""How soon a session that was renewed is renewed again."""
WAIT_SECONDS = 5.0
"""How long a request waits while a new session is started with its upstream."""


class SessionRenewal:
    """Whether a new session is being started, and who waits for it."""

    def __init__(self) -> None:
        self._ended: asyncio.Event | None = None
        self._earliest = 0.0
        self._hurried = asyncio.Event()
        self._is_resting = self._is_serving = False

    @property
    def is_under_way(self) -> bool:
        return self._ended is not None

    def begin(self) -> None:
        self._ended = self._ended or asyncio.Event()

    async def rest(self, seconds: float) -> None:
        """Wait before the transport is started again, unless `await_start` ends that, or has been called since it
        failed."""
        self._is_resting = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurried.wait(), seconds)
        self._is_resting = False
        self._hurried.clear()

    async def await_start(self, seconds: float, *, at_once: bool) -> None:
        """Wait for a transport that is being started, but not for long. `at_once`: what it has failed for, or is
        failing for, is there now, so start it without a rest."""
        if self._is_serving or (self._is_resting and not at_once):
            return
        self.begin()
        if at_once:
            self._hurried.set()
        await self.wait(seconds)

    def fail(self) -> None:
        """The transport has failed. That ends a renewal, unless it is started again at once."""
        self._is_serving = False
        if not self._hurried.is_set():
            self._end()

    async def pause(self) -> None:
        """Wait until the upstream may be asked for a session again."""
        now = asyncio.get_running_loop().time()
        self._earliest = max(now, self._earliest) + PAUSE_SECONDS
        await asyncio.sleep(self._earliest - PAUSE_SECONDS - now)

    def end(self) -> None:
        """The upstream is there and has been listed, as far as it could be."""
        self._is_serving = True
        self._hurried.clear()
        self._end()

    def _end(self) -> None:
        if self._ended is not None:
            self._ended.set()
            self._ended = None

    async def wait(self, seconds: float = WAIT_SECONDS) -> bool:
        """Wait for its end, but not for long. Returns whether it was under way."""
        if self._ended is None:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        return True


async def send_again_if_renewed(send: Callable[[], Awaitable[Json]], renewed: Callable[[], Awaitable[bool]]) -> Json:
    """Send a request; if its session turns out to have ended, in the next one, where it arrives for the first time."""
    try:
        return await send()
    except NotSent:
        if not await renewed():
            raise
        return await send()
