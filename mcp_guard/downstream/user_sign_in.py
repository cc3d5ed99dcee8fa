"""A call to an upstream that its user has not signed in to: they are asked to, and the call waits for that."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from mcp_guard.core.names import SEPARATOR
from mcp_guard.ports import ClientChannel
from mcp_guard.upstream.group import UpstreamGroup

LOOK_SECONDS = 1.0
"""How often the call looks whether they have."""


async def await_sign_in(
    upstreams: UpstreamGroup, tool: str, channel: ClientChannel, seconds: Callable[[], float]
) -> None:
    """Wait until the user has signed in to the upstream of this tool, if a client shows them where, but no longer than
    `seconds` says then. Without a sign-in the call is refused like any that cannot be made."""
    server = tool.partition(SEPARATOR)[0]
    if await upstreams.find_user_token(server) or not channel.on_sign_in_needed(server):
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds()):
            while not await upstreams.find_user_token(server):  # noqa: ASYNC110 - another process keeps the sign-in
                await asyncio.sleep(LOOK_SECONDS)
