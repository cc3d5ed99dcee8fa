"""An MCP server over HTTP for tests, on the official SDK: streamable HTTP at /mcp, the older transport at /sse.

Usage: over_http.py PORT LOG [TOKEN]. With TOKEN, requests without it are refused. Every call is appended to LOG.
"""

import json
import os
import sys
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventMessage, EventStore
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount

server = MCPServer("over-http")
LOG = sys.argv[2]


def note(what: str, **said: object) -> None:
    with open(LOG, "a") as log:
        log.write(json.dumps({"tool": what, **said}) + "\n")


@server.tool()
def echo(text: str) -> str:
    note("echo", text=text)
    return text


@server.tool()
async def steps(ctx: Context) -> str:
    note("steps")
    for step in range(3):
        await ctx.report_progress(step + 1, 3)
    return "done"


class Kept(EventStore):
    """Stores every event of this process, so that a client can resume a response."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        self.events.append((stream_id, message))
        return str(len(self.events))

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        after = int(last_event_id)
        stream = self.events[after - 1][0]
        for number, (name, message) in enumerate(self.events[after:], after + 1):
            if name == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


@server.tool()
async def polled(ctx: Context) -> str:
    """Ends its response before answering; the client must resume to get the answer."""
    note("polled")
    await ctx.close_sse_stream()
    return "come back"


@server.tool()
def die() -> str:
    note("die")
    os._exit(3)


class TokenCheck:
    def __init__(self, app: Any, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        if scope["type"] == "http" and self.token and headers.get(b"authorization") != f"Bearer {self.token}".encode():
            await PlainTextResponse("who are you?", 401)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def main() -> None:
    http = server.streamable_http_app(event_store=Kept(), retry_interval=50)
    old = server.sse_app()
    app = Starlette(routes=[Mount("/old", old), Mount("/", http)], lifespan=lambda _: server.session_manager.run())
    token = sys.argv[3] if len(sys.argv) > 3 else ""
    uvicorn.run(TokenCheck(app, token), port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
