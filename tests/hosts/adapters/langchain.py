"""`langchain-mcp-adapters`: by default a session for each call; with `session` as argument, one for all."""

import asyncio
import sys

from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools

from tests.hosts.adapters.conversation import GUARD, converse


async def main() -> None:
    if GUARD["url"]:
        entry = {"transport": "streamable_http", "url": GUARD["url"], "headers": GUARD["headers"]}
    else:
        entry = {"transport": "stdio", "command": GUARD["argv"][0], "args": GUARD["argv"][1:]}
    client = MultiServerMCPClient({"guard": entry})
    if "session" in sys.argv:
        async with client.session("guard") as session:
            tools = {tool.name: tool for tool in await load_mcp_tools(session)}
            await converse(tools, lambda name, arguments: tools[name].ainvoke(arguments))
    else:
        tools = {tool.name: tool for tool in await client.get_tools()}
        await converse(tools, lambda name, arguments: tools[name].ainvoke(arguments))


asyncio.run(main())
