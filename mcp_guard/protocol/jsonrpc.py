"""One side of a JSON-RPC conversation: numbers our requests, matches the replies, hands on everything else.

Knows no transport: it is given a function that writes bytes, and is fed parsed messages. Ids and progress tokens are
our own on each side, so two upstreams that use the same ones are never confused.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import orjson

from mcp_guard.core.model import Json
from mcp_guard.protocol.methods import CANCELLED, INITIALIZE, INVALID_REQUEST, PROGRESS

Id = str | int


class PeerLost(Exception):
    """The other side is gone, so the reply will never come. The message says why."""


class Handler(Protocol):
    """What a peer does with what it did not ask for."""

    def on_request(self, id: Id, method: str, params: Json) -> None: ...

    def on_notification(self, method: str, params: Json) -> None: ...

    def on_protocol_violation(self, what: str) -> None:
        """Something that JSON-RPC does not allow; noted, not fatal."""


@dataclass(slots=True)
class _Pending:
    """A request of ours that is not answered yet, and who hears of its progress."""

    future: "asyncio.Future[Json]"
    progress: Callable[[Json], None] | None


class Write(Protocol):
    """Takes complete frames. `about` is the other side's request that a frame belongs to, where that is known; `last`
    says that it is the reply to it."""

    def __call__(self, frame: bytes, about: Id | None = None, last: bool = False) -> None: ...


class Peer:
    """`write` takes complete frames; `handler` gets requests and notifications.

    `aliases` are the other side's own ids of requests that we know by one of ours, because theirs may not be unique.
    """

    def __init__(self, write: Write, handler: Handler) -> None:
        self.aliases: dict[Id, Id] = {}
        self._write = write
        self._handler = handler
        self._pending: dict[int, _Pending] = {}
        self._last_id = 0
        self._lost: str | None = None

    async def request(
        self,
        method: str,
        params: Json | None,
        progress: Callable[[Json], None] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the reply must be let go with it
    ) -> Json:
        """Send a request; returns the `result` or `error` member of its reply, as `{"result": …}` or `{"error": …}`.

        With `progress`, the request carries a token of ours and each progress notification's params go there. When
        the awaiting task is cancelled, or `timeout` seconds are over, the other side is told so.

        Raises: PeerLost, TimeoutError.
        """
        if self._lost is not None:
            raise PeerLost(self._lost)
        self._last_id += 1
        number = self._last_id
        message: Json = {"jsonrpc": "2.0", "id": number, "method": method}
        if progress is not None:
            params = {**(params or {})}
            params["_meta"] = {**(params.get("_meta") or {}), "progressToken": number}
        if params is not None:
            message["params"] = params
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._pending[number] = _Pending(future, progress)
        timer = asyncio.get_running_loop().call_later(timeout, _expire, future) if timeout else None
        try:
            self._write(orjson.dumps(message) + b"\n")
            return await future
        except (asyncio.CancelledError, TimeoutError):
            if method != INITIALIZE:  # the specification forbids cancelling it
                self.notify(CANCELLED, {"requestId": number, "reason": "the caller gave up"})
            raise
        finally:
            if timer is not None:
                timer.cancel()
            del self._pending[number]

    def notify(self, method: str, params: Json | None = None, about: Id | None = None) -> None:
        if self._lost is None:
            message: Json = {"jsonrpc": "2.0", "method": method}
            if params is not None:
                message["params"] = params
            self._write(orjson.dumps(message) + b"\n", about)

    def reply(self, id: Id | None, body: Json) -> None:
        """Answer a request of the other side with its `result` or `error` member."""
        theirs = self.aliases.pop(id, id) if id is not None else None
        if self._lost is None:
            self._write(orjson.dumps({"jsonrpc": "2.0", "id": theirs, **body}) + b"\n", id, True)

    def receive(self, message: object) -> None:
        """Take one parsed message from the other side."""
        if not isinstance(message, dict):
            self._handler.on_protocol_violation("a message that is not an object")
            if isinstance(message, list):
                self.reply(None, error(INVALID_REQUEST, "batches are not accepted; send one message a line"))
            return
        method, id, params = message.get("method"), message.get("id"), message.get("params")
        if method is None:
            self._settle(id, message)
        elif not isinstance(method, str) or not isinstance(params, dict | None) or isinstance(id, bool):
            self.reply(id if isinstance(id, str | int) else None, error(INVALID_REQUEST, "not a JSON-RPC request"))
        elif "id" not in message:
            self._notified(method, params or {})
        elif isinstance(id, str | int):
            self._handler.on_request(id, method, params or {})
        else:
            self.reply(None, error(INVALID_REQUEST, "a request id is text or an integer"))

    def _settle(self, id: object, message: Json) -> None:
        pending = self._pending.get(id) if type(id) is int else None
        if pending is None or pending.future.done():
            self._handler.on_protocol_violation(f"a reply to no open request (id {str(id)[:40]})")
        elif isinstance(message.get("error"), dict):
            pending.future.set_result({"error": message["error"]})
        elif "result" in message:
            pending.future.set_result({"result": message["result"]})
        else:
            pending.future.set_result({})

    def _notified(self, method: str, params: Json) -> None:
        if method == PROGRESS:
            token = params.get("progressToken")
            pending = self._pending.get(token) if type(token) is int else None
            if pending is not None and pending.progress is not None:
                pending.progress({key: value for key, value in params.items() if key != "progressToken"})
            return
        self._handler.on_notification(method, params)

    def lose_one(self, id: Id, reason: str) -> None:
        """The answer to one request will not come; one that has come already stays."""
        pending = self._pending.get(id) if type(id) is int else None
        if pending is not None and not pending.future.done():
            pending.future.set_exception(PeerLost(reason))

    def lose(self, reason: str) -> None:
        """The other side is gone: every open request fails with PeerLost, nothing is written any more."""
        self._lost = reason
        for pending in list(self._pending.values()):
            if not pending.future.done():
                pending.future.set_exception(PeerLost(reason))


def _expire(future: "asyncio.Future[Json]") -> None:
    if not future.done():
        future.set_exception(TimeoutError())


def error(code: int, message: str) -> Json:
    return {"error": {"code": code, "message": message}}
