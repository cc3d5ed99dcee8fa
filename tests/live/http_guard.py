"""A guard that serves HTTP, for tests: the real command, tokens issued by the real command, a raw client."""

import json
import os
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2 as httpx

from tests.live.preloaded_cli import PIPE, Forked
from tests.live.running_guard import Json, cli, command

REVISION = "2026-07-28"
Headers = Mapping[str, str]
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For requests to `http://`: it trusts nobody, and does not take the 30 ms of loading whom the machine trusts."""
PREFIX = "io.modelcontextprotocol/"
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
PORTS = range(11_000, 31_000)[int(WORKER) % 10 * 2_000 :][:2_000] if WORKER else range(11_000, 31_000)
"""Below those that the kernel gives to clients, one of which could take a port before the guard does."""
GIVEN: set[int] = set()


def free_port() -> int:
    """One that nobody listens on. It is drawn, because processes of one test must not count through the same ones."""
    while True:
        port = PORTS[secrets.randbelow(len(PORTS))]
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in GIVEN:
                GIVEN.add(port)
                return port


def await_answer(url: str) -> None:
    """Wait until the server that was just started answers anything."""
    deadline = time.monotonic() + 30
    with httpx.Client(trust_env=False, verify=NO_TLS) as http:
        while True:
            try:
                http.get(url)
                return
            except httpx.TransportError:
                assert time.monotonic() < deadline, f"nothing answers at {url}"
                time.sleep(0.05)


def serving(port: int, more: str = "") -> str:
    """The TOML of a guard that serves on this port."""
    return f"[serve]\nport = {port}\n{more}\n"


@dataclass
class Served:
    """`mcp-guard serve` for a configuration with `[serve]` on `port`, with at most so many file descriptors."""

    config: Path
    port: int
    notes: str = ""
    descriptors: int | None = None
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    prelude: str = ""
    """Python that the process executes first."""
    new_interpreter: bool = False
    """Start it as users do and not, to save time, from a process that has imported it already."""
    process: "Forked | subprocess.Popen[str]" = field(init=False, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def begin(self) -> None:
        """Start the process, without waiting until it serves."""
        words = ["serve", "--config", str(self.config), *self.options]
        env = {**os.environ, **self.env}
        if self.new_interpreter:
            self.process = subprocess.Popen(command(*words), stderr=PIPE, text=True, env=env)
            return
        limits = (self.descriptors, self.descriptors)
        limit = f"import resource as r; r.setrlimit(r.RLIMIT_NOFILE, {limits})\n" if self.descriptors else ""
        self.process = Forked(words, stderr=PIPE, text=True, env=env, prelude=limit + self.prelude)

    def __enter__(self) -> Self:
        self.begin()
        assert self.process.stderr is not None
        for note in self.process.stderr:
            self.notes += note
            if "serving " in note:
                return self
        raise AssertionError(self.notes)

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        assert self.process.stderr is not None
        self.process.terminate()
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(self.process.stderr.read)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        self.process.stderr.close()
        self.notes += rest.result()

    def issue(self, *options: str) -> tuple[str, str]:
        """A new instance and its token."""
        given = json.loads(cli("instances", "issue", "--config", str(self.config), "--json", *options).stdout)
        return given["instance"], given["token"]

    def health(self) -> Json:
        answer = httpx.get(self.url.replace("/mcp", "/health"), trust_env=False, verify=NO_TLS).json()
        return dict(answer)

    def revoke(self, *which: str) -> None:
        cli("instances", "revoke", "--config", str(self.config), "--why", "enough", *which)

    def raw(self, token: str, patience: float = 60) -> "Raw":
        return Raw(self.url, token, patience)


@dataclass
class Raw:
    """A client that sends exactly what it is given."""

    url: str
    token: str
    patience: float = 60
    session: str | None = None
    last: int = 0
    trust: ssl.SSLContext = NO_TLS

    def send(self, body: Json | bytes, headers: Headers | None = None) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", self.url, content, {"content-type": "application/json", **(headers or {})})

    def ask(self, method: str, url: str, content: bytes = b"", headers: Headers | None = None) -> httpx.Response:
        fixed = {"authorization": f"Bearer {self.token}", "accept": "application/json, text/event-stream"}
        said = {**fixed, "mcp-session-id": self.session or "", **(headers or {})}
        with httpx.Client(timeout=self.patience, trust_env=False, verify=self.trust) as http:
            return http.request(method, url, content=content, headers={k: v for k, v in said.items() if v})

    def request(self, method: str, params: Json | None = None, headers: Headers | None = None) -> httpx.Response:
        self.last += 1
        return self.send({"jsonrpc": "2.0", "id": self.last, "method": method, "params": params or {}}, headers)

    def start(self) -> None:
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
        done = self.request("initialize", hello)
        assert done.status_code == 200, done.text
        self.session = done.headers["mcp-session-id"]
        assert self.send({"jsonrpc": "2.0", "method": "notifications/initialized"}).status_code == 202

    def call(self, name: str, arguments: Json | None = None) -> Json:
        return reply(self.request("tools/call", {"name": name, "arguments": arguments or {}}))

    def stateless(
        self, method: str, params: Json | None = None, headers: Headers | None = None, **capabilities: Json
    ) -> httpx.Response:
        """A request of revision 2026-07-28, with the headers that mirror it."""
        meta = {f"{PREFIX}protocolVersion": REVISION, f"{PREFIX}clientCapabilities": capabilities}
        said = {**(params or {}), "_meta": meta}
        name = str(said.get("name", said.get("taskId", "")))
        mirrored = {"mcp-protocol-version": REVISION, "mcp-method": method, "mcp-name": name}
        return self.request(method, said, {**mirrored, **(headers or {})})


def reply(response: httpx.Response) -> Json:
    """The JSON-RPC reply of a response, whether it is a document or the last event of a stream."""
    if response.headers["content-type"].startswith("text/event-stream"):
        data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
        report: Json = json.loads(data[-1])
    else:
        report = response.json()
    return report
