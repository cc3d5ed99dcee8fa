"""How long a client waits for upstreams that are starting."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mcp_guard.core.model import Json

if TYPE_CHECKING:
    from mcp_guard.upstream.shared import AnyConnection

START_SECONDS = 4.0
"""How long the client waits for upstreams that are starting, once one is there: some clients give up after 5 s."""
LONE_START_SECONDS = 8.0
"""How long `initialize` waits while no upstream is there."""
PATIENT_SECONDS = 30.0
"""How long the first listing waits while it would be empty. Many clients list once and never again."""
LISTING_SECONDS = 1.0
"""How long the first listings may take at least, beyond the time that is left for starting."""
HURRIED_CLIENTS = ("codex-mcp-client",)
"""Clients that leave out what is not there after a second (Codex, unless the server is `required`)."""
HURRIED_SECONDS = 0.3
"""How long these wait, if the last listing can stand in for every upstream that is still starting."""


class StartWait:
    """What one session waits for. `stands_in` returns what an upstream that is starting listed in its last run, as far
    as that can be shown in place of its listing. With `is_patient`, slow ones are waited for even if others are there.
    """

    def __init__(
        self,
        connections: "Mapping[str, AnyConnection]",
        stands_in: "Callable[[AnyConnection], Awaitable[list[Json]]]",
        is_patient: bool,
    ) -> None:
        self._connections = connections
        self._stands_in = stands_in
        self._start_seconds = PATIENT_SECONDS if is_patient else START_SECONDS
        self._since = self._waits_until = 0.0
        """From when on the client has waited, and until when it does, by the event loop's clock."""
        self._is_hurried = False

    def begin(self, client: object) -> None:
        """The session begins, with a client that says this of itself."""
        self._since = asyncio.get_running_loop().time()
        self._waits_until = self._since + self._start_seconds
        self._is_hurried = isinstance(client, dict) and client.get("name") in HURRIED_CLIENTS

    def begin_listing(self) -> None:
        """From now on the upstreams are asked for their listings."""
        self._since = asyncio.get_running_loop().time()
        self._waits_until = max(self._waits_until, self._since + LISTING_SECONDS)

    async def wait(
        self, events: Sequence[asyncio.Event], *, is_there: "Callable[[AnyConnection], bool]", patience: float
    ) -> None:
        """Wait for all events, or until the client has waited long enough if an upstream is there by then, or its last
        listing stands in for it; else until one is, but not longer than `patience` seconds."""
        loop = asyncio.get_running_loop()
        waits = {loop.create_task(event.wait()) for event in events if not event.is_set()}
        try:
            if waits and self._is_hurried:
                _, waits = await asyncio.wait(waits, timeout=max(self._since + HURRIED_SECONDS - loop.time(), 0))
                starting = [connection for connection in self._connections.values() if connection.is_starting]
                if all([await self._stands_in(connection) for connection in starting]):
                    return
            if waits:
                _, waits = await asyncio.wait(waits, timeout=max(self._waits_until - loop.time(), 0))
            while waits and not await self._is_any(is_there) and (seconds := self._since + patience - loop.time()) > 0:
                _, waits = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _is_any(self, is_there: "Callable[[AnyConnection], bool]") -> bool:
        for connection in self._connections.values():
            if is_there(connection) or await self._stands_in(connection):
                return True
        return False
