"""What a guard answers on its port while it waits for its database: that it lives, is not ready, and has sent nothing.

INVARIANT: as in `health.py`, an answer names nothing of the database: there is no ledger to authenticate anybody by.
"""

import asyncio
import socket
import threading

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from mcp_guard.core import exact_json
from mcp_guard.downstream.http.health import NO_STORE, NOT_READY, Check
from mcp_guard.downstream.http.request import HttpRequest
from mcp_guard.downstream.http.server import listen
from mcp_guard.inbound import HttpServer, Patience
from mcp_guard.protocol.jsonrpc import error
from mcp_guard.protocol.methods import INTERNAL_ERROR

REASON = "waiting for the database"
CLOSE = {"connection": "close"}
"""So that no client makes its next request on a connection that closes as soon as the database is there."""
PATIENCE = Patience(shutdown=1)
"""Who is slow with a request that is refused anyway does not delay the start."""


class WaitingServer:
    """Answers on the port of `serve` once it was told to `begin`, from a thread of its own, until it is closed."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._server = HttpServer(answer_waiting, patience=PATIENCE)
        self._server.leave_signals()
        self._thread: threading.Thread | None = None
        self._listener: socket.socket | None = None

    def begin(self) -> None:
        """Listen and answer from now on, if it does not yet. Raises: ConfigError, ListenError."""
        if self._thread is not None:
            return
        listener = self.listener()
        serving = self._server.serve(sockets=[listener.dup()])  # which closes it
        self._thread = threading.Thread(target=asyncio.run, args=(serving,), name="waiting-server", daemon=True)
        self._thread.start()

    def listener(self) -> socket.socket:
        """The socket, which listens on after `close`. Raises: ConfigError, ListenError."""
        if self._listener is None:
            self._listener = listen(*self._address, "serve.port")
        return self._listener

    def close(self) -> None:
        """Answer what has been asked, and nothing more."""
        if self._thread is not None:
            self._server.should_exit = True
            self._thread.join()


async def answer_waiting(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI application."""
    request = HttpRequest(scope, receive)
    path = request.path.rstrip("/") if request.method in ("GET", "HEAD") else ""
    if path in ("/livez", "/health"):
        response: Response = JSONResponse({"status": "ok"}, headers=NO_STORE | CLOSE)
    elif path == "/readyz":
        reply = {"status": "not ready", "ledger": Check.FAILING, "reason": REASON}
        response = JSONResponse(reply, 503, NOT_READY | CLOSE)
    else:
        fault = error(INTERNAL_ERROR, f"{REASON}; nothing was sent")
        body = exact_json.dumps({"jsonrpc": "2.0", "id": await request.find_id(), **fault})
        response = Response(body, 503, NOT_READY | CLOSE, "application/json")
    await response(scope, receive, send)
