"""One HTTP request as its endpoints read it: its headers are indexed once, and its body is bounded."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from mcp_guard.core import exact_json
from mcp_guard.protocol.jsonrpc import Id, is_id

MAX_BYTES_FOR_ID = 64 * 1024
"""How much of a body is read of a client that nobody has authenticated, only to address the refusal."""


class RequestHeaders:
    """The headers of a request by name, in lower case. `raw` is as in an ASGI scope, whose names are so already."""

    __slots__ = ("_first", "_raw")

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self._raw = raw
        self._first = dict(reversed(raw))

    def __contains__(self, name: str) -> bool:
        return name.encode() in self._first

    def get(self, name: str) -> str | None:
        """The first header of this name."""
        value = self._first.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def all(self, name: str) -> list[str]:
        """The headers of this name, in order."""
        value = self._first.get(wanted := name.encode())
        if value is None:
            return []
        if len(self._first) == len(self._raw):  # no name is there twice
            return [value.decode("latin-1")]
        return [value.decode("latin-1") for name_there, value in self._raw if name_there == wanted]


class HttpRequest:
    """A request of which nothing but the headers has been read."""

    __slots__ = ("_receive", "headers", "id", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.id: Id | None = None
        """The id in the body, once an endpoint has read it."""
        self.headers = RequestHeaders(scope["headers"])
        self._receive = receive

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    async def body(self, max_bytes: int, on_size: Callable[[int], None]) -> bytes | None:
        """The body; None if it is over `max_bytes`, and then the rest is not read.

        `on_size` is called with the size of what has arrived, and may raise. Raises: ClientDisconnect.
        """
        body, is_last = bytearray(), False
        while not is_last:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            is_last = not message.get("more_body", False)
            on_size(len(body))
            if len(body) > max_bytes:
                return None
        return bytes(body)

    async def find_id(self) -> Id | None:
        """The id of the JSON-RPC request in a body that has not been read; None if it cannot be read, or is long."""
        with suppress(ClientDisconnect, ValueError):
            body = await self.body(MAX_BYTES_FOR_ID, lambda _: None)
            return id_of(exact_json.loads(body)) if body else None
        return None


def id_of(message: object) -> Id | None:
    """The id of a JSON-RPC request."""
    id = message.get("id") if isinstance(message, dict) and "method" in message else None
    return id if is_id(id) else None
