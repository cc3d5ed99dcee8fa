"""One upstream: greeting, tool listing, another start after each end, with back-off. Decides nothing about calls.

An upstream is greeted with `initialize`; one that refuses it is asked whether it speaks the stateless revision. A
client that is stateless itself has that asked first, so that nothing need be translated.
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
PAGE_LIMIT = 1000


class UpstreamListener(Protocol):
    """Whoever keeps the connection; told what the upstream says of its own accord."""

    def on_server_request(self, server: str, id: Id, method: str, params: Json) -> None: ...

    def on_server_notification(self, server: str, method: str, params: Json) -> None: ...

    def on_tools_changed(self, server: str) -> None: ...

    def on_pressure(self, slow: bool) -> None:
        """The upstream reads too slowly, or caught up."""

    def note(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a message may be, and how long a call may take."""

    bytes: int
    seconds: float


def _without_body(message: object) -> object:
    """What is left of a message that cannot be passed on: whoever waits for it must hear that it came."""
    if not isinstance(message, dict):
        return None
    return {name: each for name in ("id", "method") if isinstance(each := message.get(name), str | int)}


class Connection:
    """`server_info` holds the upstream's `initialize` result once it is ready; `tools` its latest listing."""

    def __init__(self, name: str, link: Transport, scrubber: Scrubber, bounds: Bounds) -> None:
        self.name = name
        self.timeout = bounds.seconds
        self.server_info: Json | None = None
        self.tools: list[Json] | None = None
        self.tried = asyncio.Event()
        """Set once the first handshake has succeeded or failed."""
        self.settled = asyncio.Event()
        """Set once the first listing has come, or will not come for now."""
        self.owner: UpstreamListener
        self.peer: Peer
        self.speech: ServerProtocol | None = None
        """None in the handshake era, whose messages go as they are."""
        self.ask_first = False
        """Whether it is asked for the stateless revision before the handshake is tried."""
        self._link = link
        self._limit = bounds.bytes
        self._gone = asyncio.Event()
        self._down: str | None = "is starting"
        self._scrubber = scrubber
        self.on_circuit: Callable[[], None] = lambda: None
        self.circuit = UpstreamStatus(False, time.time(), "is starting")

    def why_unavailable(self) -> str | None:
        return None if self._down is None else f"upstream `{self.name}` {self._down}"

    @property
    def tells_changes(self) -> bool:
        """Whether it says when its tools change."""
        if self.speech is not None:
            return self.speech.tells_changes
        tools = (self.server_info or {}).get("capabilities", {}).get("tools")
        return isinstance(tools, dict) and tools.get("listChanged") is True

    def capable(self, capability: str) -> bool:
        return self._down is None and capability in (self.server_info or {}).get("capabilities", {})

    def spawn(self) -> None:
        """Start it now, so that it warms up while we do. A failure shows in `why_unavailable`."""
        if not self._link.is_slow:
            self._start()

    def _start(self) -> None:
        try:
            self._link.start()
        except UpstreamError as error:
            self._down = error.message.removeprefix(f"upstream `{self.name}` ")

    async def supervise(self, hello: Json, announced: asyncio.Event, on_listed: Callable[[], None]) -> None:
        """Keep the upstream running until cancelled: handshake, listing, and again after each exit."""
        failures = 0
        if self._link.is_slow:
            await self._start_apart()
        for name in self._link.unguarded:
            self.owner.note(
                f"upstream `{self.name}`: the secret `{name}` is too short to be scrubbed from what it says"
            )
        while True:
            if await self._begin(hello):
                self._turn(UpstreamStatus(True, time.time()))
                self.tried.set()
                await announced.wait()
                await self._announce()
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
            down = self._down or "did not answer with a listing"
            since = time.time() if self.circuit.is_up else self.circuit.since
            self._turn(UpstreamStatus(False, since, down, time.time() + delay))
            self._down = f"{self._down}; starting it again in {delay:g} s ({self._link.where})"
            self.owner.note(f"upstream `{self.name}` {self._down}")
            await self._link.close()
            await asyncio.sleep(delay)
            if self._link.is_slow:
                await self._start_apart()
            else:
                self._start()

    def _turn(self, circuit: UpstreamStatus) -> None:
        self.circuit = circuit
        self.on_circuit()

    async def _start_apart(self) -> None:
        """Start it in a thread. Whoever cancels us waits for that, so that nothing is started behind their back."""
        starting = asyncio.ensure_future(asyncio.to_thread(self._start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await starting
            raise

    async def _begin(self, hello: Json) -> bool:
        """Open the link and shake hands. False if it cannot be had, with the reason in `why_unavailable`."""
        self._gone.clear()
        self.peer, self.speech = Peer(self._link.write, self), None
        if not await self._link.open(self, self.owner.on_pressure, self._limit):
            return False
        try:
            if self.ask_first:
                self.ask_first = False  # one that does not survive the question is not asked again
                self.ask_first = await self._discover(hello)
                if self.ask_first:
                    return True
            reply = await self.peer.request(INITIALIZE, hello, timeout=HANDSHAKE_SECONDS)
            if "error" in reply and await self._discover(hello):
                return True
        except PeerLost:  # `on_end` has noted why
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

    async def _discover(self, hello: Json) -> bool:
        """Whether it speaks the stateless revision; if so, from now on it does. Raises: PeerLost."""
        from mcp_guard.upstream.stateless import (  # what no upstream speaks is not loaded
            Hearing,
            StatelessServerProtocol,
        )

        speech = StatelessServerProtocol(self.peer, hello, Hearing(self._notified, self.on_protocol_violation))
        found = await speech.discover()
        if found is None:
            return False
        self.speech, self.server_info, self._down = speech, found, None
        return True

    async def _announce(self) -> None:
        """The client is ready."""
        if self.speech is None:
            self.peer.notify(INITIALIZED)
        else:
            await self.speech.listen()

    async def request(self, method: str, params: Json, channel: ClientChannel = SILENT_CHANNEL) -> Json:
        """Any request that runs no tool; returns its `result` or `error` member.

        Raises: PeerLost, UpstreamError, Unanswered.
        """
        if self.speech is not None:
            return await self.speech.request(method, params, channel)
        return await self.peer.request(method, params, channel.progress)

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
            try:
                async with asyncio.timeout(min(self.timeout, LIST_SECONDS)):
                    reply = await self.request(method, {"cursor": cursor} if cursor else {})
            except TimeoutError:
                raise UpstreamError(f"`{method}` was not answered") from None
            result = reply.get("result")
            if not isinstance(result, dict) or not isinstance(page := result.get(LISTS[method]), list):
                raise UpstreamError(f"`{method}` gave {str(reply)[:200]}")
            items += [item for item in page if isinstance(item, dict)]
            cursor = result.get("nextCursor")
            if not isinstance(cursor, str):
                return items
        raise UpstreamError(f"`{method}` has over {PAGE_LIMIT} pages")

    def throttle(self, slow: bool) -> None:
        self._link.throttle(slow)

    def on_line(self, line: bytes | None) -> None:
        if line is None:
            self.on_protocol_violation(f"a message over {self._limit} bytes, dropped")
            return
        if self._scrubber:  # promise P10: nothing of ours sees the line before
            line = self._scrubber.clean(line)
        try:
            message = orjson.loads(line)
        except orjson.JSONDecodeError:
            self.on_protocol_violation(f"not JSON: {line[:80]!r}")
            return
        if is_too_deep(line, message):
            self.on_protocol_violation("a message nested too deeply, dropped")
            message = _without_body(message)
        try:
            self.peer.receive(message)
        except Exception as defect:  # the edge: a defect must cost this message and none after it
            self.on_protocol_violation(f"internal error: a message was dropped: {type(defect).__name__}: {defect}")

    def on_lost(self, request: Id, why: str) -> None:
        self.peer.lose_one(request, f"upstream `{self.name}`: {self._clean(why)}")

    def schema(self, tool: str) -> Json | None:
        schemas = (each.get("inputSchema") for each in self.tools or () if each.get("name") == tool)
        found = next(schemas, None)
        return found if isinstance(found, dict) else None

    def on_end(self, why: str) -> None:
        self._down = why = self._clean(why)
        self._hush()
        self.peer.lose(f"upstream `{self.name}` {why}")
        self._gone.set()

    def _clean(self, why: str) -> str:
        """A library's word on a failure may repeat what it was given to send."""
        return self._scrubber.clean(why.encode()).decode(errors="replace")

    async def close(self) -> None:
        """End it, and everything it started."""
        self._hush()
        if self._down is None:
            self._down = "was stopped"
            self.peer.lose(f"upstream `{self.name}` was stopped")
        await self._link.close()

    def _hush(self) -> None:
        if self.speech is not None:
            self.speech.close()

    def kill(self) -> None:
        self._link.kill()

    def on_request(self, id: Id, method: str, params: Json) -> None:
        if self.speech is not None:
            self.speech.on_request(id, method)
        elif method == PING:
            self.peer.reply(id, {"result": {}})
        else:
            self.owner.on_server_request(self.name, id, method, params)

    def on_notification(self, method: str, params: Json) -> None:
        if self.speech is not None:
            self.speech.on_notification(method, params)
        else:
            self._notified(method, params)

    def _notified(self, method: str, params: Json) -> None:
        if method == TOOLS_CHANGED:
            self.owner.on_tools_changed(self.name)
        else:
            self.owner.on_server_notification(self.name, method, params)

    def on_protocol_violation(self, what: str) -> None:
        self.owner.note(f"upstream `{self.name}`: {what}")
