"""An MCP server over HTTP, in this process, that counts what it runs and can stop at a call. All gateways use it."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.faults.ledger_reading import Key, key_of
from tests.faults.upstream import TOOLS

Json = dict[str, Any]


@dataclass
class CallStop:
    """Of a call of this tool about this id: when it is `received`, or when it `ran`."""

    tool: str
    id: str
    moment: str
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)


class FleetUpstream:
    """`ran` counts calls; a call that was received runs, whatever happens to the gateway."""

    def __init__(self) -> None:
        self.ran: Counter[Key] = Counter()
        self.when_run: dict[tuple[str, str], Callable[[], object]] = {}
        """What to do when a call of this tool about this id has run, before it is answered."""
        self._stop: CallStop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/mcp"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield
        finally:
            self._server.close()
            self.pass_everything()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop_at(self, tool: str, id: str, moment: str) -> CallStop:
        self._stop = CallStop(tool, id, moment)
        return self._stop

    def pass_everything(self) -> None:
        if self._stop is not None:
            self._stop.go.set()
            self._stop = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length:")[2].split("\r\n")[0] or 0)
                message = json.loads(await reader.readexactly(length) or b"{}")
                status, body = "202 Accepted", b""
                if "method" not in message:
                    status = "405 Method Not Allowed"  # of a GET for a stream, or the DELETE of a session
                elif "id" in message:
                    answer = {"jsonrpc": "2.0", "id": message["id"], "result": await self._result(message)}
                    status, body = "200 OK", json.dumps(answer).encode()
                head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)

    async def _result(self, message: Json) -> Json:
        params = message.get("params", {})
        if message["method"] == "initialize":
            info = {"name": "counting", "version": "1"}
            return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
        if message["method"] == "tools/list":
            return {"tools": TOOLS}
        if message["method"] != "tools/call":
            return {}
        tool, arguments = params["name"], params["arguments"]
        await self._at(tool, arguments, "received")
        self.ran[key_of(tool, arguments)] += 1
        self.when_run.pop((tool, str(arguments.get("id"))), lambda: None)()
        await self._at(tool, arguments, "ran")
        facts = {"id": arguments.get("id"), "amount": 1}
        return {"content": [{"type": "text", "text": "done"}], "structuredContent": facts}

    async def _at(self, tool: str, arguments: Json, moment: str) -> None:
        stop = self._stop
        if stop and (stop.tool, stop.id, stop.moment) == (tool, arguments.get("id"), moment):
            stop.reached.set()
            await stop.go.wait()
