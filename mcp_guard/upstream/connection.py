"""The connection to one upstream: handshake, tool listing, and restarts with back-off. It decides nothing about calls.

An upstream gets `initialize` first; if it refuses, it is asked whether it speaks the stateless revision. For a client
that is stateless itself the order is reversed, so that nothing has to be translated.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import orjson

from mcp_guard.core.canonical import is_too_deep
from mcp_guard.core.errors import UpstreamError
from mcp_guard.core.model import Json
from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel
from mcp_guard.protocol.jsonrpc import Id, Peer, PeerLost
from mcp_guard.protocol.methods import INITIALIZE, INITIALIZED, LIST_TOOLS, LISTS, PING, TOOLS_CHANGED
from mcp_guard.upstream.status_file import UpstreamStatus
from mcp_guard.upstream.transport import ServerProtocol, Transport

BACK_OFF_SECONDS = (0.5, 1, 2, 5, 10, 30)
HANDSHAKE_SECONDS = 60.0
LIST_SECONDS = 30.0
"""How long one page of a list may take: all clients of a list wait for the slowest upstream."""
MAX_PAGES = 1000


class UpstreamListener(Protocol):
    """Receives what upstreams send without being asked, and notes for the operator."""

    def on_server_request(self, server: str, id: Id, method: str, params: Json) -> None: ...

    def on_server_notification(self, server: str, method: str, params: Json) -> None: ...

    def on_tools_changed(self, server: str) -> None: ...

    def on_pressure(self, slow: bool) -> None:
        """The upstream reads too slowly, or has caught up."""

    def note(self, text: str) -> None: ...


class NoListener:
    """Implements `UpstreamListener` until there is one: no upstream has been contacted, so nothing arrives."""

    def on_server_request(self, server: str, id: Id, method: str, params: Json) -> None:
        pass

    def on_server_notification(self, server: str, method: str, params: Json) -> None:
        pass

    def on_tools_changed(self, server: str) -> None:
        pass

    def on_pressure(self, slow: bool) -> None:
        pass

    def note(self, text: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Upstream:
    """One configured upstream: how it is reached, which secrets its messages may not contain, and its limits."""

    name: str
    transport: Transport
    scrubber: Scrubber
    max_message_bytes: int
    call_seconds: float

    def start(self) -> None:
        """Start its process at once, so that it warms up meanwhile; not where reading its secrets may block."""
        if not self.transport.starts_slowly:
            self.transport.start()


def _without_body(message: object) -> object:
    """The part of an unusable message that tells whoever waits for it that it arrived."""
    if not isinstance(message, dict):
        return None
    return {name: value for name in ("id", "method") if isinstance(value := message.get(name), str | int)}


class Connection:
    """The state of one upstream for one client session."""

    def __init__(self, upstream: Upstream, on_status: Callable[[], None]) -> None:
        self.name = upstream.name
        self.call_seconds = upstream.call_seconds
        self.initialize_result: Json | None = None
        """Of the latest successful handshake."""
        self.tools: list[Json] | None = None
        """The latest listing."""
        self.handshake_tried = asyncio.Event()
        """Set once the first handshake has succeeded or failed."""
        self.listing_tried = asyncio.Event()
        """Set once the first listing has succeeded or failed."""
        self.protocol: ServerProtocol | None = None
        """None after a handshake: then messages are passed on as they are."""
        self.status = UpstreamStatus(False, time.time(), "is starting")
        self._transport = upstream.transport
        self._scrubber = upstream.scrubber
        self._max_message_bytes = upstream.max_message_bytes
        self._on_status = on_status
        self._listener: UpstreamListener = NoListener()
        self._prefers_stateless = False
        self._down: str | None = "is starting"
        """Why it cannot be used now."""
        self._closed = asyncio.Event()
        self.peer = Peer(self._transport.write, self)

    def why_unavailable(self) -> str | None:
        return None if self._down is None else f"upstream `{self.name}` {self._down}"

    @property
    def reports_tool_changes(self) -> bool:
        if self.protocol is not None:
            return self.protocol.reports_tool_changes
        tools = (self.initialize_result or {}).get("capabilities", {}).get("tools")
        return isinstance(tools, dict) and tools.get("listChanged") is True

    def has_capability(self, capability: str) -> bool:
        return self._down is None and capability in (self.initialize_result or {}).get("capabilities", {})

    async def supervise(
        self,
        initialize_params: Json,
        listener: UpstreamListener,
        *,
        prefer_stateless: bool,
        client_is_ready: asyncio.Event,
        on_listed: Callable[[], None],
    ) -> None:
        """Keep the upstream running until cancelled: handshake, listing, and both again after each exit."""
        self._listener, self._prefers_stateless = listener, prefer_stateless
        failures = 0
        if self._transport.starts_slowly:
            await self._start_in_thread()
        for name in self._transport.unscrubbed_secrets:
            listener.note(
                f"upstream `{self.name}`: the secret `{name}` is too short to be scrubbed from what the upstream sends"
            )
        while True:
            if await self._open(initialize_params):
                self._set_status(UpstreamStatus(True, time.time()))
                self.handshake_tried.set()
                await client_is_ready.wait()
                await self._announce()
                if await self.fetch_tools():
                    failures = 0
                self.listing_tried.set()
                on_listed()
                await self._closed.wait()
            self.handshake_tried.set()
            if not self.listing_tried.is_set():
                self.listing_tried.set()
                on_listed()
            delay = BACK_OFF_SECONDS[min(failures, len(BACK_OFF_SECONDS) - 1)]
            failures += 1
            since = time.time() if self.status.is_up else self.status.since
            self._set_status(UpstreamStatus(False, since, self._down or "closed", time.time() + delay))
            self._down = f"{self._down}; restarting in {delay:g} s (see {self._transport.diagnostics})"
            listener.note(f"upstream `{self.name}` {self._down}")
            await self._transport.close()
            await asyncio.sleep(delay)
            if self._transport.starts_slowly:
                await self._start_in_thread()
            else:
                self._transport.start()

    def _set_status(self, status: UpstreamStatus) -> None:
        self.status = status
        self._on_status()

    async def _start_in_thread(self) -> None:
        """A cancellation waits for the thread, so that nothing is started after its caller has gone."""
        starting = asyncio.ensure_future(asyncio.to_thread(self._transport.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await starting
            raise

    async def _open(self, initialize_params: Json) -> bool:
        """Open the transport and do the handshake. False if either failed; `why_unavailable` has the reason."""
        self._closed.clear()
        self.peer, self.protocol = Peer(self._transport.write, self), None
        if not await self._transport.open(self, self._listener.on_pressure, self._max_message_bytes):
            return False
        try:
            if self._prefers_stateless:
                self._prefers_stateless = False  # an upstream that does not survive the question is not asked again
                self._prefers_stateless = await self._discover(initialize_params)
                if self._prefers_stateless:
                    return True
            reply = await self.peer.request(INITIALIZE, initialize_params, timeout=HANDSHAKE_SECONDS)
            if "error" in reply and await self._discover(initialize_params):
                return True
        except PeerLost:  # `on_closed` has the reason
            return False
        except TimeoutError:
            self._down = f"did not answer `initialize` within {HANDSHAKE_SECONDS:g} s"
            return False
        result = reply.get("result")
        if not isinstance(result, dict) or not isinstance(result.get("capabilities"), dict):
            self._down = f"refused `initialize`: {str(reply.get('error', reply))[:200]}"
            return False
        self.initialize_result, self._down = result, None
        return True

    async def _discover(self, initialize_params: Json) -> bool:
        """Whether it speaks the stateless revision; if so, it is used from now on. Raises: PeerLost."""
        from mcp_guard.upstream.stateless import StatelessServerProtocol  # most upstreams do not need it

        protocol = StatelessServerProtocol(
            self.peer, initialize_params, on_notification=self._notify, note=self.on_protocol_violation
        )
        result = await protocol.discover()
        if result is None:
            return False
        self.protocol, self.initialize_result, self._down = protocol, result, None
        return True

    async def _announce(self) -> None:
        """Tell the upstream that the client is ready."""
        if self.protocol is None:
            self.peer.notify(INITIALIZED)
        else:
            await self.protocol.listen()

    async def request(self, method: str, params: Json, channel: ClientChannel = SILENT_CHANNEL) -> Json:
        """Send any request but a tool call; returns the `result` or `error` member of its reply.

        Raises: PeerLost, UpstreamError, InputUnavailable.
        """
        if self.protocol is not None:
            return await self.protocol.request(method, params, channel)
        return await self.peer.request(method, params, channel.progress)

    async def fetch_tools(self) -> bool:
        """Read the whole tool listing. Returns False if that failed; then the previous listing stays."""
        try:
            self.tools = await self.fetch_list(LIST_TOOLS) if self.has_capability("tools") else []
        except (PeerLost, UpstreamError) as error:
            self._listener.note(f"upstream `{self.name}`: no tool listing: {error}")
            return False
        return True

    async def fetch_list(self, method: str) -> list[Json]:
        """Every page of a list. Raises: PeerLost, UpstreamError."""
        items: list[Json] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            try:
                async with asyncio.timeout(min(self.call_seconds, LIST_SECONDS)):
                    reply = await self.request(method, {"cursor": cursor} if cursor else {})
            except TimeoutError:
                raise UpstreamError(f"`{method}` was not answered") from None
            result = reply.get("result")
            if not isinstance(result, dict) or not isinstance(page := result.get(LISTS[method]), list):
                raise UpstreamError(f"`{method}` returned {str(reply)[:200]}")
            items += [item for item in page if isinstance(item, dict)]
            cursor = result.get("nextCursor")
            if not isinstance(cursor, str):
                return items
        raise UpstreamError(f"`{method}` returned more than {MAX_PAGES} pages")

    def throttle(self, slow: bool) -> None:
        self._transport.throttle(slow)

    def on_message(self, frame: bytes | None) -> None:
        if frame is None:
            self.on_protocol_violation(f"dropped a message over {self._max_message_bytes} bytes")
            return
        if self._scrubber:  # INVARIANT: nothing looks at the frame before its secrets are scrubbed (promise P10)
            frame = self._scrubber.clean(frame)
        try:
            message = orjson.loads(frame)
        except orjson.JSONDecodeError:
            self.on_protocol_violation(f"not JSON: {frame[:80]!r}")
            return
        if is_too_deep(frame, message):
            self.on_protocol_violation("dropped a message that is nested too deeply")
            message = _without_body(message)
        try:
            self.peer.receive(message)
        except Exception as defect:  # the edge: a defect must cost this message and none after it
            self.on_protocol_violation(f"internal error: dropped a message: {type(defect).__name__}: {defect}")

    def on_request_lost(self, request: Id, reason: str) -> None:
        self.peer.lose_one(request, f"upstream `{self.name}`: {self._scrub(reason)}")

    def input_schema(self, tool: str) -> Json | None:
        schemas = (definition.get("inputSchema") for definition in self.tools or () if definition.get("name") == tool)
        schema = next(schemas, None)
        return schema if isinstance(schema, dict) else None

    def on_closed(self, reason: str) -> None:
        self._down = reason = self._scrub(reason)
        self._close_protocol()
        self.peer.lose(f"upstream `{self.name}` {reason}")
        self._closed.set()

    def _scrub(self, text: str) -> str:
        """A library's error message may repeat parts of the request, and with it a secret."""
        return self._scrubber.clean(text.encode()).decode(errors="replace")

    async def close(self) -> None:
        """End it, with every process that it started."""
        self._close_protocol()
        if self._down is None:
            self._down = "was stopped"
            self.peer.lose(f"upstream `{self.name}` was stopped")
        await self._transport.close()

    def _close_protocol(self) -> None:
        if self.protocol is not None:
            self.protocol.close()

    def kill(self) -> None:
        self._transport.kill()

    def on_request(self, id: Id, method: str, params: Json) -> None:
        if self.protocol is not None:
            self.protocol.on_request(id, method)
        elif method == PING:
            self.peer.reply(id, {"result": {}})
        else:
            self._listener.on_server_request(self.name, id, method, params)

    def on_notification(self, method: str, params: Json) -> None:
        if self.protocol is not None:
            self.protocol.on_notification(method, params)
        else:
            self._notify(method, params)

    def _notify(self, method: str, params: Json) -> None:
        if method == TOOLS_CHANGED:
            self._listener.on_tools_changed(self.name)
        else:
            self._listener.on_server_notification(self.name, method, params)

    def on_protocol_violation(self, what: str) -> None:
        self._listener.note(f"upstream `{self.name}`: {what}")
