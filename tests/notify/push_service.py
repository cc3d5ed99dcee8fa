"""A stand-in for a push service (RFC 8030) over TLS: it opens what it gets with the browser's keys (RFC 8291, by the
package http-ece) and checks who has sent it (RFC 8292, by PyJWT)."""

import json
import os
import ssl
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import http_ece  # type: ignore[import-untyped]
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.notify.receivers import serving
from tests.web.web_process import make_certificate

Json = dict[str, Any]


def encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class Browser:
    """A subscription, with its private key."""

    url: str
    name: str
    private: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    auth: bytes = field(default_factory=lambda: os.urandom(16))

    def to_json(self) -> Json:
        public = self.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        keys = {"p256dh": encode(public), "auth": encode(self.auth)}
        return {"endpoint": f"{self.url}/push/{self.name}", "expirationTime": None, "keys": keys}


@dataclass
class PushService:
    url: str
    certificate: Path
    browsers: dict[str, Browser] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    """By browser; 201 otherwise."""
    got: list[tuple[str, Json, dict[str, str]]] = field(default_factory=list)
    """Browser, opened message, and headers."""

    def subscribe(self, name: str) -> Browser:
        self.browsers[name] = Browser(self.url, name)
        return self.browsers[name]

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        name = path.removeprefix("/push/")
        if name not in self.browsers:
            return 410
        self.check_sender(headers["authorization"])
        assert headers["content-encoding"] == "aes128gcm"
        assert int(headers["ttl"]) > 0
        assert len(headers["topic"]) <= 32
        assert len(body) <= 4096
        browser = self.browsers[name]
        text = http_ece.decrypt(body, private_key=browser.private, auth_secret=browser.auth, version="aes128gcm")
        if (status := self.answers.get(name, 201)) == 201:
            self.got.append((name, json.loads(text), headers))
        return status

    def check_sender(self, authorization: str) -> None:
        scheme, _, parameters = authorization.partition(" ")
        assert scheme == "vapid"
        values = dict(part.strip().split("=", 1) for part in parameters.split(","))
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), decode(values["k"]))
        claims = jwt.decode(values["t"], public, algorithms=["ES256"], audience=self.url)
        assert claims["sub"].startswith(("mailto:", "https://"))


@contextmanager
def push_service(folder: Path) -> Iterator[PushService]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(service.take(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    folder.mkdir(exist_ok=True)
    make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "web.crt", folder / "web.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    service = PushService(f"https://127.0.0.1:{server.server_port}", folder / "web.crt")
    with serving(server):
        yield service
