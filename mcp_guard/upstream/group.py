"""All upstreams of a session: their tools as one catalog, relayed requests, and the only function that runs a tool."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from mcp_guard.core.decided_methods import ANSWERS
from mcp_guard.core.errors import LedgerError, UpstreamError
from mcp_guard.core.model import Execution, Json, Tool, ToolRule
from mcp_guard.core.names import SEPARATOR
from mcp_guard.core.request_meta import forwarded_params
from mcp_guard.core.tool_pins import Quarantine, showing_capabilities
from mcp_guard.core.visible_text import say
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel, Intent, Pins, UpstreamTask
from mcp_guard.protocol.jsonrpc import Id, PeerLost, error
from mcp_guard.protocol.methods import CALL_TOOL, GUARDED, INTERNAL_ERROR, LIST_TOOLS
from mcp_guard.upstream.catalog import build_catalog, make_tool
from mcp_guard.upstream.connection import Connection
from mcp_guard.upstream.decided import deciding_answers, deliver_answer, request_params
from mcp_guard.upstream.last_listing import LastListings
from mcp_guard.upstream.list_reader import REFRESH_SECONDS, ListReader
from mcp_guard.upstream.listener import NoListener, UpstreamListener
from mcp_guard.upstream.outcome import outcome_of, with_object, with_rounds
from mcp_guard.upstream.renewal import send_again_if_renewed
from mcp_guard.upstream.start_wait import LONE_START_SECONDS, PATIENT_SECONDS, StartWait
from mcp_guard.upstream.status_file import UpstreamStatus
from mcp_guard.upstream.transport import InputUnavailable, RoundCount, Upstream
from mcp_guard.upstream.user_tokens import UserTokens

if TYPE_CHECKING:
    from mcp_guard.upstream.host import HostConnection
    from mcp_guard.upstream.last_words import LastWords
    from mcp_guard.upstream.shared import AnyConnection, SharedConnection

FRESH_SECONDS = 1.0
"""How old the listing that a session began with may be when the client asks for its first one."""
CALL_START_SECONDS = 10.0
"""How long a call waits for its upstream to start."""


class UpstreamGroup:
    """Implements `ports.Upstreams`: all upstreams of one session.

    `on_catalog` is called when the catalog has changed, `on_status` when an upstream went up or down or the group
    closed. `forward_meta` are the members of `_meta` that go on (`core.request_meta`); a tool call's are in its intent.
    `last_listings` has what upstreams listed in earlier runs. With `is_patient`, upstreams that start slowly are waited
    for even if others are there.

    INVARIANT: the catalog holds only tools that `pins` accepts (promise P6).
    """

    def __init__(
        self,
        upstreams: "Sequence[Upstream | SharedConnection | HostConnection]",
        rules: Mapping[str, ToolRule],
        pins: Pins,
        *,
        unpinned: Mapping[str, Collection[str]],
        forward_meta: Mapping[str, str],
        on_catalog: Callable[[], Awaitable[None]] | None,
        on_status: Callable[[], None],
        last_listings: LastListings | None,
        is_patient: bool,
        operations: Sequence[Tool],
    ) -> None:
        self.connections: dict[str, AnyConnection] = {
            upstream.name: Connection(upstream, on_status) if isinstance(upstream, Upstream) else upstream
            for upstream in upstreams
        }
        self._user_tokens = UserTokens(upstreams)
        self.pins = pins
        self._pins_failed = False
        """Whether the ledger could not be read when the pins were last checked."""
        self.version = 0
        """Increases whenever the catalog changes."""
        self.rebuild_seconds = 0.0
        """How long it took to make the catalog the last time."""
        self.is_closed = False
        self._rules, self._unpinned, self._forward_meta = rules, unpinned, forward_meta
        self._on_catalog, self._on_status = on_catalog, on_status
        self._listener: UpstreamListener = NoListener()
        self._capabilities: frozenset[str] = frozenset()
        """Those of the client that upstreams may list more tools for."""
        self._catalog: dict[str, Tool] = {}
        self._operations = {tool.listed_as: tool for tool in operations}
        """What stands for the methods that are decided beside tool calls."""
        self._quarantine: Mapping[str, Quarantine] = {}
        self._left_out: list[str] = []
        self._retained: Sequence[tuple[str, Json]] = ()
        """Server and accepted definition of each tool that was not listed when the catalog was made."""
        self._rebuilding, self._first_catalog = asyncio.Lock(), asyncio.Event()
        self._last_listings = last_listings
        self._built_from: list[int] | None = None
        """The versions of the listings that the catalog was made from."""
        self._was_refreshed = False
        self._is_waiting = True
        """Whether the catalog waits for upstreams that have never been listed."""
        self._start_wait = StartWait(self.connections, self._stands_in, is_patient)
        self._client_is_ready = asyncio.Event()
        self._supervisors: list[asyncio.Task[None]] = []
        self._lists = ListReader(self.connections, self._on_late_list)

    async def start(
        self,
        initialize_params: Json,
        tasks: asyncio.TaskGroup,
        listener: UpstreamListener,
        prefer_stateless: bool = False,
    ) -> list[Json]:
        """Connect to every upstream; returns the `initialize` results of those that answered in time.

        `listener` receives what they send without being asked. With `prefer_stateless`, the stateless revision is
        used with every upstream that speaks it, even if it also supports the handshake.
        """
        self._capabilities = showing_capabilities(initialize_params.get("capabilities", {}))
        self._listener, self._lists.tasks = listener, tasks
        self._start_wait.begin(initialize_params.get("clientInfo"))
        if self._last_listings is not None:
            self._last_listings.choose(initialize_params)
        self._supervisors = [
            tasks.create_task(
                connection.supervise(
                    self._forwarded(initialize_params),
                    listener,
                    prefer_stateless=prefer_stateless,
                    client_is_ready=self._client_is_ready,
                    on_listed=partial(self._on_listed, connection),
                )
            )
            for connection in self.connections.values()
        ]
        connections = self.connections.values()
        await self._start_wait.wait(
            [connection.handshake_tried for connection in connections],
            is_there=lambda connection: connection.initialize_result is not None,
            patience=LONE_START_SECONDS,
        )
        return [result for connection in connections if (result := connection.initialize_result) is not None]

    @property
    def are_starting(self) -> bool:
        """Whether the first listing of an upstream is still to come."""
        return any(connection.is_starting for connection in self.connections.values())

    @property
    def has_catalog(self) -> bool:
        """Whether the catalog has been made, and so policies loaded for it."""
        return self._first_catalog.is_set()

    @property
    def have_answered(self) -> bool:
        """Whether every upstream has answered `initialize`."""
        return all(connection.initialize_result is not None for connection in self.connections.values())

    def announce(self) -> None:
        """The client is initialized: tell the upstreams, and list their tools."""
        self._start_wait.begin_listing()
        self._client_is_ready.set()

    async def ready(self) -> None:
        """Wait until every upstream's first listing has succeeded or failed, but for slow ones only briefly.

        For those the listing of the last run stands in, as far as their pins are still the same.
        """
        connections = self.connections.values()
        await self._start_wait.wait(
            [connection.listing_tried for connection in connections],
            is_there=lambda connection: connection.listings[LIST_TOOLS].is_known,
            patience=PATIENT_SECONDS,
        )
        if not self._is_waiting:
            await self._first_catalog.wait()
            return
        self._is_waiting = False
        if slow := [connection for connection in connections if connection.is_starting]:
            for connection in slow:
                if (tools := await self._stands_in(connection)) and not connection.listings[LIST_TOOLS].is_known:
                    connection.listings[LIST_TOOLS].keep(tools)
            names = ", ".join(f"`{connection.name}`" for connection in slow)
            self._listener.note(f"continuing without {names}: still starting")
        await self.rebuild()

    async def _stands_in(self, connection: "AnyConnection") -> list[Json]:
        """What an upstream that is starting or lacks a token listed in its last run, as far as it is still accepted.

        INVARIANT: only definitions that are pinned (promise P6), and no call reaches the upstream before it is there.
        """
        if self._last_listings is None or not (connection.is_starting or connection.name in self._user_tokens):
            return []
        return await self._last_listings.accepted_tools(connection.name, self.pins)

    async def find_user_token(self, server: str) -> bool:
        """As `UserTokens.reach`."""
        return await self._user_tokens.reach(server, self.connections.get(server))

    async def why_unauthorized(self, server: str) -> str | None:
        return await self._user_tokens.why_unauthorized(server)

    async def started(self, server: str) -> None:
        """Wait until an upstream that is starting, or begins a new session, is there, but not for long."""
        connection = self.connections[server]
        if not connection.listing_tried.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(connection.listing_tried.wait(), CALL_START_SECONDS)
        await connection.wait_for_renewal()

    async def close(self) -> None:
        """End every upstream, with every process that it started."""
        for supervisor in self._supervisors:
            supervisor.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)
        await asyncio.gather(*(connection.close() for connection in self.connections.values()))
        self.is_closed = True
        self._on_status()

    def statuses(self) -> dict[str, UpstreamStatus]:
        return {name: connection.status for name, connection in self.connections.items()}

    def kill(self) -> None:
        """End the remaining processes at once, without an event loop: for the exit of the guard."""
        for connection in self.connections.values():
            connection.kill()

    # The catalog

    async def _on_listed(self, connection: "AnyConnection") -> None:
        """Rebuild the catalog, unless upstreams are still waited for."""
        if connection.name in self._user_tokens and not connection.listings[LIST_TOOLS].is_known:
            connection.listings[LIST_TOOLS].keep(await self._stands_in(connection))
        if self._is_waiting:
            if self.are_starting:
                return
            self._is_waiting = False
            await self.rebuild()
        else:
            await self.rebuild()
            self._listener.on_upstream_listed(connection.name)

    async def _on_late_list(self, connection: "AnyConnection", method: str) -> None:
        if method == LIST_TOOLS:
            await self.rebuild()
        self._listener.on_list_changed(connection.name, method)

    async def rebuild(self) -> bool:
        """Make the catalog from the latest listings and the pins. Returns whether it changed."""
        async with self._rebuilding:
            started = time.perf_counter()
            try:
                return await self._rebuild()
            finally:
                self.rebuild_seconds = time.perf_counter() - started
                self._first_catalog.set()

    async def _rebuild(self) -> bool:
        versions = [connection.listings[LIST_TOOLS].version for connection in self.connections.values()]
        with suppress(LedgerError):  # `_judge` reports it
            if self._catalog and versions == self._built_from and not await self.has_stale_pins():
                return False
        listings = [
            (name, connection.tools) for name, connection in self.connections.items() if connection.tools is not None
        ]
        listed, left_out = build_catalog(listings, self._rules, self._unpinned)
        for reason in left_out:
            if reason not in self._left_out:
                self._listener.note(f"left out of the listing: {reason}")
        self._left_out = left_out
        quarantine = await self._judge(list(listed.values()))
        self._built_from = versions
        catalog = {name: tool for name, tool in listed.items() if name not in quarantine}
        differs = catalog != self._catalog or quarantine != self._quarantine
        self.version += differs
        if differs or not self._catalog:
            self._catalog, self._quarantine = catalog, quarantine
            self._remember_listings(listed.values())
            if self._on_catalog is not None:
                await self._on_catalog()
        return differs

    async def has_stale_pins(self) -> bool:
        """Whether the pins could not be read for the catalog, or have changed since. Raises: LedgerError."""
        return self._pins_failed or await self.pins.have_changed()

    def _remember_listings(self, tools: Collection[Tool]) -> None:
        """For the next run."""
        if self._last_listings is not None:
            for name, connection in self.connections.items():
                is_listed = not connection.is_starting or name in self._user_tokens
                if is_listed and connection.why_unavailable() is None:
                    self._last_listings.remember(name, [tool for tool in tools if tool.server == name])

    async def _judge(self, tools: list[Tool]) -> Mapping[str, Quarantine]:
        """The tools that must not be used, by listed name: all of them if the ledger cannot be read."""
        self._pins_failed = False
        try:
            own, shared = list[Tool](), list[Tool]()  # those are listed for nobody's capabilities
            for tool in tools:
                (own if isinstance(self.connections[tool.server], Connection) else shared).append(tool)
            quarantine = dict(await self.pins.judge(own, self._capabilities))
            if shared:
                quarantine |= await self.pins.judge(shared)
            self._retained = await self.pins.retained([tool.listed_as for tool in tools])
            return quarantine
        except LedgerError as error:
            self._pins_failed = True
            self._listener.note(say("every tool is quarantined: {}", str(error)))
            return {tool.listed_as: Quarantine(f"quarantined: {error.message}") for tool in tools}

    async def refresh(self, asked_at: float) -> None:
        """Read the listings again of all upstreams that do not report changes, or have reported one.

        The first time, those that were read just before the client asked for them, or since, are taken as they are.
        """
        since = asked_at - FRESH_SECONDS if not self._was_refreshed else math.inf
        self._was_refreshed = True
        stale = [
            connection
            for connection in self.connections.values()
            if not connection.is_starting
            and connection.why_unavailable() is None
            and not connection.listings[LIST_TOOLS].was_read_since(since)
        ]
        await self._lists.read({connection: connection.refresh_tools for connection in stale}, LIST_TOOLS)
        if not self._is_waiting:
            await self.rebuild()

    async def relist(self, server: str) -> None:
        """Read one upstream's tools again, however long that takes."""
        if self.connections[server].why_unavailable() is None:
            await self.connections[server].refresh_tools()
            await self.rebuild()

    async def read_lists(
        self, method: str, servers: Sequence[str], *, only_if_needed: bool = False
    ) -> tuple[dict[str, list[Json]], list[str]]:
        """The lists of these upstreams and of those that are away: see `ListReader.read_lists`."""
        capable = [self.connections[name] for name in servers]
        return await self._lists.read_lists(method, capable, only_if_needed=only_if_needed)

    def absent(self) -> "dict[str, LastWords | None]":
        """Upstreams that have listed no tools so far, and how each ended, if it did: for the operator."""
        return {name: connection.last_words for name, connection in self.connections.items() if not connection.tools}

    def find_tool(self, listed_as: str) -> Tool | None:
        return self._catalog.get(listed_as) or self._operations.get(listed_as)

    @property
    def decided(self) -> frozenset[str]:
        """The methods that are decided beside tool calls."""
        return frozenset(tool.name for tool in self._operations.values())

    def listed(self, server: str, method: str) -> Sequence[Json]:
        return self.connections[server].listings[method].items or ()

    def tools(self) -> list[Tool]:
        return list(self._catalog.values())

    def why_quarantined(self, listed_as: str) -> str | None:
        quarantine = self._quarantine.get(listed_as)
        return quarantine.because if quarantine else None

    def accepted_tools(self) -> list[Tool]:
        """Every tool by its accepted definition, listed now or not: the tools that policies can name."""
        quarantined = [
            make_tool(name.partition(SEPARATOR)[0], quarantine.pinned, self._rules)
            for name, quarantine in self._quarantine.items()
            if quarantine.pinned is not None
        ]
        return [*self._catalog.values(), *quarantined]

    def retained_tools(self) -> list[Tool]:
        """Tools with an accepted definition that are not listed now."""
        return [make_tool(server, definition, self._rules) for server, definition in self._retained]

    def unaccepted(self) -> set[str]:
        """Listed tools of which no definition was ever accepted."""
        return {name for name, quarantine in self._quarantine.items() if quarantine.pinned is None}

    def why_unavailable(self, server: str) -> str | None:
        return self.connections[server].why_unavailable()

    def why_absent(self, server: str) -> str | None:
        connection = self.connections[server]
        listing = connection.listings[LIST_TOOLS]
        if (reason := connection.why_unavailable()) or listing.is_known or not listing.failure:
            return reason
        return f"upstream `{server}` has not listed its tools: {listing.failure}"

    # Calls

    async def execute(self, intent: Intent, channel: ClientChannel = SILENT_CHANNEL) -> Execution:
        """Send one call, once. Only an upstream that first needs input from the client gets it again, with the input.

        INVARIANT: nothing else sends a tool call or another request that is decided, and it takes a durable `Intent`
        (promise P1). Every round carries the arguments of that intent.
        """
        call = intent.call
        assert call.tool is not None
        execution = await self._send(intent, channel)
        if isinstance(result := execution.reply.get("result"), dict) and call.tool.method is None:
            self._listener.on_result(call.tool.server, result)
        return execution

    async def _send(self, intent: Intent, channel: ClientChannel) -> Execution:
        call = intent.call
        assert call.tool is not None
        connection = self.connections[call.tool.server]
        if call.tool.method in ANSWERS:
            return deliver_answer(intent, channel)
        params, rounds = request_params(call, channel.trace), RoundCount()
        if connection.protocol is not None:
            channel = deciding_answers(channel, partial(self._decided, connection.name))
        work = connection.call(call.tool.method or CALL_TOOL, params, channel, rounds)
        return with_rounds(await outcome_of(work, connection, intent.approval), rounds, call.id)

    async def _decided(self, server: str, asked: Mapping[str, Json], answers: dict[str, Json]) -> dict[str, Json]:
        """What the upstream gets of these answers of the client."""
        decided = await self._listener.on_answers(server, asked, answers)
        return {key: self.forwarded_answer(answer) for key, answer in decided.items()}

    # Everything that is not a tool call

    def with_capability(self, capability: str) -> list[str]:
        """The names of the upstreams that have it now, in the order of the configuration."""
        return [name for name, connection in self.connections.items() if connection.has_capability(capability)]

    def available(self) -> list[str]:
        """The names of the upstreams that can be asked now, in the order of the configuration."""
        return [name for name, connection in self.connections.items() if connection.why_unavailable() is None]

    async def relay(self, server: str, method: str, params: Json, channel: ClientChannel = SILENT_CHANNEL) -> Json:
        """Pass a request on; returns its `result` or `error` member. INVARIANT: never one that is decided."""
        assert method not in {*GUARDED, *self.decided}
        return await self._relay(server, method, params, channel)

    async def ask_task(self, task: UpstreamTask, method: str, params: Json, channel: ClientChannel) -> Json:
        """Send a request about a task. INVARIANT: nothing else does, and it takes the durable intent of the call."""
        return await self._relay(task.server, method, {**params, "taskId": task.id}, channel)

    async def _relay(self, server: str, method: str, params: Json, channel: ClientChannel) -> Json:
        connection = self.connections[server]
        if connection.protocol is not None and self.decided:
            channel = deciding_answers(channel, partial(self._decided, server))
        try:
            send = partial(connection.request, method, self._forwarded(params), channel)
            reply = await send_again_if_renewed(send, connection.wait_for_renewal)
        except PeerLost as lost:
            return error(INTERNAL_ERROR, str(lost))
        except (UpstreamError, InputUnavailable) as failure:
            return error(INTERNAL_ERROR, f"upstream `{server}`: {failure}")
        return with_object(reply, f"upstream `{server}` answered `{method[:80]}` with a result that is no object")

    async def relay_to_all(self, servers: Sequence[str], method: str, params: Json, channel: ClientChannel) -> Json:
        """Pass a request on to several upstreams; returns the first `error` member, else the first `result`.

        One that does not answer in time is not waited for.
        """

        async def relay(server: str) -> Json:
            try:
                async with asyncio.timeout(REFRESH_SECONDS if len(servers) > 1 else None):
                    return await self.relay(server, method, params, channel)
            except TimeoutError:
                self.connections[server].note(f"`{method}` was not answered in time")
                return {}

        replies = [reply for reply in await asyncio.gather(*map(relay, servers)) if reply]
        return next((reply for reply in replies if "error" in reply), replies[0] if replies else {"result": {}})

    def notify(self, server: str, method: str, params: Json) -> None:
        """Pass a notification on, unless the upstream's protocol has none from clients."""
        connection = self.connections[server]
        if connection.why_unavailable() is None and connection.protocol is None:
            connection.peer.notify(method, self._forwarded(params))

    def release_request(self, server: str, id: Id) -> None:
        """An upstream's request is not open any more."""
        self.connections[server].release_request(id)

    def answer(self, server: str, id: Id, reply: Json) -> bool:
        """Answer an upstream's request. Returns whether it is there."""
        if self.connections[server].why_unavailable() is not None:
            return False
        self.connections[server].peer.reply(id, self.forwarded_answer(reply))
        return True

    def _forwarded(self, params: Json) -> Json:
        return forwarded_params(params, self._forward_meta)

    def forwarded_answer(self, reply: Json) -> Json:
        """A client's reply as an upstream gets it."""
        result = reply.get("result")
        return {**reply, "result": self._forwarded(result)} if isinstance(result, dict) else reply

    def throttle(self, slow: bool) -> None:
        for connection in self.connections.values():
            connection.throttle(slow)
