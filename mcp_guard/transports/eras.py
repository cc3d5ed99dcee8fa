"""Which family of protocol revisions a client speaks. What it does not speak is not loaded."""

from mcp_guard.core.model import Json
from mcp_guard.transports.session import Era, Session
from mcp_guard.wire.eras import is_stateless


def choose_era(session: Session, method: str, params: Json) -> Era:
    """The era of a session's first request, and so of the session."""
    if is_stateless(method, params):
        from mcp_guard.transports.stateless import Stateless

        return Stateless(session)
    from mcp_guard.transports.handshake import Handshake

    return Handshake(session)
