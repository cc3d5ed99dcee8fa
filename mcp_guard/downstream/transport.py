"""The connection to one client, as a session needs it."""

from typing import Protocol

from mcp_guard.protocol.jsonrpc import Id


class DownstreamTransport(Protocol):
    """The connection to one client."""

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        """Send a frame; see `jsonrpc.Write`. Never blocks. After the client has gone, frames are dropped."""

    def drop_reply(self, request: Id) -> None:
        """This request gets no reply: its client has cancelled it."""

    def throttle(self, slow: bool) -> None:
        """Stop reading from the client (True), or go on (False): an upstream is slow to read, or has caught up."""

    def note(self, text: str) -> None:
        """Print a message for the operator."""
