"""One client's session: who is calling, which requests are running, and what the client and its upstreams share.

The instance is bound when the session is made; nothing that the client sends can change it. How a client speaks is left
to its protocol adapter: `downstream/handshake.py` or `downstream/stateless.py`. The first request decides which, for
good. The adapter handles each request from start to end and uses the services of the session to do so.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Protocol

from mcp_guard.core.canonical import Unacceptable, parse
from mcp_guard.core.describe import NO_SUCH_TOOL
from mcp_guard.core.errors import defect_text
from mcp_guard.core.exact_json import ReadText
from mcp_guard.core.message_remains import OversizedLine, read_remains
from mcp_guard.core.model import Instance, Json, ToolCallRequest
from mcp_guard.core.note_limiter import NoteLimiter
from mcp_guard.core.replies import unknown_tool
from mcp_guard.core.visible_text import say
from mcp_guard.downstream.announcements import Announcer, Listing
from mcp_guard.downstream.client_timeouts import ClientTimeouts, ClientWait
from mcp_guard.downstream.decided_requests import DecidedRequests
from mcp_guard.downstream.loop_share import SECONDS_PER_BYTE, LoopShare, Sender, metered
from mcp_guard.downstream.request_params import can_be_answered, cancel_reason, cancelled_id, progress_token
from mcp_guard.downstream.router import Router
from mcp_guard.downstream.tool_names import ToolNames
from mcp_guard.downstream.transport import DownstreamTransport
from mcp_guard.downstream.user_sign_in import await_sign_in
from mcp_guard.guard import Guard
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel, Progress
from mcp_guard.protocol.jsonrpc import CancelReason, Id, Peer, PeerLost, error
from mcp_guard.protocol.methods import (
    CALL_TOOL,
    CANCELLED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    LIST_TOOLS,
    PARSE_ERROR,
    PROGRESS,
)
from mcp_guard.protocol.versions import merge_capabilities
from mcp_guard.settings import ClientLimits
from mcp_guard.upstream.group import UpstreamGroup

CLIENT = ""
"""The requester of what the client itself asks for; others are named after their upstream."""
ENDED_EARLY = (
    "the guard ended this session before the request was answered; if it was a tool call, it may have taken effect: "
    "look at the resource before you repeat it"
)
TaskKey = tuple[str, Id]
"""The requester of a running task, and the id that they gave the request."""


class ProtocolAdapter(Protocol):
    """One client's protocol version. It replies to every request that it is given exactly once, unless cancelled."""

    def on_request(self, id: Id, method: str, params: Json) -> None:
        """Handle a request of the client. No other request with this id is running."""

    def on_refused(self, id: Id, method: str, refusal: Coroutine[Any, Any, Json]) -> None:
        """Reply with this refusal to a request that is decided and must not be acted on."""

    def on_notification(self, method: str, params: Json) -> None:
        """Handle a notification of the client, other than a cancellation."""

    def on_cancelled(self, id: Id) -> None:
        """The client has cancelled this request."""

    async def ask_client(self, server: str, method: str, params: Json, progress: Progress | None) -> Json:
        """Ask the client for an upstream. Returns the `result` or `error` member of the answer. Raises: PeerLost."""

    def notify_client(self, method: str, params: Json) -> None:
        """Pass an upstream's notification on to the client."""

    def close(self) -> None:
        """The client has gone, or the session is about to end."""


class Session:
    """Serves one client. `tasks` is entered by whoever serves the session, for as long as it lasts.

    `inbox` is the URL of the approval pages (empty: none). `choose_adapter` makes the adapter for the first request.
    """

    def __init__(
        self,
        guard: Guard,
        upstreams: UpstreamGroup,
        instance: Instance,
        transport: DownstreamTransport,
        *,
        inbox: str,
        limits: ClientLimits,
        loop_share: LoopShare,
        tool_names: ToolNames,
        timeouts: ClientTimeouts,
        choose_adapter: Callable[["Session", str, Json], ProtocolAdapter],
    ) -> None:
        self.guard = guard
        self.instance = instance
        self.inbox = inbox
        self.upstreams = upstreams
        self.client = Peer(transport.write, self)
        self.tasks = asyncio.TaskGroup()
        self._transport = transport
        self._limits = limits
        self.loop_share = loop_share
        self.sender = Sender.of(instance)
        self._frame_bytes = self._bytes_in_flight = 0
        """Size of the frame that is being taken, and of those whose requests are running."""
        self._in_flight = 0
        self._client_notes = NoteLimiter()
        self._tool_names = tool_names
        self._timeouts = timeouts
        self._decided = DecidedRequests(guard, instance, upstreams)
        self._router = Router(upstreams, tool_names, self._decided)
        self._choose_adapter = choose_adapter
        self._adapter: ProtocolAdapter | None = None
        """None until the first request."""
        self._running: dict[TaskKey, asyncio.Task[None]] = {}
        self._is_closing = False
        self._background: set[asyncio.Task[None]] = set()
        """What the guard does by itself; nobody waits for it when the session ends."""
        self._announcer = Announcer(
            upstreams, self._router, self._listing, notify=self._notify_client, start=self.start_background
        )
        self._initialize_results: list[Json] = []
        self._initialized = asyncio.Event()
        """Set once the upstreams have answered `initialize`."""
        self._announced = self._settled = False

    async def close(self, grace: float) -> None:
        """Give running requests `grace` seconds to finish, cancel the rest, then end the upstreams.

        Each request of a client that is still there is answered. Later ones are not taken: nobody would cancel them.
        """
        if self._adapter is not None:
            self._adapter.close()
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=grace)
        self._is_closing = True
        self._announcer.close()
        running = [*self._running.values(), *self._background]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self.client.lose("the client has disconnected")
        await self.upstreams.close()

    # Frames of the client

    def receive_line(
        self, line: bytes | OversizedLine, request: Id | None = None, read: ReadText | None = None
    ) -> None:
        """Take one frame from the client.

        `request` replaces the id of the request in it, where the client's own id may not be unique (`Peer.aliases`).
        `read` is what `exact_json.read` has returned for it, if the transport has read it; it is changed here.
        """
        if self._is_closing:
            return
        if isinstance(line, OversizedLine):
            self._refuse_remains(line, "the message is larger than limits.request_bytes or limits.message_bytes allows")
            return
        began = time.thread_time()
        try:
            self._receive(line, request, read)
        except Exception as defect:  # the edge: a defect must cost this frame and none after it
            self.note(say("internal error: a frame of the client was dropped: {}", defect_text(defect)))
        self._charge(time.thread_time() - began + len(line) * SECONDS_PER_BYTE)

    def _receive(self, line: bytes, request: Id | None, read: ReadText | None) -> None:
        self._frame_bytes = len(line)
        try:
            message = parse(line, self._limits.values, read)
            if request is not None and isinstance(message, dict) and "id" in message:
                message["id"] = request
            self.client.receive(message)
        except Unacceptable as refused:
            self._refuse_frame(refused, line, request)

    def _refuse_frame(self, refused: Unacceptable, line: bytes, request: Id | None) -> None:
        """Answer a frame that must not be acted on."""
        message = refused.message if isinstance(refused.message, dict) else {}
        if request is not None and "id" in message:
            message = {**message, "id": request}
        id, method, params = message.get("id"), message.get("method"), message.get("params")
        if method is None or not can_be_answered(id):
            self._refuse_remains(line, refused.reason, request)
        else:
            self._refuse(id, method, params, error(PARSE_ERROR, refused.reason))

    def _refuse(self, id: Id, method: object, params: object, refusal: Json) -> None:
        """Answer a request that must not be acted on. What is decided needs a decision, and so a receipt."""
        name, reason = params.get("name") if isinstance(params, dict) else None, refusal["error"]["message"]
        if self._adapter is not None and method == CALL_TOOL and isinstance(name, str):
            request = ToolCallRequest(name.encode("utf-8", "replace").decode(), {}, problem=reason)
            self._adapter.on_refused(id, CALL_TOOL, self.call(request, SILENT_CHANNEL))
        elif self._adapter is not None and isinstance(method, str) and self._decided.includes(method):
            self._adapter.on_refused(id, method, self._deny(method, refusal))
        else:
            self.client.reply(id, refusal)

    async def _deny(self, method: str, refusal: Json) -> Json:
        await self.settle()
        await self._decided.send("", method, {}, SILENT_CHANNEL, refusal["error"]["message"])
        return refusal

    def _refuse_remains(self, line: bytes | OversizedLine, reason: str, request: Id | None = None) -> None:
        """Answer a frame of which only its id may be found; without one, the reply has none either."""
        remains = read_remains(line)
        if remains is None or not remains.has_method or remains.id is None:
            if remains is not None:
                self.client.receive_unreadable(remains, f"the client's answer cannot be read: {reason}")
            self.client.reply(None, error(PARSE_ERROR, reason))
        else:
            self.client.reply(remains.id if request is None else request, error(PARSE_ERROR, reason))

    def on_request(self, id: Id, method: str, params: Json) -> None:
        if self.is_running(id):
            self.client.reply(id, error(INVALID_REQUEST, f"a request with id `{str(id)[:40]}` is already running"))
            return
        if self._adapter is None:
            self._adapter = self._choose_adapter(self, method, params)
        if reason := self._why_overloaded():
            self._refuse(id, method, params, error(INVALID_REQUEST, reason))
            return
        self._adapter.on_request(id, method, params)

    def _why_overloaded(self) -> str:
        """Why another request of this client must wait for those that are running; empty if it need not."""
        if self._in_flight >= self._limits.in_flight:
            return f"{self._in_flight} requests are running already (limits.calls_in_flight)"
        if self._bytes_in_flight + self._frame_bytes > self._limits.bytes_in_flight:
            return f"running requests hold {self._bytes_in_flight} bytes already (limits.bytes_in_flight)"
        return ""

    def on_notification(self, method: str, params: Json) -> None:
        if self._adapter is None:
            self.note_client(f"notification `{method[:80]}` was sent before any request and is not passed on")
        elif method == CANCELLED:
            if (id := cancelled_id(params)) is not None:
                self._adapter.on_cancelled(id)
        else:
            self._adapter.on_notification(method, params)

    def on_protocol_violation(self, violation: str) -> None:
        self.note_client(f"client: {violation}")

    def abandon(self, id: Id) -> None:
        """The client has disconnected from a request that it cannot come back to."""
        if self._adapter is not None:
            self._adapter.on_cancelled(id)

    # Services for the adapters: running tasks

    @property
    def is_busy(self) -> bool:
        """Whether anything is running for the client."""
        return bool(self._running)

    def is_running(self, id: Id) -> bool:
        """Whether a request of the client with this id is running."""
        return (CLIENT, id) in self._running

    def start(self, key: TaskKey, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run `work` as a task that can be cancelled by its key, and that ends with the session at the latest."""
        task = self.tasks.create_task(self._metered(work))
        self._running[key] = task
        count, size = (1, self._frame_bytes) if key[0] == CLIENT else (0, 0)
        self._in_flight += count
        self._bytes_in_flight += size

        def forget(_: "asyncio.Task[None]") -> None:
            self._running.pop(key, None)
            self._in_flight -= count
            self._bytes_in_flight -= size

        task.add_done_callback(forget)
        return task

    def start_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` beside the requests of the client, as long as the session lasts."""
        if self._is_closing:
            work.close()
            return

        task = self.tasks.create_task(self._metered(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _metered(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await metered(work, self._charge)
        except Exception as defect:  # a defect in `work` is printed; in the task group it would end the session
            self.failure_reply(defect)

    def _charge(self, seconds: float) -> None:
        self.loop_share.charge(self.sender, seconds)

    def on_cancelled(self, id: Id) -> None:
        """The work for this request of the client was cancelled. Only a client that did not do that gets an answer."""
        if self._is_closing:
            self.client.reply(id, error(INTERNAL_ERROR, ENDED_EARLY))
        else:
            self._transport.drop_reply(id)

    def cancel(self, key: TaskKey, reason: CancelReason | None = None) -> None:
        if task := self._running.get(key):
            task.cancel(reason)

    def begin_wait(self, client: str, *, is_first: bool = True, most: float | None = None) -> ClientWait:
        """The client of this name waits from now on, at most so many seconds; see `ClientWait`."""
        return ClientWait(
            self._timeouts,
            self.instance.agent.name,
            client,
            is_first,
            asyncio.get_running_loop().time,
            lambda: self._is_closing or self.guard.approvals.is_stopping,
            most,
        )

    def failure_reply(self, failure: Exception) -> Json:
        """The `error` member that answers a request which raised. A defect is printed for the operator."""
        if isinstance(failure, PeerLost):
            return error(INTERNAL_ERROR, str(failure))
        self.note(say("internal error: {}", defect_text(failure)))
        return error(INTERNAL_ERROR, f"internal error in the guard: {type(failure).__name__}; see its stderr")

    # Services for the adapters: upstreams

    async def initialize_upstreams(self, params: Json, stateless: bool = False) -> None:
        """Send `initialize` to the upstreams; with `stateless`, prefer revision 2026-07-28 where it is spoken."""
        self._initialize_results = await self.upstreams.start(params, self.tasks, self, stateless)
        self._initialized.set()

    async def initialize_results(self) -> list[Json]:
        """How the upstreams answered `initialize`, once they have."""
        await self._initialized.wait()
        return self._initialize_results

    def capabilities(self, results: list[Json]) -> Json:
        """What the client is told that the upstreams can do; one that has not answered yet may have lists, too."""
        self._router.declared = merge_capabilities(results, is_complete=self.upstreams.have_answered)
        return self._router.declared

    def announce(self) -> None:
        """The client is initialized, so the upstreams may be asked for their listings."""
        if not self._announced:
            self._announced = True
            self.upstreams.announce()
            self.start_background(self.settle())

    async def settle(self) -> None:
        """Wait until the upstreams have listed their tools. A client that omits `initialized` is treated as ready."""
        if self._settled:
            return
        await self._initialized.wait()
        if not self._announced:
            self.announce()
        await self.upstreams.ready()
        self._settled = True
        self._announcer.on_settled()

    async def call(self, request: ToolCallRequest, channel: ClientChannel) -> Json:
        """Guard a call of a tool by the client's name for it; any other is unknown. Returns the reply's member."""
        if not self._settled:
            await self.settle()
        name = self._full_name(request.name)
        await await_sign_in(self.guard, self.instance, self.upstreams, name, channel)
        tool = self.upstreams.find_tool(name)
        if tool is not None and self.upstreams.connections[tool.server].is_starting:
            await self.upstreams.started(tool.server)
            tool = self.upstreams.find_tool(name)
        if tool is not None and (tool.method or not self._tool_names.is_name_of(request.name, tool.server, tool.name)):
            request = request._replace(problem=NO_SUCH_TOOL)
        elif name != request.name:
            request = request._replace(name=name)
        reply = await self.guard.call(self.instance, request, channel)
        return unknown_tool(request.name) if tool is not None and tool.method and "error" in reply else reply

    async def relay(self, method: str, params: Json, channel: ClientChannel) -> Json:
        """Answer a request that is no tool call: list the tools, or pass it on to the upstreams.

        Returns the `result` or `error` member of the reply.
        """
        asked_at = asyncio.get_running_loop().time()
        await self.settle()
        await asyncio.gather(*(connection.wait_for_renewal() for connection in self.upstreams.connections.values()))
        if method == LIST_TOOLS:
            await self.upstreams.refresh(asked_at)
            self._announcer.on_listing()
            self._tool_names.learn(self.upstreams.tools, self.upstreams.version)
            return {"result": {"tools": [self._rename(tool) for tool in await self.guard.list_tools(self.instance)]}}
        return await self._router.route(method, params, channel)

    def _full_name(self, client_name: str) -> str:
        """The `server__tool` of the tool that the client knows by this name."""
        self._tool_names.learn(self.upstreams.tools, self.upstreams.version)
        return self._tool_names.from_client(client_name)

    def _listing(self) -> Listing:
        tools = self.guard.callable_tools(self.instance)
        return (
            frozenset((tool.listed_as, tool.definition_hash, is_observed) for tool, is_observed in tools),
            self.guard.policies.may_hold,
        )

    def _notify_client(self, method: str, params: Json) -> None:
        if self._adapter is not None:
            self._adapter.notify_client(method, params)

    def _rename(self, listed: Json) -> Json:
        """A listed tool by the name that the client has for it."""
        tool = self.upstreams.find_tool(listed["name"])
        return listed if tool is None else {**listed, "name": self._tool_names.for_client(tool.server, tool.name)}

    def input_schema(self, client_name: str) -> Json | None:
        """The input schema of the tool that the client knows by this name; None if it is not listed (yet)."""
        tool = self.upstreams.find_tool(self._full_name(client_name))
        return tool.definition.get("inputSchema") if tool is not None else None

    # Messages of the upstreams (implements `listener.UpstreamListener`)

    def on_server_request(self, server: str, id: Id, method: str, params: Json) -> None:
        task = self.start((server, id), self._ask_client(server, id, method, params))
        task.add_done_callback(lambda _: self.upstreams.release_request(server, id))

    async def _ask_client(self, server: str, id: Id, method: str, params: Json) -> None:
        token = progress_token(params)
        progress: Progress | None = None
        if token is not None:

            def progress(update: Json) -> None:
                self.upstreams.notify(server, PROGRESS, {"progressToken": token, **update})

        assert self._adapter is not None
        try:
            reply = await self._adapter.ask_client(server, method, params, progress)
        except Exception as failure:
            reply = self.failure_reply(failure)
        if not reply:
            reply = error(INTERNAL_ERROR, "the client's answer has neither result nor error")
        await self._decided.answer(server, method, params, reply, partial(self.upstreams.answer, server, id))

    async def on_answers(self, server: str, questions: Mapping[str, Json], answers: dict[str, Json]) -> dict[str, Json]:
        return await self._decided.answers(server, questions, answers)

    def on_server_notification(self, server: str, method: str, params: Json) -> None:
        if method == CANCELLED:
            if (id := cancelled_id(params)) is not None:
                self.cancel((server, id), cancel_reason(params))
        elif self._adapter is not None:
            self._adapter.notify_client(method, params)

    def on_tools_changed(self, server: str) -> None:
        self._announcer.on_reported(server)

    def on_upstream_listed(self, server: str) -> None:
        self._announcer.on_upstream_listed(server)

    def on_list_changed(self, server: str, method: str) -> None:
        self._announcer.on_list_changed(method)

    def on_result(self, server: str, result: Json) -> None:
        try:
            self._router.add_links(server, result)
        except Exception as defect:  # content of an upstream: a defect is printed, and must not fail a call that ran
            self.failure_reply(defect)

    def notify_tools_changed(self) -> None:
        """Tell the client that its tools may have changed, because the policies have."""
        self._announcer.notify_tools_changed()

    async def apply_pins(self) -> None:
        """Apply what operators have decided on tool definitions since. Raises: LedgerError."""
        if self._settled and await self.upstreams.has_stale_pins() and await self.upstreams.rebuild():
            self._announcer.announce_changed_tools()

    def on_work(self, seconds: float) -> None:
        self._charge(seconds)

    def on_pressure(self, slow: bool) -> None:
        self._transport.throttle(slow)

    def note(self, text: str) -> None:
        self._transport.note(text)

    def note_client(self, text: str) -> None:
        """A note about what the client does, unless there were too many: it must not fill the log."""
        if (limited := self._client_notes.limit(text, time.monotonic())) is not None:
            self.note(limited)
