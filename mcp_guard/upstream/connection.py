"""One upstream on stdio: handshake, tool listing, restart with back-off. Decides nothing about calls."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import orjson

from mcp_guard.core.errors import UpstreamError
from mcp_guard.core.model import Json
from mcp_guard.upstream import child
from mcp_guard.upstream.child import Child, Connector
from mcp_guard.wire.methods import INITIALIZE, INITIALIZED, LIST_TOOLS, LISTS, PING, TOOLS_CHANGED
from mcp_guard.wire.peer import Id, Peer, PeerLost
from mcp_guard.wire.pipes import Pipes

BACK_OFF_SECONDS = (0.5, 1, 2, 5, 10, 30)
HANDSHAKE_SECONDS = 60.0
PAGE_LIMIT = 1000


class Owner(Protocol):
    """Whoever keeps the connection; told what the upstream says of its own accord."""

    def on_server_request(self, server: str, id: Id, method: str, params: Json) -> None: ...

    def on_server_notification(self, server: str, method: str, params: Json) -> None: ...

    def on_tools_changed(self, server: str) -> None: ...

    def on_pressure(self, slow: bool) -> None:
        """The upstream reads too slowly, or caught up."""

    def note(self, text: str) -> None: ...


class Connection:
    """`server_info` holds the upstream's `initialize` result once it is ready; `tools` its latest listing."""

    def __init__(self, connector: Connector, limit: int) -> None:
        self.name = connector.name
        self.connector = connector
        self.server_info: Json | None = None
        self.tools: list[Json] | None = None
        self.tried = asyncio.Event()
        """Set once the first handshake has succeeded or failed."""
        self.settled = asyncio.Event()
        """Set once the first listing has come, or will not come for now."""
        self.owner: Owner
        self.peer: Peer
        self._limit = limit
        self._gone = asyncio.Event()
        self._down: str | None = "is starting"
        self._pipes: Pipes | None = None
        self._process: Child | None = None
        self._scrubber = connector.scrubber

    def trouble(self) -> str | None:
        return None if self._down is None else f"upstream `{self.name}` {self._down}"

    def capable(self, capability: str) -> bool:
        return self._down is None and capability in (self.server_info or {}).get("capabilities", {})

    def spawn(self) -> None:
        """Start the process now, so that it warms up while we do. A failure shows in `trouble`."""
        try:
            self._process = child.spawn(self.connector)
        except UpstreamError as error:
            self._down = error.message.removeprefix(f"upstream `{self.name}` ")

    async def supervise(self, hello: Json, announced: asyncio.Event, on_listed: Callable[[], None]) -> None:
        """Keep the upstream running until cancelled: handshake, listing, and again after each exit."""
        failures = 0
        for name in self._process.unguarded if self._process else ():
            self.owner.note(
                f"upstream `{self.name}`: the secret `{name}` is too short to be scrubbed from what it says"
            )
        while True:
            if await self._begin(hello):
                self.tried.set()
                await announced.wait()
                self.peer.notify(INITIALIZED)
                if await self.fetch_tools():
                    failures = 0
                self.settled.set()
                on_listed()
                await self._gone.wait()
            self.tried.set()
            if not self.settled.is_set():
                self.settled.set()
                on_listed()
            delay = BACK_OFF_SECONDS[min(failures, len(BACK_OFF_SECONDS) - 1)]
            failures += 1
            self._down = f"{self._down}; starting it again in {delay:g} s (its stderr: {self.connector.stderr})"
            self.owner.note(f"upstream `{self.name}` {self._down}")
            await self._end()
            await asyncio.sleep(delay)
            self.spawn()

    async def _begin(self, hello: Json) -> bool:
        """Open the pipes and shake hands. False if it cannot be had, with the reason in `trouble`."""
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            return False
        self._gone.clear()
        self._pipes = Pipes(self._on_line, self._on_end)
        self._pipes.on_pressure = self.owner.on_pressure
        self.peer = Peer(self._pipes.write, self)
        await self._pipes.open(self._process.stdout, self._process.stdin, self._limit)
        try:
            reply = await self.peer.request(INITIALIZE, hello, timeout=HANDSHAKE_SECONDS)
        except PeerLost:  # `_on_end` has noted why
            return False
        except TimeoutError:
            self._down = f"did not answer `initialize` within {HANDSHAKE_SECONDS:g} s"
            return False
        result = reply.get("result")
        if not isinstance(result, dict) or not isinstance(result.get("capabilities"), dict):
            self._down = f"refused `initialize`: {str(reply.get('error', reply))[:200]}"
            return False
        self.server_info, self._down = result, None
        return True

    async def fetch_tools(self) -> bool:
        """Read the whole tool listing. On failure the last one stays."""
        try:
            self.tools = await self.fetch_list(LIST_TOOLS) if self.capable("tools") else []
        except (PeerLost, UpstreamError) as error:
            self.owner.note(f"upstream `{self.name}`: no tool listing: {error}")
            return False
        return True

    async def fetch_list(self, method: str) -> list[Json]:
        """Every page of a list. Raises: PeerLost, UpstreamError."""
        items: list[Json] = []
        cursor: str | None = None
        for _ in range(PAGE_LIMIT):
            reply = await self.peer.request(method, {"cursor": cursor} if cursor else {})
            result = reply.get("result")
            if not isinstance(result, dict) or not isinstance(page := result.get(LISTS[method]), list):
                raise UpstreamError(f"`{method}` gave {str(reply)[:200]}")
            items += [item for item in page if isinstance(item, dict)]
            cursor = result.get("nextCursor")
            if not isinstance(cursor, str):
                return items
        raise UpstreamError(f"`{method}` has over {PAGE_LIMIT} pages")

    def throttle(self, slow: bool) -> None:
        if self._pipes is not None:
            self._pipes.throttle(slow)

    def _on_line(self, line: bytes | None) -> None:
        if line is None:
            self.on_oddity(f"a message over {self._limit} bytes, dropped")
            return
        if self._scrubber:  # promise P10: nothing of ours sees the line before
            line = self._scrubber.clean(line)
        try:
            message = orjson.loads(line)
        except orjson.JSONDecodeError:
            self.on_oddity(f"not JSON: {line[:80]!r}")
            return
        self.peer.receive(message)

    def _on_end(self) -> None:
        code = self._process.poll() if self._process else None
        how = f"exited with status {code}" if code is not None else "closed its output"
        self._down = how
        self.peer.lose(f"upstream `{self.name}` {how}")
        self._gone.set()

    async def _end(self) -> None:
        if self._pipes is not None:
            self._pipes.close()
        process, self._process, self._pipes = self._process, None, None
        if process is not None:
            await child.stop(process)

    async def close(self) -> None:
        """End the process and everything it started."""
        if self._down is None:
            self._down = "was stopped"
            self.peer.lose(f"upstream `{self.name}` was stopped")
        await self._end()

    def kill(self) -> None:
        if self._process is not None:
            child.kill(self._process)

    def on_request(self, id: Id, method: str, params: Json) -> None:
        if method == PING:
            self.peer.reply(id, {"result": {}})
        else:
            self.owner.on_server_request(self.name, id, method, params)

    def on_notification(self, method: str, params: Json) -> None:
        if method == TOOLS_CHANGED:
            self.owner.on_tools_changed(self.name)
        else:
            self.owner.on_server_notification(self.name, method, params)

    def on_oddity(self, what: str) -> None:
        self.owner.note(f"upstream `{self.name}`: {what}")
