"""A lean HTTP client for an MCP server, which costs little beside the server that it measures or loads."""

import asyncio
import json
from collections.abc import Mapping

from mcp_guard.core.model import Json

COMPACT = (",", ":")
"""As the official SDKs write."""


class Wire:
    """A lean HTTP/1.1 connection for many calls: no library, one request at a time."""

    def __init__(self, port: int, token: str, version: str = "") -> None:
        """With `version`, every request names its revision, as newer clients do."""
        self._port, self._token, self._version = port, token, version
        self.session = ""

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def start(self) -> None:
        version = self._version or "2025-11-25"
        hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "wire", "version": "1"}}
        await self.post({"id": "hello", "method": "initialize", "params": hello})
        await self.post({"method": "notifications/initialized"})

    async def post(self, message: Json) -> tuple[int, Json]:
        return await self.post_bytes(json.dumps({"jsonrpc": "2.0", **message}, separators=COMPACT).encode())

    async def post_bytes(self, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, Json]:
        session = f"mcp-session-id: {self.session}\r\n" if self.session else ""
        session += f"mcp-protocol-version: {self._version}\r\n" if self._version else ""
        session += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = (
            f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\nauthorization: Bearer {self._token}\r\n{session}"
            f"accept: application/json, text/event-stream\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        return await self._read()

    async def delete(self) -> int:
        """End the session; returns the HTTP status."""
        self._writer.write(
            f"DELETE /mcp HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\nauthorization: Bearer {self._token}\r\n"
            f"mcp-session-id: {self.session}\r\n\r\n".encode()
        )
        status, _ = await self._read()
        return status

    async def _read(self) -> tuple[int, Json]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        status = int(head.split(" ")[1])
        if "mcp-session-id: " in head:
            self.session = head.partition("mcp-session-id: ")[2].split("\r\n")[0]
        data = b""
        head = head.lower()
        if "transfer-encoding: chunked" in head:
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                data += await self._reader.readexactly(size)
                await self._reader.readexactly(2)
            await self._reader.readexactly(2)
        elif "content-length: " in head:
            data = await self._reader.readexactly(int(head.partition("content-length: ")[2].split("\r\n")[0]))
        lines = [line[6:] for line in data.decode().splitlines() if line.startswith("data: ")]
        text = lines[-1] if lines else data.decode()
        return status, json.loads(text) if text else {}

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()
