"""All upstreams together: one catalog, relayed requests, and the only function that runs a tool."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from mcp_guard.core.model import Ending, Execution, Json, Tool, ToolRule
from mcp_guard.core.replies import tool_error
from mcp_guard.ports import Intent, Progress
from mcp_guard.upstream.catalog import build_catalog
from mcp_guard.upstream.circuits import Circuit
from mcp_guard.upstream.connection import Connection, Owner
from mcp_guard.wire.methods import CALL_TOOL
from mcp_guard.wire.peer import Id, PeerLost, error

START_SECONDS = 30.0


class Hub:
    """Implements `ports.Upstreams`. `on_catalog` is told whenever the catalog is another one."""

    def __init__(self, connections: list[Connection], rules: Mapping[str, ToolRule]) -> None:
        self.connections = {connection.name: connection for connection in connections}
        self.on_catalog: Callable[[], None] = lambda: None
        self.is_closed = False
        self.on_circuit: Callable[[], None] = lambda: None
        """Told whenever an upstream is up or down anew."""
        for connection in connections:
            connection.on_circuit = lambda: self.on_circuit()  # noqa: PLW0108 - it is set later
        self._rules = rules
        self._catalog: dict[str, Tool] = {}
        self._announced = asyncio.Event()
        self._supervisors: list[asyncio.Task[None]] = []
        self._owner: Owner

    def attach(self, owner: Owner) -> None:
        """Say who hears what the upstreams say of their own accord; before `start`."""
        self._owner = owner
        for connection in self.connections.values():
            connection.owner = owner

    def spawn(self) -> None:
        """Start every process; nothing is awaited, so that they warm up while we do."""
        for connection in self.connections.values():
            connection.spawn()

    async def start(self, hello: Json, tasks: asyncio.TaskGroup) -> list[Json]:
        """Shake hands with all; returns the `initialize` results of those that answered in time."""
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

    def circuits(self) -> dict[str, Circuit]:
        return {name: connection.circuit for name, connection in self.connections.items()}

    def kill(self) -> None:
        """End whatever is left of the processes at once, with no event loop: the last thing before we go."""
        for connection in self.connections.values():
            connection.kill()

    # The catalog

    def _on_listed(self) -> None:
        if all(connection.settled.is_set() for connection in self.connections.values()):
            self.rebuild()

    def rebuild(self) -> None:
        """Make the catalog of the latest listings; say so if it differs."""
        listings = [(each.name, each.tools) for each in self.connections.values() if each.tools is not None]
        catalog, left_out = build_catalog(listings, self._rules)
        for what in left_out:
            self._owner.note(f"left out of the listing: {what}")
        if catalog != self._catalog or not self._catalog:
            self._catalog = catalog
            self.on_catalog()

    async def refresh(self, only: str | None = None) -> None:
        """Read listings again: of one upstream, or of all that would not tell us when theirs changes."""
        stale = [
            each for each in self.connections.values() if (each.name == only if only else not _tells_changes(each))
        ]
        await asyncio.gather(*(connection.fetch_tools() for connection in stale if connection.trouble() is None))
        self._on_listed()

    def absent(self) -> set[str]:
        """Upstreams that have listed no tools so far."""
        return {each.name for each in self.connections.values() if not each.tools}

    def find(self, listed_as: str) -> Tool | None:
        return self._catalog.get(listed_as)

    def tools(self) -> list[Tool]:
        return list(self._catalog.values())

    def trouble(self, server: str) -> str | None:
        return self.connections[server].trouble()

    # The only road to a tool

    async def execute(self, intent: Intent, progress: Progress | None = None) -> Execution:
        """Send one call, once. INVARIANT: takes a durable `Intent` and nothing else (promise P1)."""
        call = intent.call
        assert call.tool is not None
        connection = self.connections[call.tool.server]
        params: dict[str, Any] = {"name": call.tool.name, "arguments": orjson.Fragment(call.canonical)}
        if call.meta:
            params["_meta"] = call.meta
        try:
            reply = await connection.peer.request(CALL_TOOL, params, progress, connection.timeout)
        except PeerLost as lost:
            return _may_have_run(Ending.UNKNOWN, f"{lost} before it answered")
        except TimeoutError:
            seconds = connection.timeout
            return _may_have_run(Ending.TIMEOUT, f"upstream `{connection.name}` did not answer within {seconds:g} s")
        return _read_reply(connection.name, reply)

    # Everything that is not a tool call

    def capable(self, capability: str) -> list[str]:
        return [each.name for each in self.connections.values() if each.capable(capability)]

    async def relay(self, server: str, method: str, params: Json, progress: Progress | None = None) -> Json:
        """Pass a request on; returns its `result` or `error` member. INVARIANT: never a tool call."""
        assert method != CALL_TOOL
        try:
            return await self.connections[server].peer.request(method, params, progress)
        except PeerLost as lost:
            return error(-32603, str(lost))

    async def relay_list(self, server: str, method: str) -> list[Json]:
        """Every page of one upstream's list. Raises: PeerLost, UpstreamError."""
        return await self.connections[server].fetch_list(method)

    def notify(self, server: str, method: str, params: Json) -> None:
        if self.connections[server].trouble() is None:
            self.connections[server].peer.notify(method, params)

    def answer(self, server: str, id: Id, reply: Json) -> None:
        if self.connections[server].trouble() is None:
            self.connections[server].peer.reply(id, reply)

    def throttle(self, slow: bool) -> None:
        for connection in self.connections.values():
            connection.throttle(slow)


def _tells_changes(connection: Connection) -> bool:
    tools = (connection.server_info or {}).get("capabilities", {}).get("tools")
    return isinstance(tools, dict) and tools.get("listChanged") is True


def _may_have_run(ending: Ending, detail: str) -> Execution:
    text = f"{detail}. The call may have taken effect: do not repeat it before looking at the resource."
    return Execution(ending, tool_error(text, outcome=str(ending)), detail)


def _read_reply(server: str, reply: Json) -> Execution:
    result = reply.get("result")
    if isinstance(result, dict):
        return Execution(Ending.TOOL_ERROR if result.get("isError") is True else Ending.OK, reply)
    if "error" in reply:
        detail = str(reply["error"].get("message", ""))[:500]
        return Execution(Ending.UPSTREAM_ERROR, reply, detail)
    return _may_have_run(Ending.UPSTREAM_ERROR, f"upstream `{server}` answered with neither result nor error")
