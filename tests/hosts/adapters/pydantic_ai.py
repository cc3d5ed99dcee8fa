"""`pydantic-ai`, through its toolset of an MCP server."""

import asyncio

from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from pydantic_ai.mcp import MCPToolset

from tests.hosts.adapters.conversation import GUARD, converse


async def main() -> None:
    if GUARD["url"]:
        transport: StdioTransport | StreamableHttpTransport = StreamableHttpTransport(
            GUARD["url"], headers=GUARD["headers"]
        )
    else:
        transport = StdioTransport(GUARD["argv"][0], GUARD["argv"][1:])
    async with MCPToolset(transport) as toolset:
        await converse([tool.name for tool in await toolset.list_tools()], toolset.direct_call_tool)


asyncio.run(main())
