"""One client's session: its requests to the guard or the right upstream, everything else passed through both ways.

Who is calling is a value of the session, bound when it opens; nothing that the client sends can change it. How a
client speaks is its era: the handshake revisions (`downstream/handshake.py`) or the stateless one
(`downstream/stateless.py`). The first request decides which, for good (`runtime.py`).
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeGuard

import orjson

from mcp_guard.core.canonical import Unacceptable, parse
from mcp_guard.core.describe import NO_SUCH_TOOL
from mcp_guard.core.model import Instance, Json, ToolCallRequest
from mcp_guard.downstream.router import Router
from mcp_guard.downstream.tool_names import ToolNames
from mcp_guard.guard import Guard
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel, Progress
from mcp_guard.protocol.jsonrpc import Id, Peer, PeerLost, error
from mcp_guard.protocol.methods import (
    CALL_TOOL,
    CANCELLED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LIST_TOOLS,
    PARSE_ERROR,
    PROGRESS,
    TOOLS_CHANGED,
)
from mcp_guard.upstream.group import UpstreamGroup

Key = tuple[str, Id]


class DownstreamTransport(Protocol):
    """The client's end of the wire, and the operator's ear."""

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        """Send a frame; see `peer.Write`."""

    def throttle(self, slow: bool) -> None:
        """Stop or resume reading from the client, while an upstream is slow."""

    def note(self, text: str) -> None:
        """Tell the operator."""


class ProtocolAdapter(Protocol):
    """A family of protocol revisions, as one client speaks it."""

    def on_request(self, id: Id, method: str, params: Json) -> None: ...

    def on_notification(self, method: str, params: Json) -> None:
        """Anything but a cancellation."""

    def on_cancelled(self, id: Id) -> None: ...

    def finish(self, method: str, reply: Json) -> Json:
        """The reply to a request of the client, as this era has it."""

    def on_close(self) -> None:
        """The client is gone, or is about to be."""

    async def ask(self, server: str, method: str, params: Json, progress: Progress | None) -> Json:
        """What an upstream asks of the client. Returns the `result` or `error` member. Raises: PeerLost."""

    def tell(self, method: str, params: Json) -> None:
        """What an upstream says to the client."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What is said of every session: where the inbox is, how names are shown, and which era a first request is of."""

    inbox: str
    naming: ToolNames
    era: Callable[["Session", str, Json], ProtocolAdapter]


class Session:
    """Relays one client; every task it starts belongs to the group given to `open`."""

    def __init__(
        self, guard: Guard, upstreams: UpstreamGroup, instance: Instance, front: DownstreamTransport, ways: Ways
    ) -> None:
        self.guard = guard
        self.instance = instance
        self.inbox = ways.inbox
        self.upstreams = upstreams
        self.client = Peer(front.write, self)
        self.tasks: asyncio.TaskGroup
        self._front = front
        self._naming = ways.naming
        self._router = Router(upstreams, ways.naming)
        self._choose_era = ways.era
        self._era: ProtocolAdapter | None = None
        self._running: dict[Key, asyncio.Task[None]] = {}
        """Requests being answered, by who asked ("" is the client) and the id they gave."""
        self._hellos: list[Json] = []
        self._greeted = asyncio.Event()
        """Set once the upstreams have shaken hands; a client that cannot wait for its own handshake is made to."""
        self._announced = self._settled = False

    def open(self, tasks: asyncio.TaskGroup) -> None:
        self.tasks = tasks

    async def close(self, grace: float) -> None:
        """Let what is running finish within `grace` seconds, then cancel it."""
        if self._era is not None:
            self._era.on_close()
        running = list(self._running.values())
        if running:
            await asyncio.wait(running, timeout=grace)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self.client.lose("the client is gone")

    def receive_line(self, line: bytes | None, request: Id | None = None) -> None:
        """Take one frame from the client; None is one that was too large to read.

        With `request`, that is what we call the request in it: its own id may not be unique (`Peer.aliases`).
        """
        if line is None:
            self.client.reply(None, error(PARSE_ERROR, "the message is larger than limits.message_bytes allows"))
            return
        try:
            self._take(line, request)
        except Exception as defect:  # the edge: a defect must cost this frame and none after it
            self.note(f"internal error: a frame of the client was dropped: {type(defect).__name__}: {defect}")

    def _take(self, line: bytes, request: Id | None) -> None:
        try:
            message = parse(line)
            if request is not None and isinstance(message, dict) and "id" in message:
                message["id"] = request
            self.client.receive(message)
        except Unacceptable as refused:
            self._refuse_line(refused, request)

    def _refuse_line(self, refused: Unacceptable, request: Id | None) -> None:
        """Answer a frame that must not be acted on. A tool call in it asked for a decision, so it gets its receipt."""
        message = refused.message if isinstance(refused.message, dict) else {}
        if request is not None and "id" in message:
            message = {**message, "id": request}
        id, params = message.get("id"), message.get("params")
        name = params.get("name") if isinstance(params, dict) else None
        if not _can_be_answered(id):
            self.client.reply(None, error(PARSE_ERROR, refused.reason))
        elif self._era is not None and message.get("method") == CALL_TOOL and isinstance(name, str):
            name = name.encode("utf-8", "replace").decode()
            work = self.call(ToolCallRequest(name, {}, problem=refused.reason), SILENT_CHANNEL)
            self.run(("", id), self.answer(id, CALL_TOOL, work))
        else:
            self.client.reply(id, error(PARSE_ERROR, refused.reason))

    # From the client

    def on_request(self, id: Id, method: str, params: Json) -> None:
        if self.is_running(id):
            self.client.reply(id, error(INVALID_REQUEST, f"a request with id `{str(id)[:40]}` is already running"))
            return
        if self._era is None:
            self._era = self._choose_era(self, method, params)
        self._era.on_request(id, method, params)

    def on_notification(self, method: str, params: Json) -> None:
        if self._era is None:
            self.note(f"notification `{method[:80]}` before any request is not passed on")
        elif method == CANCELLED:
            if (id := cancelled_id(params)) is not None:
                self._era.on_cancelled(id)
        else:
            self._era.on_notification(method, params)

    def on_protocol_violation(self, what: str) -> None:
        self.note(f"client: {what}")

    # For the eras

    def is_running(self, id: Id) -> bool:
        return ("", id) in self._running

    def run(self, key: Key, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = self.tasks.create_task(work)
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))
        return task

    def give_up(self, id: Id) -> None:
        """The client is gone from a request that it cannot come back to."""
        if self._era is not None:
            self._era.on_cancelled(id)

    def cancel(self, key: Key) -> None:
        if task := self._running.get(key):
            task.cancel()

    async def answer(self, id: Id, method: str, work: Coroutine[Any, Any, Json]) -> None:
        """Reply with what the work returns; its failure is a reply too, and the session lives on."""
        assert self._era is not None
        self.client.reply(id, self._era.finish(method, await self.outcome(work)))

    async def outcome(self, work: Coroutine[Any, Any, Json]) -> Json:
        """What the work returns, or the error that says why there is nothing."""
        try:
            return await work
        except PeerLost as lost:
            return error(INTERNAL_ERROR, str(lost))
        except Exception as failure:  # the edge: a defect must answer this request and no other
            self.note(f"internal error: {type(failure).__name__}: {failure}")
            return error(INTERNAL_ERROR, f"internal error in the guard: {type(failure).__name__}; see its stderr")

    async def greet(self, hello: Json, stateless: bool = False) -> None:
        """Greet the upstreams; with `stateless`, in the stateless revision those that speak it."""
        self._hellos = await self.upstreams.start(hello, self.tasks, self, stateless)
        self._greeted.set()

    async def hellos(self) -> list[Json]:
        """How the upstreams answered `initialize`, once they have."""
        await self._greeted.wait()
        return self._hellos

    def announce(self) -> None:
        """The client is ready: so the upstreams may be listed."""
        self._announced = True
        self.upstreams.announce()

    async def settle(self) -> None:
        """The listings are known, which takes the client's readiness; a client that forgot to say so means it."""
        if self._settled:
            return
        await self._greeted.wait()
        if not self._announced:
            self.announce()
        await self.upstreams.ready()
        self._settled = True

    async def handle(self, method: str, params: Json, channel: ClientChannel) -> Json:
        """Any request that has a road of its own; returns the `result` or `error` member of its answer."""
        if method == CALL_TOOL:
            return await self.call_tool(params, channel)
        await self.settle()
        if method == LIST_TOOLS:
            await self.upstreams.refresh()
            return {"result": {"tools": [self._show(tool) for tool in self.guard.list_tools(self.instance)]}}
        return await self._router.route(method, params, channel)

    async def call_tool(self, params: Json, channel: ClientChannel) -> Json:
        name, arguments = params.get("name"), params.get("arguments", {})
        if not isinstance(name, str) or not isinstance(arguments, dict | None):
            return error(INVALID_PARAMS, "tools/call needs a `name` and an object of `arguments`")
        meta = params.get("_meta")
        if meta is not None and not isinstance(meta, dict):
            return error(INVALID_PARAMS, "`_meta` must be an object")
        kept = {key: value for key, value in meta.items() if key != "progressToken"} if meta else None
        return await self.call(ToolCallRequest(name, arguments or {}, kept), channel)

    def schema(self, shown: str) -> Json | None:
        """The input schema of a tool by the name that the client has for it, if it is known by now."""
        tool = self.upstreams.find_tool(self._naming.read(shown))
        return tool.definition.get("inputSchema") if tool is not None else None

    def _show(self, listed: Json) -> Json:
        tool = self.upstreams.find_tool(listed["name"])
        return listed if tool is None else {**listed, "name": self._naming.show(tool.server, tool.name)}

    async def call(self, asked: ToolCallRequest, channel: ClientChannel) -> Json:
        """A call by the name that the client has for its tool; a tool that is listed by another name is unknown."""
        await self.settle()
        name = self._naming.read(asked.name)
        tool = self.upstreams.find_tool(name)
        if tool is not None and self._naming.show(tool.server, tool.name) != asked.name:
            asked = replace(asked, problem=NO_SUCH_TOOL)
        elif name != asked.name:
            asked = replace(asked, name=name)
        return await self.guard.call(self.instance, asked, channel)

    def progress_to_client(self, id: Id, params: Json) -> Progress | None:
        token = progress_token(params)
        if token is None:
            return None
        return lambda news: self.client.notify(PROGRESS, {"progressToken": token, **news}, id)

    # From the upstreams

    def on_server_request(self, server: str, id: Id, method: str, params: Json) -> None:
        self.run((server, id), self._ask_client(server, id, method, params))

    async def _ask_client(self, server: str, id: Id, method: str, params: Json) -> None:
        token = progress_token(params)
        progress: Progress | None = None
        if token is not None:

            def progress(news: Json) -> None:
                self.upstreams.notify(server, PROGRESS, {"progressToken": token, **news})

        assert self._era is not None
        try:
            reply = await self._era.ask(server, method, params, progress)
        except PeerLost as lost:
            reply = error(INTERNAL_ERROR, str(lost))
        self.upstreams.answer(
            server, id, reply or error(INTERNAL_ERROR, "the client's answer has neither result nor error")
        )

    def on_server_notification(self, server: str, method: str, params: Json) -> None:
        if method == CANCELLED:
            if (id := cancelled_id(params)) is not None:
                self.cancel((server, id))
        elif self._era is not None:
            self._era.tell(method, params)

    def on_tools_changed(self, server: str) -> None:
        self.run((server, "listing"), self._relist(server))

    async def _relist(self, server: str) -> None:
        await self.upstreams.ready()
        await self.upstreams.refresh(server)
        self.tell_tools_changed()

    def tell_tools_changed(self) -> None:
        """The client may be listed other tools now: an upstream has others, or the policies are others."""
        if self._era is not None:
            self._era.tell(TOOLS_CHANGED, {})

    def on_pins(self) -> None:
        """Take up what is agreed to of the tools since. Raises: LedgerError."""
        stale = self._settled and (self.upstreams.pins_failed or self.upstreams.pins.have_changed())
        if stale and self.upstreams.rebuild() and self._era is not None:
            self._era.tell(TOOLS_CHANGED, {})

    def on_pressure(self, slow: bool) -> None:
        self._front.throttle(slow)

    def note(self, text: str) -> None:
        self._front.note(text)


def _can_be_answered(id: object) -> TypeGuard[Id]:
    """Whether an id, as a lenient reader has it, is one that can be said again."""
    try:
        return isinstance(id, str | int) and not isinstance(id, bool) and bool(orjson.dumps(id))
    except TypeError:  # a lone surrogate, or an integer of over 64 bits
        return False


def cancelled_id(params: Json) -> Id | None:
    """Which request a cancellation is of; an id that is none is nobody's."""
    id = params.get("requestId")
    return id if isinstance(id, str | int) else None


def progress_token(params: Json) -> Any:
    meta = params.get("_meta")
    return meta.get("progressToken") if isinstance(meta, dict) else None
