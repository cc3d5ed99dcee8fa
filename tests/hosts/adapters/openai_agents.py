"""`openai-agents`, with its own time-out of 5 s for a call."""

import asyncio

from agents.mcp import MCPServerStdio, MCPServerStreamableHttp

from tests.hosts.adapters.conversation import GUARD, converse


async def main() -> None:
    if GUARD["url"]:
        server = MCPServerStreamableHttp({"url": GUARD["url"], "headers": GUARD["headers"]})
    else:
        server = MCPServerStdio({"command": GUARD["argv"][0], "args": GUARD["argv"][1:]})
    async with server:
        await converse([tool.name for tool in await server.list_tools()], server.call_tool)


asyncio.run(main())
