"""Reads a list of all upstreams at once. One that takes long holds up nobody: its previous list stays meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mcp_guard.core.model import Json
from mcp_guard.protocol.methods import CAPABILITY, LIST_TOOLS

if TYPE_CHECKING:
    from mcp_guard.upstream.shared import AnyConnection

REFRESH_SECONDS = 2.0
"""How long a client waits for a list to be read again, when an earlier one can be shown instead."""
FIRST_LIST_SECONDS = 5.0
"""The same when there is none."""
LONE_SECONDS = 30.0
"""How much longer it waits for tools while no upstream has listed any: some clients list them only once."""


class ListReader:
    """`on_late` is called when a list differs that was waited for in vain."""

    def __init__(
        self, connections: "Mapping[str, AnyConnection]", on_late: "Callable[[AnyConnection, str], Awaitable[None]]"
    ) -> None:
        self.tasks: asyncio.TaskGroup | None = None
        """Runs what is being read, for as long as the session lasts; None until the upstreams are started."""
        self._connections = connections
        self._on_late = on_late
        self._overdue: set[tuple[str, str]] = set()
        """Lists that were waited for in vain and are still being read, by upstream and method."""

    async def read_lists(
        self, method: str, capable: "Sequence[AnyConnection]", *, only_if_needed: bool = False
    ) -> tuple[dict[str, list[Json]], list[str]]:
        """The latest list of each upstream that has one, in the order of the configuration, and why others have none.

        With `only_if_needed`, lists that cannot have changed are not read again.
        """
        wanted = [
            connection
            for connection in capable
            if not only_if_needed
            or connection.listings[method].may_have_changed(connection.reports_changes(CAPABILITY[method]))
        ]
        await self.read({connection: connection.listings[method].refresh for connection in wanted}, method)
        lists: dict[str, list[Json]] = {}
        failures: list[str] = []
        for name, connection in self._connections.items():
            if connection.why_unavailable() is None and connection not in capable:
                continue
            listing = connection.listings[method]
            if (name, method) in self._overdue:
                failures.append(f"`{name}`: it has not answered in time")
            elif listing.failure and connection.why_unavailable() is None:
                failures.append(f"`{name}`: {listing.failure}")
                continue
            if (items := listing.items) is not None:
                lists[name] = items
        return lists, failures

    async def read(self, readings: "Mapping[AnyConnection, Callable[[], Awaitable[object]]]", method: str) -> None:
        """Read a list of several upstreams at once. One that takes long is not waited for, and goes on by itself."""
        assert self.tasks is not None
        tasks = {
            self.tasks.create_task(self._read_one(connection, method, read)): (connection.name, method)
            for connection, read in readings.items()
            if (connection.name, method) not in self._overdue
        }
        if not tasks:
            return
        listings = [connection.listings[method] for connection in self._connections.values()]
        are_known = all(connection.listings[method].is_known for connection in readings)
        _, late = await asyncio.wait(tasks, timeout=REFRESH_SECONDS if are_known else FIRST_LIST_SECONDS)
        if late and method == LIST_TOOLS and not any(listing.is_known for listing in listings):
            _, late = await asyncio.wait(late, timeout=LONE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for task in late:
            self._overdue.add(tasks[task])
            self._connections[tasks[task][0]].note(f"`{method}` takes long; continuing with what it listed before")

    async def _read_one(self, connection: "AnyConnection", method: str, read: Callable[[], Awaitable[object]]) -> None:
        listing, key = connection.listings[method], (connection.name, method)
        version = listing.version
        try:
            await read()
        except Exception as defect:  # a defect in `read` is noted; in this task group it would end the session
            connection.note(f"internal error: `{method}` was not read: {type(defect).__name__}: {defect}")
        if key in self._overdue:
            self._overdue.discard(key)
            if listing.version != version:
                await self._on_late(connection, method)
