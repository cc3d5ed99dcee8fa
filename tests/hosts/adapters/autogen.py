"""`autogen-ext`: `mcp_server_tools`, which opens a session for each call; with `session` as argument, a workbench."""

import asyncio
import sys

from autogen_core import CancellationToken
from autogen_ext.tools.mcp import McpWorkbench, StdioServerParams, StreamableHttpServerParams, mcp_server_tools

from tests.hosts.adapters.conversation import GUARD, Json, converse


async def main() -> None:
    if GUARD["url"]:
        server = StreamableHttpServerParams(url=GUARD["url"], headers=GUARD["headers"])
    else:
        server = StdioServerParams(command=GUARD["argv"][0], args=GUARD["argv"][1:])
    if "session" in sys.argv:
        async with McpWorkbench(server) as workbench:
            await converse([tool["name"] for tool in await workbench.list_tools()], workbench.call_tool)
        return
    tools = {tool.name: tool for tool in await mcp_server_tools(server)}

    async def call(name: str, arguments: Json) -> object:
        return tools[name].return_value_as_string(await tools[name].run_json(arguments, CancellationToken()))

    await converse(tools, call)


asyncio.run(main())
