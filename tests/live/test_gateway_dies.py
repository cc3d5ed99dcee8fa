"""The official SDK's client is served by gateway A through a load balancer. A is killed while its call is held, a
person approves at B, and the client finishes at C. The call runs once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import httpx2 as httpx
from mcp import Client as OfficialClient
from mcp.client.streamable_http import streamable_http_client

from tests.faults.fleet import Fleet, open_fleet
from tests.faults.guard_process import Ask
from tests.faults.ledger_reading import key_of
from tests.live.http_guard import NO_TLS, REVISION


class Balancer:
    """Sends new connections to one gateway."""

    def __init__(self, port: int) -> None:
        self.gateway_port = port
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/mcp"
        finally:
            listening.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                target.write(data)
            target.close()

        with closing(writer), suppress(OSError):
            answers, requests = await asyncio.open_connection("127.0.0.1", self.gateway_port)
            with closing(requests):
                await asyncio.gather(pump(reader, requests), pump(answers, writer))


async def call_until_done(url: str, token: str, mode: str, ask: Ask) -> Any:
    """As an agent's host does: whatever failed is repeated with the same client, and then with a new one."""
    while True:
        with suppress(Exception):
            async with (
                httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}, trust_env=False, verify=NO_TLS) as http,
                OfficialClient(streamable_http_client(url, http_client=http), mode=mode) as client,
            ):
                for _ in range(2):
                    with suppress(Exception):
                        result = await client.call_tool(f"up__{ask.tool}", ask.arguments)
                        if not result.is_error:
                            return result
        await asyncio.sleep(0.1)


async def scenario(fleet: Fleet, url: str, balancer: Balancer, mode: str) -> None:
    here, _, there = fleet.gateways
    balancer.gateway_port = here.port
    ask, hold = fleet.name("update", "held"), fleet.approver.hold()
    async with asyncio.timeout(90):
        call = asyncio.create_task(call_until_done(url, fleet.token, mode, ask))
        await hold.reached.wait()
        assert not call.done()
        await here.kill_and_wait()
        balancer.gateway_port = there.port
        fleet.approver.go_on()
        result = await call
    assert result.structured_content == {"id": ask.arguments["id"], "amount": 1}
    assert fleet.upstream.ran[key_of(ask.tool, ask.arguments)] == 1


async def test_a_client_whose_gateway_is_killed_finishes_its_held_call_at_another() -> None:
    async with open_fleet(1) as fleet:
        balancer = Balancer(fleet.gateways[0].port)
        async with balancer.running() as url:
            await scenario(fleet, url, balancer, REVISION)
            await fleet.heal()
            await scenario(fleet, url, balancer, "legacy")
        await fleet.settle()
        fleet.check()
