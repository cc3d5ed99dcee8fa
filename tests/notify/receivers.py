"""Real receivers on loopback: an HTTP server that stores the requests it gets, and an SMTP server that stores mail."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Posted:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Web:
    """`answers` are the status codes to return, in order; then 200. Each has the same `content`."""

    url: str
    answers: list[int] = field(default_factory=list)
    posted: list[Posted] = field(default_factory=list)


@contextmanager
def web(*answers: int, content: bytes = b"") -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kept.posted.append(Posted(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            code = kept.answers.pop(0) if kept.answers else 200
            self.send_response(code)
            if code == 302:
                self.send_header("location", f"{kept.url}/elsewhere")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept = Web(f"http://127.0.0.1:{server.server_port}", list(answers))
    with serving(server):
        yield kept


@contextmanager
def truncating_web(status: int) -> Iterator[str]:
    """The address of a server that answers with this status, and closes the connection within the first chunk."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.protocol_version = "HTTP/1.1"
            self.close_connection = True
            self.send_response(status)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"ff\r\nno more")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}/"


@contextmanager
def smtp() -> Iterator[tuple[int, list[Message]]]:
    """The port, and the mail received."""
    mail: list[Message] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 test")
            for line in self.rfile:
                word = line.split()[0].upper() if line.split() else b""
                if word == b"DATA":
                    self.say("354 go on")
                    lines = iter(self.rfile.readline, b".\r\n")
                    mail.append(message_from_bytes(b"".join(lines)))
                    self.say("250 taken")
                elif word == b"QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("250 fine")

        def say(self, text: str) -> None:
            self.wfile.write(text.encode() + b"\r\n")

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield server.server_address[1], mail


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
