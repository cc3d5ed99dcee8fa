"""The HTTP server of `serve` and of the pages: uvicorn, with time limits and a cap on connections.

uvicorn keeps a connection that never finishes its request for ever, and has no bound on a request's headers. Here every
connection that waits for its client has a deadline, and there are never more of them than descriptors allow. What is
answered at the moment is left alone: how long an answer takes is the application's affair.
"""

import asyncio
import errno
import resource
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from mcp_guard.handshakes import Handshakes, SecuredProtocol

KEEP_ALIVE_SECONDS = 65
"""Longer than clients keep an idle connection, so that none makes a request on one that we are about to close."""
SHUTDOWN_SECONDS = 5
"""After that, uvicorn cancels what still answers, with a traceback. Connections are dropped before."""
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADERS = 200
MAX_SMALL_PARTS, SMALL_PART_BYTES = 4096, 64
"""A body may have so many chunks, and one more for each so many bytes: each takes work however short it is."""
MAX_CONNECTIONS = 1000
HANDSHAKE_SHARE = 4
"""Of the connections that may be open, so many times fewer may be within their TLS handshake, beside them."""
BACKLOG = 512
"""How many connections may wait to be accepted."""
TRANSIENT = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})
"""Why an address cannot be listened on now, and may be later."""
MAX_ACCEPTED_AT_ONCE = 64
CONNECTION = "mcp_guard.connection"
"""The name of a request's connection in the `state` of its ASGI scope."""
TICKS_PER_CHECK = 10
"""uvicorn ticks ten times a second."""
REQUEST_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\nretry-after: 5\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Patience:
    """How many seconds a client may take.

    - `headers`: for the headers of a request, to begin its first request, and for a TLS handshake.
    - `body`: for a body, beyond what `body_rate` (bytes a second) allows for its size.
    - `unwanted_body`: to go on with a body after it has had its answer.
    - `write`: to read what it is sent, beyond what `write_rate` (bytes a second) allows for its size.
    - `keep_alive`: to make another request.
    - `shutdown`: to read its answer once the server is being stopped; less than `SHUTDOWN_SECONDS`.
    """

    headers: float = 15
    body: float = 30
    body_rate: float = 8 * 1024
    unwanted_body: float = 5
    write: float = 60
    write_rate: float = 32 * 1024
    keep_alive: int = KEEP_ALIVE_SECONDS
    shutdown: float = 4


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections may be open, and how many asyncio accepts before it handles the first of them."""

    open: int
    accepted_at_once: int

    @classmethod
    def of_process(cls, max_connections: int = MAX_CONNECTIONS) -> "ConnectionLimits":
        """At most half of the process's file descriptors: upstreams, the ledger and logs need the others."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return cls(max_connections, MAX_ACCEPTED_AT_ONCE)
        return cls(max(1, min(max_connections, soft // 2)), max(1, min(MAX_ACCEPTED_AT_ONCE, soft // 16)))


class HttpServer(uvicorn.Server):
    """Serves one application. Stopping it leaves the process running, if `stop_on_signals` was called.

    With `tls` it ends TLS itself. `before_shutdown` brings the application to answer what it has been asked; only then
    are connections closed.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_connections: int = MAX_CONNECTIONS,
        patience: Patience = Patience(),
        before_shutdown: Callable[[], Awaitable[None]] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        config = HttpConfig(app, ConnectionLimits.of_process(max_connections), patience, tls)
        super().__init__(config)
        self._handshakes = config.handshakes
        self._stops_on_signals = False
        self._before_shutdown = before_shutdown
        self._patience = patience

    def stop_on_signals(self) -> None:
        """From now on, SIGTERM and SIGINT make `serve` return."""
        self._stops_on_signals = True
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.handle_exit, number, None)

    def leave_signals(self) -> None:
        """Signals are for another server of this process; this one serves until it is cancelled."""
        self._stops_on_signals = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Overrides uvicorn's, which raises the signal again once it has stopped serving. That would end the process
        before the sessions' upstreams have ended and the ledger says so."""
        if self._stops_on_signals:
            yield
        else:
            with super().capture_signals():
                yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._before_shutdown is not None:
            await self._before_shutdown()
        if (handshakes := self._handshakes) is not None:
            handshakes.abort_all()
        drop = asyncio.get_running_loop().call_later(self._patience.shutdown, self._drop_connections)
        try:
            await super().shutdown(sockets)
        finally:
            drop.cancel()

    def _drop_connections(self) -> None:
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, HttpConnection):
                connection.transport.abort()

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_CHECK == 0:
            now = asyncio.get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, HttpConnection):
                    connection.check_deadlines(now)
        return await super().on_tick(counter)


class HttpConfig(uvicorn.Config):
    """uvicorn's configuration, and what it has none for."""

    def __init__(
        self, app: ASGIApp, limits: ConnectionLimits, patience: Patience, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(
            app,
            http=HttpConnection if tls is None else SecuredHttpConnection,
            ws="none",
            backlog=limits.accepted_at_once,  # asyncio has one setting for this and the queue
            log_level="error",  # warnings are about requests, and a client that sends bad ones could fill the log
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,  # nothing here asks who is behind a proxy, and anybody can write such a header
            lifespan="off",
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            timeout_keep_alive=patience.keep_alive,
        )
        self.handshakes = Handshakes(tls, max(1, limits.open // HANDSHAKE_SHARE), patience.headers) if tls else None
        self.max_connections = limits.open
        self.patience = patience


class Incoming(Enum):
    """What the client is to send next."""

    REQUEST = auto()
    HEADERS = auto()
    BODY = auto()


class HttpConnection(HttpToolsProtocol):
    """One connection, which ends if its client keeps it waiting too long.

    An application gets it by `of`, to learn that the client has left: with ASGI alone, each request takes a task that
    waits for that.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, CONNECTION: self}, _loop)
        assert isinstance(config, HttpConfig)
        self.max_connections, self.patience = config.max_connections, config.patience
        self._incoming = Incoming.REQUEST
        self._since = self.loop.time()
        """When `_incoming` became what it is."""
        self._header_bytes = 0
        self._body_bytes = self._body_parts = 0
        self._write_deadline: float | None = None
        """When the client must have read what it is sent; None while it keeps up."""
        self._on_lost: list[Callable[[], None]] = []
        self._is_lost = False

    @staticmethod
    def of(scope: Scope) -> "HttpConnection":
        """The connection of a request that `HttpServer` has received."""
        connection = scope["state"][CONNECTION]
        assert isinstance(connection, HttpConnection)
        return connection

    # What the client sends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        if len(self.connections) > self.max_connections and not self._make_room():
            transport.write(UNAVAILABLE)
            self.connections.discard(self)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._is_lost = True
        for on_lost in tuple(self._on_lost):
            on_lost()

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Call `on_lost` when the client has gone, which may be now, until `unwatch`."""
        self._on_lost.append(on_lost)
        if self._is_lost:
            on_lost()
        self.flow.resume_reading()  # who reads nothing does not notice the end

    def unwatch(self, on_lost: Callable[[], None]) -> None:
        self._on_lost.remove(on_lost)

    def _make_room(self) -> bool:
        """Close the connections of which the most come from one address and which are owed no answer, oldest first.

        Returns False if every other connection is owed one.
        """
        others = [other for other in self.connections if isinstance(other, HttpConnection) and other is not self]
        idle = [other for other in others if not other.is_unanswered]
        if not idle:
            return False
        [(address, _)] = Counter(other.address for other in idle).most_common(1)
        oldest = sorted((other for other in idle if other.address == address), key=lambda other: other._since)
        for other in oldest[: 1 + self.max_connections // 16]:
            self.connections.discard(other)
            other.transport.abort()
        return True

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def is_unanswered(self) -> bool:
        """Whether a request whose headers are complete has no complete answer yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        if self._incoming is not Incoming.BODY:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._incoming is not Incoming.BODY and self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(REQUEST_TIMEOUT.replace(b"408 Request Timeout", b"431 Request Header Fields Too Large"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect(Incoming.HEADERS)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._incoming is Incoming.BODY:
            return  # a trailer; the application has had the headers
        if len(self.headers) >= MAX_HEADERS:
            raise ValueError("too many headers")  # httptools makes an HttpParserError of it
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._body_bytes = self._body_parts = 0
        self._expect(Incoming.BODY)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._body_parts += 1
        if self._body_parts > MAX_SMALL_PARTS + self._body_bytes // SMALL_PART_BYTES:
            raise ValueError("too many small chunks")  # as for headers
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._header_bytes = 0
        self._expect(Incoming.REQUEST)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._since = self.loop.time()

    def _expect(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._since = self.loop.time()

    # What the client reads

    def pause_writing(self) -> None:
        super().pause_writing()
        size = self.transport.get_write_buffer_size()
        self._write_deadline = self.loop.time() + self.patience.write + size / self.patience.write_rate

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_deadline = None

    # Deadlines

    def check_deadlines(self, now: float) -> None:
        """Close the connection if its client has kept it waiting too long."""
        if self.transport.is_closing():
            if self._write_deadline is None:
                self._write_deadline = now + self.patience.write
        elif now > self._since + self._allowed_seconds() and not self.flow.read_paused:
            self._refuse(REQUEST_TIMEOUT)
        if self._write_deadline is not None and now > self._write_deadline:
            self.transport.abort()

    def _allowed_seconds(self) -> float:
        """How long the client may take with what it is to send next."""
        patience = self.patience
        if self._incoming is Incoming.HEADERS:
            return patience.headers
        if self._incoming is Incoming.BODY:
            allowed = patience.body + self._body_bytes / patience.body_rate
            return allowed if self.is_unanswered else patience.unwanted_body
        if self.is_unanswered:
            return float("inf")
        return patience.headers if self.cycle is None else patience.keep_alive

    def _refuse(self, response: bytes) -> None:
        if not self.is_unanswered and not self.transport.is_closing():
            self.transport.write(response)
        self.transport.close()


class SecuredHttpConnection(SecuredProtocol):
    """A connection that becomes an `HttpConnection` once its TLS handshake is done."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        assert isinstance(config, HttpConfig)
        assert config.handshakes is not None
        super().__init__(config.handshakes, lambda: HttpConnection(config, server_state, app_state, _loop))
