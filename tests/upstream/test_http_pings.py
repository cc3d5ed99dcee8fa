"""Pings and lists that the guard asks for itself: they end no healthy session, and take nothing that is of a call."""

import asyncio
import threading

import pytest

from mcp_guard.upstream.http_answers import PING_ID, HttpAnswerKind, read_answers
from tests.servers.wild_http import Exchange, WildServer, content, event, unidentified
from tests.upstream.connected import connected, eventually

SLOW = 30.0


async def test_no_two_pings_in_a_session_have_the_same_id() -> None:
    """A server may refuse an id that was used before, and then says so without one (JSON-RPC 2.0, section 5)."""
    ids: list[object] = []
    pings: list[object] = []

    def answer(exchange: Exchange) -> None:
        if exchange.is_request and exchange.message["id"] in ids:
            unidentified(exchange, 400)
            return
        if exchange.is_request:
            ids.append(exchange.message["id"])
        if exchange.method == "ping":
            pings.append(exchange.message["id"])
        if not exchange.greet(session="s"):
            exchange.reply(503)

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            for number in (1, 2, 3):
                assert (await far.call()).startswith("lost: ")
                await eventually(lambda number=number: len(pings) == number)
                assert far.connection.why_unavailable() is None


@pytest.mark.parametrize("status", [200, 400, 401, 405])
async def test_a_server_that_refuses_pings_keeps_its_session_after_an_outage(status: int) -> None:
    """Nothing was asked of it but the ping, and only status 404 says that the session has ended."""
    is_dead = threading.Event()
    begun: list[str] = []
    pings: list[str] = []
    refused: list[str] = []

    def answer(exchange: Exchange) -> None:
        pings.extend([exchange.method] if exchange.method == "ping" else [])
        if is_dead.is_set():
            exchange.reply(503)
        elif exchange.method == "ping":
            refused.append(exchange.headers["mcp-session-id"])
            unidentified(exchange, status)
        else:
            begun.extend([exchange.method] if exchange.method == "initialize" else [])
            exchange.serve(session="s")

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            is_dead.set()
            assert (await far.call()).startswith("lost: ")
            await eventually(lambda: pings)
            assert not far.connection.status.is_up
            is_dead.clear()
            await eventually(lambda: refused and far.connection.status.is_up, SLOW)
            assert await far.call() == "done"
            assert far.connection.why_unavailable() is None
    assert (begun, refused) == (["initialize"], ["s"])


async def test_a_server_that_refuses_pings_keeps_its_session_after_a_call_that_failed() -> None:
    begun: list[str] = []
    outcomes = iter([500, 200, 500, 200])
    pings: list[str] = []

    def answer(exchange: Exchange) -> None:
        begun.extend([exchange.method] if exchange.method == "initialize" else [])
        if exchange.method == "ping":
            pings.append(exchange.method)
            unidentified(exchange, 400)
        elif not exchange.greet(session="s"):
            exchange.succeed() if next(outcomes) == 200 else exchange.reply(500)

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            for number in (1, 2):
                assert (await far.call()).startswith("lost: ")
                await eventually(lambda number=number: len(pings) == number)
                assert await far.call() == "done"
    assert begun == ["initialize"]


@pytest.mark.parametrize("status", [200, 400, 406])
@pytest.mark.parametrize("code", [-32600, -32602, -32002])
async def test_a_session_that_must_be_initialized_again_is_renewed_although_it_answers_pings(
    code: int, status: int
) -> None:
    """It says so under the request's own id, as the Python SDK does; the call is not made again."""
    is_initialized = threading.Event()
    calls: list[object] = []
    begun: list[str] = []

    def answer(exchange: Exchange) -> None:
        if exchange.method == "initialize":
            is_initialized.set()
            begun.append(exchange.method)
        if exchange.method == "tools/call":
            calls.append(exchange.message["id"])
        if is_initialized.is_set() or not exchange.is_request or exchange.method == "ping":
            exchange.serve(session="s")
        else:
            exchange.reply(status, exchange.error(code, "Invalid request parameters"))

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            is_initialized.clear()
            assert (await far.call()).startswith("error: ")
            await eventually(lambda: len(begun) == 2 and far.connection.why_unavailable() is None)
            assert await far.call() == "done"
            assert len(calls) == 2


@pytest.mark.parametrize("code", [-32603, -32602])
async def test_a_server_that_refuses_a_call_and_lists_its_tools_keeps_its_session(code: int) -> None:
    begun: list[str] = []
    lists: list[str] = []

    def answer(exchange: Exchange) -> None:
        begun.extend([exchange.method] if exchange.method == "initialize" else [])
        lists.extend([exchange.method] if exchange.method == "tools/list" else [])
        if exchange.method == "tools/call":
            exchange.reply(200, exchange.error(code, "Invalid arguments"))
        else:
            exchange.serve(session="s")

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert (await far.call()).startswith("error: ")
            await eventually(lambda: len(lists) == (1 if code == -32603 else 2))
            assert (await far.call()).startswith("error: ")
    assert begun == ["initialize"]


@pytest.mark.parametrize("is_stream", [True, False])
async def test_what_comes_with_the_reply_to_a_ping_reaches_whom_it_is_for(is_stream: bool) -> None:
    """The reply to a call that is under way, and a notification; an error without an id is the ping's own."""
    slow = threading.Event()
    numbers: list[object] = []
    is_over = threading.Event()

    def answer(exchange: Exchange) -> None:
        if exchange.method == "ping":
            messages = [
                {"jsonrpc": "2.0", "method": "notifications/message", "params": {}},
                {"jsonrpc": "2.0", "id": numbers[0], "result": content("mine")},
                exchange.result({}),
            ]
            if is_stream:
                exchange.reply(200, "".join(map(event, messages)).encode(), type="text/event-stream")
            else:
                exchange.reply(200, messages)
        elif not exchange.greet(session="s"):
            numbers.append(exchange.message["id"])
            if len(numbers) == 1:
                slow.set()
                is_over.wait(10)
            else:
                exchange.reply(500)

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            first = asyncio.create_task(far.call(8))
            await eventually(slow.is_set)
            assert (await far.call()).startswith("lost: ")
            assert await first == "mine"
            is_over.set()
            assert far.listener.notifications == ["notifications/message"]
            assert len(numbers) == 2


async def test_no_answer_to_a_ping_settles_a_call() -> None:
    """Neither an error that names no request, nor the ping's reply on the stream of the only call that is open."""
    slow, has_pinged = threading.Event(), threading.Event()
    calls: list[object] = []
    pings: list[object] = []

    def answer(exchange: Exchange) -> None:
        if exchange.method == "ping":
            pings.append(exchange.message["id"])
            exchange.reply(200, {"jsonrpc": "2.0", "id": None, "error": "odd"})
            has_pinged.set()
        elif not exchange.greet(session="s"):
            calls.append(exchange.message["id"])
            if len(calls) > 1:
                exchange.reply(500)
                return
            exchange.stream()
            exchange.chunk(": begun\n\n")
            slow.set()
            has_pinged.wait(10)
            exchange.chunk(event({"jsonrpc": "2.0", "id": pings[0], "result": {}}))
            threading.Event().wait(2.5)
            exchange.chunk(event(exchange.result(content("mine"))))
            exchange.end()

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            first = asyncio.create_task(far.call(9))
            await eventually(slow.is_set)
            assert (await far.call()).startswith("lost: ")
            assert await first == "mine"
    assert len(calls) == 2


def test_the_reply_to_a_ping_is_no_answer_to_a_call() -> None:
    frame = f'{{"jsonrpc":"2.0","id":"{PING_ID}-1","result":{{}}}}'.encode()
    assert [answer.kind for answer in read_answers(frame, 3, [3])] == [HttpAnswerKind.OTHER]
    assert [answer.kind for answer in read_answers(frame, f"{PING_ID}-1", [3])] == [HttpAnswerKind.REPLY]
