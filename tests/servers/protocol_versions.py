"""An MCP server of either protocol version for tests, on the official SDK.

Usage: protocol_versions.py ERA LOG [PORT]. ERA is `modern` (2026-07-28 only),
`old` (handshake revisions only) or `dual`; with PORT it serves HTTP at /mcp, else stdio. Each call, each greeting and
each cancellation is appended to LOG.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import mcp_types as types
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.stdio import stdio_server
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

ERA, LOG = sys.argv[1], sys.argv[2]
REVISION = "2026-07-28"
server = MCPServer(f"eras-{ERA}", instructions="be kind")


class Name(BaseModel):
    name: str


def note(what: str, **said: object) -> None:
    with open(LOG, "a") as log:
        log.write(json.dumps({"what": what, **said}) + "\n")


def client_of(ctx: Context) -> dict[str, Any]:
    capabilities = ctx.client_capabilities
    return capabilities.model_dump(by_alias=True, exclude_none=True) if capabilities is not None else {}


@server.tool()
def echo(text: str, ctx: Context) -> str:
    note("echo", text=text, era=ctx.protocol_version, capabilities=client_of(ctx))
    return text


@server.tool()
def routed(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})], ctx: Context) -> str:
    note("routed", header=(ctx.headers or {}).get("mcp-param-region"), name=(ctx.headers or {}).get("mcp-name"))
    return region


@server.tool()
async def steps(ctx: Context) -> str:
    note("steps")
    await ctx.info("a word")
    for step in range(3):
        await ctx.report_progress(step + 1, 3)
    return "done"


@server.tool()
async def slow() -> str:
    note("slow")
    try:
        await anyio.sleep(60)
    except asyncio.CancelledError:
        note("slow is cancelled")
        raise
    return "late"


@server.tool()
async def greet(ctx: Context, times: int = 1) -> types.CallToolResult | types.InputRequiredResult:
    """Asks for a name as often as requested."""
    said = ctx.input_responses
    note("greet", state=ctx.request_state, answers=sorted(said or {}))
    if ctx.protocol_version != REVISION:
        answer = await ctx.elicit("your name?", Name)
        return types.CallToolResult(content=[types.TextContent(text=f"hello {answer.data.name}")])  # type: ignore[union-attr]
    rounds = int(ctx.request_state or 0)
    if rounds < times:
        schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        form = types.ElicitRequestFormParams(message="your name?", requested_schema=schema)
        asked = {"who": types.ElicitRequest(params=form), "where": types.ListRootsRequest()}
        return types.InputRequiredResult(input_requests=asked, request_state=str(rounds + 1))
    given = said["who"] if said else None
    assert isinstance(given, types.ElicitResult)
    assert given.content is not None
    return types.CallToolResult(content=[types.TextContent(text=f"hello {given.content['name']}")])


@server.tool()
async def wait(ctx: Context) -> types.CallToolResult | types.InputRequiredResult:
    """Asks for more time, once."""
    note("wait", state=ctx.request_state)
    if ctx.request_state is None:
        return types.InputRequiredResult(request_state="soon")
    return types.CallToolResult(content=[types.TextContent(text="waited")])


@server.tool()
async def change(ctx: Context) -> str:
    """Adds a tool and announces the change."""
    note("change")
    server.add_tool(later)
    await ctx.notify_tools_changed()
    await ctx.notify_resource_updated("mem://one")
    return "changed"


def later() -> str:
    return "later"


@server.resource("mem://one")
def one() -> str:
    return "the resource"


@server.prompt()
def hello(name: str) -> str:
    return f"say hello to {name}"


def refusal(message: dict[str, Any]) -> dict[str, Any] | None:
    """How a server of one protocol version refuses a request of the other."""
    enveloped = "io.modelcontextprotocol/protocolVersion" in (message.get("params") or {}).get("_meta", {})
    if message.get("method") == "initialize" or enveloped:
        note("greeting", method=message["method"])
    if ERA == "modern" and message.get("method") == "initialize":
        error = {"code": -32022, "message": "Unsupported protocol version", "data": {"supported": [REVISION]}}
    elif ERA == "old" and enveloped:
        error = {"code": -32601, "message": "Method not found"}
    else:
        return None
    return {"jsonrpc": "2.0", "id": message["id"], "error": error}


class Lines:
    """Standard input without the refused lines."""

    def __init__(self) -> None:
        self.stdin = anyio.wrap_file(sys.stdin)

    async def __aiter__(self) -> AsyncIterator[str]:
        async for line in self.stdin:
            if (refused := refusal(json.loads(line))) is None:
                yield line
            else:
                sys.stdout.write(json.dumps(refused) + "\n")
                sys.stdout.flush()


class VersionCheck:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        first = await receive()
        assert not first.get("more_body")
        if (refused := refusal(json.loads(first["body"]))) is not None:
            await JSONResponse(refused, 400)(scope, receive, send)
            return
        given = iter([first])

        async def again() -> Any:
            return next(given, None) or await receive()

        await self.app(scope, again, send)


async def on_stdio() -> None:
    lowlevel = server._lowlevel_server
    stdout = anyio.wrap_file(sys.stdout)
    async with stdio_server(stdin=Lines(), stdout=stdout) as (read, write):  # type: ignore[arg-type]
        await lowlevel.run(read, write, lowlevel.create_initialization_options())


def main() -> None:
    note("started", pid=os.getpid())
    if len(sys.argv) > 3:
        uvicorn.run(VersionCheck(server.streamable_http_app()), port=int(sys.argv[3]), log_level="warning")
    else:
        anyio.run(on_stdio)


if __name__ == "__main__":
    main()
