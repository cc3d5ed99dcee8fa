"""How one upstream of the stateless revision 2026-07-28 is spoken to. Loaded only for one that speaks it.

Each request carries what is known of the client. An answer that asks for something first is a round: the client is
asked, and the same request goes again with its answers. One `subscriptions/listen` stands for all that is to be heard.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from mcp_guard.core.model import Json
from mcp_guard.ports import ClientChannel
from mcp_guard.protocol import stateless_client
from mcp_guard.protocol.jsonrpc import Id, Peer, PeerLost, error
from mcp_guard.protocol.methods import (
    CANCELLED,
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
from mcp_guard.upstream.transport import InputUnavailable, RoundCount

DISCOVER_SECONDS = 10.0
LISTEN_SECONDS = 10.0
"""How long an acknowledgement of what we listen for is waited for."""
RETRY_SECONDS = 1.0
MAX_ROUNDS = 10
"""How often one request is sent: the official clients give up after as many."""
PAUSES = (0.05, 0.1, 0.2, 0.25)
"""Before a request goes again to an upstream that only wants more time, in seconds; the last one stays."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """Where what an upstream says of its own accord goes: its notifications, and notes for the operator."""

    notified: Callable[[str, Json], None]
    note: Callable[[str], None]


class StatelessServerProtocol:
    """Implements `transport.ServerProtocol`."""

    def __init__(self, peer: Peer, hello: Json, hearing: Hearing) -> None:
        self._peer = peer
        self._envelope = stateless_client.envelope_for(hello)
        self._hearing = hearing
        self._capabilities: Json = {}
        self._uris: set[str] = set()
        self._honored: Json = {}
        self._acknowledged: asyncio.Future[None] | None = None
        self._stream: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()

    @property
    def tells_changes(self) -> bool:
        """Whether it says when its tools change."""
        return self._honored.get(CHANGES[TOOLS_CHANGED]) is True

    async def discover(self) -> Json | None:
        """Ask who it is; the answer in the form of an `initialize` result, or None if it is of another era.

        Raises: PeerLost.
        """
        try:
            reply = await self._peer.request(
                DISCOVER, stateless_client.with_envelope({}, self._envelope), timeout=DISCOVER_SECONDS
            )
        except TimeoutError:
            return None
        found = stateless_client.read_discovery(reply)
        self._capabilities = found["capabilities"] if found is not None else {}
        return found

    # Requests

    async def request(self, method: str, params: Json | None, channel: ClientChannel) -> Json:
        """Any request that runs no tool. Raises: PeerLost, UpstreamError, Unanswered."""
        kept = params or {}
        if method == SET_LEVEL:
            self._envelope = stateless_client.with_log_level(self._envelope, str(kept.get("level")))
            return {"result": {}}
        if method in (SUBSCRIBE, UNSUBSCRIBE):
            return await self._subscribe(method, str(kept.get("uri")))
        return await self.in_rounds(method, kept, channel, None, RoundCount())

    async def in_rounds(
        self, method: str, params: Json, channel: ClientChannel, seconds: float | None, rounds: RoundCount
    ) -> Json:
        """Send a request, and again with what the client answers for as long as the upstream asks for something.

        Each round has `seconds` at the upstream; a client may take its time. Raises: PeerLost, TimeoutError,
        UpstreamError, Unanswered.
        """
        envelope = {**self._envelope, **channel.envelope} if channel.envelope is not None else self._envelope
        said = stateless_client.with_envelope(params, envelope)
        while rounds.made < MAX_ROUNDS:
            rounds.made += 1
            reply = await self._peer.request(method, said, channel.progress, seconds)
            required = stateless_client.read_input_required(reply) if method in ROUNDS else None
            if required is None:
                return stateless_client.plain_reply(reply)
            if required.requests:
                answers = await _ask(required, envelope[CAPABILITIES_KEY], channel)
            else:
                answers = {}
                await asyncio.sleep(PAUSES[min(rounds.made, len(PAUSES)) - 1])
            said = stateless_client.next_round_params(said, required, answers)
        raise InputUnavailable(f"it still asked for something after {MAX_ROUNDS} rounds")

    # What changes

    async def listen(self) -> None:
        """Hear of every change that it can tell of, from now on."""
        wanted = stateless_client.subscription_filter(self._capabilities, self._uris)
        if wanted:
            await self._relisten(wanted)

    async def _subscribe(self, method: str, uri: str) -> Json:
        """Hear of a resource, or no longer: listening anew before the old stream ends, so that nothing is missed."""
        async with self._one_at_a_time:
            before = set(self._uris)
            (self._uris.add if method == SUBSCRIBE else self._uris.discard)(uri)
            if self._uris != before:
                await self._relisten(stateless_client.subscription_filter(self._capabilities, self._uris))
            if method == UNSUBSCRIBE or uri in self._honored.get("resourceSubscriptions", ()):
                return {"result": {}}
            self._uris = before
        return error(INVALID_PARAMS, f"the upstream does not tell of changes of `{uri[:200]}`")

    async def _relisten(self, wanted: Json) -> None:
        before, self._acknowledged = self._stream, asyncio.get_running_loop().create_future()
        self._honored = {}
        self._stream = asyncio.create_task(self._keep_listening(wanted)) if wanted else None
        if self._stream is not None:
            await asyncio.wait(
                [self._stream, self._acknowledged], timeout=LISTEN_SECONDS, return_when="FIRST_COMPLETED"
            )
        if before is not None:
            before.cancel()

    async def _keep_listening(self, wanted: Json) -> None:
        """Until cancelled, or refused."""
        while True:
            try:
                reply = await self._peer.request(
                    LISTEN, stateless_client.with_envelope({"notifications": wanted}, self._envelope)
                )
            except PeerLost as lost:
                reply = {}
                self._hearing.note(f"listening is interrupted: {lost}")
            if "error" in reply:
                self._honored = {}
                self._hearing.note(f"refused `{LISTEN}`: {str(reply['error'].get('message'))[:200]}")
                return
            await asyncio.sleep(RETRY_SECONDS)

    def on_request(self, id: Id, method: str) -> None:
        """It must not ask in this way; see `in_rounds`."""
        refused = error(METHOD_NOT_FOUND, f"a server of revision {REVISION} sends no requests")
        self._peer.reply(id, {"result": {}} if method == PING else refused)

    def on_notification(self, method: str, params: Json) -> None:
        if method == CANCELLED:
            self._peer.lose_one(params.get("requestId", ""), "it ended the subscription")
        elif method != ACKNOWLEDGED:
            self._hearing.notified(method, stateless_client.without_subscription_id(params))
        else:
            honored = params.get("notifications")
            self._honored = honored if isinstance(honored, dict) else {}
            if self._acknowledged is None or self._acknowledged.done():
                self._hear_anew()
            else:
                self._acknowledged.set_result(None)

    def _hear_anew(self) -> None:
        """Listening again after an interruption: whatever is heard of may have changed meanwhile."""
        for method, name in CHANGES.items():
            if self._honored.get(name) is True:
                self._hearing.notified(method, {})

    def close(self) -> None:
        if self._stream is not None:
            self._stream.cancel()


async def _ask(required: stateless_client.InputRequired, capabilities: Json, channel: ClientChannel) -> dict[str, Json]:
    """The client's answers by key. Raises: Unanswered, if one of them cannot be had."""
    asked = ", ".join(f"`{request['method']}`" for request in required.requests.values())
    for request in required.requests.values():
        if (missing := stateless_client.missing_capability(request, capabilities)) is not None:
            raise InputUnavailable(
                f"it asks the client for `{request['method']}`, and the client did not offer `{missing}`"
            )
    if channel.ask is None:
        raise InputUnavailable(f"it asks the client for {asked}, and the guard's own look-ups answer nothing")
    try:
        answers = await channel.ask({key: {"params": {}, **each} for key, each in required.requests.items()})
    except PeerLost:
        raise InputUnavailable(f"it asks the client for {asked}, and the client is gone") from None
    for key, answer in answers.items():
        if "result" not in answer:
            why = str(answer.get("error", {}).get("message", "neither result nor error"))[:200]
            raise InputUnavailable(f"it asks the client for `{required.requests[key]['method']}`, which failed: {why}")
    return {key: answer["result"] for key, answer in answers.items()}
