"""An upstream over HTTP that cannot be reached is known as down, with the reason, until it answers again."""

import threading
from itertools import count

import pytest

from mcp_guard.core.note_limiter import NOTES_BURST
from tests.servers.wild_http import Exchange, WildServer
from tests.upstream.connected import Connected, connected, eventually

SLOW = 30.0


def plain(exchange: Exchange) -> None:
    exchange.serve()


def is_up(far: Connected) -> bool:
    return far.connection.status.is_up


def outages(far: Connected) -> list[str]:
    return [note for note in far.listener.notes if "cannot be reached" in note]


async def test_a_server_that_dies_is_down_since_the_call_that_failed_and_up_again_without_one() -> None:
    """Calls are tried all the same, and the log has one line for the outage."""
    with WildServer(plain) as server:
        async with connected(server.url) as far:
            assert (await far.call(), is_up(far)) == ("done", True)
            server.stop()
            assert "ConnectError" in await far.call()
            down = far.connection.status
            assert not down.is_up
            assert down.why.startswith("cannot be reached: ConnectError")
            assert (await far.call()).startswith("not sent")
            assert far.connection.status == down
            assert far.connection.why_unavailable() is None
            assert far.tools() == ["run"]
            server.start()
            await eventually(lambda: is_up(far), SLOW)
            assert far.connection.status.since >= down.since
            assert await far.call() == "done"
            assert outages(far) == [f"upstream `far` {down.why}"]

            server.stop()
            await far.call()
            assert len(outages(far)) == 2


async def test_the_call_that_is_answered_ends_the_outage_at_once() -> None:
    with WildServer(plain) as server:
        async with connected(server.url) as far:
            server.stop()
            assert (await far.call()).startswith("not sent")
            assert not is_up(far)
            server.start()
            assert (await far.call(), is_up(far)) == ("done", True)


async def test_a_listing_that_fails_says_that_the_server_is_down_and_keeps_the_tools() -> None:
    with WildServer(plain) as server:
        async with connected(server.url) as far:
            server.stop()
            await far.connection.refresh_tools()
            assert (is_up(far), far.tools()) == (False, ["run"])


async def test_the_standing_stream_notices_without_a_call_and_the_lost_session_is_replaced() -> None:
    sessions: set[str] = set()
    streaming, numbers = threading.Event(), count()

    def answer(exchange: Exchange) -> None:
        id = exchange.headers.get("mcp-session-id", "")
        if exchange.method == "initialize":
            sessions.add(id := f"s{next(numbers)}")
            exchange.greet(session=id)
        elif id not in sessions:
            exchange.reply(404)
        elif exchange.command == "GET":
            exchange.stream()
            exchange.chunk("retry: 10\n\n")
            streaming.set()
        else:
            exchange.serve()

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            await eventually(streaming.is_set, SLOW)
            server.stop()
            await eventually(lambda: not is_up(far), SLOW)
            sessions.clear()
            server.start()
            await eventually(lambda: is_up(far) and sessions, SLOW)
            while (outcome := await far.call()) != "done":
                assert outcome.startswith("not sent")


async def test_a_gateway_without_its_server_is_a_server_that_is_down() -> None:
    """But not where only the standing stream is refused like that."""
    is_dead = threading.Event()

    def answer(exchange: Exchange) -> None:
        if exchange.command == "GET" or is_dead.is_set():
            exchange.reply(502)
        else:
            exchange.serve()

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert (await far.call(), is_up(far)) == ("done", True)
            is_dead.set()
            outcome = await far.call()
            assert (is_up(far), far.connection.status.why) == (False, "answered with HTTP status 502"), outcome
            is_dead.clear()
            assert (await far.call(), is_up(far)) == ("done", True)


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_notification_or_a_reply_that_a_gateway_refuses_takes_no_server_down(status: int) -> None:
    """Some servers refuse every one of them, and answer every call."""
    refused: list[str] = []
    pings: list[str] = []

    def answer(exchange: Exchange) -> None:
        if exchange.command == "POST" and not exchange.is_request:
            refused.append(exchange.method)
            exchange.reply(status)
            return
        pings.extend([exchange.method] if exchange.method == "ping" else [])
        exchange.serve(session="s")

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            since = far.connection.status
            far.connection.peer.notify("notifications/roots/list_changed")
            far.connection.peer.reply(1, {"result": {}})
            await eventually(lambda: len(refused) == 3)
            assert await far.call() == "done"
            assert far.connection.status == since
            assert (far.listener.notes, pings) == ([], [])


async def test_a_server_that_flaps_does_not_fill_the_log() -> None:
    def answer(exchange: Exchange) -> None:
        if not exchange.greet():
            exchange.reply(503)

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            for _ in range(3 * NOTES_BURST):
                assert (await far.call()).startswith("lost: ")
                assert not is_up(far)
                await far.connection.refresh_tools()
                assert is_up(far)
            down = [
                note for note in far.listener.notes if note.startswith("upstream `far` answered with HTTP status 503")
            ]
            assert NOTES_BURST <= len(down) == len(far.listener.notes) < 2 * NOTES_BURST
