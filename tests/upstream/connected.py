"""A real connection to a real HTTP server on loopback, without the rest of a guard: cheap enough for many answers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.protocol.jsonrpc import Id, NotSent, PeerLost, UnreadableReply
from mcp_guard.settings import UpstreamSettings
from mcp_guard.upstream.connection import Connection
from mcp_guard.upstream.http import HttpServerParameters, HttpTransport
from mcp_guard.upstream.listener import NoListener
from mcp_guard.upstream.oauth.token_storage import FileTokenStorage
from mcp_guard.upstream.transport import Upstream
from tests.servers.wild_http import Json

MESSAGE_BYTES = 100_000


@dataclass
class Listener(NoListener):
    """Remembers what arrives."""

    notes: list[str] = field(default_factory=list)
    notifications: list[str] = field(default_factory=list)
    changes: int = 0
    asked: asyncio.Queue[tuple[Id, str]] = field(default_factory=asyncio.Queue)

    def on_server_request(self, server: str, id: Id, method: str, params: Json) -> None:
        self.asked.put_nowait((id, method))

    def on_server_notification(self, server: str, method: str, params: Json) -> None:
        self.notifications.append(method)

    def on_tools_changed(self, server: str) -> None:
        self.changes += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class Connected:
    """The connection, and how its calls end."""

    connection: Connection
    listener: Listener

    async def call(self, seconds: float = 4.0) -> str:
        """The text of the result, or how it ended: `not sent`, `lost`, `failed` or `error`, and why."""
        params = {"name": "run", "arguments": {}}
        try:
            reply = await self.connection.peer.request("tools/call", params, timeout=seconds)
        except NotSent as reason:
            return f"not sent: {reason}"
        except UnreadableReply as reason:
            return "failed: " + str(reason).removeprefix("upstream `far` answered with ")
        except PeerLost as reason:
            return f"lost: {reason}"
        except TimeoutError:
            return "no answer"
        return str(reply["result"]["content"][0]["text"]) if "result" in reply else f"error: {reply.get('error')}"

    def tools(self) -> list[str]:
        return [str(tool["name"]) for tool in self.connection.tools or ()]


async def pass_over() -> None:
    pass


@asynccontextmanager
async def connected(
    url: str,
    version: str = "2025-11-25",
    *,
    prefer_stateless: bool = False,
    old: bool = False,
    headers: Mapping[str, str] = {},
) -> AsyncIterator[Connected]:
    """Once the first listing has succeeded or failed."""
    settings = UpstreamSettings((), env=headers, url=url, is_legacy_sse=old)
    transport = HttpTransport(
        HttpServerParameters("far", settings, Path(), lambda name, _: FileTokenStorage(Path(), name))
    )
    connection = Connection(Upstream("far", transport, Scrubber(), MESSAGE_BYTES, 20.0), lambda: None)
    listener, client_is_ready = Listener(), asyncio.Event()
    client_is_ready.set()
    transport.start()
    info = {"name": "test", "version": "1"}
    supervising = asyncio.create_task(
        connection.supervise(
            {"protocolVersion": version, "capabilities": {}, "clientInfo": info},
            listener,
            prefer_stateless=prefer_stateless,
            client_is_ready=client_is_ready,
            on_listed=pass_over,
        )
    )
    try:
        async with asyncio.timeout(30):
            await connection.listing_tried.wait()
        yield Connected(connection, listener)
    finally:
        supervising.cancel()
        await asyncio.gather(supervising, return_exceptions=True)
        await connection.close()


async def eventually(condition: object, seconds: float = 5.0) -> None:
    """Wait until a callable returns something true."""
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
