"""An MCP server over HTTP that a test scripts exchange by exchange: in this process, on the standard library only."""

import http.server
import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

Json = dict[str, Any]
TOOL = {"name": "run", "inputSchema": {"type": "object"}}


class Exchange(http.server.BaseHTTPRequestHandler):
    """One request, and the means to answer it in any way."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    message: Json
    """The body; empty if there is none."""

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.message = json.loads(body) if body else {}
        with suppress(OSError):  # the guard has heard enough
            self.server.answer(self)  # type: ignore[attr-defined]

    do_GET = do_POST = do_DELETE = _answer

    @property
    def method(self) -> str:
        """The JSON-RPC method, or the one of HTTP if there is no message."""
        return str(self.message.get("method", self.command))

    @property
    def is_request(self) -> bool:
        return "method" in self.message and "id" in self.message

    def reply(self, status: int = 200, body: object = b"", type: str = "application/json", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        if data and type:
            self.send_header("content-type", type)
        self.send_header("content-length", str(len(data)))
        self._end_head(headers)
        self.wfile.write(data)

    def stream(self, type: str = "text/event-stream", **headers: str) -> None:
        """Begin a chunked body."""
        self.send_response(200)
        self.send_header("content-type", type)
        self.send_header("transfer-encoding", "chunked")
        self._end_head(headers)

    def _end_head(self, headers: dict[str, str]) -> None:
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def chunk(self, data: str | bytes) -> None:
        data = data.encode() if isinstance(data, str) else data
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def cut(self) -> None:
        """As by the idle time-out of a load balancer: the connection is gone in the middle of the body."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def result(self, result: Json) -> Json:
        """The reply to this request."""
        return {"jsonrpc": "2.0", "id": self.message["id"], "result": result}

    def error(self, code: int, message: str, **members: object) -> Json:
        return {"jsonrpc": "2.0", "id": self.message["id"], "error": {"code": code, "message": message, **members}}

    def greet(self, version: str = "2025-06-18", session: str = "", listen: bool = False) -> bool:
        """Answer as a plain server does. False for what is left: tool calls and, with `listen`, the standing stream."""
        if self.command == "GET":
            if listen:
                return False
            self.reply(405)
        elif not self.is_request:
            self.reply(200 if self.command == "DELETE" else 202)
        elif self.method == "initialize":
            self.reply(200, self.result(greeting(version)), **({"mcp_session_id": session} if session else {}))
        elif self.method == "tools/list":
            self.reply(200, self.result({"tools": [TOOL]}))
        elif self.method == "ping":
            self.reply(200, self.result({}))
        else:
            return False
        return True

    def serve(self, version: str = "2025-06-18", session: str = "") -> None:
        """Answer as a plain server does."""
        if not self.greet(version, session):
            self.succeed()

    def succeed(self, text: str = "done") -> None:
        self.reply(200, self.result(content(text)))


def greeting(version: str = "2025-06-18") -> Json:
    capabilities: Json = {"tools": {}}
    return {"protocolVersion": version, "capabilities": capabilities, "serverInfo": {"name": "wild", "version": "1"}}


def content(text: str) -> Json:
    return {"content": [{"type": "text", "text": text}]}


def event(message: object, id: str = "") -> str:
    """A server-sent event."""
    data = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
    return (f"id: {id}\n" if id else "") + f"event: message\ndata: {data}\n\n"


class WildServer:
    """Answers each exchange by `answer`, in a thread of its own."""

    def __init__(self, answer: Callable[[Exchange], None], port: int = 0) -> None:
        self._answer = answer
        self._server: _Server | None = None
        self.port = port
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self.port), Exchange)
        self._server.answer = self._answer
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on; those that are open are cut."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut_all()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    answer: Callable[[Exchange], None]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut_all(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        pass


def unidentified(exchange: Exchange, status: int, id: object = None) -> None:
    exchange.reply(status, {"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": "No valid session"}})
