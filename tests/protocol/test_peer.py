"""The JSON-RPC peer: its own ids, replies matched to requests, cancellation and a lost connection."""

import asyncio

import orjson
import pytest

from mcp_guard.core.message_remains import MessageRemains
from mcp_guard.core.model import Json
from mcp_guard.protocol.jsonrpc import (
    CancelledUnsent,
    CancelReason,
    Id,
    NotSent,
    Peer,
    PeerLost,
    UnreadableReply,
    request_id,
)


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
    for token in (1, 2, "1", 1.0, "one", True):
        progress = {"progressToken": token, "progress": 0.5, "message": "half"}
        t.peer.receive({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})
    t.peer.receive({"jsonrpc": "2.0", "id": 1, "result": {}})
    await task
    assert t.sent[0]["params"] == {"_meta": {"kept": 1, "progressToken": 1}}
    assert heard == [{"progress": 0.5, "message": "half"}] * 3


@pytest.mark.parametrize("reason", [None, CancelReason("changed my mind")])
async def test_cancellation_names_its_request_and_the_reason(reason: CancelReason | None) -> None:
    t = Transcript()
    task = asyncio.create_task(t.peer.request("tools/call", {}))
    await asyncio.sleep(0)
    task.cancel(reason)
    with pytest.raises(asyncio.CancelledError):
        await task
    cancelled = t.sent[1]
    assert cancelled["method"] == "notifications/cancelled"
    assert cancelled["params"] == {"requestId": 1, "reason": reason or "the caller gave up"}


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


async def test_a_request_that_is_reported_unsent_while_it_is_given_up_is_not_sent() -> None:
    t = Transcript()
    task = asyncio.create_task(t.peer.request("tools/call", {}))
    await asyncio.sleep(0)
    task.cancel()
    t.peer.lose_one(1, "it is gone", sent=False)
    t.peer.lose("it is gone")
    with pytest.raises(CancelledUnsent):
        await task


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
    [[], [{"jsonrpc": "2.0", "id": 1, "method": "ping"}], {"id": None, "method": "x"}, {"id": [1], "method": "x"},
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


async def ask(t: Transcript, method: str = "tools/call") -> "asyncio.Task[Json]":
    task = asyncio.create_task(t.peer.request(method, {}))
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("id", [1, "1", 1.0, "1.0", " 1"])
async def test_an_id_sent_back_in_another_form_settles_its_request(id: object) -> None:
    t = Transcript()
    task = await ask(t)
    t.peer.receive({"jsonrpc": "2.0", "id": id, "result": {"x": 1}})
    assert await task == {"result": {"x": 1}}


async def test_a_reply_may_repeat_the_method_of_its_request() -> None:
    t = Transcript()
    task = await ask(t)
    t.peer.receive({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "result": {"x": 1}})
    assert await task == {"result": {"x": 1}}
    t.peer.receive({"jsonrpc": "2.0", "id": 1, "method": "ping", "result": {}})
    assert [request[:2] for request in t.requests] == [(1, "ping")]


@pytest.mark.parametrize("id", [True, "one", "1e0", "١", 1.5, [1], {"1": 1}, "-1", ""])
async def test_any_other_id_settles_nothing(id: object) -> None:
    t = Transcript()
    task = await ask(t)
    t.peer.receive({"jsonrpc": "2.0", "id": id, "result": {}})
    assert len(t.oddities) == 1
    t.peer.lose("over")
    with pytest.raises(PeerLost):
        await task


BOOM: Json = {"jsonrpc": "2.0", "id": None, "error": {"code": -32603, "message": "boom"}}


@pytest.mark.parametrize("id", [None, 0, -1, 0.0, "", "null"])
async def test_an_error_without_an_id_belongs_to_the_only_open_request(id: object) -> None:
    t = Transcript()
    task = await ask(t)
    t.peer.receive({**BOOM, "id": id})
    assert await task == {"error": {"code": -32603, "message": "boom"}}


@pytest.mark.parametrize("message", [
    {"error": {"message": "a log line"}}, {"level": "info"}, {"jsonrpc": "2.0"}, {**BOOM, "id": False},
    {**BOOM, "id": 99}, {**BOOM, "id": "abc"}, {"jsonrpc": "2.0", "id": 0, "result": {}},
])  # fmt: skip
async def test_objects_that_are_no_reply_settle_nothing(message: Json) -> None:
    t = Transcript()
    task = await ask(t)
    t.peer.receive(message)
    await asyncio.sleep(0)
    assert not task.done()
    t.peer.receive({"id": 1, "result": {}})
    assert await task == {"result": {}}


async def test_an_error_without_an_id_settles_none_of_several() -> None:
    t = Transcript()
    tasks = [await ask(t), await ask(t)]
    t.peer.receive(BOOM)
    for number in (1, 2):
        t.peer.receive({"jsonrpc": "2.0", "id": number, "result": {"number": number}})
    assert [await task for task in tasks] == [{"result": {"number": 1}}, {"result": {"number": 2}}]


async def test_an_error_without_an_id_may_be_about_a_request_that_was_given_up() -> None:
    t = Transcript()
    first = await ask(t)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = await ask(t)
    t.peer.receive(BOOM)
    await asyncio.sleep(0)
    assert not second.done()
    t.peer.receive({"jsonrpc": "2.0", "id": 2, "result": {}})
    assert await second == {"result": {}}


async def test_an_error_without_an_id_may_answer_a_notification() -> None:
    t = Transcript()
    t.peer.notify("notifications/initialized")
    task = await ask(t)
    t.peer.receive(BOOM)
    t.peer.receive({"jsonrpc": "2.0", "id": 1, "result": {}})
    assert await task == {"result": {}}
    task = await ask(t)
    t.peer.receive(BOOM)  # the request after the notification was answered
    assert "error" in await task


@pytest.mark.parametrize(
    ("fault", "passed_on"),
    [("boom", {"code": -32603, "message": "boom"}), ({"message": "x"}, {"code": -32603, "message": "x"}),
     ({"code": 5, "data": 1}, {"code": 5, "data": 1, "message": "no message"}),
     ({"code": 2.0**70, "message": "x"}, {"code": -32603, "message": "x"}),
     ({"code": "7", "message": ["x"]}, {"code": 7, "message": '["x"]'})],
)  # fmt: skip
async def test_errors_are_passed_on_as_clients_take_them(fault: object, passed_on: Json) -> None:
    t = Transcript()
    task = await ask(t)
    t.peer.receive({"jsonrpc": "2.0", "id": 1, "error": fault})
    assert await task == {"error": passed_on}


async def test_an_error_of_null_beside_a_result_is_none() -> None:
    t = Transcript()
    task = await ask(t)
    t.peer.receive({"id": 1, "result": {"x": 1}, "error": None})
    assert await task == {"result": {"x": 1}}


async def test_an_unreadable_reply_fails_its_request_and_an_unreadable_request_is_answered() -> None:
    t = Transcript()
    tasks = [await ask(t), await ask(t)]
    t.peer.receive_unreadable(MessageRemains("2", has_version=True), "not JSON")
    with pytest.raises(UnreadableReply, match="not JSON"):
        await tasks[1]
    t.peer.receive_unreadable(MessageRemains(has_outcome=True, has_version=True), "too large")
    with pytest.raises(UnreadableReply, match="too large"):
        await tasks[0]
    t.peer.receive_unreadable(MessageRemains("q", has_method=True), "not JSON")
    assert t.sent[-1] == {"jsonrpc": "2.0", "id": "q", "error": {"code": -32700, "message": "not JSON"}}


async def test_each_request_ends_by_its_own_time_limit() -> None:
    """One timer serves them all: an earlier limit that is set later, a later one, and none."""
    t = Transcript()
    ended: list[str] = []

    async def ask(name: str, timeout: float | None) -> None:
        try:
            await t.peer.request(name, {}, timeout=timeout)
        except TimeoutError:
            ended.append(name)

    tasks = [asyncio.create_task(ask(*limit)) for limit in (("late", 0.02), ("early", 0.001), ("never", None))]
    await asyncio.wait(tasks[:2])
    assert ended == ["early", "late"]
    t.peer.receive({"jsonrpc": "2.0", "id": 3, "result": {}})
    await tasks[2]
    with pytest.raises(TimeoutError):
        await t.peer.request("again", {}, timeout=0.001)
