"""Notifications and the standing stream of an upstream over HTTP cost nothing but themselves."""

import asyncio
import threading
import time

import pytest

from tests.servers.wild_http import Exchange, Json, WildServer, event
from tests.upstream.connected import connected, eventually


@pytest.mark.parametrize("status", [200, 202, 204, 400, 405, 500, 0])
async def test_no_answer_to_a_notification_ends_the_session(status: int) -> None:
    def answer(exchange: Exchange) -> None:
        if exchange.is_request or exchange.command != "POST":
            exchange.serve(session="s")
        elif status:
            exchange.reply(status, b"{}" if status == 200 else b"")
        else:
            exchange.cut()

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            far.connection.peer.notify("notifications/roots/list_changed")
            assert await far.call() == "done"
            assert far.connection.why_unavailable() is None


async def test_a_notification_that_is_unknown_ends_no_session_that_answers_a_ping() -> None:
    begun: list[str] = []

    def answer(exchange: Exchange) -> None:
        begun.extend(["s"] if exchange.method == "initialize" else [])
        if exchange.is_request or exchange.command != "POST":
            exchange.serve(session="s")
        else:
            exchange.reply(404, {"jsonrpc": "2.0", "id": None, "error": {"code": -32601, "message": "unknown"}})

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            far.connection.peer.notify("notifications/roots/list_changed")
            assert [await far.call() for _ in range(3)] == ["done"] * 3
            assert far.connection.why_unavailable() is None
    assert begun == ["s"]


@pytest.mark.parametrize(
    ("statuses", "is_taken"), [((503, 429, 202), True), ((500,), False), ((401,), False), ((404,), False)]
)
async def test_a_reply_that_is_refused_is_sent_again_or_noted(statuses: tuple[int, ...], is_taken: bool) -> None:
    sent: list[Json] = []

    def answer(exchange: Exchange) -> None:
        if exchange.command == "POST" and "method" not in exchange.message:
            sent.append(exchange.message)
            exchange.reply(statuses[len(sent) - 1], retry_after="0")
        else:
            exchange.serve(session="s")

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            far.connection.peer.reply(1, {"result": {}})
            await eventually(lambda: len(sent) == len(statuses) and (is_taken or far.listener.notes))
            assert await far.call() == "done"
    assert [message["id"] for message in sent] == [1] * len(statuses)
    refused = f"upstream `far`: a reply was not accepted: it answered with HTTP status {statuses[-1]}"
    assert far.listener.notes == ([] if is_taken else [refused])


async def test_a_slow_notification_holds_up_nothing() -> None:
    over = threading.Event()
    accepted: list[str] = []

    def answer(exchange: Exchange) -> None:
        if exchange.method == "notifications/progress":
            over.wait(5)
        if not exchange.is_request:
            accepted.append(exchange.method)
        exchange.serve()

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            for _ in range(2):
                far.connection.peer.notify("notifications/progress")
            far.connection.peer.reply(1, {"result": {}})
            assert await far.call(1) == "done"
            await eventually(lambda: "POST" in accepted)
            assert "notifications/progress" not in accepted
            over.set()


@pytest.mark.parametrize("status", [400, 401, 404, 405, 406, 500, 501])
async def test_a_refused_standing_stream_changes_nothing(status: int) -> None:
    refused: list[int] = []

    def answer(exchange: Exchange) -> None:
        if exchange.command in ("GET", "DELETE"):
            refused.append(status)
            exchange.reply(status)
        else:
            exchange.serve(session="s")

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            await eventually(lambda: refused)
            assert await far.call() == "done"
            assert far.connection.why_unavailable() is None


async def test_the_standing_stream_is_resumed_where_it_was_cut() -> None:
    """In the middle of an event: that event has not arrived. A call that is under way is not touched."""
    resumed: list[str] = []
    cut, heard = threading.Event(), threading.Event()
    news = event({"jsonrpc": "2.0", "method": "notifications/message"}, "e2")

    def answer(exchange: Exchange) -> None:
        if exchange.greet(session="s", listen=True):
            return
        if exchange.command == "POST":
            cut.wait(5)
            heard.wait(5)
            exchange.succeed()
            return
        resumed.append(exchange.headers.get("last-event-id", ""))
        exchange.stream()
        if len(resumed) == 1:
            exchange.chunk("id: e1\nretry: 10\ndata:\n\n" + news[: len(news) // 2])
            exchange.cut()
            cut.set()
        else:
            exchange.chunk(news)
            heard.wait(5)

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            call = asyncio.create_task(far.call())
            await eventually(lambda: far.listener.notifications == ["notifications/message"])
            heard.set()
            assert await call == "done"
    assert resumed == ["", "e1"]


async def test_a_standing_stream_that_ends_at_once_is_asked_for_less_and_less() -> None:
    asked: list[float] = []

    def answer(exchange: Exchange) -> None:
        if not exchange.greet(listen=True):
            asked.append(time.monotonic())
            exchange.stream()
            exchange.chunk("retry: 20\n\n")
            exchange.end()

    with WildServer(answer) as server:
        async with connected(server.url):
            await eventually(lambda: len(asked) >= 5)
    assert asked[4] - asked[0] >= 0.02 + 0.04 + 0.08 + 0.16


async def test_a_page_is_no_standing_stream() -> None:
    asked: list[str] = []

    def answer(exchange: Exchange) -> None:
        if not exchange.greet(listen=True):
            asked.append(exchange.command)
            exchange.reply(200, b"data: {}\n\n" * 50, type="text/html")

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            await eventually(lambda: asked)
            await asyncio.sleep(0.2)
            assert not any("not JSON" in note for note in far.listener.notes)
    assert asked == ["GET"]
