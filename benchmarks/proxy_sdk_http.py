"""A bare proxy on the official SDK: streamable HTTP in front, an upstream behind; decides nothing.

Usage: proxy_sdk_http.py PORT [--json] -- (URL of the upstream | its argv…)
With --json, replies are documents instead of streams.
"""

import sys
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import uvicorn
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server


def connect(upstream: list[str]) -> AbstractAsyncContextManager[Any]:
    if upstream[0].startswith("http://"):
        return streamable_http_client(upstream[0])
    return stdio_client(StdioServerParameters(command=upstream[0], args=upstream[1:]))


async def main(port: int, as_json: bool, argv: list[str]) -> None:
    async with connect(argv) as (read, write), ClientSession(read, write) as upstream:
        await upstream.initialize()

        async def list_tools(_context: Any, params: Any) -> Any:
            return await upstream.list_tools(params=params)

        async def call_tool(_context: Any, params: Any) -> Any:
            return await upstream.call_tool(params.name, params.arguments)

        server = Server("proxy-sdk-http", on_list_tools=list_tools, on_call_tool=call_tool)
        app = server.streamable_http_app(json_response=as_json)
        config = uvicorn.Config(app, port=port, log_level="warning", access_log=False, timeout_keep_alive=600)
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    split = sys.argv.index("--")
    anyio.run(main, int(sys.argv[1]), "--json" in sys.argv[2:split], sys.argv[split + 1 :])
