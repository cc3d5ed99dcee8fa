"""All upstreams together: one catalog, relayed requests, and the only function that runs a tool."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import orjson

from mcp_guard.core.errors import LedgerError, UpstreamError
from mcp_guard.core.model import Execution, ExecutionStatus, Json, Tool, ToolRule
from mcp_guard.core.names import SEPARATOR
from mcp_guard.core.replies import tool_error
from mcp_guard.core.tool_pins import Quarantine
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel, Intent, Pins
from mcp_guard.protocol.jsonrpc import Id, PeerLost, error
from mcp_guard.protocol.methods import CALL_TOOL
from mcp_guard.upstream.catalog import build_catalog, make_tool
from mcp_guard.upstream.connection import Connection, UpstreamListener
from mcp_guard.upstream.status_file import UpstreamStatus
from mcp_guard.upstream.transport import InputUnavailable, RoundCount

START_SECONDS = 30.0


class UpstreamGroup:
    """Implements `ports.Upstreams`. `on_catalog` is told whenever the catalog is another one.

    INVARIANT: the catalog holds only what `pins` lets in (promise P6); `pins` is set before `start`.
    """

    def __init__(
        self,
        connections: list[Connection],
        rules: Mapping[str, ToolRule],
        unpinned: Mapping[str, Collection[str]] = {},
    ) -> None:
        self.connections = {connection.name: connection for connection in connections}
        self.on_catalog: Callable[[], None] = lambda: None
        self.pins: Pins
        self.unjudged = False
        """Whether the ledger could not be asked the last time."""
        self.is_closed = False
        self.on_circuit: Callable[[], None] = lambda: None
        """Told whenever an upstream is up or down anew."""
        for connection in connections:
            connection.on_circuit = lambda: self.on_circuit()  # noqa: PLW0108 - it is set later
        self._rules = rules
        self._unpinned = unpinned
        self._catalog: dict[str, Tool] = {}
        self._quarantine: Mapping[str, Quarantine] = {}
        self._left_out: list[str] = []
        self._announced = asyncio.Event()
        self._supervisors: list[asyncio.Task[None]] = []
        self._owner: UpstreamListener

    def attach(self, owner: UpstreamListener) -> None:
        """Say who hears what the upstreams say of their own accord; before `start`."""
        self._owner = owner
        for connection in self.connections.values():
            connection.owner = owner

    def spawn(self) -> None:
        """Start every process; nothing is awaited, so that they warm up while we do."""
        for connection in self.connections.values():
            connection.spawn()

    async def start(self, hello: Json, tasks: asyncio.TaskGroup, stateless: bool = False) -> list[Json]:
        """Greet all; returns the `initialize` results of those that answered in time.

        With `stateless`, those that speak the stateless revision are spoken to in it, even if they know the other.
        """
        for connection in self.connections.values():
            connection.ask_first = stateless
        self._supervisors = [
            tasks.create_task(connection.supervise(hello, self._announced, self._on_listed))
            for connection in self.connections.values()
        ]
        await self._wait_for([connection.tried for connection in self.connections.values()])
        return [each.server_info for each in self.connections.values() if each.server_info is not None]

    def announce(self) -> None:
        """The client is initialized: tell the upstreams, which may then be listed."""
        self._announced.set()

    async def ready(self) -> None:
        """Wait until every upstream's first listing has come or failed."""
        await self._wait_for([connection.settled for connection in self.connections.values()])

    async def _wait_for(self, events: list[asyncio.Event]) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                for event in events:
                    await event.wait()
        except TimeoutError:
            slow = [each.name for each in self.connections.values() if not each.settled.is_set()]
            self._owner.note(f"going on without {', '.join(f'`{name}`' for name in slow)}, still starting")

    async def close(self) -> None:
        """End every upstream, with everything it started."""
        for supervisor in self._supervisors:
            supervisor.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)
        await asyncio.gather(*(connection.close() for connection in self.connections.values()))
        self.is_closed = True
        self.on_circuit()

    def circuits(self) -> dict[str, UpstreamStatus]:
        return {name: connection.circuit for name, connection in self.connections.items()}

    def kill(self) -> None:
        """End whatever is left of the processes at once, with no event loop: the last thing before we go."""
        for connection in self.connections.values():
            connection.kill()

    # The catalog

    def _on_listed(self) -> None:
        if all(connection.settled.is_set() for connection in self.connections.values()):
            self.rebuild()

    def rebuild(self) -> bool:
        """Make the catalog of the latest listings and the pins; whether it differs, which `on_catalog` is told too."""
        listings = [(each.name, each.tools) for each in self.connections.values() if each.tools is not None]
        listed, left_out = build_catalog(listings, self._rules, self._unpinned)
        for what in left_out:
            if what not in self._left_out:
                self._owner.note(f"left out of the listing: {what}")
        self._left_out = left_out
        quarantine = self._judge(list(listed.values()))
        catalog = {name: tool for name, tool in listed.items() if name not in quarantine}
        differs = catalog != self._catalog or quarantine != self._quarantine
        if differs or not self._catalog:
            self._catalog, self._quarantine = catalog, quarantine
            self.on_catalog()
        return differs

    def _judge(self, tools: list[Tool]) -> Mapping[str, Quarantine]:
        """What must not be used. Without the ledger's word nothing may."""
        self.unjudged = False
        try:
            return self.pins.judge(tools)
        except LedgerError as error:
            self.unjudged = True
            self._owner.note(f"every tool is quarantined: {error}")
            return {tool.listed_as: Quarantine(f"quarantined: {error.message}") for tool in tools}

    async def refresh(self, only: str | None = None) -> None:
        """Read listings again: of one upstream, or of all that would not tell us when theirs changes."""
        stale = [each for each in self.connections.values() if (each.name == only if only else not each.tells_changes)]
        await asyncio.gather(
            *(connection.fetch_tools() for connection in stale if connection.why_unavailable() is None)
        )
        self._on_listed()

    def absent(self) -> set[str]:
        """Upstreams that have listed no tools so far."""
        return {each.name for each in self.connections.values() if not each.tools}

    def find_tool(self, listed_as: str) -> Tool | None:
        return self._catalog.get(listed_as)

    def tools(self) -> list[Tool]:
        return list(self._catalog.values())

    def why_quarantined(self, listed_as: str) -> str | None:
        kept_out = self._quarantine.get(listed_as)
        return kept_out.because if kept_out else None

    def agreed(self) -> list[Tool]:
        """Every tool by the definition agreed to, the one in the listing or not: what policies can speak of."""
        known = {
            name: make_tool(name.partition(SEPARATOR)[0], kept_out.pinned, self._rules)
            for name, kept_out in self._quarantine.items()
            if kept_out.pinned is not None
        }
        return [*self._catalog.values(), *known.values()]

    def unagreed(self) -> set[str]:
        """Tools that are listed, and of which no definition was ever agreed to."""
        return {name for name, kept_out in self._quarantine.items() if kept_out.pinned is None}

    def why_unavailable(self, server: str) -> str | None:
        return self.connections[server].why_unavailable()

    # The only road to a tool

    async def execute(self, intent: Intent, channel: ClientChannel = SILENT_CHANNEL) -> Execution:
        """Send one call, once; again only to go on with it, when its upstream asks the client something first.

        INVARIANT: takes a durable `Intent` and nothing else (promise P1); whatever round it is, the arguments are its.
        """
        call = intent.call
        assert call.tool is not None
        connection = self.connections[call.tool.server]
        params: dict[str, Any] = {"name": call.tool.name, "arguments": orjson.Fragment(call.canonical)}
        if call.meta:
            params["_meta"] = call.meta
        if connection.speech is None:
            return await _outcome(
                connection, connection.peer.request(CALL_TOOL, params, channel.progress, connection.timeout)
            )
        rounds = RoundCount()
        work = connection.speech.in_rounds(CALL_TOOL, params, channel, connection.timeout, rounds)
        return replace(await _outcome(connection, work), rounds=rounds.made)

    # Everything that is not a tool call

    def capable(self, capability: str) -> list[str]:
        return [each.name for each in self.connections.values() if each.capable(capability)]

    async def relay(self, server: str, method: str, params: Json, channel: ClientChannel = SILENT_CHANNEL) -> Json:
        """Pass a request on; returns its `result` or `error` member. INVARIANT: never a tool call."""
        assert method != CALL_TOOL
        try:
            return await self.connections[server].request(method, params, channel)
        except PeerLost as lost:
            return error(-32603, str(lost))
        except (UpstreamError, InputUnavailable) as why:
            return error(-32603, f"upstream `{server}`: {why}")

    async def relay_list(self, server: str, method: str) -> list[Json]:
        """Every page of one upstream's list. Raises: PeerLost, UpstreamError."""
        return await self.connections[server].fetch_list(method)

    def notify(self, server: str, method: str, params: Json) -> None:
        """Pass a notification on, to an upstream whose era has it."""
        connection = self.connections[server]
        if connection.why_unavailable() is None and connection.speech is None:
            connection.peer.notify(method, params)

    def answer(self, server: str, id: Id, reply: Json) -> None:
        if self.connections[server].why_unavailable() is None:
            self.connections[server].peer.reply(id, reply)

    def throttle(self, slow: bool) -> None:
        for connection in self.connections.values():
            connection.throttle(slow)


async def _outcome(connection: Connection, work: Awaitable[Json]) -> Execution:
    """What came of a call that is under way."""
    name = connection.name
    try:
        return _read_reply(name, await work)
    except PeerLost as lost:
        return _may_have_run(ExecutionStatus.UNKNOWN, f"{lost} before it answered")
    except TimeoutError:
        return _may_have_run(
            ExecutionStatus.TIMEOUT, f"upstream `{name}` did not answer within {connection.timeout:g} s"
        )
    except UpstreamError as odd:
        return _may_have_run(ExecutionStatus.UPSTREAM_ERROR, f"upstream `{name}` answered with {odd}")
    except InputUnavailable as why:
        return _may_have_run(ExecutionStatus.CANCELLED, f"upstream `{name}` did not finish: {why}")


def _may_have_run(ending: ExecutionStatus, detail: str) -> Execution:
    text = f"{detail}. The call may have taken effect: do not repeat it before looking at the resource."
    return Execution(ending, tool_error(text, outcome=str(ending)), detail)


def _read_reply(server: str, reply: Json) -> Execution:
    result = reply.get("result")
    if isinstance(result, dict):
        return Execution(ExecutionStatus.TOOL_ERROR if result.get("isError") is True else ExecutionStatus.OK, reply)
    if "error" in reply:
        detail = str(reply["error"].get("message", ""))[:500]
        return Execution(ExecutionStatus.UPSTREAM_ERROR, reply, detail)
    return _may_have_run(ExecutionStatus.UPSTREAM_ERROR, f"upstream `{server}` answered with neither result nor error")
