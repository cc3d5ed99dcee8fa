"""A call in rounds was not sent only if its first round was not: after it, the upstream has begun with the call."""

import asyncio

import orjson
import pytest

from mcp_guard.core.model import Json
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel
from mcp_guard.protocol.jsonrpc import CancelledUnsent, Id, NotSent, Peer, PeerLost
from mcp_guard.upstream.stateless import StatelessServerProtocol
from mcp_guard.upstream.transport import RoundCount

REQUIRED = {"resultType": "input_required", "requestState": "more time"}


class Upstream:
    """Asks for time in each round but the last, which cannot be sent."""

    def __init__(self, rounds: int) -> None:
        self.left = rounds
        self.peer = Peer(self.write, self, lambda _: self.left == 0)
        self.protocol = StatelessServerProtocol(
            self.peer, {"capabilities": {}}, on_notification=lambda *_: None, note=lambda _: None
        )

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        message: Json = orjson.loads(frame)
        self.left -= 1
        if self.left:
            self.peer.receive({"jsonrpc": "2.0", "id": message["id"], "result": REQUIRED})

    def on_request(self, id: Id, method: str, params: Json) -> None: ...

    def on_notification(self, method: str, params: Json) -> None: ...

    def on_protocol_violation(self, violation: str) -> None:
        raise AssertionError(violation)

    async def call(self, channel: ClientChannel = SILENT_CHANNEL) -> Json:
        params = {"name": "pay", "arguments": {}}
        return await self.protocol.request_until_complete("tools/call", params, channel, 10, RoundCount())


@pytest.mark.parametrize(("rounds", "expected"), [(1, NotSent), (2, PeerLost), (3, PeerLost)])
async def test_a_round_that_is_not_sent(rounds: int, expected: type[Exception]) -> None:
    upstream = Upstream(rounds)
    call = asyncio.create_task(upstream.call())
    while upstream.left:
        await asyncio.sleep(0.001)
    upstream.peer.lose_one(rounds, "refused", sent=False)
    with pytest.raises(PeerLost) as lost:
        await call
    assert type(lost.value) is expected


@pytest.mark.parametrize(("rounds", "expected"), [(1, CancelledUnsent), (2, asyncio.CancelledError)])
async def test_a_round_that_is_withdrawn(rounds: int, expected: type[BaseException]) -> None:
    upstream = Upstream(rounds)

    async def ending() -> type[BaseException] | None:
        try:
            await upstream.call()
        except asyncio.CancelledError as cancelled:
            return type(cancelled)
        return None

    call = asyncio.create_task(ending())
    while upstream.left:
        await asyncio.sleep(0.001)
    call.cancel()
    assert await call is expected


async def test_no_round_is_sent_by_a_guard_that_has_lost_its_lease() -> None:
    """Another guard may have closed the call by then. The first round is the guard's own to check."""
    upstream = Upstream(3)
    lost = SILENT_CHANNEL._replace(why_over=lambda: "the lease ran out")
    with pytest.raises(PeerLost, match="the lease ran out; an earlier round was sent"):
        await upstream.call(lost)
    assert upstream.left == 2
