"""Upstreams with `share = true`: one process for all sessions of a guard, instead of one for each.

The operator says so of a server that keeps nothing of its clients. Every session has a `SharedConnection` of its own,
which it uses like a `Connection`. Requests, their replies, progress and cancellations are told apart by their numbers,
which are the guard's. What cannot be told apart is not passed on: the server is told of no capabilities of a client,
nothing that it asks reaches one, and it is offered no log level and no subscriptions. See docs/decisions/0061.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mcp_guard import __version__
from mcp_guard.core.model import Json
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel
from mcp_guard.protocol.jsonrpc import Id, NotSent, error
from mcp_guard.protocol.methods import LATEST, LISTS_CHANGED, METHOD_NOT_FOUND, SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE
from mcp_guard.protocol.versions import without
from mcp_guard.upstream.connection import Connection
from mcp_guard.upstream.host import HostConnection
from mcp_guard.upstream.listener import NoAnswers, NoListener, UpstreamListener
from mcp_guard.upstream.shared_listing import SharedListing
from mcp_guard.upstream.status_file import UpstreamStatus
from mcp_guard.upstream.transport import RoundCount, ServerProtocol, Upstream

if TYPE_CHECKING:
    from mcp_guard.upstream.last_words import LastWords

INITIALIZE_PARAMS: Json = {
    "protocolVersion": LATEST,
    "capabilities": {},
    "clientInfo": {"name": "mcp-guard", "version": __version__},
}
"""The server is initialized by the guard. INVARIANT: with nothing of a client, as another one uses it next."""
REFUSED = (SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE)
"""Requests that a server would remember for all of its clients."""
MAX_OPEN_WHILE_SLOW = 8
"""How many requests an agent may have open while the server does not read what it is sent, so that none fills the pipe
of all others."""
DEFECT_SECONDS = 30.0
"""How long an upstream is left alone after an internal error."""


class SharedUpstream(NoListener):
    """One shared upstream: its process, and the sessions that use it now. Implements `UpstreamListener`.

    It starts with the first session, and `run` keeps it running. `note` prints a message for the operator.
    """

    def __init__(self, upstream: Upstream, note: Callable[[str], None], on_status: Callable[[], None]) -> None:
        self.connection = Connection(upstream, on_status, may_end_unread=self._is_silent)
        self.members: list[SharedConnection] = []
        self.turn = asyncio.Lock()
        """Held by the session that makes its catalog after a listing, so that not all do at once."""
        self._note = note
        self._heard_at = 0.0
        """When it sent something for the last time, by the event loop's clock."""
        self._open: Counter[SharedConnection] = Counter()
        self._open_of_agent: Counter[str] = Counter()
        """How many requests are open, by session and by agent."""

    async def run(self) -> None:
        """Keep it running until cancelled."""
        is_ready = asyncio.Event()
        is_ready.set()
        while True:
            try:
                await self.connection.supervise(
                    INITIALIZE_PARAMS, self, prefer_stateless=False, client_is_ready=is_ready, on_listed=self._on_listed
                )
            except Exception as defect:  # the edge: it must cost this upstream, and neither a session nor the guard
                self.connection.on_closed(f"caused an internal error: {type(defect).__name__}: {defect}")
                await self.connection.close()
                await asyncio.sleep(DEFECT_SECONDS)

    @contextmanager
    def counting(self, member: "SharedConnection") -> Iterator[None]:
        """Count a request of this session while it is open. Raises: NotSent if its agent has too many."""
        if self.connection.is_read_slowly and self._open_of_agent[member.agent] >= MAX_OPEN_WHILE_SLOW:
            reason = f"does not read, and {MAX_OPEN_WHILE_SLOW} requests of agent `{member.agent}` wait for it already"
            raise NotSent(f"upstream `{self.connection.name}` {reason}")
        self._open[member] += 1
        self._open_of_agent[member.agent] += 1
        try:
            yield
        finally:
            self._open[member] -= 1
            self._open_of_agent[member.agent] -= 1
            self._open, self._open_of_agent = +self._open, +self._open_of_agent  # without those that have none

    def _is_silent(self) -> bool:
        """Whether it has sent nothing for as long as a call may take: until then, it may still answer others."""
        return asyncio.get_running_loop().time() - self._heard_at > self.connection.call_seconds

    # What the upstream sends without being asked

    async def _on_listed(self) -> None:
        for member in self.members:
            member.listed.set()

    def on_server_request(self, server: str, id: Id, method: str, params: Json) -> None:
        """INVARIANT: it is never passed on, because nothing tells which client it is meant for."""
        self.connection.peer.reply(id, error(METHOD_NOT_FOUND, "clients share this server, so none of them is asked"))
        self.connection.release_request(id)
        self.connection.note(f"`{method[:80]}` was refused, because it is shared, so that no client can be asked")

    def on_server_notification(self, server: str, method: str, params: Json) -> None:
        """What does not concern all clients alike may be about a call of one of them, and reaches none."""
        if method in LISTS_CHANGED:
            for member in self.members:
                member.listener.on_server_notification(server, method, {})

    def on_tools_changed(self, server: str) -> None:
        for member in self.members:
            member.listener.on_tools_changed(server)

    def on_work(self, seconds: float) -> None:
        """Those with open requests pay for it together: it does not say whose reply took how long."""
        self._heard_at = asyncio.get_running_loop().time()
        for member in self._open:
            member.listener.on_work(seconds / len(self._open))

    def note(self, text: str) -> None:
        self._note(text)


class SharedConnection:
    """One session's use of a shared upstream, with the members of a `Connection` that sessions use."""

    has_own_process = False

    def __init__(self, shared: SharedUpstream, agent: str) -> None:
        self.agent = agent
        self.listener: UpstreamListener = NoListener()
        self.listed = asyncio.Event()
        """Set when the upstream has been listed in a new session with it."""
        self.peer = NoAnswers()
        self._shared = shared
        self._connection = shared.connection

    async def supervise(
        self,
        initialize_params: Json,
        listener: UpstreamListener,
        *,
        prefer_stateless: bool,
        client_is_ready: asyncio.Event,
        on_listed: Callable[[], Awaitable[None]],
    ) -> None:
        """Hear of the upstream until cancelled. INVARIANT: nothing of `initialize_params` reaches it."""
        self.listener = listener
        self._shared.members.append(self)
        try:
            await client_is_ready.wait()
            while True:
                await self.listed.wait()
                self.listed.clear()
                async with self._shared.turn:
                    await on_listed()
                    await asyncio.sleep(0)  # others on the event loop go on before the next session
        finally:
            self._shared.members.remove(self)

    async def request(self, method: str, params: Json, channel: ClientChannel = SILENT_CHANNEL) -> Json:
        """As `Connection.request`, but refuses what the server would remember for other clients too."""
        if method in REFUSED:
            return await self._refuse(method)
        return await self._counted(self._connection.request(method, params, channel))

    def call(self, method: str, params: Json, channel: ClientChannel, rounds: RoundCount) -> Coroutine[Any, Any, Json]:
        """As `Connection.call`, but refuses what `request` refuses."""
        if method in REFUSED:
            return self._refuse(method)
        return self._counted(self._connection.call(method, params, channel, rounds))

    async def _refuse(self, method: str) -> Json:
        return error(METHOD_NOT_FOUND, f"`{method}` is not passed on, because clients share upstream `{self.name}`")

    async def _counted(self, work: Coroutine[Any, Any, Json]) -> Json:
        try:
            with self._shared.counting(self):
                return await work
        finally:
            work.close()  # if it was refused

    @property
    def initialize_result(self) -> Json | None:
        """Without what clients cannot have of a shared upstream."""
        result = self._connection.initialize_result
        if result is None:
            return None
        capabilities = without(result["capabilities"], ("logging",))
        if isinstance(resources := capabilities.get("resources"), dict):
            capabilities["resources"] = without(resources, ("subscribe",))
        return {**result, "capabilities": capabilities}

    def has_capability(self, capability: str) -> bool:
        return capability != "logging" and self._connection.has_capability(capability)

    def throttle(self, slow: bool) -> None:
        """Reading goes on, because others wait for replies too. What a slow client is owed is limited by its calls."""

    def release_request(self, id: Id) -> None:
        pass

    async def close(self) -> None:
        """Its requests have been cancelled; the upstream runs on for the other sessions."""

    def kill(self) -> None:
        pass

    # As of the upstream

    @property
    def name(self) -> str:
        return self._connection.name

    @property
    def call_seconds(self) -> float:
        return self._connection.call_seconds

    @property
    def handshake_tried(self) -> asyncio.Event:
        return self._connection.handshake_tried

    @property
    def listing_tried(self) -> asyncio.Event:
        return self._connection.listing_tried

    @property
    def protocol(self) -> ServerProtocol | None:
        return self._connection.protocol

    @property
    def status(self) -> UpstreamStatus:
        return self._connection.status

    @property
    def last_words(self) -> "LastWords | None":
        return self._connection.last_words

    @property
    def listings(self) -> dict[str, SharedListing]:
        return self._connection.listings

    @property
    def tools(self) -> list[Json] | None:
        return self._connection.tools

    @property
    def is_starting(self) -> bool:
        return self._connection.is_starting

    def why_unavailable(self) -> str | None:
        return self._connection.why_unavailable()

    def reports_changes(self, capability: str) -> bool:
        return self._connection.reports_changes(capability)

    def wait_for_renewal(self) -> Awaitable[bool]:
        return self._connection.wait_for_renewal()

    def refresh_tools(self) -> Awaitable[None]:
        return self._connection.refresh_tools()

    def note(self, text: str) -> None:
        self._connection.note(text)


AnyConnection = Connection | SharedConnection | HostConnection


class SharedUpstreams:
    """The shared upstreams of one guard process. `run` must be running when the first session is made.

    `make` makes the upstream of this name, and `on_status` is called when the status of one has changed.
    """

    is_closed = False

    def __init__(
        self, make: Callable[[str], Upstream], note: Callable[[str], None], on_status: Callable[[], None]
    ) -> None:
        self._make, self._note, self._on_status = make, note, on_status
        self._started: dict[str, SharedUpstream] = {}
        self._tasks = asyncio.TaskGroup()

    def connect(self, name: str, agent: str) -> SharedConnection:
        """A new session's connection to this upstream, which is started for the first one."""
        shared = self._started.get(name)
        if shared is None:
            upstream = self._make(name)
            upstream.start()
            shared = self._started[name] = SharedUpstream(upstream, self._note, self._on_status)
            self._tasks.create_task(shared.run())
        return SharedConnection(shared, agent)

    def statuses(self) -> dict[str, UpstreamStatus]:
        return {name: shared.connection.status for name, shared in self._started.items()}

    async def run(self) -> None:
        """Keep them running until cancelled, then end them."""
        try:
            async with self._tasks:
                await asyncio.Event().wait()
        finally:
            try:
                await asyncio.gather(*(shared.connection.close() for shared in self._started.values()))
            finally:
                for shared in self._started.values():
                    shared.connection.kill()
