"""The link to one upstream: how frames get there and back. What they mean is the business of `connection.py`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mcp_guard.core.model import Json
from mcp_guard.ports import ClientChannel
from mcp_guard.protocol.jsonrpc import Id

# How an upstream of another era than the handshake's is spoken to, as its connection needs it.


class InputUnavailable(Exception):
    """An upstream asks for something before it goes on, and the client cannot or will not say it."""


@dataclass(slots=True)
class RoundCount:
    """How often one request has been sent."""

    made: int = 0


class ServerProtocol(Protocol):
    """How an upstream of another era than the handshake's is spoken to."""

    @property
    def tells_changes(self) -> bool: ...

    async def request(self, method: str, params: Json | None, channel: ClientChannel) -> Json: ...

    async def in_rounds(
        self, method: str, params: Json, channel: ClientChannel, seconds: float | None, rounds: RoundCount
    ) -> Json: ...

    async def listen(self) -> None: ...

    def on_request(self, id: Id, method: str) -> None: ...

    def on_notification(self, method: str, params: Json) -> None: ...

    def close(self) -> None: ...


class MessageHandler(Protocol):
    """Who hears what comes over a link."""

    def on_line(self, line: bytes | None) -> None:
        """A frame; None for one that was too large to read."""

    def on_lost(self, request: Id, why: str) -> None:
        """The answer to this request will not come; it may have run."""

    def schema(self, tool: str) -> Json | None:
        """The input schema that it last listed for a tool of this name."""

    def on_end(self, why: str) -> None:
        """Nothing comes or goes any more."""


class Transport(Protocol):
    """One way to reach an upstream; may be started again after each end."""

    where: str
    """Where somebody who looks for the cause of a failure should look."""
    unguarded: tuple[str, ...]
    """Names of its secrets that are too short to be scrubbed."""
    is_slow: bool
    """Whether `start` may take seconds, because of where its secrets are: then it is called in a thread."""

    def start(self) -> None:
        """Begin to reach it; nothing is awaited, so that it warms up while we do. Raises: UpstreamError."""

    async def open(self, ears: MessageHandler, on_pressure: Callable[[bool], None], limit: int) -> bool:
        """Ready for frames. False if it cannot be had, of which `ears` have heard why, or `start` has said it."""

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None: ...

    def throttle(self, slow: bool) -> None:
        """Stop or resume reading, while those that we pass it on to are slow."""

    async def close(self) -> None:
        """End it, with everything that it started."""

    def kill(self) -> None:
        """End it at once, with no event loop."""
