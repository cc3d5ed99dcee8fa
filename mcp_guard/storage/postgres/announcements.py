"""How gateways hear of each other's changes of approvals, and of revocations: LISTEN and NOTIFY, on a channel of each
origin.

What is notified in a transaction is sent with its commit. Nothing relies on it: whoever waits also looks from time to
time, and is told to look whenever the connection had to be made again.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection

from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import ANSWER_SECONDS, connect_on_loop, execute_within, quoted_schema
from mcp_guard.storage.postgres.watch import ServerWatch

WATCH_SECONDS = 5.0
"""How often the database is looked at."""
REVOKED = "revoked"
"""The payload that says that something was revoked. No approval has this id."""
MAX_PAYLOAD_BYTES = 7900
"""The server takes less than 8000."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts to connect; the pause doubles."""


def payload_of(ids: Sequence[str]) -> str:
    """Empty if they are too many to name: then everybody looks."""
    payload = ",".join(ids)
    return payload if len(payload.encode()) <= MAX_PAYLOAD_BYTES else ""


class Listener:
    """Calls `on_announced` with the approvals that any process has announced, this one included; with none where some
    may have been missed. Counts revocations, and has the database watched, too. On the event loop that runs, until
    it is closed."""

    def __init__(self, database: Database, watch: ServerWatch, on_announced: Callable[[Sequence[str]], None]) -> None:
        self._database = database
        self._watch = watch
        self._on_announced = on_announced
        self.is_connected = False
        self._revocations = 0
        """How often anything was revoked, or may have been."""
        self._task = asyncio.create_task(self._run())

    @property
    def revocations_heard(self) -> int | None:
        """See `Executor.revocations_heard`."""
        return self._revocations if self.is_connected else None

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                connection = await connect_on_loop(self._database)
                try:
                    await execute_within(ANSWER_SECONDS, connection, f"LISTEN {quoted_schema(self._database)}")
                    self.is_connected = True
                    self._revocations += 1
                    self._on_announced(())
                    pause = FIRST_PAUSE
                    await self._hear(connection)
                finally:
                    self.is_connected = False
                    connection.pgconn.finish()
            except (psycopg.Error, OSError):  # whoever writes or reads reports it
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * 2)

    async def _hear(self, connection: "AsyncConnection[Any]") -> None:
        """Raises: psycopg.Error when the connection ends."""
        while True:
            await self._watch.look(connection)
            async for notice in connection.notifies(timeout=WATCH_SECONDS):
                if notice.payload == REVOKED:
                    self._revocations += 1
                else:
                    self._on_announced([id for id in notice.payload.split(",") if id])
