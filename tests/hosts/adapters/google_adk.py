"""`google-adk`, through its toolset of an MCP server."""

import asyncio
from unittest.mock import MagicMock

from google.adk.tools.mcp_tool.mcp_session_manager import StdioConnectionParams, StreamableHTTPConnectionParams
from google.adk.tools.mcp_tool.mcp_toolset import McpToolset
from mcp import StdioServerParameters

from tests.hosts.adapters.conversation import GUARD, Json, converse


async def main() -> None:
    if GUARD["url"]:
        connection = StreamableHTTPConnectionParams(url=GUARD["url"], headers=GUARD["headers"])
    else:
        server = StdioServerParameters(command=GUARD["argv"][0], args=GUARD["argv"][1:])
        connection = StdioConnectionParams(server_params=server)
    toolset = McpToolset(connection_params=connection)
    tools = {tool.name: tool for tool in await toolset.get_tools()}

    async def call(name: str, arguments: Json) -> object:
        return await tools[name].run_async(args=arguments, tool_context=MagicMock())

    await converse(tools, call)
    await toolset.close()


asyncio.run(main())
