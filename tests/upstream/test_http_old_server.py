"""Servers of 2024-11-05, HTTP with SSE, are found where they are, and connected again."""

import time
from collections.abc import Callable

import pytest

from mcp_guard.upstream.http_old_stream import SessionEnded, read_endpoint
from tests.servers.wild_http import TOOL, Exchange, WildServer, content, event, greeting, unidentified
from tests.upstream.connected import connected, eventually


class OldServer:
    """A server of revision 2024-11-05 at a plain address. `refuse` answers a `POST` to that."""

    def __init__(self, refuse: Callable[[Exchange], None]) -> None:
        self.refuse = refuse
        self.stream: Exchange | None = None
        self.streams = 0

    def __call__(self, exchange: Exchange) -> None:
        if exchange.command == "GET":
            self.streams += 1
            exchange.stream()
            exchange.chunk("event: endpoint\ndata: /messages?s=1\n\n")
            self.stream = exchange
            time.sleep(5)
        elif exchange.path == "/mcp":
            self.refuse(exchange)
        else:
            exchange.reply(202, b"Accepted", type="text/plain")
            assert self.stream is not None
            if exchange.method == "initialize":
                self.stream.chunk(event(exchange.result(greeting("2024-11-05"))))
            elif exchange.method == "tools/list":
                self.stream.chunk(event(exchange.result({"tools": [TOOL]})))
            elif exchange.method == "tools/call":
                self.stream.chunk("event: ping\ndata: now\n\n" + event(exchange.result(content("done"))))


@pytest.mark.parametrize(
    "refuse",
    [
        lambda x: x.reply(405),
        lambda x: x.reply(404, {"detail": "Not Found"}),
        lambda x: x.reply(400, b"sessionId is required", type="text/plain"),
        lambda x: x.reply(403),
        lambda x: unidentified(x, 404),
        lambda x: unidentified(x, 400),
    ],
    ids=["405", "404", "400", "403", "404 as JSON-RPC", "400 as JSON-RPC"],
)
async def test_a_server_of_2024_11_05_is_found_at_a_plain_address(refuse: Callable[[Exchange], None]) -> None:
    with WildServer(OldServer(refuse)) as server:
        async with connected(server.url) as far:
            assert far.tools() == ["run"]
            assert await far.call() == "done"
            assert not any("not JSON" in note for note in far.listener.notes)


async def test_a_server_without_either_transport_is_reported_by_both_answers() -> None:
    with WildServer(lambda exchange: exchange.reply(405 if exchange.command == "POST" else 404)) as server:
        async with connected(server.url) as far:
            reason = str(far.connection.why_unavailable())
    assert "answered with HTTP status 405, and to `GET` it answered with HTTP status 404" in reason


async def test_what_a_server_without_the_old_transport_says_without_an_id_is_reported() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.reply(405) if exchange.command == "GET" else unidentified(exchange, 400)

    with WildServer(answer) as server:
        async with connected(server.url) as far:
            assert "No valid session" in str(far.connection.why_unavailable())


async def test_a_server_of_2024_11_05_whose_stream_is_cut_is_connected_again() -> None:
    old = OldServer(lambda x: x.reply(405))
    with WildServer(old) as server:
        async with connected(server.url) as far:
            assert old.stream is not None
            old.stream.cut()
            await eventually(lambda: old.streams == 2 and far.connection.why_unavailable() is None)
            assert await far.call() == "done"


@pytest.mark.parametrize(
    ("named", "target"),
    [
        ("/m?s=1", "https://example.com/m?s=1"),
        ("m", "https://example.com/a/m"),
        ("http://example.com:8000/m", "https://example.com/m"),
        ("https://other.example/m", None),
        ("https://[", None),
    ],
)
def test_the_address_for_requests_stays_at_the_origin(named: str, target: str | None) -> None:
    if target is None:
        with pytest.raises(SessionEnded):
            read_endpoint("https://example.com/a/sse", named.encode())
    else:
        assert read_endpoint("https://example.com/a/sse", named.encode()) == target
