"""The protocol of one upstream that speaks the stateless revision 2026-07-28. Loaded only when one does.

Each request carries what is known of the client. An `input_required` result starts another round: the client is asked,
and the request is sent again with its answers. One `subscriptions/listen` request carries all notifications.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from mcp_guard.core.model import Json
from mcp_guard.core.tasks import GET_TASK, offers_tasks
from mcp_guard.ports import ClientChannel
from mcp_guard.protocol import stateless_client
from mcp_guard.protocol.jsonrpc import CancelledUnsent, Id, NotSent, Peer, PeerLost, error
from mcp_guard.protocol.methods import (
    CALL_TOOL,
    CANCELLED,
    GUARDED,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    PING,
    SET_LEVEL,
    SUBSCRIBE,
    TOOLS_CHANGED,
    UNSUBSCRIBE,
)
from mcp_guard.protocol.stateless_server import (
    ACKNOWLEDGED,
    CAPABILITIES_KEY,
    CHANGES,
    DISCOVER,
    LISTEN,
    REVISION,
    ROUNDS,
)
from mcp_guard.protocol.versions import supported_versions
from mcp_guard.upstream.transport import InputUnavailable, RoundCount

DISCOVER_SECONDS = 10.0
ACKNOWLEDGE_SECONDS = 10.0
"""How long the acknowledgement of a `subscriptions/listen` is waited for."""
RETRY_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0
"""How long to wait before a subscription is made again: longer each time that it lasts less than the longest pause."""
MAX_ROUNDS = 10
"""How often one request is sent; the official clients give up after the same number."""
PAUSES = (0.05, 0.1, 0.2, 0.25)
"""Seconds before a request is sent again to an upstream that asked for nothing but time; the last one repeats."""


class StatelessServerProtocol:
    """Implements `transport.ServerProtocol`.

    `on_notification` receives the method and params of what the upstream reports, `note` what the operator should know.
    """

    def __init__(
        self,
        peer: Peer,
        initialize_params: Json,
        *,
        on_notification: Callable[[str, Json], None],
        note: Callable[[str], None],
    ) -> None:
        self._peer = peer
        self._envelope = stateless_client.envelope_for(initialize_params)
        self._notify = on_notification
        self._note = note
        self._capabilities: Json = {}
        self._uris: set[str] = set()
        """Resources that the client has subscribed to."""
        self._honored: Json = {}
        """The part of the subscription filter that the upstream acknowledged."""
        self._acknowledged: asyncio.Future[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._subscribing = asyncio.Lock()

    @property
    def reports_tool_changes(self) -> bool:
        return self._honored.get(CHANGES[TOOLS_CHANGED]) is True

    async def discover(self) -> Json | None:
        """The answer to `server/discover` as an `initialize` result; None if it does not speak this revision.

        A server that refuses the question, but names this revision as one that it supports, is asked once more.

        Raises: PeerLost.
        """
        params = stateless_client.with_envelope({}, self._envelope)
        try:
            reply = await self._peer.request(DISCOVER, params, timeout=DISCOVER_SECONDS)
            if REVISION in supported_versions(reply):
                reply = await self._peer.request(DISCOVER, params, timeout=DISCOVER_SECONDS)
        except TimeoutError:
            return None
        result = stateless_client.read_discovery(reply)
        self._capabilities = result["capabilities"] if result is not None else {}
        return result

    # Requests

    async def request(self, method: str, params: Json | None, channel: ClientChannel) -> Json:
        """Send any request but a tool call. Raises: PeerLost, UpstreamError, InputUnavailable."""
        params = params or {}
        if method == SET_LEVEL:
            self._envelope = stateless_client.with_log_level(self._envelope, str(params.get("level")))
            return {"result": {}}
        if method in (SUBSCRIBE, UNSUBSCRIBE):
            return await self._subscribe(method, str(params.get("uri")))
        return await self.request_until_complete(method, params, channel, None, RoundCount())

    def call(
        self, method: str, params: Json, channel: ClientChannel, seconds: float | None, rounds: RoundCount
    ) -> Coroutine[Any, Any, Json]:
        """Send a request that was decided. Raises: as `request_until_complete`."""
        if method == SUBSCRIBE:
            return self._subscribe(method, str(params.get("uri")))
        return self.request_until_complete(method, params, channel, seconds, rounds)

    async def request_until_complete(
        self, method: str, params: Json, channel: ClientChannel, seconds: float | None, rounds: RoundCount
    ) -> Json:
        """Send a request, and send it again with the client's answers for as long as the upstream requires input.

        The upstream has `seconds` for each round; the client has as long as it wants.

        Raises: PeerLost, TimeoutError, UpstreamError, InputUnavailable.
        """
        envelope = {**self._envelope, **channel.envelope} if channel.envelope is not None else self._envelope
        if method in GUARDED:
            envelope = stateless_client.without_free_text(envelope)
        takes_task = method == CALL_TOOL and offers_tasks(envelope[CAPABILITIES_KEY])
        params = stateless_client.with_envelope(params, envelope)
        while rounds.sent < MAX_ROUNDS:
            rounds.sent += 1
            try:
                reply = await self._peer.request(method, params, channel.progress, seconds)
            except NotSent as lost:
                if rounds.sent == 1:
                    raise
                raise PeerLost(str(lost)) from None  # the upstream has begun with it in the first round
            except CancelledUnsent:
                if rounds.sent == 1:
                    raise
                raise asyncio.CancelledError from None
            if takes_task and (task := stateless_client.read_task(reply)) is not None:
                rounds.task, reply = task
                return reply
            required = stateless_client.read_input_required(reply) if method in ROUNDS else None
            if required is None:
                return stateless_client.plain_reply(reply, of_task=method == GET_TASK)
            answers = await _await_next_round(required, envelope[CAPABILITIES_KEY], channel, rounds.sent)
            params = stateless_client.next_round_params(params, required, answers)
        raise InputUnavailable(f"it still required input after {MAX_ROUNDS} rounds")

    # Subscriptions

    async def listen(self) -> None:
        """Subscribe to every change that the upstream can report."""
        wanted = stateless_client.subscription_filter(self._capabilities, self._uris)
        if wanted:
            await self._relisten(wanted)

    async def _subscribe(self, method: str, uri: str) -> Json:
        """Add or remove a resource. The new stream opens before the old one ends, so that nothing is missed."""
        async with self._subscribing:
            before = set(self._uris)
            (self._uris.add if method == SUBSCRIBE else self._uris.discard)(uri)
            if self._uris != before:
                await self._relisten(stateless_client.subscription_filter(self._capabilities, self._uris))
            if method == UNSUBSCRIBE or uri in self._honored.get("resourceSubscriptions", ()):
                return {"result": {}}
            self._uris = before
        return error(INVALID_PARAMS, f"the upstream does not report changes of `{uri[:200]}`")

    async def _relisten(self, wanted: Json) -> None:
        previous, self._acknowledged = self._listening, asyncio.get_running_loop().create_future()
        self._honored = {}
        self._listening = asyncio.create_task(self._keep_listening(wanted)) if wanted else None
        if self._listening is not None:
            await asyncio.wait(
                [self._listening, self._acknowledged], timeout=ACKNOWLEDGE_SECONDS, return_when="FIRST_COMPLETED"
            )
        if previous is not None:
            previous.cancel()

    async def _keep_listening(self, wanted: Json) -> None:
        """Run until cancelled, or until the upstream refuses. A stream that breaks off is opened again."""
        pause, params = RETRY_SECONDS, stateless_client.with_envelope({"notifications": wanted}, self._envelope)
        loop = asyncio.get_running_loop()
        while True:
            opened_at = loop.time()
            try:
                reply = await self._peer.request(LISTEN, params)
            except PeerLost as lost:
                reply = {}
                self._note(f"the subscription was interrupted: {lost}")
            if "error" in reply:
                self._honored = {}
                self._note(f"refused `{LISTEN}`: {str(reply['error'].get('message'))[:200]}")
                return
            pause = RETRY_SECONDS if loop.time() - opened_at > MAX_PAUSE_SECONDS else min(2 * pause, MAX_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    def on_request(self, id: Id, method: str) -> None:
        """Refuse: in this revision a server asks by `input_required` results (see `request_until_complete`)."""
        refused = error(METHOD_NOT_FOUND, f"a server of revision {REVISION} sends no requests")
        self._peer.reply(id, {"result": {}} if method == PING else refused)

    def on_notification(self, method: str, params: Json) -> None:
        if method == CANCELLED:
            self._peer.lose_one(params.get("requestId", ""), "it ended the subscription")
        elif method != ACKNOWLEDGED:
            self._notify(method, stateless_client.without_subscription_id(params))
        else:
            honored = params.get("notifications")
            self._honored = honored if isinstance(honored, dict) else {}
            if self._acknowledged is None or self._acknowledged.done():
                self._report_all_changes()
            else:
                self._acknowledged.set_result(None)

    def _report_all_changes(self) -> None:
        """After an interruption: everything subscribed to may have changed in between."""
        for method, name in CHANGES.items():
            if self._honored.get(name) is True:
                self._notify(method, {})

    def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()


async def _await_next_round(
    required: stateless_client.InputRequired, capabilities: Json, channel: ClientChannel, sent: int
) -> dict[str, Json]:
    """The client's answers, or none after a pause. Raises: InputUnavailable, PeerLost if no other round may be sent."""
    answers = {}
    if required.requests:
        answers = await _ask(required, capabilities, channel)
    else:
        await asyncio.sleep(PAUSES[min(sent, len(PAUSES)) - 1])
    if why := channel.why_over():
        raise PeerLost(f"{why}; an earlier round was sent")
    return answers


async def _ask(required: stateless_client.InputRequired, capabilities: Json, channel: ClientChannel) -> dict[str, Json]:
    """The client's answers by key. Raises: InputUnavailable if one is missing."""
    methods = ", ".join(f"`{request['method']}`" for request in required.requests.values())
    for request in required.requests.values():
        if (missing := stateless_client.missing_capability(request, capabilities)) is not None:
            raise InputUnavailable(
                f"it asks the client for `{request['method']}`, but the client did not offer `{missing}`"
            )
    if channel.ask is None:
        raise InputUnavailable(f"it asks the client for {methods}, but this is a request of the guard itself")
    try:
        answers = await channel.ask({key: {"params": {}, **request} for key, request in required.requests.items()})
    except PeerLost:
        raise InputUnavailable(f"it asks the client for {methods}, but the client has disconnected") from None
    for key, answer in answers.items():
        if "result" not in answer:
            reason = str(answer.get("error", {}).get("message", "neither result nor error"))[:200]
            raise InputUnavailable(
                f"it asks the client for `{required.requests[key]['method']}`, which failed: {reason}"
            )
    return {key: answer["result"] for key, answer in answers.items()}
