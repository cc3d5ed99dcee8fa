"""Malformed bodies and headers for a guard that serves HTTP: each is answered, and valid calls in between succeed."""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.http_wire import Wire
from mcp_guard.verifier import verify_ledger
from tests.fuzz.mutate import METHODS, mutate, recorded
from tests.fuzz.session import DEFECT, ENVELOPE, FIRST_GOOD, config
from tests.live.http_guard import REVISION, Headers, Served, free_port, serving
from tests.live.running_guard import Json

PATIENCE = 15.0
HEADERS = {
    "mcp-protocol-version": ("", REVISION, "2025-11-25", "2031-01-01", "x" * 300),
    "mcp-method": METHODS,
    "mcp-name": ("up__echo", "", "=?base64?!!?=", "=?base64?dXBfX2VjaG8=?=", "mem://one"),
    "mcp-session-id": ("", "none", "x" * 300),
    "content-type": ("text/plain", "application/json; charset=utf-16"),
    "accept": ("text/event-stream", "text/html", ""),
}
"""What a client may say of its body, wrongly."""


@dataclass
class HttpSession:
    """One guard, and one client on one connection at a time."""

    served: Served
    era: str
    seed: int
    token: str
    frames: int = 0
    good: int = 0
    latest: bytes = b""

    def __post_init__(self) -> None:
        self.luck = random.Random(self.seed)

    async def play(self, frames: int, between: int) -> None:
        """Raises: AssertionError."""
        await self._connect()
        while self.frames < frames:
            for _ in range(between):
                await self._say_something()
            await self._call()
        self.wire._writer.close()

    async def _connect(self) -> None:
        self.wire = Wire(self.served.port, self.token)
        await self.wire.open()
        if self.era == "handshake":
            await self.wire.start()

    async def _say_something(self) -> None:
        self.frames += 1
        self.latest = body = mutate(recorded(self.era, "client"), self.frames, self.luck)
        if b"subscriptions/listen" in body:
            return  # it is answered when the session ends
        session = self.wire.session
        try:
            status, _ = await asyncio.wait_for(self.wire.post_bytes(body, self._headers(body)), PATIENCE)
        except TimeoutError:
            raise AssertionError(f"no answer to {body[:500]!r}") from None
        assert status < 500, f"{status} for {body[:500]!r}"
        self.wire.session = session  # a second one may have been opened

    def _headers(self, body: bytes) -> Headers:
        """Headers that match the body, or not."""
        if self.luck.random() < 0.2:
            name = self.luck.choice(list(HEADERS))
            return {name: self.luck.choice(HEADERS[name])}
        if self.era == "handshake":
            return {}
        try:
            message = json.loads(body)
            said = str(message["method"]), str((message.get("params") or {}).get("name", ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            said = ("tools/call", "up__echo")
        return stateless(*said)

    async def _call(self) -> None:
        self.good += 1
        arguments = {"good": self.good, "seed": self.seed}
        params: Json = {"name": "up__echo", "arguments": arguments}
        if self.era == "stateless":
            params["_meta"] = ENVELOPE
        message = {"jsonrpc": "2.0", "id": FIRST_GOOD + self.good, "method": "tools/call", "params": params}
        headers = stateless("tools/call", "up__echo") if self.era == "stateless" else {}
        status, reply = await asyncio.wait_for(self.wire.post_bytes(json.dumps(message).encode(), headers), PATIENCE)
        said = reply.get("result", {}).get("content", [{}])[0].get("text")
        assert (status, said) == (200, json.dumps(arguments, sort_keys=True)), f"{status} {reply}"


def stateless(method: str, name: str) -> Headers:
    plain = "".join(char for char in name if " " < char < "\x7f")
    return {"mcp-protocol-version": REVISION, "mcp-method": method if method in METHODS else "x", "mcp-name": plain}


@contextmanager
def serve(folder: Path, era: str, seed: int) -> Iterator[HttpSession]:
    """Serve HTTP; on exit, check what must hold at the end."""
    port = free_port()
    with Served(config(folder, era, serving(port)), port) as served:
        session = HttpSession(served, era, seed, served.issue()[1])
        yield session
    assert (found := DEFECT.search(served.notes)) is None, served.notes[max(0, found.start() - 300) :][:2000]
    state = folder / "state"
    report = verify_ledger(state / "ledger.sqlite", state / "ledger.pub")
    assert report.ok, report.problem
