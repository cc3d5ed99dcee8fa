"""Sends what has no answer to an upstream over HTTP: notifications, and replies to its own requests.

Each is a `POST` of its own beside the requests, so that an upstream that is slow to accept one holds up nothing else.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

ORDER_SECONDS = 1.0
"""How long a notification waits for the one before it, and requests for `notifications/initialized`."""
MAX_AT_ONCE = 8
MAX_QUEUED_BYTES = 1024 * 1024
"""Notifications, and replies, that an upstream may leave waiting; more of them are dropped."""


@dataclass(frozen=True, slots=True)
class OneWayMessage:
    """A notification, or a reply, whose `method` is empty."""

    frame: bytes
    method: str = ""


class OneWayLane:
    """Sends messages in order; one waits up to `patience` seconds for the one before it. `send` must not raise."""

    def __init__(self, send: Callable[[OneWayMessage], Awaitable[None]], patience: float) -> None:
        self._send = send
        self._patience = patience
        self._queue: asyncio.Queue[OneWayMessage] = asyncio.Queue()
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self.queued_bytes = 0

    def put(self, message: OneWayMessage) -> None:
        self.queued_bytes += len(message.frame)
        self._queue.put_nowait(message)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                message = await self._queue.get()
                await self._slots.acquire()
                sending = tasks.create_task(self._send_one(message))
                if self._patience:
                    await asyncio.wait([sending], timeout=self._patience)

    async def _send_one(self, message: OneWayMessage) -> None:
        try:
            await self._send(message)
        finally:
            self.queued_bytes -= len(message.frame)
            self._slots.release()
