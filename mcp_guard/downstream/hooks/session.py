"""One session of a coding agent: its calls on the path of every call, from the question to the report."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mcp_guard.core import exact_json
from mcp_guard.core.approval import Approval
from mcp_guard.core.host_tools import HOST, UnknownShape, Workspace, arguments_of, has_changed
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.core.names import listed_name
from mcp_guard.core.replies import without_own_tools
from mcp_guard.downstream.hooks.dialects import NOTHING, Dialect, Event, HookAnswer, HookKind
from mcp_guard.downstream.session import CLIENT, Session
from mcp_guard.ports import ClientChannel
from mcp_guard.protocol.jsonrpc import Id, NotSent, PeerLost
from mcp_guard.protocol.methods import LATEST

MAX_OUTCOME = 64 * 1024
"""Characters of a reported outcome that are kept."""
FRESH_SECONDS = 0.2
"""How long after its description a call that was not held is described again: it may be another one by then."""
REPORT_SECONDS = 10.0
"""How long a report waits until it is recorded."""
MAX_OPEN = 256
"""How many calls of a session may be without a report."""


class HookTransport:
    """Implements `session.DownstreamTransport`: a hook is answered once, and nothing else is sent."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        pass

    def drop_reply(self, request: Id) -> None:
        pass

    def throttle(self, slow: bool) -> None:
        pass


@dataclass(slots=True)
class HookedCall:
    """A call from its question on. `went_on` is set when the agent is told to run it, `finished` once all is recorded.

    `described` is the event loop's time at which its arguments were, and `pending` the approval that it was left
    waiting for.
    """

    part: str
    input: Json
    arguments: Json = field(default_factory=dict)
    described: float = 0.0
    went_on: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: "asyncio.Future[Json]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    reply: Json | None = None
    pending: Approval | None = None
    was_held: bool = False

    def report(self, result: Json) -> None:
        if not self.outcome.done():
            self.outcome.set_result({"result": result})

    def lose(self, reason: str) -> None:
        """No report comes any more: the outcome is `unknown`."""
        if not self.outcome.done():
            self.outcome.set_exception(PeerLost(reason))
            self.outcome.exception()  # it may be that nobody waits for it


class HookSession:
    """`place` makes the workspace of a call made in this folder; `is_upstream` says which names are those of the
    guard's upstreams. `skips_prompts`: whether an allowed call is not asked about by the agent's own prompts."""

    def __init__(
        self,
        session: Session,
        dialect: Dialect,
        place: Callable[[str], Workspace],
        *,
        is_upstream: Callable[[str], bool],
        skips_prompts: bool,
    ) -> None:
        self.session = session
        self.used = asyncio.get_running_loop().time()
        """The event loop's time of its latest event."""
        self.ended = asyncio.Event()
        self.why_ended = "the agent's session ended"
        self.is_closed = False
        self._dialect = dialect
        self._place = place
        self._is_upstream = is_upstream
        self._skips_prompts = skips_prompts
        self._ready = asyncio.Event()
        self._calls: dict[str, deque[HookedCall]] = {}
        """Those without a report, by what tells them apart; there may be several where that is what they do."""
        self._count = 0

    async def run(self, grace: float) -> None:
        """Until it has ended. Whatever was not reported by then is `unknown`."""
        try:
            async with self.session.tasks:
                client = {"name": self._dialect.id, "version": ""}
                params = {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": client}
                await self.session.initialize_upstreams(params)
                await self.session.settle()
                self._ready.set()
                await self.ended.wait()
                self.is_closed = True
                self.lose_calls(self.why_ended)
                await self.session.close(grace)
        finally:
            self.is_closed = True
            self.session.upstreams.kill()

    def end(self, why: str) -> None:
        if not self.ended.is_set():
            self.why_ended = why
            self.ended.set()

    @property
    def open_calls(self) -> int:
        return sum(map(len, self._calls.values()))

    def lose_calls(self, reason: str, part: str | None = None) -> None:
        """Close the calls that were not reported; only those of the agent or sub-agent `part`, if it is given."""
        for calls in self._calls.values():
            for call in calls:
                if (part is None or call.part == part) and call.went_on.is_set():
                    call.lose(reason)

    # A call

    async def decide(self, event: Event, seconds: float, left: asyncio.Event) -> HookAnswer:
        """Answer the question whether a tool may run. `left` is set when the hook's process has gone, and `seconds` is
        how long it waits."""
        await self._ready.wait()
        call = HookedCall(event.part, event.input)
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds

        async def go_on() -> Json:
            if left.is_set():
                raise NotSent("the agent no longer waits for an answer")
            is_fresh = not call.was_held and loop.time() - call.described <= FRESH_SECONDS
            if not is_fresh and has_changed(call.arguments, self._request(event).arguments):
                raise NotSent("a file that it runs, or where its paths lead, has changed since it was asked about")
            call.went_on.set()
            return await call.outcome

        def on_held(_: Approval) -> None:
            call.was_held = True

        def on_left_pending(approval: Approval) -> None:
            call.pending = approval

        channel = ClientChannel(
            on_approval_requested=on_held,
            on_left_pending=on_left_pending,
            seconds_left=lambda: ends - loop.time(),
            on_wait_cancelled=left.is_set,
            on_host=go_on,
        )
        self._count += 1
        key = (CLIENT, self._count)
        self._calls.setdefault(event.call, deque()).append(call)
        self.session.start(key, self._guard(event, call, channel))
        await _first(call.went_on, call.finished, left)
        if call.went_on.is_set():
            return self._dialect.allow(event.name, self._skips_prompts or call.was_held)
        if not call.finished.is_set():
            self.session.cancel(key)
            return NOTHING
        return self._dialect.deny(event.name, self._why_denied(call))

    async def _guard(self, event: Event, call: HookedCall, channel: ClientChannel) -> None:
        try:
            request = self._request(event)
            call.arguments, call.described = request.arguments, asyncio.get_running_loop().time()
            call.reply = await self.session.guard.call(self.session.instance, request, channel)
        except Exception as failure:
            call.reply = self.session.failure_reply(failure)
        finally:
            call.finished.set()
            self._calls[event.call].remove(call)
            if not self._calls[event.call]:
                del self._calls[event.call]

    def _request(self, event: Event) -> ToolCallRequest:
        """The call of the host's tool. What cannot be read is a problem, which denies it with a receipt."""
        try:
            name, arguments = self._described(event)
        except UnknownShape as unknown:
            known = f"unknown shape of `{event.tool}` of {self._dialect.title}: {unknown}"
            shape = self._dialect.shape_of(event.tool)
            return ToolCallRequest(listed_name(HOST, shape.name), {}, problem=known)
        problem = f"{MAX_OPEN} calls have no outcome yet" if self.open_calls > MAX_OPEN else None
        return ToolCallRequest(listed_name(HOST, name), arguments, problem=problem)

    def _described(self, event: Event) -> tuple[str, Json]:
        """Raises: UnknownShape."""
        place = self._place(event.folder)
        if (mcp := self._dialect.mcp_tool(event.tool)) is not None:
            server, tool = mcp
            guarded = self._dialect.is_guarded(server, tool, self._is_upstream)
            said = {"server": server, "tool": tool, "guarded": guarded}
            return "Mcp", arguments_of("Mcp", said, event.input, place, _dump)
        name, said, rest = self._dialect.read_tool(event.tool, event.input, place)
        return name, arguments_of(name, said, rest, place, _dump)

    def _why_denied(self, call: HookedCall) -> str:
        if (approval := call.pending) is not None:
            return (
                f"held by mcp-guard: approval {approval.id} on {', '.join(approval.routes)} is not decided yet. "
                "Nothing was run. Make exactly the same call again to keep waiting, or to run it once it is approved."
            )
        reply = call.reply or {}
        if "error" in reply:
            return f"denied by mcp-guard: {reply['error']['message']}"
        texts = [block.get("text", "") for block in reply.get("result", {}).get("content", [])]
        return without_own_tools("\n".join(texts)) or "denied by mcp-guard"

    # Its report

    async def report(self, event: Event) -> bool:
        """The agent has run a tool. Returns whether the guard knows of the call; its outcome is recorded then."""
        call = next((call for call in self._calls.get(event.call, ()) if call.went_on.is_set()), None)
        if call is None:
            return False
        if event.input == call.input:
            call.report(_result(event.outcome, event.kind is HookKind.FAILED))
        else:  # such as by another hook of the agent, which may change the input afterwards
            call.lose("the agent reports another input than was decided on: it is not known what ran")
            self.session.note(
                f"`{event.tool[:80]}` ran with another input than was decided on; look at its other hooks"
            )
        try:
            async with asyncio.timeout(REPORT_SECONDS):
                await call.finished.wait()
        except TimeoutError:
            self.session.note(f"the outcome of a call of `{event.tool[:80]}` is not recorded yet")
        return True


def _dump(value: object) -> str:
    return exact_json.dumps(value).decode()


def _result(outcome: object, has_failed: bool) -> Json:
    """The reported outcome as the result of a tool."""
    text = outcome if isinstance(outcome, str) else exact_json.dumps(outcome).decode()
    if len(text) > MAX_OUTCOME:
        text = f"{text[:MAX_OUTCOME]}… ({len(text) - MAX_OUTCOME} more characters)"
    is_error = has_failed or (isinstance(outcome, dict) and bool(outcome.get("error")))
    return {"content": [{"type": "text", "text": text}]} | ({"isError": True} if is_error else {})


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
