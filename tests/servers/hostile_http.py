"""MCP servers over HTTP that attack the guard which reads from them: in this process, on the standard library only."""

import gzip
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from types import TracebackType
from typing import Self

MB = 1 << 20
Head = dict[str, str]
EVENTS = {"content-type": "text/event-stream"}
DOCUMENT = {"content-type": "application/json"}


def endless(piece: bytes, first: bytes = b"", megabytes: int = 50) -> Iterator[bytes]:
    yield first
    block = piece * (MB // len(piece))
    for _ in range(megabytes):
        yield block


@cache
def bomb(first: bytes) -> bytes:
    return gzip.compress(first + bytes(65) * MB, 1)


def tiny_chunks(count: int) -> Iterator[bytes]:
    for _ in range(count // 1000):
        yield b"2\r\nab\r\n" * 1000


ATTACKS: dict[str, tuple[Head, Callable[[], Iterator[bytes]]]] = {
    "a line without end": (EVENTS, lambda: endless(b"A", b"data: ")),
    "empty data lines": (EVENTS, lambda: endless(b"data:\n")),
    "a name without end": (EVENTS, lambda: endless(b"A", b"event: ")),
    "an id without end": (EVENTS, lambda: endless(b"1", b"id: ")),
    "comments": (EVENTS, lambda: endless(b":\n", megabytes=8)),
    "fields that are unknown": (EVENTS, lambda: endless(b"x: y\n", megabytes=8)),
    "events that are not JSON": (EVENTS, lambda: endless(b"data: x\n\n", megabytes=8)),
    "lines that end in a carriage return": (EVENTS, lambda: endless(b"data: AAAAAAAAAAAAAAAAAAA\r")),
    "a retry of many digits": (EVENTS, lambda: endless(b"retry: " + b"9" * 500 + b"\n", megabytes=8)),
    "a document without end": (DOCUMENT, lambda: endless(b"A", b'{"x": "')),
    "a compressed document": (DOCUMENT | {"content-encoding": "gzip"}, lambda: iter([bomb(b'{"x": "')])),
    "a compressed stream": (EVENTS | {"content-encoding": "gzip"}, lambda: iter([bomb(b"data: ")])),
    "data after the compressed document": (
        DOCUMENT | {"content-encoding": "gzip"},
        lambda: endless(b"A", gzip.compress(b"{")),
    ),
    "tiny chunks": (DOCUMENT | {"transfer-encoding": "chunked"}, lambda: tiny_chunks(400_000)),
    "an unknown coding": (DOCUMENT | {"content-encoding": "br"}, lambda: endless(b"A")),
    "a length that is a lie": (DOCUMENT | {"content-length": "10"}, lambda: endless(b"A", b'{"x": "')),
}
"""What the reply to a call consists of: headers, and the bytes of the body."""


class HostileServer:
    """MCP servers at `url(attack)`, each with one tool, `attack`, whose reply is the attack of this name."""

    def __init__(self) -> None:
        self.called: list[str] = []
        """The attacks that were called."""
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.hostile = self  # type: ignore[attr-defined]

    def url(self, attack: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{list(ATTACKS).index(attack)}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer(405)

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "id" not in message:
            self.answer(202)
        elif (result := greeting(message)) is not None:
            self.answer(200, json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode())
        else:
            self.attack()

    def attack(self) -> None:
        name = list(ATTACKS)[int(self.path.strip("/"))]
        self.server.hostile.called.append(name)  # type: ignore[attr-defined]
        head, body = ATTACKS[name]
        self.send_response(200)
        for header, value in head.items():
            self.send_header(header, value)
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):  # the guard has had enough
            for block in body():
                self.wfile.write(block)


def greeting(message: dict) -> dict | None:
    """The result of what is asked before the call; None for the call."""
    if message["method"] == "initialize":
        capabilities: dict = {"tools": {}}
        version = message["params"]["protocolVersion"]
        info = {"name": "hostile", "version": "1"}
        return {"protocolVersion": version, "capabilities": capabilities, "serverInfo": info}
    if message["method"] == "tools/list":
        return {"tools": [{"name": "attack", "inputSchema": {"type": "object"}}]}
    return None
