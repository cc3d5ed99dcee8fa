"""The tokens of a session's user, for those of its upstreams that are called as their users."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mcp_guard.upstream.connection import Connection
from mcp_guard.upstream.transport import TokenState, Upstream

if TYPE_CHECKING:
    from mcp_guard.upstream.host import HostConnection
    from mcp_guard.upstream.shared import AnyConnection, SharedConnection

START_SECONDS = 10.0
"""How long a call waits for an upstream that is being started."""


class UserTokens:
    """By upstream; for any other, every answer is that nothing is amiss."""

    def __init__(self, upstreams: "Iterable[Upstream | SharedConnection | HostConnection]") -> None:
        own = [upstream for upstream in upstreams if isinstance(upstream, Upstream)]
        self._tokens = {upstream.name: token for upstream in own if (token := upstream.user_token) is not None}

    def __contains__(self, server: str) -> bool:
        return server in self._tokens

    async def why_unauthorized(self, server: str) -> str | None:
        """As `UserToken.why_unauthorized`."""
        token = self._tokens.get(server)
        return None if token is None else await token.why_unauthorized()

    async def reach(self, server: str, connection: "AnyConnection | None") -> bool:
        """If the user has a token, wait for the upstream, if it is being started with that, but not for long. False if
        they have to sign in to it."""
        token = self._tokens.get(server)
        if token is None or not isinstance(connection, Connection):
            return True
        state = await token.find()
        if state is not TokenState.MISSING:
            await connection.renewal.await_start(START_SECONDS, at_once=state is TokenState.ARRIVED)
        return state is not TokenState.MISSING
