"""TLS handshakes of the server: clients that say nothing keep nobody out and are closed; others are served."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mcp_guard.inbound import HttpServer, Patience
from tests.test_inbound import connect, rest
from tests.web.web_process import HOST, OwnCertificate, make_certificate

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


async def answer(request: Request) -> Response:
    return PlainTextResponse(request.url.scheme)


@asynccontextmanager
async def serving(certificate: OwnCertificate, patience: Patience) -> AsyncIterator[tuple[HttpServer, int]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.folder / "web.crt", certificate.folder / "web.key")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        app = Starlette(routes=[Route("/", answer)])
        server = HttpServer(app, max_connections=16, patience=patience, tls=context)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield server, listener.getsockname()[1]
        finally:
            server.should_exit = True
            await running


async def get(port: int, certificate: OwnCertificate) -> bytes:
    tls = certificate.context
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=HOST)
    writer.write(REQUEST)
    answered = await rest(reader)
    writer.close()
    return answered


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> OwnCertificate:
    folder: Path = tmp_path_factory.mktemp("tls")
    return make_certificate(folder)


async def test_clients_without_a_hello_are_few_and_keep_nobody_out(certificate: OwnCertificate) -> None:
    async with serving(certificate, Patience(headers=30)) as (_, port), AsyncExitStack() as silent:
        opened = [await silent.enter_async_context(connect(port, b"\x16\x03" * (at % 2))) for at in range(40)]
        assert (await get(port, certificate)).endswith(b"https")
        closed = [reader for reader, _ in opened if await is_closed(reader)]
        assert len(closed) >= 36
        assert (await get(port, certificate)).endswith(b"https")


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.02):
            return await reader.read() == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"])
async def test_handshake_has_a_deadline(certificate: OwnCertificate, sent: bytes) -> None:
    async with serving(certificate, Patience(headers=0.2)) as (_, port), connect(port, sent) as (reader, _):
        await rest(reader)


async def test_request_that_comes_with_the_end_of_the_handshake_is_answered(certificate: OwnCertificate) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificate.context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    async with serving(certificate, Patience()) as (_, port), connect(port) as (reader, writer):
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
        tls.write(REQUEST)
        writer.write(outgoing.read())  # the end of the handshake and the request in one piece
        answered = b""
        async with asyncio.timeout(4):
            while not answered.endswith(b"https"):
                incoming.write(await reader.read(65536))
                with suppress(ssl.SSLWantReadError):
                    while not answered.endswith(b"https"):
                        answered += tls.read(65536)


async def test_stop_does_not_wait_for_handshakes(certificate: OwnCertificate) -> None:
    async with serving(certificate, Patience(headers=30)) as (server, port), connect(port) as (reader, _):
        await asyncio.sleep(0.1)
        server.should_exit = True
        assert await rest(reader) == b""
