"""A raw MCP client over stdio. Its replies keep what JSON libraries lose: how numbers are spelled, and all order."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Json = dict[str, Any]
MAX_LINE = 64 << 20


class Number(str):
    """A JSON number as it was spelled: `1.0` is not `1`."""


class Object(tuple[tuple[str, Any], ...]):
    """A JSON object as its members in order, repeated ones included."""

    def member(self, name: str, default: Any = None) -> Any:
        return next((value for key, value in self if key == name), default)


def parse(text: str | bytes) -> Any:
    return json.loads(text, parse_int=Number, parse_float=Number, object_pairs_hook=Object)


class NoReply(Exception):
    """The server closed its output, or did not answer in time."""


class RawClient:
    """One process that speaks MCP on stdin and stdout, in a process group of its own."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.argv, self.env, self.cwd, self.log = argv, env, cwd, log
        self.last_id = 0
        self.last_seconds = 0.0
        """How long the last request took."""
        self.notifications: list[Any] = []

    async def __aenter__(self) -> Self:
        self.begun = time.monotonic()
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=dict(self.env),
                cwd=self.cwd,
                limit=MAX_LINE,
                start_new_session=True,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), 10)
        with suppress(ProcessLookupError):  # what the server started and left behind, browsers for example
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    async def start(self, version: str = "2025-11-25", seconds: float = 60) -> tuple[Any, float]:
        """The handshake; returns the `initialize` reply and the seconds since the process was started."""
        info = {"name": "compare", "version": "1"}
        hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": info}
        reply = await self.request("initialize", hello, seconds)
        elapsed = time.monotonic() - self.begun
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return reply, elapsed

    async def request(self, method: str, params: Json | None = None, seconds: float = 60) -> Any:
        """The whole reply. Raises `NoReply`."""
        self.last_id += 1
        begun = time.monotonic()
        self._write({"jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params or {}})
        try:
            async with asyncio.timeout(seconds):
                return await self._reply(str(self.last_id))
        except TimeoutError:
            raise NoReply(f"no reply to {method} in {seconds:.0f} s") from None
        finally:
            self.last_seconds = time.monotonic() - begun

    async def every(self, method: str, member: str) -> Any:
        """All items of a paged listing, or the error reply."""
        items: list[Any] = []
        cursor: str | None = None
        while True:
            reply = await self.request(method, {"cursor": cursor} if cursor else {})
            result = reply.member("result")
            if result is None:
                return reply.member("error")
            items += result.member(member, [])
            cursor = result.member("nextCursor")
            if not cursor:
                return items

    async def _reply(self, id: str) -> Any:
        assert self.process.stdout
        while line := await self.process.stdout.readline():
            try:
                message = parse(line)
            except ValueError:
                continue  # some servers print notes on stdout; the official clients skip them too
            if not isinstance(message, Object):
                continue
            if message.member("method") is None and message.member("id") == id:
                return message
            if message.member("method") == "ping":
                self._write({"jsonrpc": "2.0", "id": int(message.member("id")), "result": {}})
            else:
                self.notifications.append(message)
        raise NoReply("the server closed its output")

    def _write(self, message: Json) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
