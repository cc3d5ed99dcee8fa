"""The kit's `upstream.py` over streamable HTTP: the upstream of every target that is measured over HTTP.

Speaks both kinds of MCP: with `initialize`, and without sessions as of 2026-07-28. Each POST is answered with one JSON
document. No library but orjson, so that its own cost stays small. Usage: upstream_http.py PORT
"""

import asyncio
import sys
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "kit"))

import upstream as kit  # type: ignore[import-not-found]

STATELESS = "2026-07-28"
SERVER = {"name": "bench-upstream", "version": "1"}
CACHE = {"ttlMs": 3_600_000, "cacheScope": "public"}


class Upstream:
    def __init__(self) -> None:
        self.calls = 0

    def answer(self, message: dict) -> dict | None:
        """The reply to a message; None for a notification."""
        if "id" not in message:
            return None
        params = message.get("params") or {}
        stateless = "io.modelcontextprotocol/protocolVersion" in (params.get("_meta") or {})
        answer = self.result(message["method"], params)
        if stateless and "result" in answer:
            answer["result"] = {"resultType": "complete", **answer["result"]}
            if message["method"] in ("tools/list", "server/discover"):
                answer["result"].update(CACHE)
        return {"jsonrpc": "2.0", "id": message["id"], **answer}

    def result(self, method: str, params: dict) -> dict:
        if method == "tools/call" and params.get("name") in kit.TOOL_NAMES:
            self.calls += 1
            text = orjson.dumps({"seq": self.calls, "tool": params["name"], "arguments": params.get("arguments")})
            return {"result": {"content": [{"type": "text", "text": text.decode()}], "isError": False}}
        if method == "tools/list":
            return {"result": {"tools": kit.TOOLS}}
        if method == "ping":
            return {"result": {}}
        described = {"capabilities": {"tools": {"listChanged": False}}, "serverInfo": SERVER}
        if method == "initialize":
            asked = params.get("protocolVersion")
            version = asked if asked in kit.PROTOCOL_VERSIONS else kit.PROTOCOL_VERSIONS[-1]
            return {"result": {"protocolVersion": version, **described}}
        if method == "server/discover":
            return {"result": {"supportedVersions": [STATELESS, *kit.PROTOCOL_VERSIONS], **described}}
        return {"error": {"code": -32601, "message": "method not found"}}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests after another, until the client closes it."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                fields = dict(line.split(": ", 1) for line in head.lower().split("\r\n")[1:] if ": " in line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                writer.write(self.respond(head.split(" ", 1)[0], body))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def respond(self, method: str, body: bytes) -> bytes:
        if method != "POST":
            return b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n"
        answer = self.answer(orjson.loads(body))
        if answer is None:
            return b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"
        text = orjson.dumps(answer)
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
        return head.encode() + text


async def main(port: int) -> None:
    server = await asyncio.start_server(Upstream().serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
