"""A call to an upstream that its user has not signed in to: they are asked to, and the call waits for that."""

import asyncio
from contextlib import suppress

from mcp_guard.core.model import Instance
from mcp_guard.core.names import SEPARATOR
from mcp_guard.guard import Guard
from mcp_guard.ports import ClientChannel
from mcp_guard.upstream.group import UpstreamGroup

LOOK_SECONDS = 1.0
"""How often the call looks whether they have."""


async def await_sign_in(
    guard: Guard, instance: Instance, upstreams: UpstreamGroup, name: str, channel: ClientChannel
) -> None:
    """Wait until the user has signed in to the upstream of this tool, if a client shows them where, but no longer than
    calls are held. Without a sign-in the call is refused like any that cannot be made; so is one of a tool that the
    upstream has not listed, once it has listed any."""
    server = name.partition(SEPARATOR)[0]
    if await upstreams.find_user_token(server):
        return
    known = {tool.listed_as: tool for tool in upstreams.tools() if tool.server == server}
    if known and (name not in known or not guard.may_call(instance, known[name])):
        return
    if not channel.on_sign_in_needed(server):
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(guard.hold_limit(channel)):
            while not await upstreams.find_user_token(server):  # noqa: ASYNC110 - another process keeps the sign-in
                await asyncio.sleep(LOOK_SECONDS)
