"""Tells one client that lists have changed: only what differs from what it has been shown, and never after a reply that
shows it, because clients that list and leave fail on what follows.

Reports of upstreams are looked at first. Changes that come without a report, from upstreams that start late or answer
late, are gathered and announced together.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from mcp_guard.core.model import Json
from mcp_guard.downstream.router import Router
from mcp_guard.protocol.methods import LIST_TOOLS, LISTS_CHANGED, RESOURCE_UPDATED, TOOLS_CHANGED
from mcp_guard.upstream.group import UpstreamGroup

RELIST_SECONDS = 1.0
"""How soon an upstream that reports changed tools is listed again."""
MAX_RELIST_SECONDS = 16.0
"""The same for one whose reports have all been about nothing."""
RELIST_PAUSE_FACTOR = 20
"""The pause after a listing, as a multiple of the time that it took to compare: all sessions wait meanwhile."""
GATHER_SECONDS = 0.5
"""How long changes are gathered that come without a report."""

Listing = tuple[frozenset[tuple[str, str, bool]], bool]
"""Name, hash of the definition, and whether it is only observed, of each tool; and whether calls may be held. Listings
that are equal differ at most in members that are not pinned."""


class Announcer:
    """`listing` is what the client would be listed now. `notify` sends a notification to it; `start` runs a task."""

    def __init__(
        self,
        upstreams: UpstreamGroup,
        router: Router,
        listing: Callable[[], Listing],
        *,
        notify: Callable[[str, Json], None],
        start: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._upstreams = upstreams
        self._router = router
        self._listing = listing
        self._notify = notify
        self._start = start
        self._relisting: dict[str, bool] = {}
        """The upstreams whose tools are being listed again, and whether they have changed since."""
        self._reported_early: set[str] = set()
        """The upstreams that reported changes before the first catalog was there."""
        self._shown: Listing | None = None
        """What the client has been listed, or told to list."""
        self._settled_version: int | None = None
        """The version of the catalog before the client could ask for any list."""
        self._changes: set[str] = set()
        """The notifications of other lists that are announced with the gathered changes."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def on_settled(self) -> None:
        """The first catalog is there."""
        if self._settled_version is None:
            self._settled_version = self._upstreams.version
            for server in self._reported_early:
                self._relisting[server] = False
                self._start(self._relist(server, is_early=True))

    def on_listing(self) -> None:
        """The client is about to be listed its tools."""
        if self._shown is not None:
            self.announce_changed_tools()
        self._shown = self._listing()

    def on_reported(self, server: str) -> None:
        """The upstream reports that its tools have changed.

        INVARIANT: none is listed before the client is ready, because upstreams are told only then that they may be
        asked (2025-11-25, "Initialization").
        """
        if self._settled_version is None:
            self._reported_early.add(server)
        elif server in self._relisting:
            self._relisting[server] = True
        else:
            self._relisting[server] = False
            self._start(self._relist(server))

    async def _relist(self, server: str, is_early: bool = False) -> None:
        """List an upstream's tools again, and once more if they change meanwhile, but not without a pause.

        An upstream that reports changes where there are none is asked less and less often. A client that has been shown
        no tools is told of each report, but not of an early one that the first catalog includes.
        """
        pause = RELIST_SECONDS
        try:
            while True:
                self._relisting[server] = False
                version = self._upstreams.version
                await self._upstreams.relist(server)
                if self._shown is None and not is_early:
                    self.notify_tools_changed()
                is_early = False
                self.announce_changed_tools()
                pause = RELIST_SECONDS if version != self._upstreams.version else min(2 * pause, MAX_RELIST_SECONDS)
                await asyncio.sleep(max(pause, RELIST_PAUSE_FACTOR * self._upstreams.rebuild_seconds))
                if not self._relisting[server]:
                    return
        finally:
            del self._relisting[server]

    def on_upstream_listed(self, server: str) -> None:
        """The upstream has started late, or again."""
        self._announce_soon()
        self._start(self._restore(server))

    async def _restore(self, server: str) -> None:
        """Bring the upstream to the state that the client expects."""
        uris = await self._router.restore(server)
        self._changes.update(await self._router.changed_lists(server))
        for uri in uris:
            self._notify(RESOURCE_UPDATED, {"uri": uri})
        self._announce_soon()

    def on_list_changed(self, method: str) -> None:
        """The client has been shown an older list, or none, because this one came late."""
        if method != LIST_TOOLS:
            self._changes.update(change for change, methods in LISTS_CHANGED.items() if method in methods)
        self._announce_soon()

    def _announce_soon(self) -> None:
        if self._timer is None and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._announce)

    def _announce(self) -> None:
        self._timer = None
        self.announce_changed_tools()
        for notification in self._changes:
            self._notify(notification, {})
        self._changes.clear()

    def announce_changed_tools(self) -> None:
        """Tell the client that its tools have changed, unless it has been shown them already."""
        if self._shown is not None:
            differs = self._shown != self._listing()
        else:
            differs = self._settled_version is not None and self._upstreams.version != self._settled_version
        if differs:
            self.notify_tools_changed()

    def notify_tools_changed(self) -> None:
        """Tell the client that its tools may have changed."""
        if self._settled_version is not None:
            self._settled_version = self._upstreams.version
        if self._shown is not None:
            self._shown = self._listing()
        self._notify(TOOLS_CHANGED, {})

    def close(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
