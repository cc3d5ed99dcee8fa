"""A company's network on loopback: a certificate authority, a proxy, and MCP servers behind them."""

import datetime
import http.server
import ipaddress
import json
import select
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Json = dict[str, Any]
Headers = dict[str, str]
Answer = tuple[int, Headers, bytes]


class Authority:
    """A private CA. `pem` is its certificate."""

    def __init__(self, folder: Path, name: str = "corp") -> None:
        self.folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA of {name}")])
        self._certificate = self._sign(self._subject, self._key, x509.BasicConstraints(ca=True, path_length=None))
        self.pem = self._write(f"{name}-ca.pem", self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, host: str) -> tuple[Path, Path]:
        """The files of a certificate for this host, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._sign(subject, key, x509.BasicConstraints(ca=False, path_length=None), host)
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        private = key.private_bytes(encoding, form, serialization.NoEncryption())
        return (
            self._write(f"{self._name}-{host}.pem", certificate.public_bytes(encoding)),
            self._write(f"{self._name}-{host}.key", private),
        )

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, constraints: x509.BasicConstraints, host: str = ""
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder(self._subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(constraints, critical=True)
        )
        if host:
            names = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.touch(0o600)
        path.write_bytes(data)
        return path


@dataclass
class Request:
    method: str
    path: str
    headers: Headers
    body: bytes


Handler = Callable[[Request], Answer]


def mcp(request: Request) -> Answer:
    """An MCP server with the tool `echo`."""
    if request.method == "GET":
        return 405, {}, b""
    message = json.loads(request.body or b"{}")
    if "id" not in message:
        return 202, {}, b""
    version = message.get("params", {}).get("protocolVersion", "2025-06-18")
    hello = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}}
    results: Json = {
        "initialize": hello,
        "tools/list": {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]},
        "tools/call": {"content": [{"type": "text", "text": "done"}]},
    }
    return as_json({"jsonrpc": "2.0", "id": message["id"], "result": results.get(message["method"], {})})


def as_json(value: Json, status: int = 200, headers: Headers | None = None) -> Answer:
    return status, {"content-type": "application/json", **(headers or {})}, json.dumps(value).encode()


class Web:
    """A real HTTP server on a free port of loopback, which records the requests. With `certificate`, over TLS."""

    def __init__(
        self, handle: Handler = mcp, certificate: tuple[Path, Path] | None = None, clients: Path | None = None
    ) -> None:
        web, self.requests = self, list[Request]()

        class Handling(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                web.requests.append(request)
                status, headers, data = handle(request)
                self.send_response(status)
                for name, value in headers.items():
                    for line in value.split("\n"):
                        self.send_header(name, line)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handling)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            if clients is not None:
                context.load_verify_locations(clients)
                context.verify_mode = ssl.CERT_REQUIRED
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Seen:
    """What a proxy saw: the first lines of requests, and everything else that it could read."""

    lines: list[str] = field(default_factory=list)
    text: bytes = b""


@dataclass
class ForwardProxy:
    """Sends what is for the names in `port_of` to ports of loopback. It may require `Basic` credentials."""

    port_of: dict[str, int]
    credentials: str
    seen: Seen = field(default_factory=Seen)

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as reader:
            line, head = reader.readline().decode(), list[bytes]()
            while (more := reader.readline()).strip():
                head.append(more)
            self.seen.lines.append(line.strip())
            self.seen.text += line.encode() + b"".join(head)
            method, target, _ = line.split(" ")
            given = [item for item in head if item.lower().startswith(b"proxy-authorization: ")]
            name = target if method == "CONNECT" else urllib.parse.urlsplit(target).netloc
            if self.credentials and [item.split()[-1].decode() for item in given] != [self.credentials]:
                client.sendall(b"HTTP/1.1 407 Secret-Reason\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            elif name not in self.port_of:
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            else:
                with socket.create_connection(("127.0.0.1", self.port_of[name])) as there:
                    if method == "CONNECT":
                        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    else:
                        rest = b"".join(item for item in head if item not in given)
                        path = target.partition(name)[2] or "/"
                        there.sendall(f"{method} {path} HTTP/1.1\r\nconnection: close\r\n".encode() + rest + b"\r\n")
                        length = next((int(i.split()[1]) for i in head if i.lower().startswith(b"content-length")), 0)
                        there.sendall(reader.read(length))
                    self._relay(client, there)

    def _relay(self, client: socket.socket, there: socket.socket) -> None:
        while True:
            for ready in select.select([client, there], [], [], 10)[0]:
                data = ready.recv(65536)
                if not data:
                    return
                self.seen.text += data if ready is client else b""
                (there if ready is client else client).sendall(data)


@contextmanager
def proxy(port_of: dict[str, int], credentials: str = "") -> Iterator[tuple[str, Seen]]:
    """Yields the address of a `ForwardProxy`, without a scheme, and what it sees."""
    forward, listener = ForwardProxy(port_of, credentials), socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=forward.accept, args=(listener,), daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", forward.seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
