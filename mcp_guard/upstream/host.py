"""The upstream `host`: a coding agent that runs its own tools after the guard has answered its hook.

There is nothing to connect to. Sending a call means to answer the agent that it may go on (`ClientChannel.on_host`);
its outcome is what the agent reports afterwards.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from mcp_guard.core.host_tools import DEFINITIONS, HOST
from mcp_guard.core.model import Json
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel
from mcp_guard.protocol.jsonrpc import Id, NotSent, error
from mcp_guard.protocol.methods import LATEST, LIST_TOOLS, LISTS, METHOD_NOT_FOUND
from mcp_guard.upstream.budget import UpstreamBudget
from mcp_guard.upstream.listener import NoAnswers, UpstreamListener
from mcp_guard.upstream.shared_listing import SharedListing
from mcp_guard.upstream.status_file import UpstreamStatus
from mcp_guard.upstream.transport import RoundCount, ServerProtocol

if TYPE_CHECKING:
    from mcp_guard.upstream.last_words import LastWords

MAX_LISTING_BYTES = 1024 * 1024


class HostConnection:
    """The tools of one session's coding agent, with the members of a `Connection` that sessions use."""

    name = HOST
    call_seconds = float("inf")
    has_own_process = False
    protocol: ServerProtocol | None = None
    last_words: "LastWords | None" = None
    is_starting = False

    def __init__(self) -> None:
        self.budget = UpstreamBudget(MAX_LISTING_BYTES)
        self.peer = NoAnswers()
        self.initialize_result: Json | None = {"protocolVersion": LATEST, "capabilities": {"tools": {}}}
        self.status = UpstreamStatus(True, time.time())
        self.listings = {method: SharedListing(method, self, MAX_LISTING_BYTES) for method in LISTS}
        self.handshake_tried, self.listing_tried = asyncio.Event(), asyncio.Event()
        self.handshake_tried.set()

    async def supervise(
        self,
        initialize_params: Json,
        listener: UpstreamListener,
        *,
        prefer_stateless: bool,
        client_is_ready: asyncio.Event,
        on_listed: Callable[[], Awaitable[None]],
    ) -> None:
        await client_is_ready.wait()
        await self.listings[LIST_TOOLS].refresh()
        self.listing_tried.set()
        await on_listed()

    async def request(self, method: str, params: Json, channel: ClientChannel = SILENT_CHANNEL) -> Json:
        if method == LIST_TOOLS:
            return {"result": {"tools": list(DEFINITIONS)}}
        return error(METHOD_NOT_FOUND, f"the host has no `{method}`")

    def call(self, method: str, params: Json, channel: ClientChannel, rounds: RoundCount) -> Coroutine[Any, Any, Json]:
        """Let the agent go on, and wait for its report.

        Raises: NotSent if it cannot be answered any more, PeerLost if it does not report.
        """
        return self._call(channel)

    async def _call(self, channel: ClientChannel) -> Json:
        if channel.on_host is None:
            raise NotSent("no coding agent waits for this call")
        return await channel.on_host()

    @property
    def tools(self) -> list[Json] | None:
        return self.listings[LIST_TOOLS].items

    def has_capability(self, capability: str) -> bool:
        return capability == "tools"

    def reports_changes(self, capability: str) -> bool:
        return True

    def why_unavailable(self) -> str | None:
        return None

    async def refresh_tools(self) -> None:
        """They do not change."""

    async def wait_for_renewal(self) -> bool:
        return True

    def throttle(self, slow: bool) -> None:
        pass

    def charge(self, cost: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def release_request(self, id: Id) -> None:
        pass

    async def close(self) -> None:
        """Its calls have been ended by the session."""

    def kill(self) -> None:
        pass
