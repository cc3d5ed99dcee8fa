"""FastMCP's client, which the development environment has: the sample of `make hosts` in `make test`."""

import asyncio

from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport

from tests.hosts.adapters.conversation import GUARD, Json, converse


async def main() -> None:
    if GUARD["url"]:
        transport: StdioTransport | StreamableHttpTransport = StreamableHttpTransport(
            GUARD["url"], headers=GUARD["headers"]
        )
    else:
        transport = StdioTransport(GUARD["argv"][0], GUARD["argv"][1:])
    async with Client(transport) as client:

        async def call(name: str, arguments: Json) -> object:
            return await client.call_tool(name, arguments, raise_on_error=False)

        await converse([tool.name for tool in await client.list_tools()], call)


asyncio.run(main())
