"""Real witnesses on loopback: a C2SP tlog-witness cosigner, and a time-stamp authority run by OpenSSL."""

import base64
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.core.tlog import merkle, note
from tests.ledger.rotation_checks import public
from tests.notify.receivers import serving

Answer = tuple[int, str, bytes]


@contextmanager
def answering(reply: Callable[[str, bytes], Answer]) -> Iterator[str]:
    """An HTTP server that answers POSTs by a function of path and body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, kind, body = reply(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


@dataclass
class Cosigner:
    """A witness per c2sp.org/tlog-witness, for ledgers whose verifier lines it `trusts`."""

    trusts: list[str]
    name: str = "witness.example/w1"
    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    seen: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    spoil: bool = False

    @property
    def key(self) -> str:
        return note.verifier(self.name, self.private.public_key().public_bytes_raw(), note.COSIGNATURE)

    def reply(self, path: str, body: bytes) -> Answer:
        assert path == "/prefix/add-checkpoint"
        self.asked.append(body.decode())
        first, _, signed = body.decode().partition("\n\n")
        word, *proof = first.splitlines()
        old = int(word.removeprefix("old "))
        checkpoint, signatures = note.parse(signed)
        keys = [key for key in self.trusts if key.startswith(f"{checkpoint.origin}+")]
        if not keys:
            return 404, "text/plain", b""
        if not any(self._signed(key, checkpoint, signatures) for key in keys):
            return 403, "text/plain", b""
        known = self.seen.get(checkpoint.origin, (0, merkle.EMPTY_ROOT))
        if old > checkpoint.size:
            return 400, "text/plain", b""
        if old != known[0]:
            return 409, "text/x.tlog.size", f"{known[0]}\n".encode()
        if old == checkpoint.size and known[1] != checkpoint.root:
            return 409, "text/plain", b""
        try:
            path_ = [base64.b64decode(line) for line in proof]
            if known[0] or path_:  # a first checkpoint needs no proof
                merkle.verify_consistency(known, (checkpoint.size, checkpoint.root), path_)
        except ValueError:
            return 422, "text/plain", b""
        self.seen[checkpoint.origin] = (checkpoint.size, checkpoint.root)
        return 200, "text/plain", (self._other() + self._line(checkpoint)).encode()

    def _signed(self, key: str, checkpoint: note.Checkpoint, signatures: list[tuple[str, bytes, bytes]]) -> bool:
        results = [signature for _, id, signature in signatures if id == note.parse_verifier(key)[1]]
        for signature in results:
            public(key).verify(signature, checkpoint.text().encode())
        return bool(results)

    def _line(self, checkpoint: note.Checkpoint) -> str:
        at = int(time.time())
        said = f"cosignature/v1\ntime {at}\n{checkpoint.text()}{'x' if self.spoil else ''}"
        raw = at.to_bytes(8, "big") + self.private.sign(said.encode())
        return note.signature_line(self.name, note.parse_verifier(self.key, note.COSIGNATURE)[1], raw)

    def _other(self) -> str:
        """A signature line of an unknown key, which a client must ignore."""
        return note.signature_line("witness.example/other", b"abcd", bytes(72))


AUTHORITY = """
[tsa_config]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
certs = {folder}/root.pem
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_alg = sha256
"""


@dataclass
class Authority:
    """A time-stamp authority in a folder; `root.pem` is its root certificate. `reply` can make it misbehave."""

    folder: Path
    mood: str = ""
    first: bytes = b""

    def __post_init__(self) -> None:
        self.folder.mkdir()
        (self.folder / "tsa.cnf").write_text(AUTHORITY.format(folder=self.folder))
        (self.folder / "serial").write_text("01\n")
        (self.folder / "extension").write_text("extendedKeyUsage = critical,timeStamping\n")
        new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        self.openssl(*new, "-x509", "-days", "30", "-subj", "/CN=root", "-keyout", "root.key", "-out", "root.pem")
        self.openssl(*new, "-subj", "/CN=tsa", "-keyout", "tsa.key", "-out", "tsa.csr")
        by = ("-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-days", "30", "-extfile", "extension")
        self.openssl("x509", "-req", "-in", "tsa.csr", *by, "-out", "tsa.pem")

    def openssl(self, *words: str) -> str:
        done = subprocess.run(("openssl", *words), cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def reply(self, _: str, query: bytes) -> Answer:
        if self.mood == "down":
            return 503, "text/plain", b""
        if self.mood == "replay" and self.first:
            return 200, "application/timestamp-reply", self.first
        (self.folder / "query").write_bytes(b"rubbish" if self.mood == "refuse" else query)
        words = ("ts", "-reply", "-config", "tsa.cnf", "-section", "tsa_config", "-queryfile", "query")
        self.openssl(*words, "-out", "answer")
        self.first = self.first or (self.folder / "answer").read_bytes()
        return 200, "application/timestamp-reply", (self.folder / "answer").read_bytes()
