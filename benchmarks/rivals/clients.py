"""Clients of the targets of `make bench-rivals`, over stdio and HTTP. They check each reply."""

import asyncio
import json
import subprocess
from typing import IO

from benchmarks.http_wire import Wire

CALL_SECONDS = 60.0
NOTES = ("Customer asked for a revised quote and a later start. " * 4)[:200]
STATELESS = "2026-07-28"
META = "io.modelcontextprotocol/"


class Failed(Exception):
    """A target did not start, did not answer, or answered wrongly."""


def arguments(number: int, *, allowed: bool = True) -> dict:
    """The call's arguments; those that no policy allows break both kinds of condition, on the amount and the stage."""
    stage, amount = ("negotiation", 1000 + number) if allowed else ("lost", 250_000 + number)
    return {"id": f"D-{number}", "amount": amount, "stage": stage, "notes": NOTES}


def check(reply: dict, sent: dict) -> int:
    """Returns: the upstream's count of calls. Raises: Failed if this is not the upstream's reply to the call."""
    result = reply.get("result") or {}
    try:
        seen = json.loads(result["content"][0]["text"])
        correct = not result.get("isError") and seen["arguments"] == sent
    except (KeyError, IndexError, TypeError, ValueError):
        correct = False
    if not correct:
        raise Failed(f"wrong reply: {json.dumps(reply)[:300]}")
    return int(seen["seq"])


def is_refusal(reply: dict) -> bool:
    return "error" in reply or bool((reply.get("result") or {}).get("isError"))


class Client:
    """Makes calls of one target and checks each reply."""

    made = 0
    seen = 0

    async def send(self, tool: str, sent: dict) -> dict:
        raise NotImplementedError

    async def call(self) -> None:
        self.made += 1
        sent = arguments(self.made)
        async with asyncio.timeout(CALL_SECONDS):
            seen = check(await self.send("update_deal", sent), sent)
        if seen != self.seen + 1:
            raise Failed(f"the upstream counts {seen} calls in place of {self.seen + 1}")
        self.seen = seen

    async def is_refused(self, tool: str) -> bool:
        """Whether a call against the policy is refused and does not reach the upstream."""
        self.made += 1
        sent = arguments(self.made, allowed=False) if tool == "update_deal" else {"id": f"D-{self.made}"}
        async with asyncio.timeout(CALL_SECONDS):
            reply = await self.send(tool, sent)
        if not is_refusal(reply):
            self.seen += 1
            return False
        await self.call()  # counts on where the last allowed call was
        return True


class StdioClient(Client):
    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.last_id, self.names = process, 0, {"update_deal": "update_deal"}

    async def ask(self, method: str, params: dict) -> dict:
        return await asyncio.to_thread(self._ask, method, params)

    def _ask(self, method: str, params: dict) -> dict:
        self.last_id += 1
        self.write({"id": self.last_id, "method": method, "params": params})
        output: IO[bytes] = self.process.stdout  # type: ignore[assignment] # it is a pipe
        for line in output:
            message: dict = json.loads(line)
            if message.get("id") == self.last_id and "method" not in message:
                return message
        raise Failed(f"exited with status {self.process.wait()}")

    def write(self, message: dict) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.process.stdin.flush()

    async def open(self) -> None:
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        await self.ask("initialize", hello)
        self.write({"method": "notifications/initialized"})
        listed = (await self.ask("tools/list", {}))["result"]["tools"]
        for tool in ("update_deal", "delete_deal"):
            self.names[tool] = next((each["name"] for each in listed if each["name"].endswith(tool)), tool)

    async def send(self, tool: str, sent: dict) -> dict:
        return await self.ask("tools/call", {"name": self.names[tool], "arguments": sent})


class HttpClient(Client):
    """One connection, with a session, or (`stateless`) without one as of 2026-07-28."""

    def __init__(self, port: int, details: dict, *, stateless: bool) -> None:
        self.tool, self.headers, self.stateless = details["tool"], details["headers"], stateless
        self.wire = Wire(port, details["token"], "" if stateless else "2025-11-25")

    async def open(self) -> None:
        await self.wire.open()
        if not self.stateless:
            client = {"name": "bench", "version": "1"}
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
            await self.post({"id": "hello", "method": "initialize", "params": hello}, {})
            await self.post({"method": "notifications/initialized"}, {})

    async def post(self, message: dict, headers: dict) -> dict:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        _, reply = await self.wire.post_bytes(body, {**self.headers, **headers})
        if not isinstance(reply, dict):
            raise Failed(f"wrong reply: {reply}")
        return reply

    async def send(self, tool: str, sent: dict) -> dict:
        name = self.tool.removesuffix("update_deal") + tool
        params: dict = {"name": name, "arguments": sent}
        headers = {}
        if self.stateless:
            client = {"name": "bench", "version": "1"}
            meta = {"protocolVersion": STATELESS, "clientInfo": client, "clientCapabilities": {}}
            params["_meta"] = {META + key: value for key, value in meta.items()}
            headers = {"mcp-protocol-version": STATELESS, "mcp-method": "tools/call", "mcp-name": name}
        return await self.post({"id": self.made, "method": "tools/call", "params": params}, headers)
