"""The time between the end of a session with an upstream and the next one over the same transport."""

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

    @property
    def is_under_way(self) -> bool:
        return self._ended is not None

    def begin(self) -> None:
        self._ended = self._ended or asyncio.Event()

    async def pause(self) -> None:
        """Wait until the upstream may be asked for a session again."""
        now = asyncio.get_running_loop().time()
        self._earliest = max(now, self._earliest) + PAUSE_SECONDS
        await asyncio.sleep(self._earliest - PAUSE_SECONDS - now)

    def end(self) -> None:
        """It has succeeded or failed."""
        if self._ended is not None:
            self._ended.set()
            self._ended = None

    async def wait(self) -> bool:
        """Wait for its end, but not for long. Returns whether it was under way."""
        if self._ended is None:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
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
