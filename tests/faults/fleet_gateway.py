"""One gateway of a fleet: a real `serve`, with a network of its own to the database, and clients that call it."""

import asyncio
import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx

from benchmarks.http_wire import Wire
from tests.faults.fleet_network import GatewayNetwork
from tests.faults.guard_process import Ask, Json
from tests.live.http_guard import NO_TLS, PREFIX, REVISION, free_port
from tests.live.preloaded_cli import Forked

PATIENCE = 60.0
ENVELOPE = {f"{PREFIX}protocolVersion": REVISION, f"{PREFIX}clientCapabilities": {}}
LOST = (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, ValueError, IndexError)
"""What a client meets if a gateway dies before it answers."""


def call_message(ask: Ask) -> tuple[bytes, dict[str, str]]:
    """The body of a stateless call, and the headers that mirror it."""
    name = f"{ask.server}__{ask.tool}"
    params = {"name": name, "arguments": ask.arguments, "_meta": ENVELOPE}
    message = {"jsonrpc": "2.0", "id": ask.id, "method": "tools/call", "params": params}
    mirrored = {"mcp-protocol-version": REVISION, "mcp-method": "tools/call", "mcp-name": name}
    return json.dumps(message).encode(), mirrored


@dataclass
class Gateway:
    config: Path
    environment: dict[str, str]
    network: GatewayNetwork
    port: int = field(default_factory=free_port)
    is_paused: bool = False

    @property
    def stderr(self) -> Path:
        return self.config.with_suffix(".stderr")

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    async def start(self) -> None:
        with self.stderr.open("ab") as stderr:
            words = ("serve", "--config", str(self.config), "--port", str(self.port))
            self.process = Forked(words, stderr=stderr.fileno(), env={**os.environ, **self.environment})

    def kill(self) -> None:
        if self.is_alive:
            os.kill(self.pid, signal.SIGKILL)

    async def wait(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.is_alive:
                await asyncio.sleep(0.02)

    async def kill_and_wait(self) -> None:
        self.kill()
        await self.wait()

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        if self.is_alive:
            os.kill(self.pid, signal.SIGCONT)
        self.is_paused = False

    async def end(self) -> None:
        """As a service manager stops it."""
        if self.is_alive:
            self.process.terminate()
        await self.wait()

    async def until_ready(self) -> None:
        """Raises: AssertionError if it is not ready in time."""
        async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as http:
            said = ""
            for _ in range(int(PATIENCE / 0.1)):
                try:
                    answer = await http.get(f"http://127.0.0.1:{self.port}/readyz", timeout=PATIENCE)
                    if answer.status_code == 200:
                        return
                    said = answer.text
                except httpx.TransportError as error:
                    said = repr(error)
                assert self.is_alive, f"a gateway exited: {self.stderr.read_text()[-800:]}"
                await asyncio.sleep(0.1)
        raise AssertionError(f"a gateway is not ready: {said}; {self.stderr.read_text()[-800:]}")

    async def call(self, token: str, ask: Ask) -> Json | None:
        """One stateless call on a connection of its own; None if there was no whole answer."""
        wire = Wire(self.port, token)
        try:
            async with asyncio.timeout(PATIENCE):
                await wire.open()
                try:
                    _, reply = await wire.post_bytes(*call_message(ask))
                finally:
                    await wire.close()
        except LOST:
            return None
        return reply or None
