"""Adapter for clients of the stateless revision 2026-07-28, in front of upstreams of any revision.

What one side cannot express becomes what the other can, or an honest error:

- an upstream's question becomes `input_required` of a request that is running, or an error if there is none;
- notifications of changes go to those who subscribed to them;
- a call that is held for approval becomes `input_required` with a sealed state, and the client resumes it by repeating
  its request, also at another gateway.
"""

import asyncio
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from mcp_guard.core.approval import Approval
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.core.replies import AWAIT, held_meta
from mcp_guard.core.tasks import ENDED, EXTENSION, TASK_CHANGED, TASK_METHODS, offers_tasks
from mcp_guard.downstream.decided_requests import as_tool_result, reply_to
from mcp_guard.downstream.multi_round import MultiRoundRequest, MultiRoundRequests
from mcp_guard.downstream.request_params import client_name, progress_token, read_tool_call
from mcp_guard.downstream.request_state import RequestStateCipher
from mcp_guard.downstream.session import CLIENT, Session
from mcp_guard.downstream.task_requests import TaskRequests
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel, Progress
from mcp_guard.protocol import stateless_server as wire
from mcp_guard.protocol.jsonrpc import Id, error
from mcp_guard.protocol.methods import (
    CALL_TOOL,
    ELICIT,
    INITIALIZE,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LATEST,
    METHOD_NOT_FOUND,
    PROGRESS,
    RESOURCE_UPDATED,
    SET_LEVEL,
    SUBSCRIBE,
    UNSUBSCRIBE,
)
from mcp_guard.protocol.stateless_server import Envelope
from mcp_guard.protocol.versions import (
    approval_elicitation,
    can_open_urls,
    merge_instructions,
    sign_in_elicitation,
)

GUARD, SIGN_IN = "(guard)", "sign-in"
"""The requester of the guard's own tasks: no upstream can have this name."""
MAX_ROUNDS = 8
"""After so many rounds a held call is answered in words: the SDKs' clients give up after ten."""
HOLD_ROUNDS, ROUND_SECONDS = 3, 15.0
"""How many rounds a call is held for, and how long one of them lasts at most: so a client that has gone is noticed.
There are more and shorter ones for a client that gives up sooner."""
MIN_ROUND_SECONDS = 0.001
MAX_SUBSCRIBED = 256
RUNS_ELSEWHERE = (
    "the request of this `requestState` does not run at this gateway, and may have taken effect; look at the resource "
    "before you repeat it without the state"
)
UNKNOWN_STATE = "`requestState` does not belong to this request, or is no longer valid; make the request without it"


@dataclass(frozen=True, slots=True)
class HeldCall:
    """A request as its client comes back with it: the approval that its call waits for, and for how many seconds it may
    still be held in all."""

    approval: str | None
    seconds_left: float


class StatelessAdapter:
    """Implements `session.ProtocolAdapter`."""

    def __init__(self, session: Session, state_key: bytes) -> None:
        self._session = session
        self._cipher = RequestStateCipher(state_key, session.instance.id)
        self._id = secrets.token_hex(8)
        """Which work a state can resume: that of this adapter, and none of a like name elsewhere."""
        self._rounds = MultiRoundRequests(
            run=lambda key, work: session.start((GUARD, key), work),
            cancel=lambda key: session.cancel((GUARD, key)),
            reply=session.client.reply,
            on_cancelled=session.on_cancelled,
            input_required=self._input_required,
        )
        self._is_initialized = False
        self._subscriptions: dict[Id, Json] = {}
        """The filter of each open `subscriptions/listen`."""
        self._subscribed_tasks: dict[Id, dict[str, Json | None]] = {}
        """The tasks that each of them names, with what it was told last."""
        self._closed = asyncio.Event()
        self._log_levels: dict[Id, str | None] = {}
        """The log level that each running request asks for."""
        self._set_level = ""
        """The level that the upstreams were last set to; empty if none."""
        self._tasks = TaskRequests(session, self._notify_of_task)

    # Requests of the client

    def on_request(self, id: Id, method: str, params: Json) -> None:
        if method == INITIALIZE:
            self._session.client.reply(id, wire.unsupported_version(params.get("protocolVersion")))
            return
        envelope = wire.read_envelope(params)
        if not isinstance(envelope, Envelope):
            self._session.client.reply(id, envelope)
            return
        if not self._is_initialized:
            self._is_initialized = True
            upstream_params = wire.initialize_params(envelope, LATEST)
            work = self._session.initialize_upstreams(upstream_params, stateless=True)
            self._session.start((GUARD, INITIALIZE), work)
            self._session.start_background(self._tasks.watch())
        if self._rounds.find_waiting(id) is not None:
            self._session.client.reply(id, error(INVALID_REQUEST, f"request `{str(id)[:40]}` is already running"))
        elif method in wire.ROUNDS:
            self._start_round(id, method, params, envelope)
        elif method == wire.LISTEN:
            self._session.start((CLIENT, id), self._listen(id, params, envelope))
        elif method in TASK_METHODS and not offers_tasks(envelope.capabilities):
            self._session.client.reply(id, wire.tasks_not_offered())
        elif method in TASK_METHODS:
            channel = ClientChannel(envelope=wire.client_meta(envelope))
            self._start(id, method, self._tasks.handle(method, params, channel))
        elif method == wire.DISCOVER or method in wire.REQUESTS:
            channel = ClientChannel(envelope=wire.client_meta(envelope))
            self._start(id, method, self._handle(id, method, params, channel, envelope))
        else:
            self._session.client.reply(id, error(METHOD_NOT_FOUND, f"`{method[:80]}` is not passed on by this guard"))

    def on_refused(self, id: Id, method: str, refusal: Coroutine[Any, Any, Json]) -> None:
        self._start(id, method, refusal)

    def _start(self, id: Id, method: str, work: Coroutine[Any, Any, Json]) -> None:
        self._session.start((CLIENT, id), self._respond(id, method, work))

    async def _respond(self, id: Id, method: str, work: Coroutine[Any, Any, Json]) -> None:
        """Reply with what `work` returns. If it raises, that is a reply too, and the session lives on."""
        try:
            reply = await work
        except asyncio.CancelledError:
            self._session.on_cancelled(id)
            raise
        except Exception as failure:
            reply = self._session.failure_reply(failure)
        self._session.client.reply(id, wire.complete_result(method, reply))

    async def _handle(self, id: Id, method: str, params: Json, channel: ClientChannel, envelope: Envelope) -> Json:
        """Returns the `result` or `error` member of the reply, as the handshake revisions have it."""
        self._log_levels[id] = envelope.log_level
        try:
            if method == wire.DISCOVER:
                return await self._discover()
            await self._raise_log_level(envelope.log_level)
            plain = wire.without_envelope(params)
            if method != CALL_TOOL:
                return await self._session.relay(method, plain, channel)
            request = read_tool_call(plain)
            if not isinstance(request, ToolCallRequest):
                return request
            work = self._session.call(request, channel)
            return await (as_tool_result(work) if request.name == AWAIT else work)
        finally:
            self._log_levels.pop(id, None)  # another request may have had its id since, and be over

    async def _discover(self) -> Json:
        results = await self._session.initialize_results()
        capabilities = self._session.capabilities(results)
        if any(map(wire.has_tasks, results)):
            capabilities["extensions"] = {**capabilities.get("extensions", {}), EXTENSION: {}}
        discovery: Json = {"supportedVersions": [wire.REVISION], "capabilities": capabilities}
        return {"result": discovery | merge_instructions(results)}

    async def _raise_log_level(self, level: str | None) -> None:
        """Ask the upstreams for log messages of this level, unless they send them already."""
        if level is None or (self._set_level and wire.meets_log_level(level, self._set_level)):
            return
        self._set_level = level
        await self._session.relay(SET_LEVEL, {"level": level}, SILENT_CHANNEL)

    # Requests that may take several rounds

    def _start_round(self, id: Id, method: str, params: Json, envelope: Envelope) -> None:
        """Start the work of a request, or resume it for a client that comes back with answers."""
        try:
            binding = wire.request_binding(method, params)
        except ValueError as unreadable:
            self._session.client.reply(id, error(INVALID_PARAMS, f"these params cannot be read: {unreadable}"))
            return
        state: Json | None = {}
        if (sealed := params.get("requestState")) is not None:
            state = self._cipher.open(sealed, self._session.guard.clock.now())
        answers = params.get("inputResponses", {})
        if state is None or state.get("binding", binding) != binding or not isinstance(answers, dict):
            self._session.client.reply(id, error(INVALID_PARAMS, UNKNOWN_STATE))
        elif state.get("session") == self._id:
            self._resume(id, params, envelope, state["resume"], answers)
        elif "session" in state and state["approval"] is None:
            self._session.client.reply(id, error(INVALID_PARAMS, RUNS_ELSEWHERE))
        else:
            held = HeldCall(state.get("approval"), float(state.get("left", self._session.guard.hold_seconds)))
            self._rounds.start(
                id,
                lambda multi: self._work(multi, id, method, params, held),
                binding=binding,
                envelope=envelope,
                token=progress_token(params),
                round=1 + int(state.get("round", 0)),
                seconds_left=held.seconds_left,
                approval=held.approval,
                early_answers=answers if "session" not in state else {},
            )

    def _resume(self, id: Id, params: Json, envelope: Envelope, key: str, answers: Json) -> None:
        """The client is back at work that was started here."""
        multi = self._rounds.find_by_key(key)
        if multi is None or multi.request is not None:
            self._session.client.reply(id, error(INVALID_PARAMS, UNKNOWN_STATE))
        else:
            multi.envelope, multi.token = envelope, progress_token(params)
            self._rounds.resume(multi, id, answers)

    async def _work(self, multi: MultiRoundRequest, id: Id, method: str, params: Json, held: HeldCall) -> Json:
        """Returns the final reply; that of the held call, if there is one.

        All rounds together last as long as one call of a client that waits. A client that offers nothing which a server
        could ask it for need not know rounds, and many do not: it waits within its request, and gets a text.
        """

        def note_pending(approval: Approval) -> None:
            multi.pending = approval

        shown: Json = {}
        knows_rounds = not multi.envelope.capabilities.keys().isdisjoint(wire.ASKABLE.values())
        round_seconds = min(ROUND_SECONDS, self._session.guard.hold_seconds / HOLD_ROUNDS)
        wait = self._session.begin_wait(
            client_name(multi.envelope.client),
            is_first=params.get("name") != AWAIT,
            most=min(round_seconds, held.seconds_left) if knows_rounds else held.seconds_left,
        )
        multi.seconds_left = held.seconds_left - (wait.limit() or 0)
        channel = ClientChannel(
            progress=(lambda update: self._send_progress(multi, update)) if multi.token is not None else None,
            on_approval_requested=lambda approval: self._show_approval(multi, shown, approval),
            on_sign_in_needed=lambda upstream: self._show_sign_in(multi, shown, upstream),
            on_left_pending=note_pending,
            ask=lambda requests: self._rounds.ask(multi, requests),
            envelope=wire.client_meta(multi.envelope, may_have_task=self._tasks.may_start),
            seconds_left=lambda: 0.0 if shown else wait.seconds_left(),
            on_wait_cancelled=wait.on_cancelled,
            on_repeated=wait.on_repeated,
        )
        try:
            if held.approval is not None and self._session.guard.policies.may_hold:
                meta = wire.without_envelope(params).get("_meta")
                request = ToolCallRequest(AWAIT, {"approval": held.approval}, meta)
                reply = reply_to(method, await self._session.call(request, channel))
            else:
                reply = await self._handle(id, method, params, channel, multi.envelope)
        except Exception as failure:
            reply = self._session.failure_reply(failure)
        if "task" in reply:
            self._tasks.note_started(reply["task"]["taskId"])
        if shown:  # the round was answered at once
            multi.seconds_left = held.seconds_left
        is_over = multi.round > MAX_ROUNDS or (multi.round > 1 and multi.seconds_left < MIN_ROUND_SECONDS)
        if SIGN_IN in shown and multi.pending is None:
            return wire.input_required(self._seal(multi), shown, reply.get("result"))
        if multi.pending is None or not knows_rounds or is_over:
            return wire.complete_result(method, reply)
        multi.approval = multi.pending.id
        return wire.input_required(self._seal(multi), shown, reply.get("result") or {"_meta": held_meta(multi.pending)})

    def _seal(self, multi: MultiRoundRequest, **more: str) -> str:
        """The state by which a client comes back: to the approval that its call waits for, if there is one."""
        state: Json = {
            "binding": multi.binding,
            "approval": multi.approval,
            "round": multi.round,
            "left": multi.seconds_left,
        }
        return self._cipher.seal(state | more, self._session.guard.clock.now())

    def _send_progress(self, multi: MultiRoundRequest, update: Json) -> None:
        """To the request by which the client waits now, if it has a progress token."""
        if multi.token is not None and multi.request is not None:
            self._session.client.notify(PROGRESS, {"progressToken": multi.token, **update}, multi.request)

    def _input_required(self, multi: MultiRoundRequest) -> Json:
        """To work that goes on here, to which the client must come back."""
        return wire.input_required(self._seal(multi, session=self._id, resume=multi.key), multi.questions)

    def _show_approval(self, multi: MultiRoundRequest, shown: Json, approval: Approval) -> None:
        """Have the user shown where the call is decided. The answer decides nothing, and nobody waits for it here: the
        client comes back with its state, maybe to another gateway."""
        multi.approval = approval.id
        if self._session.inbox and can_open_urls(multi.envelope.capabilities):
            shown["approval"] = {"method": ELICIT, "params": approval_elicitation(approval, self._session.inbox)}

    def _show_sign_in(self, multi: MultiRoundRequest, shown: Json, upstream: str) -> bool:
        """Have the user shown where they sign in to an upstream, once: the client comes back at once, and the call then
        waits for them. Returns whether the client can open URLs."""
        can_show = bool(self._session.inbox) and can_open_urls(multi.envelope.capabilities)
        if can_show and multi.round == 1:
            shown[SIGN_IN] = {"method": ELICIT, "params": sign_in_elicitation(upstream, self._session.inbox)}
        return can_show

    # Notifications of the client

    def on_notification(self, method: str, params: Json) -> None:
        self._session.note_client(
            f"notification `{method[:80]}` is not part of revision {wire.REVISION} and is not passed on"
        )

    def on_cancelled(self, id: Id) -> None:
        if not self._rounds.cancel(id):
            self._session.cancel((CLIENT, id))

    def close(self) -> None:
        self._closed.set()
        self._rounds.close()

    # Messages to the client

    async def ask_client(self, server: str, method: str, params: Json, progress: Progress | None) -> Json:
        if method not in wire.ASKABLE:
            return error(METHOD_NOT_FOUND, f"the client speaks {wire.REVISION}, which has no `{method[:80]}`")
        multi = self._rounds.latest()
        if multi is None:
            return error(INVALID_REQUEST, "the client can be asked only while a request of its own is running")
        if wire.ASKABLE[method] not in multi.envelope.capabilities:
            return error(METHOD_NOT_FOUND, f"the client did not offer `{wire.ASKABLE[method]}`")
        answers = await self._rounds.ask(multi, {"": {"method": method, "params": params}})
        return answers[""]

    def notify_client(self, method: str, params: Json) -> None:
        if method in wire.CHANGES or method == RESOURCE_UPDATED:
            for id, wanted in self._subscriptions.items():
                if wire.matches_filter(wanted, method, params):
                    self._session.client.notify(method, self._with_subscription_id(params, id), id)
        elif method == wire.LOG_MESSAGE:
            level = params.get("level")
            interested = (id for id, wanted in self._log_levels.items() if wire.meets_log_level(level, wanted))
            if (request := next(interested, None)) is not None:
                self._session.client.notify(method, params, request)
        else:
            self._session.note(
                f"an upstream's `{method[:80]}` is not part of revision {wire.REVISION} and is not passed on"
            )

    def _notify_of_task(self, state: Json) -> None:
        """To each subscription that names the task, unless it has been told that already."""
        task = state["taskId"]
        for id, told in self._subscribed_tasks.items():
            if task in told and told[task] != state:
                told[task] = state
                if state["status"] in ENDED:
                    del told[task]
                self._session.client.notify(TASK_CHANGED, self._with_subscription_id(state, id), id)

    async def _listen(self, id: Id, params: Json, envelope: Envelope) -> None:
        """One subscription, until the client cancels it or the session ends."""
        wanted = wire.accepted_filter(params.get("notifications"))
        if wanted is None:
            self._session.client.reply(id, error(INVALID_PARAMS, "`notifications` must be an object"))
            return
        if wire.SUBSCRIBED_TASKS in wanted and not offers_tasks(envelope.capabilities):
            self._session.client.reply(id, wire.tasks_not_offered())
            return
        if max(len(wanted.get(wire.SUBSCRIBED_URIS, ())), len(wanted.get(wire.SUBSCRIBED_TASKS, ()))) > MAX_SUBSCRIBED:
            reason = f"a subscription names at most {MAX_SUBSCRIBED} resources, and as many tasks"
            self._session.client.reply(id, error(INVALID_PARAMS, reason))
            return
        await self._session.settle()
        uris = [uri for uri in wanted.pop(wire.SUBSCRIBED_URIS, []) if await self._subscribe(SUBSCRIBE, uri)]
        wanted |= {wire.SUBSCRIBED_URIS: uris} if uris else {}
        tasks = [task for task in wanted.pop(wire.SUBSCRIBED_TASKS, []) if await self._tasks.may_hear_of(task)]
        wanted |= {wire.SUBSCRIBED_TASKS: tasks} if tasks else {}
        self._subscriptions[id] = wanted
        self._subscribed_tasks[id] = dict.fromkeys(tasks)
        try:
            self._session.client.notify(
                wire.ACKNOWLEDGED, self._with_subscription_id({"notifications": wanted}, id), id
            )
            for task in tasks:
                await self._tasks.show(task)
            await self._closed.wait()
            result = self._with_subscription_id({}, id)
            self._session.client.reply(id, wire.complete_result(wire.LISTEN, {"result": result}))
        finally:
            del self._subscriptions[id], self._subscribed_tasks[id]
            in_use = {uri for other in self._subscriptions.values() for uri in other.get(wire.SUBSCRIBED_URIS, ())}
            for uri in uris:
                if uri not in in_use and not self._closed.is_set():
                    await self._subscribe(UNSUBSCRIBE, uri)

    def _with_subscription_id(self, params: Json, id: Id) -> dict[str, Any]:
        meta, client_id = params.get("_meta"), self._session.client.aliases.get(id, id)
        return {**params, "_meta": {**(meta if isinstance(meta, dict) else {}), wire.SUBSCRIPTION_KEY: client_id}}

    async def _subscribe(self, method: str, uri: str) -> bool:
        """Subscribe to a resource or unsubscribe from it. Returns whether the upstream agreed."""
        try:
            return "result" in await self._session.relay(method, {"uri": uri}, SILENT_CHANNEL)
        except Exception as failure:
            self._session.failure_reply(failure)
            return False
