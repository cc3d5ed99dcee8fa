"""Chooses the adapter for a session by its first request. The other one is not loaded."""

from dataclasses import dataclass, field

from mcp_guard.core.model import Json
from mcp_guard.downstream.session import ProtocolAdapter, Session
from mcp_guard.protocol.versions import is_stateless


@dataclass(frozen=True, slots=True)
class ProtocolAdapters:
    """The adapters of one guard process. `state_key` seals what stateless clients keep for it."""

    state_key: bytes = field(repr=False)

    def choose(self, session: Session, method: str, params: Json) -> ProtocolAdapter:
        if is_stateless(method, params):
            from mcp_guard.downstream.stateless import StatelessAdapter

            return StatelessAdapter(session, self.state_key)
        from mcp_guard.downstream.handshake import HandshakeAdapter

        return HandshakeAdapter(session)
