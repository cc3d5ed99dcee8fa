"""An MCP server over HTTP, in this process, that counts what it runs. A test says how the next connections end."""

import json
import socket
import struct
import threading
from collections import Counter, deque
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

Json = dict[str, Any]
CONNECTION_FATES = ("reset", "closed", "head", "half", "dropped", "ran", "answered")
"""How far a connection gets: reset or closed unread, cut after its head or half of its body, closed when the call was
read, closed when it was run, answered."""


class FlakyServer:
    """Each connection is for one request. `ran` counts calls by their arguments, as text."""

    def __init__(self) -> None:
        self.fates: deque[str] = deque()
        """Of the next connections; later ones are answered."""
        self.ran: Counter[str] = Counter()
        self.port = 0
        self.waiting = 0
        """How many connections of the fate `slow` have got what they were sent, and wait for `release`."""
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._listening: socket.socket | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def up(self) -> None:
        if self._listening is not None:
            return
        listening = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = listening.getsockname()[1]
        self._listening = listening
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def release(self) -> None:
        """Let connections of the fate `slow` be answered."""
        self._released.set()

    def down(self) -> None:
        """From now on connections are refused."""
        if self._listening is not None:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.down()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with self._lock:
                    fate = self.fates.popleft() if self.fates else "answered"
                threading.Thread(target=self._serve, args=(connection, fate), daemon=True).start()

    def _serve(self, connection: socket.socket, fate: str) -> None:
        with connection, suppress(OSError):
            if fate in ("reset", "head", "half"):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if fate in ("reset", "closed"):
                return
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(1 if fate == "head" else 65536)
            if fate == "head":
                return
            head, _, body = data.partition(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"), 0
            )
            while len(body) < (length // 2 if fate == "half" else length):
                body += connection.recv(65536)
            if fate == "slow":
                self.waiting += 1
                self._released.wait(10)
            if fate not in ("half", "dropped"):
                answer = self._answer(json.loads(body or b"{}"))
                if fate != "ran":
                    connection.sendall(answer)

    def _answer(self, message: Json) -> bytes:
        method, id = message.get("method"), message.get("id")
        if method is None:
            return b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        if id is None:
            return b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        body = json.dumps(
            {"jsonrpc": "2.0", "id": id, "result": self._result(method, message.get("params", {}))}
        ).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        return f"{head}connection: close\r\n\r\n".encode() + body

    def _result(self, method: str, params: Json) -> Json:
        if method == "initialize":
            info = {"name": "flaky", "version": "1"}
            return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
        if method == "tools/list":
            return {"tools": [{"name": "pay", "inputSchema": {"type": "object"}}]}
        if method == "ping":
            return {}
        with self._lock:
            self.ran[json.dumps(params["arguments"], sort_keys=True)] += 1
        return {"content": [{"type": "text", "text": "done"}]}
