"""A client of the stateless revision 2026-07-28, in front of upstreams of either era.

What one side cannot express is answered honestly: an upstream's question becomes `input_required` of a request that is
under way, or an error if there is none; changes go to those who listen for them; a call that is held for approval is
`input_required` with a sealed state, and going on with it is making the same request again.
"""

import asyncio
from typing import Any

from mcp_guard.core.approval import Approval
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.core.replies import AWAIT
from mcp_guard.downstream.multi_round import MultiRoundRequest, MultiRoundRequests
from mcp_guard.downstream.request_state import RequestStateCipher
from mcp_guard.downstream.session import Session, progress_token
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel, Progress
from mcp_guard.protocol import stateless_server as wire
from mcp_guard.protocol.jsonrpc import Id, error
from mcp_guard.protocol.methods import (
    ELICIT,
    INITIALIZE,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LATEST,
    METHOD_NOT_FOUND,
    PROGRESS,
    SET_LEVEL,
    SUBSCRIBE,
    UNSUBSCRIBE,
)
from mcp_guard.protocol.stateless_server import Envelope
from mcp_guard.protocol.versions import approval_elicitation, can_open_urls, merge_capabilities, merge_instructions

OURS = "(guard)"
"""Who asks where it is none of the peers: no upstream can have this name."""
LAST_ROUND = 8
"""After so many rounds a held call is answered in words: the SDKs' clients give up after ten."""
OVER = "this `requestState` does not belong to this request, or what it belongs to is over; make the request without it"


class StatelessAdapter:
    """Implements `session.ProtocolAdapter`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seal = RequestStateCipher(session.instance.id)
        self._flights = MultiRoundRequests(self._session.client.reply, self._ask_first)
        self._greeted = False
        self._listeners: dict[Id, Json] = {}
        self._ended = asyncio.Event()
        self._loudness: dict[Id, str | None] = {}
        """The log level that each request under way asks for."""
        self._set_level = ""

    # From the client

    def on_request(self, id: Id, method: str, params: Json) -> None:
        envelope = wire.unsupported_version(_revision(params)) if method == INITIALIZE else wire.read_envelope(params)
        if not isinstance(envelope, Envelope):
            self._session.client.reply(id, envelope)
            return
        if not self._greeted:
            self._greeted = True
            self._session.run(
                (OURS, "hello"), self._session.greet(wire.initialize_params(envelope, LATEST), stateless=True)
            )
        if self._flights.waiting(id) is not None:
            self._session.client.reply(id, error(INVALID_REQUEST, f"request `{str(id)[:40]}` is already running"))
        elif method in wire.ROUNDS:
            self._round(id, method, params, envelope)
        elif method == wire.LISTEN:
            self._session.run(("", id), self._listen(id, params))
        elif method == wire.DISCOVER or method in wire.REQUESTS:
            work = self._handle(id, method, params, ClientChannel(envelope=wire.client_meta(envelope)), envelope)
            self._session.run(("", id), self._session.answer(id, method, work))
        else:
            self._session.client.reply(id, error(METHOD_NOT_FOUND, f"`{method[:80]}` is not passed on by this guard"))

    def on_notification(self, method: str, params: Json) -> None:
        self._session.note(f"notification `{method[:80]}` is none of revision {wire.REVISION}; it is not passed on")

    def on_cancelled(self, id: Id) -> None:
        if not self._flights.cancel(id):
            self._session.cancel(("", id))

    def finish(self, method: str, reply: Json) -> Json:
        return wire.complete_result(method, reply)

    def on_close(self) -> None:
        self._ended.set()
        self._flights.close()

    async def _handle(self, id: Id, method: str, params: Json, channel: ClientChannel, envelope: Envelope) -> Json:
        self._loudness[id] = envelope.log_level
        try:
            if method == wire.DISCOVER:
                return await self._discover()
            await self._set_loudness(envelope.log_level)
            return await self._session.handle(method, wire.without_envelope(params), channel)
        finally:
            self._loudness.pop(id, None)  # another request may have had its id since, and be over

    async def _discover(self) -> Json:
        answers = await self._session.hellos()
        capabilities = merge_capabilities(answers)
        found: Json = {"supportedVersions": [wire.REVISION], "capabilities": capabilities}
        return {"result": found | merge_instructions(answers)}

    async def _set_loudness(self, level: str | None) -> None:
        """Let the upstreams know that somebody wants their log messages, if that is news."""
        if level is None or (self._set_level and wire.meets_log_level(level, self._set_level)):
            return
        self._set_level = level
        await self._session.handle(SET_LEVEL, {"level": level}, SILENT_CHANNEL)

    # Requests in rounds

    def _round(self, id: Id, method: str, params: Json, envelope: Envelope) -> None:
        """A request, or a client that comes back to one with what it was asked."""
        try:
            binding = wire.request_binding(method, params)
        except ValueError as refused:
            self._session.client.reply(id, error(INVALID_PARAMS, f"these params cannot be read: {refused}"))
            return
        state: Json | None = {}
        if (sealed := params.get("requestState")) is not None:
            state = self._seal.open(sealed)
        answers = params.get("inputResponses", {})
        if state is None or state.get("binding", binding) != binding or not isinstance(answers, dict):
            self._session.client.reply(id, error(INVALID_PARAMS, OVER))
        elif "flight" not in state:
            flight = self._flights.begin(binding, envelope, id)
            flight.given = dict(answers)
            flight.round += int(state.get("round", 0))
            work = self._work(flight, method, params, state.get("approval"))
            flight.task = self._session.run((OURS, flight.key), self._flights.fly(flight, work))
        elif (found := self._flights.find(state["flight"])) is None or found.request is not None:
            self._session.client.reply(id, error(INVALID_PARAMS, OVER))
        else:
            found.envelope, found.token = envelope, progress_token(params)
            self._flights.come_back(found, id, answers)

    async def _work(self, flight: MultiRoundRequest, method: str, params: Json, approval: str | None) -> Json:
        assert flight.request is not None
        flight.token = progress_token(params)
        tell: Progress | None = (lambda news: self._tell_progress(flight, news)) if flight.token is not None else None
        channel = ClientChannel(
            progress=tell,
            on_approval_requested=lambda held: self._point(flight, held),
            on_left_pending=lambda held: _leave(flight, held),
            ask=lambda requests: self._flights.ask(flight, requests),
            envelope=wire.client_meta(flight.envelope),
        )
        if approval is not None and self._session.guard.policies.may_hold:
            asked = ToolCallRequest(AWAIT, {"approval": approval}, wire.without_envelope(params).get("_meta"))
            work = self._session.call(asked, channel)
        else:
            work = self._handle(flight.request, method, params, channel, flight.envelope)
        reply = await self._session.outcome(work)
        if flight.held is None or flight.round > LAST_ROUND:
            return wire.complete_result(method, reply)
        state = {"binding": flight.binding, "approval": flight.held.id, "round": flight.round}
        return wire.input_required(self._seal.close(state), {}, reply["result"])

    def _tell_progress(self, flight: MultiRoundRequest, news: Json) -> None:
        """To the request by which the client waits now, if it wants to hear of it."""
        if flight.token is not None and flight.request is not None:
            self._session.client.notify(PROGRESS, {"progressToken": flight.token, **news}, flight.request)

    def _ask_first(self, flight: MultiRoundRequest) -> Json:
        state = self._seal.close({"binding": flight.binding, "flight": flight.key})
        return wire.input_required(state, flight.asked)

    def _point(self, flight: MultiRoundRequest, held: Approval) -> None:
        """Show a person at the client where the call is decided. Whatever is answered decides nothing."""
        if self._session.inbox and can_open_urls(flight.envelope.capabilities):
            request = {"method": ELICIT, "params": approval_elicitation(held, self._session.inbox)}
            self._flights.show(flight, {"approval": request})

    # From the upstreams

    async def ask(self, server: str, method: str, params: Json, progress: Progress | None) -> Json:
        if method not in wire.ASKABLE:
            return error(METHOD_NOT_FOUND, f"the client speaks {wire.REVISION}, which has no `{method[:80]}`")
        flight = self._flights.latest()
        if flight is None:
            return error(INVALID_REQUEST, "the client can be asked only while a request of its own is under way")
        if wire.ASKABLE[method] not in flight.envelope.capabilities:
            return error(METHOD_NOT_FOUND, f"the client did not offer `{wire.ASKABLE[method]}`")
        answers = await self._flights.ask(flight, {"": {"method": method, "params": params}})
        return answers[""]

    def tell(self, method: str, params: Json) -> None:
        if method in wire.CHANGES or method == wire.RESOURCE_UPDATED:
            for id, wanted in self._listeners.items():
                if wire.matches_filter(wanted, method, params):
                    self._session.client.notify(method, self._of_subscription(params, id), id)
        elif method == wire.LOG_MESSAGE:
            wants = (id for id, wanted in self._loudness.items() if wire.meets_log_level(params.get("level"), wanted))
            about = next(wants, None)
            if about is not None:
                self._session.client.notify(method, params, about)
        else:
            self._session.note(f"upstream's `{method[:80]}` is none of revision {wire.REVISION}; it is not passed on")

    async def _listen(self, id: Id, params: Json) -> None:
        """One subscription, until the client cancels it or the session ends."""
        wanted = wire.accepted_filter(params.get("notifications"))
        if wanted is None:
            self._session.client.reply(id, error(INVALID_PARAMS, "`notifications` must be an object"))
            return
        await self._session.settle()
        uris = [uri for uri in wanted.pop("resourceSubscriptions", []) if await self._subscribe(SUBSCRIBE, uri)]
        wanted |= {"resourceSubscriptions": uris} if uris else {}
        self._listeners[id] = wanted
        try:
            self._session.client.notify(wire.ACKNOWLEDGED, self._of_subscription({"notifications": wanted}, id), id)
            await self._ended.wait()
            self._session.client.reply(id, wire.complete_result(wire.LISTEN, {"result": self._of_subscription({}, id)}))
        finally:
            del self._listeners[id]
            still = {uri for other in self._listeners.values() for uri in other.get("resourceSubscriptions", ())}
            for uri in uris:
                if uri not in still and not self._ended.is_set():
                    await self._subscribe(UNSUBSCRIBE, uri)

    def _of_subscription(self, params: Json, id: Id) -> dict[str, Any]:
        meta, theirs = params.get("_meta"), self._session.client.aliases.get(id, id)
        return {**params, "_meta": {**(meta if isinstance(meta, dict) else {}), wire.SUBSCRIPTION_KEY: theirs}}

    async def _subscribe(self, method: str, uri: str) -> bool:
        return "result" in await self._session.outcome(self._session.handle(method, {"uri": uri}, SILENT_CHANNEL))


def _leave(flight: MultiRoundRequest, held: Approval) -> None:
    flight.held = held


def _revision(params: Json) -> object:
    return params.get("protocolVersion")
