"""Which requests over HTTP have provably not been sent: those whose body was never given to a connection."""

import asyncio
import errno
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import orjson
import pytest

from mcp_guard.core.message_remains import OversizedLine
from mcp_guard.core.model import Json
from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.upstream import http_client
from mcp_guard.upstream.budget import UpstreamBudget
from mcp_guard.upstream.http_client import ServerAddress, TokenProvider
from mcp_guard.upstream.http_session import UpstreamHttpSession
from mcp_guard.upstream.oauth.discovery import NoToken
from tests.live.http_guard import free_port
from tests.servers.flaky_http import FlakyServer


class Recorder:
    """Implements `transport.MessageHandler`."""

    def __init__(self) -> None:
        self.budget = UpstreamBudget(1 << 20)
        self.ends: dict[Id, str] = {}
        """`answered`, `lost` or `not sent`, by request."""
        self.reasons: list[str] = []

    def charge(self, cost: int) -> None: ...

    def on_unread(self, reason: str) -> None: ...

    def on_message(self, frame: bytes | OversizedLine | None) -> None:
        assert isinstance(frame, bytes)
        self.ends.setdefault(orjson.loads(frame)["id"], "answered")

    def on_request_lost(self, request: Id, reason: str) -> None:
        self.ends.setdefault(request, "lost")

    def on_request_not_sent(self, request: Id, reason: str) -> None:
        self.ends.setdefault(request, "not sent")
        self.reasons.append(reason)

    def on_request_failed(self, request: Id, what: str) -> None:
        self.ends.setdefault(request, "failed")

    def on_session_lost(self, reason: str) -> None: ...

    def on_reachable(self) -> None: ...

    def on_unreachable(self, reason: str) -> None: ...

    def note(self, text: str) -> None: ...

    def input_schema(self, tool: str) -> Json | None:
        return None

    def on_closed(self, reason: str, full: str = "") -> None: ...

    async def end_of(self, request: Id) -> str:
        async with asyncio.timeout(10):
            while request not in self.ends:
                await asyncio.sleep(0.005)
        return self.ends[request]


class NoSignIn:
    """A token that cannot be had."""

    def headers(self) -> dict[str, str]:
        return {}

    async def ready(self) -> None:
        raise NoToken("the issuer cannot be reached")

    async def widen(self, refused: dict[str, str], scopes: tuple[str, ...]) -> None:
        raise NotImplementedError

    async def renew(self, refused: dict[str, str]) -> None:
        raise NoToken("the issuer cannot be reached")


class BrokenSignIn(NoSignIn):
    async def ready(self) -> None:
        raise OSError(errno.EMFILE, "Too many open files")


@asynccontextmanager
async def session_with(
    url: str, token: TokenProvider | None = None
) -> AsyncIterator[tuple[UpstreamHttpSession, Recorder]]:
    recorder = Recorder()
    session = UpstreamHttpSession(ServerAddress(url, {}), recorder, 1 << 20, token)
    running = asyncio.create_task(session.run(asyncio.Event()))
    yield session, recorder
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await session.close()


def call(id: int) -> bytes:
    params = {"name": "pay", "arguments": {"number": id}}
    return orjson.dumps({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}) + b"\n"


NOTIFICATION = b'{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}\n'


@pytest.mark.parametrize(
    ("fate", "end", "runs"),
    [
        ("answered", "answered", 1),
        ("ran", "lost", 1),
        ("dropped", "lost", 0),
        ("half", "lost", 0),
    ],
)
async def test_a_request_whose_body_was_given_to_a_connection_is_lost(fate: str, end: str, runs: int) -> None:
    with FlakyServer() as server:
        server.fates.append(fate)
        async with session_with(server.url) as (session, recorder):
            session.write(call(1), False)
            assert await recorder.end_of(1) == end
    assert server.ran.total() == runs


@pytest.mark.parametrize("where", ["refused", "no such host", "TLS"])
async def test_a_request_without_a_connection_is_not_sent(where: str) -> None:
    with FlakyServer() as server:
        urls = {
            "refused": f"http://127.0.0.1:{free_port()}/mcp",
            "no such host": "http://no-such-host.invalid/mcp",
            "TLS": server.url.replace("http:", "https:"),
        }
        server.fates.append("closed")
        async with session_with(urls[where]) as (session, recorder):
            session.write(call(1), False)
            assert await recorder.end_of(1) == "not sent"
        assert "cannot be reached" in recorder.reasons[0]
    assert server.ran.total() == 0


async def test_a_request_without_a_sign_in_is_not_sent() -> None:
    with FlakyServer() as server:
        async with session_with(server.url, NoSignIn()) as (session, recorder):
            session.write(call(1), False)
            assert await recorder.end_of(1) == "not sent"
    assert recorder.reasons == ["sign-in failed: the issuer cannot be reached"]


async def test_a_request_that_a_defect_stops_before_its_body_is_not_sent() -> None:
    with FlakyServer() as server:
        async with session_with(server.url, BrokenSignIn()) as (session, recorder):
            session.write(call(1), False)
            assert await recorder.end_of(1) == "not sent"
    assert "Too many open files" in recorder.reasons[0]
    assert server.ran.total() == 0


@pytest.mark.parametrize("drops_all", [True, False])
async def test_a_request_that_is_taken_back_never_leaves(drops_all: bool) -> None:
    """Whatever it waits for: the next turn of the loop, a notification that is accepted slowly, or a connection."""
    for turns in range(8):
        with FlakyServer() as server:
            server.fates.append("slow")
            async with session_with(server.url) as (session, _):
                session.write(NOTIFICATION, False)
                session.write(call(1), False)
                for _ in range(turns):
                    await asyncio.sleep(0)
                assert session.take_unsent() == [1] if drops_all else session.withdraw(1)
                assert not session.withdraw(1)
                server.release()
                if not drops_all:
                    session.write(call(2), False)
                    until = time.monotonic() + 10
                    while not server.ran and time.monotonic() < until:
                        await asyncio.sleep(0.005)
        assert dict(server.ran) == ({} if drops_all else {'{"number": 2}': 1})


@pytest.mark.parametrize(("seconds", "needed"), [(60.0, 1), (0.0, 2)])
async def test_an_idle_connection_is_given_up_before_its_server_does(
    seconds: float, needed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert http_client.KEEP_ALIVE_SECONDS < 5  # the default of Node's http, uvicorn and Apache
    monkeypatch.setattr(http_client, "KEEP_ALIVE_SECONDS", seconds)
    connections, closed = 0, list[asyncio.StreamWriter]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                id = orjson.loads(await reader.readexactly(length))["id"]
                reply = orjson.dumps({"jsonrpc": "2.0", "id": id, "result": {}})
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(reply) + reply)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        closed.append(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with session_with(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp") as (session, recorder):
        for id in (1, 2):
            session.write(orjson.dumps({"jsonrpc": "2.0", "id": id, "method": "ping"}) + b"\n", False)
            assert await recorder.end_of(id) == "answered"
    assert connections == needed
    while len(closed) < connections:
        await asyncio.sleep(0.005)
    server.close()
    await server.wait_closed()


async def test_what_has_left_cannot_be_taken_back() -> None:
    with FlakyServer() as server:
        server.fates.append("slow")
        async with session_with(server.url) as (session, recorder):
            session.write(call(1), False)
            while not server.waiting:
                await asyncio.sleep(0.005)
            assert not session.withdraw(1)
            assert session.take_unsent() == []
            server.release()
            assert await recorder.end_of(1) == "answered"
