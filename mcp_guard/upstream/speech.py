"""How an upstream of another era than the handshake's is spoken to, as its connection needs it."""

from dataclasses import dataclass
from typing import Protocol

from mcp_guard.core.model import Json
from mcp_guard.ports import Voice
from mcp_guard.wire.peer import Id


class Unanswered(Exception):
    """An upstream asks for something before it goes on, and the client cannot or will not say it."""


@dataclass(slots=True)
class Rounds:
    """How often one request has been sent."""

    made: int = 0


class Speech(Protocol):
    """How an upstream of another era than the handshake's is spoken to."""

    @property
    def tells_changes(self) -> bool: ...

    async def request(self, method: str, params: Json | None, voice: Voice) -> Json: ...

    async def in_rounds(
        self, method: str, params: Json, voice: Voice, seconds: float | None, rounds: Rounds
    ) -> Json: ...

    async def listen(self) -> None: ...

    def on_request(self, id: Id, method: str) -> None: ...

    def on_notification(self, method: str, params: Json) -> None: ...

    def close(self) -> None: ...
