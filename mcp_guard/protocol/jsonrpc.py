"""One side of a JSON-RPC 2.0 connection: numbers our requests, matches replies, and hands on everything else.

Transports are left to others: a peer is given a function that writes frames, and is fed parsed messages. Ids and
progress tokens are our own on each side, so two upstreams that use the same ones are never confused.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import orjson

from mcp_guard.core.model import Json
from mcp_guard.protocol.methods import CANCELLED, INITIALIZE, INVALID_REQUEST, PROGRESS

Id = str | int
REQUEST_HEAD = re.compile(rb'\{"jsonrpc":"2\.0","id":([0-9]+),"method":')
"""How `Peer.request` begins a frame."""


class PeerLost(Exception):
    """The other side is gone, so the reply will never come. The message says how."""


class NotSent(PeerLost):
    """The other side never got the request, and never will: nothing of it has left, or it was refused unread."""


class CancelledUnsent(asyncio.CancelledError):
    """The caller was cancelled, and its request has been withdrawn before anything of it left."""


class Handler(Protocol):
    """Takes the messages that are not replies to requests of ours."""

    def on_request(self, id: Id, method: str, params: Json) -> None: ...

    def on_notification(self, method: str, params: Json) -> None: ...

    def on_protocol_violation(self, violation: str) -> None:
        """The other side sent what JSON-RPC does not allow. Not fatal."""


@dataclass(slots=True)
class _Pending:
    """A request of ours that is not answered yet."""

    future: "asyncio.Future[Json]"
    progress: Callable[[Json], None] | None


class Write(Protocol):
    """Sends one complete frame. `about` is the other side's request that it belongs to, if known; with `last` it is the
    reply to that request."""

    def __call__(self, frame: bytes, about: Id | None = None, last: bool = False) -> None: ...


def request_id(frame: bytes) -> int | None:
    """The id of a frame that a peer wrote, if it is a request. Reads no more of it than its beginning."""
    match = REQUEST_HEAD.match(frame)
    return int(match[1]) if match else None


class Peer:
    """`handler` gets the other side's requests and notifications. `withdraw` takes back a request of which nothing has
    left yet; it returns whether that is so.

    `aliases` maps ids of ours to the other side's own, for requests whose own ids may not be unique.
    """

    def __init__(self, write: Write, handler: Handler, withdraw: Callable[[Id], bool] = lambda _: False) -> None:
        self.aliases: dict[Id, Id] = {}
        self._write = write
        self._withdraw = withdraw
        self._handler = handler
        self._pending: dict[int, _Pending] = {}
        self._last_id = 0
        self._lost: str | None = None

    async def request(
        self,
        method: str,
        params: Json | None,
        progress: Callable[[Json], None] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - on timeout the pending reply is dropped too
    ) -> Json:
        """Send a request; returns the `result` or `error` member of its reply, as `{"result": …}` or `{"error": …}`.

        With `progress`, the request carries a progress token of ours, and `progress` gets the params of each progress
        notification, without the token. If the awaiting task is cancelled, or `timeout` seconds are over, the request
        is withdrawn (CancelledUnsent, NotSent) or else a cancellation is sent.

        Raises: PeerLost, TimeoutError.
        """
        if self._lost is not None:
            raise NotSent(self._lost)
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
        except (asyncio.CancelledError, TimeoutError) as given_up:
            if self._withdraw(number):
                if isinstance(given_up, TimeoutError):
                    raise NotSent(f"the request could not be sent within {timeout:g} s") from None
                raise CancelledUnsent from None
            if method != INITIALIZE:  # which the specification forbids to cancel
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
        """Reply to a request of the other side; `body` is the `result` or `error` member."""
        original_id = self.aliases.pop(id, id) if id is not None else None
        if self._lost is None:
            self._write(orjson.dumps({"jsonrpc": "2.0", "id": original_id, **body}) + b"\n", id, True)

    def receive(self, message: object) -> None:
        """Take one parsed message from the other side."""
        if not isinstance(message, dict):
            self._handler.on_protocol_violation("a message that is not an object")
            if isinstance(message, list):
                self.reply(None, error(INVALID_REQUEST, "batches are not accepted; send one message per line"))
            return
        method, id, params = message.get("method"), message.get("id"), message.get("params")
        if method is None:
            self._settle(id, message)
        elif not isinstance(method, str) or not isinstance(params, dict | None) or isinstance(id, bool):
            self.reply(id if isinstance(id, str | int) else None, error(INVALID_REQUEST, "not a JSON-RPC request"))
        elif "id" not in message:
            self._on_notification(method, params or {})
        elif isinstance(id, str | int):
            self._handler.on_request(id, method, params or {})
        else:
            self.reply(None, error(INVALID_REQUEST, "a request id must be a string or an integer"))

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

    def _on_notification(self, method: str, params: Json) -> None:
        if method == PROGRESS:
            token = params.get("progressToken")
            pending = self._pending.get(token) if type(token) is int else None
            if pending is not None and pending.progress is not None:
                pending.progress({key: value for key, value in params.items() if key != "progressToken"})
            return
        self._handler.on_notification(method, params)

    def lose_one(self, id: Id, reason: str, *, sent: bool = True) -> None:
        """The reply to one request will not come. It raises PeerLost, or NotSent, unless the reply has come already."""
        pending = self._pending.get(id) if type(id) is int else None
        if pending is not None and not pending.future.done():
            pending.future.set_exception(PeerLost(reason) if sent else NotSent(reason))

    def lose(self, reason: str) -> None:
        """The other side is gone: every open request raises PeerLost, and nothing is written from now on."""
        self._lost = reason
        for pending in list(self._pending.values()):
            if not pending.future.done():
                pending.future.set_exception(PeerLost(reason))


def _expire(future: "asyncio.Future[Json]") -> None:
    if not future.done():
        future.set_exception(TimeoutError())


def error(code: int, message: str) -> Json:
    """The `error` member of a reply."""
    return {"error": {"code": code, "message": message}}
