"""`llama-index-tools-mcp`, which opens a session for each call."""

import asyncio

from llama_index.tools.mcp import BasicMCPClient, McpToolSpec

from tests.hosts.adapters.conversation import GUARD, Json, converse


async def main() -> None:
    if GUARD["url"]:
        client = BasicMCPClient(GUARD["url"], headers=GUARD["headers"])
    else:
        client = BasicMCPClient(GUARD["argv"][0], args=GUARD["argv"][1:])
    tools = {tool.metadata.name: tool for tool in await McpToolSpec(client).to_tool_list_async()}

    async def call(name: str, arguments: Json) -> object:
        return (await tools[name].acall(**arguments)).raw_output

    await converse(tools, call)


asyncio.run(main())
