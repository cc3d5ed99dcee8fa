"""The JSON-RPC peer: its own ids, replies matched to requests, cancellation and a lost connection."""

import asyncio

import orjson
import pytest

from mcp_guard.core.model import Json
from mcp_guard.protocol.jsonrpc import CancelledUnsent, Id, NotSent, Peer, PeerLost, request_id


class Transcript:
    """Records what a peer passes on and what it writes."""

    def __init__(self) -> None:
        self.sent: list[Json] = []
        self.requests: list[tuple[Id, str, Json]] = []
        self.notifications: list[tuple[str, Json]] = []
        self.oddities: list[str] = []
        self.withdrawn: set[Id] = set()
        """Requests that can be withdrawn."""
        self.peer = Peer(self.write, self, self.withdrawn.__contains__)

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        self.sent.append(orjson.loads(frame))

    def on_request(self, id: Id, method: str, params: Json) -> None:
        self.requests.append((id, method, params))

    def on_notification(self, method: str, params: Json) -> None:
        self.notifications.append((method, params))

    def on_protocol_violation(self, what: str) -> None:
        self.oddities.append(what)


async def test_replies_reach_their_request_in_any_order() -> None:
    t = Transcript()
    first = asyncio.create_task(t.peer.request("a", {}))
    second = asyncio.create_task(t.peer.request("b", None))
    await asyncio.sleep(0)
    t.peer.receive({"jsonrpc": "2.0", "id": 2, "result": {"of": "b"}})
    t.peer.receive({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "a"}})
    assert await second == {"result": {"of": "b"}}
    assert await first == {"error": {"code": 1, "message": "a"}}
    assert [message["method"] for message in t.sent] == ["a", "b"]


async def test_unexpected_replies_are_only_reported() -> None:
    t = Transcript()
    task = asyncio.create_task(t.peer.request("a", {}))
    await asyncio.sleep(0)
    for number in (1, 1, 99, "1", True, None):
        t.peer.receive({"jsonrpc": "2.0", "id": number, "result": {"number": 1}})
    assert await task == {"result": {"number": 1}}
    assert len(t.oddities) == 5


async def test_progress_goes_to_the_request_that_asked_for_it() -> None:
    heard: list[Json] = []

    t = Transcript()
    task = asyncio.create_task(t.peer.request("a", {"_meta": {"kept": 1}}, heard.append))
    await asyncio.sleep(0)
    for token in (1, 2, "1"):
        progress = {"progressToken": token, "progress": 0.5, "message": "half"}
        t.peer.receive({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})
    t.peer.receive({"jsonrpc": "2.0", "id": 1, "result": {}})
    await task
    assert t.sent[0]["params"] == {"_meta": {"kept": 1, "progressToken": 1}}
    assert heard == [{"progress": 0.5, "message": "half"}]


async def test_cancellation_names_its_request() -> None:
    t = Transcript()
    task = asyncio.create_task(t.peer.request("tools/call", {}))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cancelled = t.sent[1]
    assert (cancelled["method"], cancelled["params"]["requestId"]) == ("notifications/cancelled", 1)


async def test_lost_peer_fails_open_and_later_requests() -> None:
    t = Transcript()
    task = asyncio.create_task(t.peer.request("a", {}))
    await asyncio.sleep(0)
    t.peer.lose("it is gone")
    for attempt in (task, t.peer.request("b", {})):
        with pytest.raises(PeerLost, match="it is gone"):
            await attempt
    t.peer.notify("c")
    t.peer.reply(1, {"result": {}})
    assert len(t.sent) == 1


async def test_what_was_not_sent_is_told_from_what_was_lost() -> None:
    t = Transcript()
    first, second = (asyncio.create_task(t.peer.request(method, {})) for method in "ab")
    await asyncio.sleep(0)
    t.peer.lose_one(1, "it was refused unread", sent=False)
    t.peer.lose("it is gone")
    with pytest.raises(NotSent, match="refused unread"):
        await first
    with pytest.raises(PeerLost) as lost:
        await second
    assert type(lost.value) is PeerLost
    with pytest.raises(NotSent, match="it is gone"):
        await t.peer.request("c", {})


async def test_a_request_that_is_given_up_before_it_leaves_is_withdrawn() -> None:
    t = Transcript()
    t.withdrawn |= {1, 2}
    task = asyncio.create_task(t.peer.request("tools/call", {}))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(CancelledUnsent):
        await task
    with pytest.raises(NotSent, match=r"could not be sent within 0\.001 s"):
        await t.peer.request("tools/call", {}, timeout=0.001)
    with pytest.raises(TimeoutError):
        await t.peer.request("tools/call", {}, timeout=0.001)
    assert [message["method"] for message in t.sent] == ["tools/call"] * 3 + ["notifications/cancelled"]


async def test_the_id_of_a_request_can_be_read_from_its_frame() -> None:
    frames: list[bytes] = []
    peer = Peer(lambda frame, about=None, last=False: frames.append(frame), Transcript())
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await peer.request("tools/call", {"id": 7, "method": "x"}, timeout=0.001)
    peer.notify("note", {"id": 5})
    peer.reply(9, {"result": {"method": "x"}})
    assert [request_id(frame) for frame in frames] == [1, None, 2, None, None, None]


@pytest.mark.parametrize(
    "message",
    [[], [{"jsonrpc": "2.0", "id": 1, "method": "ping"}], {"id": None, "method": "x"}, {"id": 1.5, "method": "x"},
     {"id": True, "method": "x"}, {"id": 1, "method": 5}, {"id": 1, "method": "x", "params": []}],
)  # fmt: skip
async def test_invalid_request_is_answered_with_an_error(message: object) -> None:
    t = Transcript()
    t.peer.receive(message)
    assert t.sent[0]["error"]["code"] == -32600
    assert t.requests == []


async def test_unknown_request_members_are_passed_on() -> None:
    t = Transcript()
    t.peer.receive({"jsonrpc": "2.0", "id": "é", "method": "x/y", "params": {"new": {"field": [1]}}})
    t.peer.receive({"jsonrpc": "2.0", "method": "n", "params": None})
    assert t.requests == [("é", "x/y", {"new": {"field": [1]}})]
    assert t.notifications == [("n", {})]
