"""The HTTP server against clients that send too slowly, too much, or nothing: a real server on a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from mcp_guard.inbound import MAX_HEADERS, ConnectionLimits, HttpServer, Patience

QUICK = Patience(
    headers=0.3, body=0.3, body_rate=1e9, unwanted_body=0.3, write=0.5, write_rate=1e9, keep_alive=1, shutdown=0.2
)
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(request: Request) -> Response:
    try:
        return PlainTextResponse(await request.body())
    except ClientDisconnect:
        return Response(status_code=400)


async def refuse(_: Request) -> Response:
    return PlainTextResponse("no", 401)


async def slow(_: Request) -> Response:
    await asyncio.sleep(1.5)
    return PlainTextResponse("done")


async def flood(_: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield bytes(64 * 1024)
            await asyncio.sleep(0)

    return StreamingResponse(body())


@asynccontextmanager
async def serving(max_connections: int = 100) -> AsyncIterator[tuple[HttpServer, int]]:
    endpoints = {"/": echo, "/refuse": refuse, "/slow": slow, "/flood": flood}
    app = Starlette(routes=[Route(path, endpoint, methods=["GET", "POST"]) for path, endpoint in endpoints.items()])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        server = HttpServer(app, max_connections=max_connections, patience=QUICK)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield server, listener.getsockname()[1]
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def connect(port: int, data: bytes = b"", drip: bytes = b"") -> AsyncIterator[Streams]:
    """A connection that sends `data`, then `drip` again and again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)

    async def keep_dripping() -> None:
        while drip:
            writer.write(drip)
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(keep_dripping())
    try:
        yield reader, writer
    finally:
        dripping.cancel()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def rest(reader: asyncio.StreamReader, seconds: float = 4) -> bytes:
    """Everything until the server closes."""
    async with asyncio.timeout(seconds):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize(
    "unfinished",
    [
        b"",
        b"POST / HT",
        HEAD,
        HEAD + b"content-length: 10\r\n\r\nhalf",
        HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n",
    ],
)
async def test_an_unfinished_request_is_closed(unfinished: bytes) -> None:
    async with serving() as (_, port), connect(port, unfinished) as (reader, _):
        await rest(reader)


@pytest.mark.parametrize("drop", [b"\r\n", b"x: y\r\n"])
async def test_dripping_headers_does_not_extend_their_time(drop: bytes) -> None:
    head = b"" if drop == b"\r\n" else HEAD
    async with serving() as (_, port), connect(port, head, drip=drop) as (reader, _):
        await rest(reader)


@pytest.mark.parametrize("trickle", [b"1;ext=%s\r\nx\r\n" % bytes([97] * 90), b"1\r\nx\r\n"])
async def test_a_trickled_body_is_not_kept_for_ever(trickle: bytes) -> None:
    head = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    async with serving() as (_, port), connect(port, head, drip=trickle) as (reader, _):
        await rest(reader)


async def test_an_answer_may_take_longer_than_any_deadline() -> None:
    head = b"GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    async with serving() as (_, port), connect(port, head) as (reader, _):
        assert (await rest(reader)).endswith(b"done")


async def test_a_client_that_does_not_read_is_closed() -> None:
    async with serving() as (server, port), connect(port, b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n") as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.3)
        assert server.server_state.connections
        async with asyncio.timeout(5):
            while server.server_state.connections:
                await asyncio.sleep(0.05)


async def test_a_stop_drops_a_client_that_does_not_read_and_cancels_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as (server, port), connect(port, b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n") as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(20):
            while not server.server_state.tasks:
                await asyncio.sleep(0.01)
            server.should_exit = True
            while server.server_state.tasks:
                await asyncio.sleep(0.05)
    assert capsys.readouterr().err == ""


async def test_requests_on_one_connection_are_answered() -> None:
    async with serving() as (_, port), connect(port) as (reader, writer):
        for number in range(3):
            writer.write(HEAD + b"content-length: 1\r\n\r\n%d" % number)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(1) == b"%d" % number


async def test_a_pipelined_request_waits_for_its_turn() -> None:
    first, second = b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n", HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\n"
    async with serving() as (_, port), connect(port, first + second) as (reader, writer):
        writer.write(b"ok")
        answers = await rest(reader)
        assert answers.count(b"HTTP/1.1 200") == 2
        assert answers.endswith(b"ok")


@pytest.mark.parametrize(
    "headers", [b"x: y\r\n" * (MAX_HEADERS + 1), b"x: " + b"y" * 400_000 + b"\r\n", b"x: y\r\n" * 100_000]
)
async def test_headers_are_bounded(headers: bytes) -> None:
    async with serving() as (_, port), connect(port, HEAD + headers) as (reader, _):
        assert (await rest(reader))[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431", b"")


async def test_trailers_do_not_become_headers() -> None:
    head = HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    body = b"1\r\nx\r\n0\r\n" + b"x: y\r\n" * 3 * MAX_HEADERS + b"\r\n"
    async with serving() as (_, port), connect(port, head + body) as (reader, _):
        assert (await rest(reader)).endswith(b"x")


async def test_a_new_client_is_served_beside_many_that_send_nothing() -> None:
    async with serving(max_connections=10) as (server, port), AsyncExitStack() as idle:
        for _ in range(25):
            await idle.enter_async_context(connect(port, HEAD))
        head = HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\nok"
        reader, _ = await idle.enter_async_context(connect(port, head))
        assert (await rest(reader)).endswith(b"ok")
        assert len(server.server_state.connections) <= 10


async def test_a_connection_that_is_owed_an_answer_is_never_closed_for_another() -> None:
    head = b"GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    async with serving(max_connections=3) as (_, port), AsyncExitStack() as others:
        answered = [await others.enter_async_context(connect(port, head)) for _ in range(3)]
        await asyncio.sleep(0.1)
        reader, _ = await others.enter_async_context(connect(port, HEAD))
        assert b"503" in await rest(reader)
        for slow_reader, _ in answered:
            assert (await rest(slow_reader)).endswith(b"done")


def test_the_cap_leaves_half_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (256, 4096))
    assert ConnectionLimits.of_process() == ConnectionLimits(128, 16)
    monkeypatch.setattr("resource.getrlimit", lambda _: (1_000_000, 1_000_000))
    assert ConnectionLimits.of_process() == ConnectionLimits(1000, 64)
