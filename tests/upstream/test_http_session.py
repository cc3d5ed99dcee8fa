"""Sessions over HTTP begin in a revision that both sides speak, recover when they are lost, and go on otherwise."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable

import pytest

from mcp_guard.core.model import Json
from mcp_guard.upstream import http_answer_reader
from tests.servers.wild_http import TOOL, Exchange, WildServer, content, event, unidentified
from tests.upstream.connected import connected, eventually


class Sessions:
    """A server that knows the sessions in `known`, and refuses those that it has forgotten by `refuse`."""

    def __init__(self, refuse: Callable[[Exchange], None]) -> None:
        self.refuse = refuse
        self.known: set[str] = set()
        self.calls: list[str] = []
        self.slow = threading.Event()
        self._ids = (f"s{number}" for number in itertools.count(1))

    def __call__(self, exchange: Exchange) -> None:
        id = exchange.headers.get("mcp-session-id", "")
        if exchange.method == "initialize":
            assert not id
            self.known.add(id := next(self._ids))
            exchange.greet(session=id)
        elif id not in self.known and exchange.command != "GET":
            self.refuse(exchange)
        elif not exchange.greet():
            self.calls.append(id)
            if len(self.calls) == 2:
                self.slow.wait(5)
            exchange.succeed(id)


@pytest.mark.parametrize(
    "refuse",
    [
        lambda x: unidentified(x, 404),
        lambda x: unidentified(x, 404, x.message.get("id")),
        lambda x: x.reply(404),
        lambda x: x.reply(410),
        lambda x: unidentified(x, 400),
        lambda x: unidentified(x, 400, "server-error"),
        lambda x: x.reply(400, b"Invalid session ID", type="text/plain"),
        lambda x: x.reply(401, b"Unauthorized: Session not found", type="text/plain"),
        lambda x: unidentified(x, 200),
        lambda x: unidentified(x, 400, x.message.get("id")),
        lambda x: unidentified(x, 200, x.message.get("id")),
    ],
    ids=[
        "404",
        "404 with the id",
        "404 alone",
        "410",
        "400",
        "400 server-error",
        "400 text",
        "401",
        "200",
        "400 with the id",
        "200 with the id",
    ],
)
async def test_a_lost_session_is_replaced_and_the_refused_call_was_not_sent(refuse: Callable[[Exchange], None]) -> None:
    """A call that is being answered meanwhile gets its answer."""
    sessions = Sessions(refuse)
    with WildServer(sessions) as server:
        async with connected(server.url) as far:
            assert await far.call() == "s1"
            slow = asyncio.create_task(far.call())
            await eventually(lambda: len(sessions.calls) == 2)
            sessions.known.clear()
            outcome = await far.call()
            assert outcome == "not sent: upstream `far`: has ended its session, so a new one is started"
            assert await far.connection.wait_for_renewal()
            assert await far.call() == "s2"
            sessions.slow.set()
            assert await slow == "s1"
    assert sessions.calls == ["s1", "s1", "s2"]


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ({"result": {"content": [{"type": "text", "text": "done"}]}}, "done"),
        ({"error": {"code": -32000, "message": "the deal has no such stage"}}, "the deal has no such stage"),
    ],
)
async def test_a_reply_counts_although_its_status_is_that_of_a_lost_session(reply: Json, told: str) -> None:
    """The call may have run, so it must not be said that it was not sent (promise P3)."""

    def answer(exchange: Exchange) -> None:
        if not exchange.greet(session="s"):
            exchange.reply(404, {"jsonrpc": "2.0", "id": exchange.message["id"], **reply})

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert told in (outcome := await far.call())
            assert "not sent" not in outcome


async def test_a_session_that_fails_with_500_is_replaced_after_two_calls() -> None:
    sessions = Sessions(lambda x: x.reply(500))
    with WildServer(sessions) as server:
        async with connected(server.url) as far:
            sessions.known.clear()
            for _ in range(2):
                assert (await far.call()).startswith("lost: ")
            await eventually(lambda: far.connection.is_starting or len(sessions.known) == 1)
            await far.connection.wait_for_renewal()
            assert await far.call() == "s2"


@pytest.mark.parametrize("status", [200, 400, 404])
@pytest.mark.parametrize("early", ["", event({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})])
async def test_a_session_that_ends_while_a_call_runs_leaves_its_outcome_open(
    status: int, early: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_answer_reader, "REFUSAL_SECONDS", 60.0 if early else 0.2)
    is_lost = threading.Event()

    def answer(exchange: Exchange) -> None:
        if is_lost.is_set() and exchange.method == "ping":
            exchange.reply(404)
        elif not exchange.greet(session="s"):
            is_lost.set()
            if early and status == 200:
                refusal = event({"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "expired"}})
                exchange.reply(200, (early + refusal).encode(), type="text/event-stream")
                return
            time.sleep(0 if early else 0.3)
            unidentified(exchange, status)

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            outcome = await far.call()
    is_open = not early or status == 200
    assert outcome.startswith("lost: " if is_open else "not sent: ")


async def test_a_call_that_is_refused_does_not_end_its_session() -> None:
    """Neither by an error without an id nor by a failing gateway, as long as the server answers a ping."""
    refusals = iter([lambda x: unidentified(x, 400), lambda x: unidentified(x, 200), *[lambda x: x.reply(503)] * 3])
    begun: list[str] = []

    def answer(exchange: Exchange) -> None:
        begun.extend([exchange.method] if exchange.method == "initialize" else [])
        if not exchange.greet(session="s"):
            next(refusals, Exchange.succeed)(exchange)

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert "No valid session" in await far.call()
            assert "No valid session" in await far.call()
            for _ in range(3):
                assert (await far.call()).startswith("lost: ")
            assert await far.call() == "done"
    assert begun == ["initialize"]


async def test_an_error_without_an_id_is_about_its_call_although_another_was_refused_as_by_a_lost_session() -> None:
    """The server answers a ping in that session, so the call may have run."""
    calls: list[str] = []
    second_is_open = threading.Event()

    def answer(exchange: Exchange) -> None:
        if exchange.greet(session="s"):
            return
        calls.append("call")
        if len(calls) == 1:
            second_is_open.wait(5)
            exchange.reply(410)
        else:
            second_is_open.set()
            time.sleep(0.3)
            unidentified(exchange, 200)

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            first = asyncio.create_task(far.call())
            await eventually(lambda: len(calls) == 1)
            assert "No valid session" in await far.call()
            assert (await first).startswith("not sent: ")


async def test_a_server_that_forgets_each_session_at_once_is_not_asked_all_the_time() -> None:
    sessions = Sessions(lambda x: x.reply(404))

    def answer(exchange: Exchange) -> None:
        sessions(exchange)
        if exchange.method == "notifications/initialized":
            sessions.known.clear()

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            await asyncio.sleep(0.3)
            assert far.tools() == []
    assert next(sessions._ids) == "s2", "one session was begun"


async def test_the_negotiated_revision_and_the_latest_session_id_are_sent() -> None:
    seen: list[tuple[str, str]] = []

    def answer(exchange: Exchange) -> None:
        if exchange.method != "initialize":
            headers = exchange.headers
            seen.append((headers.get("MCP-Protocol-Version", ""), headers.get("Mcp-Session-Id", "")))
        if not exchange.greet("2025-03-26", session="s1"):
            exchange.reply(200, exchange.result(content("done")), mcp_session_id="s2")

    with WildServer(answer) as server:
        async with connected(server.url, "2025-11-25") as far:
            await far.call()
            await far.call()
    assert {version for version, _ in seen} == {"2025-03-26"}
    assert [id for _, id in seen][-2:] == ["s2", "s2"], "the last call, and the end of the session"


@pytest.mark.parametrize("code", [-32602, -32022])
@pytest.mark.parametrize("status", [200, 400])
async def test_a_revision_that_the_server_names_is_taken_instead(code: int, status: int) -> None:
    asked: list[str] = []

    def answer(exchange: Exchange) -> None:
        if exchange.method != "initialize":
            exchange.serve("2025-03-26")
            return
        asked.append(exchange.message["params"]["protocolVersion"])
        if asked[-1] != "2025-03-26":
            data = {"supported": ["2024-11-05", "2025-03-26", "2099-01-01"], "requested": asked[-1]}
            exchange.reply(status, exchange.error(code, "Unsupported protocol version", data=data))
        else:
            exchange.greet("2025-03-26")

    with WildServer(answer) as server:
        async with connected(server.url, "2025-11-25") as far:
            assert await far.call() == "done"
    assert asked == ["2025-11-25", "2025-03-26"]


async def test_older_revisions_are_tried_where_a_refusal_names_none() -> None:
    asked: list[str] = []

    def answer(exchange: Exchange) -> None:
        if exchange.method == "initialize":
            asked.append(exchange.message["params"]["protocolVersion"])
            if asked[-1] > "2025-03-26":
                exchange.reply(400, exchange.error(-32602, f"Unsupported protocol version: {asked[-1]}"))
                return
        exchange.serve("2025-03-26")

    with WildServer(answer) as server:
        async with connected(server.url, "2025-11-25") as far:
            assert await far.call() == "done"
    assert asked == ["2025-11-25", "2025-06-18", "2025-03-26"]


async def test_a_stateless_server_that_refuses_the_first_question_is_asked_again() -> None:
    asked: list[str] = []

    def answer(exchange: Exchange) -> None:
        asked.append(exchange.method)
        if exchange.method == "server/discover" and asked.count("server/discover") == 1:
            data = {"supported": ["2026-07-28"], "requested": "2026-07-28"}
            exchange.reply(400, exchange.error(-32022, "Unsupported protocol version", data=data))
        elif exchange.method == "server/discover":
            capabilities: dict[str, object] = {"tools": {}}
            result = {"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "resultType": "complete"}
            exchange.reply(200, exchange.result(result))
        elif exchange.method == "tools/list":
            exchange.reply(200, exchange.result({"tools": [TOOL], "resultType": "complete"}))
        else:
            exchange.reply(405)

    with WildServer(answer) as server:
        async with connected(server.url, prefer_stateless=True) as far:
            assert far.tools() == ["run"]
    assert "initialize" not in asked


@pytest.mark.parametrize(("where", "status"), list(itertools.product(["initialize", "tools/list"], [502, 503, 0])))
async def test_handshake_and_listing_are_repeated_after_a_failure_on_the_way(where: str, status: int) -> None:
    failures = iter([True])

    def answer(exchange: Exchange) -> None:
        if exchange.method == where and next(failures, False):
            if status:
                exchange.reply(status, retry_after="0")
            else:
                exchange.cut()
        else:
            exchange.greet()

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert far.tools() == ["run"]


# What was sent and what was not


async def test_a_refused_connection_sends_nothing_and_ends_nothing() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.serve(session="s")

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert await far.call() == "done"
            server.stop()
            assert (await far.call()).startswith("not sent: upstream `far`: cannot be reached: ")
            server.start()
            assert await far.call() == "done"


async def test_a_connection_closed_after_each_response_costs_no_call() -> None:
    """The server does not announce it, so its connections look as if they could be used again."""

    def answer(exchange: Exchange) -> None:
        exchange.close_connection = True
        exchange.serve(session="s")

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert [await far.call() for _ in range(20)] == ["done"] * 20


async def test_a_connection_closed_by_a_call_leaves_its_outcome_open() -> None:
    calls: list[str] = []

    def answer(exchange: Exchange) -> None:
        if not exchange.greet():
            calls.append(exchange.method)
            exchange.cut()

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert (await far.call()).startswith("lost: ")
    assert calls == ["tools/call"]


# Notifications and the standing stream


async def test_a_cut_answer_is_resumed_until_it_is_complete() -> None:
    """Also after a failing gateway and several empty continuations; the call is sent once."""
    resumed: list[str] = []
    pending: dict[str, object] = {}

    def answer(exchange: Exchange) -> None:
        if exchange.greet(listen=True):
            return
        if exchange.command == "POST":
            pending["id"] = exchange.message["id"]
            exchange.stream()
            exchange.chunk("id: e1\nretry: 10\ndata:\n\nid: e2\ndata: {")
            exchange.cut()
        elif "last-event-id" in exchange.headers:
            resumed.append(exchange.headers["last-event-id"])
            if len(resumed) == 1:
                exchange.reply(503)
                return
            exchange.stream()
            if len(resumed) == 7:
                exchange.chunk(event({"jsonrpc": "2.0", "id": pending["id"], "result": content("done")}, "e2"))
            exchange.end()
        else:
            exchange.reply(405)

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert await far.call() == "done"
    assert resumed == ["e1"] * 7


async def test_the_reply_of_an_array_counts_before_one_of_no_request() -> None:
    def answer(exchange: Exchange) -> None:
        if not exchange.greet(session="s"):
            foreign = {"jsonrpc": "2.0", "id": 9999, "result": content("another's")}
            exchange.reply(200, [foreign, exchange.result(content("done"))])

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert await far.call() == "done"


async def test_a_reply_that_was_to_come_on_the_standing_stream_is_lost_with_its_session() -> None:
    begun, streams = list[Exchange](), list[Exchange]()

    def answer(exchange: Exchange) -> None:
        begun.extend([exchange] if exchange.method == "initialize" else [])
        if exchange.method != "initialize" and exchange.headers["mcp-session-id"] != f"s{len(begun)}":
            exchange.reply(404)
        elif exchange.command == "GET":
            exchange.stream()
            exchange.chunk("retry: 10\n: hi\n\n")
            streams.append(exchange)
            threading.Event().wait(5)
        elif not exchange.greet(session=f"s{len(begun)}"):
            exchange.reply(202)
            begun.append(exchange)  # it starts again, and has forgotten the session
            time.sleep(0.05)
            streams[-1].cut()

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            await eventually(lambda: streams != [])
            assert (await far.call()).startswith("lost: upstream `far`: ")


async def test_a_proxy_that_gives_up_waiting_leaves_the_call_unknown() -> None:
    def answer(exchange: Exchange) -> None:
        if not exchange.greet(session="s"):
            exchange.reply(408)

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert (await far.call()).startswith("lost: upstream `far`: answered with HTTP status 408")


# Redirects


async def test_redirects_within_the_origin_are_followed_with_body_and_secrets() -> None:
    moved: list[str] = []

    def answer(exchange: Exchange) -> None:
        assert exchange.headers["x-key"] == "abc"
        if exchange.path == "/mcp":
            moved.append(exchange.method)
            exchange.reply(308 if exchange.method != "initialize" else 301, location="/mcp/")
        else:
            exchange.serve(session="s")

    with WildServer(answer) as server:
        async with connected(server.url, headers={"x-key": "abc"}) as far:
            assert await far.call() == "done"
    assert moved == ["initialize"], "later requests go where it led"


async def test_nothing_is_sent_to_another_origin() -> None:
    strays: list[str] = []
    with (
        WildServer(lambda exchange: strays.append(exchange.method)) as other,
        WildServer(lambda exchange: exchange.reply(307, location=f"{other.url}?state=1")) as server,
    ):
        async with connected(server.url, headers={"authorization": "Bearer abc"}) as far:
            assert f"redirects to `{other.url}` (HTTP status 307)" in str(far.connection.why_unavailable())
    assert strays == []


@pytest.mark.parametrize("target", ["/\x01", "/" + "a" * 66_000, "//localhost:99999/"])
async def test_a_call_that_is_redirected_to_what_is_no_url_was_not_sent(target: str) -> None:
    def answer(exchange: Exchange) -> None:
        if not exchange.greet(session="s"):
            exchange.reply(307, location=target)

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            expected = "not sent: upstream `far`: redirects to what is not a URL (HTTP status 307)"
            assert await far.call() == expected


async def test_redirects_without_end_are_not_followed_without_end() -> None:
    asked: list[str] = []

    def answer(exchange: Exchange) -> None:
        asked.append(exchange.path)
        exchange.reply(307, location=f"/{len(asked)}")

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert "redirects to" in str(far.connection.why_unavailable())
    assert len(asked) <= 12  # `initialize`, and the question whether it is a stateless server


# HTTP with SSE


async def test_a_restarted_server_is_noticed_by_the_standing_stream_before_a_call_fails() -> None:
    sessions = Sessions(lambda x: x.reply(404))
    restart = threading.Event()

    def answer(exchange: Exchange) -> None:
        id = exchange.headers.get("mcp-session-id", "")
        if exchange.command != "GET":
            sessions(exchange)
        elif id in sessions.known:
            exchange.stream()
            exchange.chunk("retry: 10\n\n")
            restart.wait(5)
            sessions.known.discard("s1")
            exchange.cut()
        else:
            exchange.reply(404)

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            restart.set()
            await eventually(lambda: "s2" in sessions.known)
            await far.connection.wait_for_renewal()
            assert await far.call() == "s2"


# The stream of an answer
