"""One side of a JSON-RPC 2.0 connection: numbers our requests, matches replies, and hands on everything else.

Transports are left to others: a peer is given a function that writes frames, and is fed parsed messages. Ids and
progress tokens are our own on each side, so two upstreams that use the same ones are never confused.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeGuard

import orjson

from mcp_guard.core.exact_json import dumps
from mcp_guard.core.message_remains import MessageRemains, request_number
from mcp_guard.core.model import Json
from mcp_guard.protocol.batches import MAX_BATCH
from mcp_guard.protocol.methods import CANCELLED, INITIALIZE, INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR, PROGRESS

LINE = orjson.OPT_APPEND_NEWLINE
"""A frame ends with it; adding it afterwards would copy the frame, which may be large."""
Id = str | int | float
"""Fractions are unusual but legal (JSON-RPC 2.0 §4)."""
REQUEST_HEAD = re.compile(rb'\{"jsonrpc":"2\.0","id":([0-9]+),"method":')
"""How `Peer.request` begins a frame."""
NO_ID = (None, 0, -1, "", "null")
"""What servers write as the id of an error about a request that they could not read. Ours begin at 1."""
GIVEN_UP_SECONDS, MAX_GIVEN_UP = 60.0, 64
"""How long the reply to a request that was given up may still come, and how many such requests are remembered."""


class PeerLost(Exception):
    """The other side is gone, so the reply will never come. The message says how."""


class NotSent(PeerLost):
    """The other side never got the request, and never will: nothing of it has left, or it was refused unread."""


class CancelledUnsent(asyncio.CancelledError):
    """The caller was cancelled, and its request has been withdrawn before anything of it left."""


class UnreadableReply(PeerLost):
    """The reply has come, and it cannot be used. The message says why."""


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
    deadline: float | None
    """By the event loop's clock; None if it waits for as long as it takes."""
    is_unsent: bool = False
    """Whether it was reported as not sent, perhaps after it was given up."""


class CancelReason(str):
    """Why a request is cancelled: the message of its task's `CancelledError`, which the other side is told."""


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
        self._timer: asyncio.TimerHandle | None = None
        """Not later than the next deadline of a pending request."""
        self._last_id = 0
        self._lost: str | None = None
        self._given_up: dict[int, float] = {}
        """Requests that nobody waits for any more, and since when; their replies may still come."""
        self._notified_after: int | None = None
        """The last request before a notification, while no later request was answered."""

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
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Json] = loop.create_future()
        deadline = loop.time() + timeout if timeout else None
        pending = self._pending[number] = _Pending(future, progress, deadline)
        if deadline is not None:
            self._wake_by(deadline)
        try:
            self._write(dumps(message, LINE))
            return await future
        except (asyncio.CancelledError, TimeoutError) as given_up:
            if pending.is_unsent or self._withdraw(number):
                if isinstance(given_up, TimeoutError):
                    raise NotSent(f"the request could not be sent within {timeout:g} s") from None
                raise CancelledUnsent from None
            self._give_up(number)
            if method != INITIALIZE:  # which the specification forbids to cancel
                reason = next((arg for arg in given_up.args if isinstance(arg, CancelReason)), "the caller gave up")
                self.notify(CANCELLED, {"requestId": number, "reason": str(reason)})
            raise
        finally:
            del self._pending[number]

    def _wake_by(self, deadline: float) -> None:
        """One timer serves all requests, which mostly have the same time limit: few of them need to set it."""
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        """End the requests whose time is over."""
        loop, self._timer = asyncio.get_running_loop(), None
        for pending in self._pending.values():
            if pending.deadline is None or pending.future.done():
                continue
            if pending.deadline <= loop.time():
                pending.future.set_exception(TimeoutError())
            else:
                self._wake_by(pending.deadline)

    def _give_up(self, number: int) -> None:
        while len(self._given_up) >= MAX_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]
        self._given_up[number] = asyncio.get_running_loop().time()

    def notify(self, method: str, params: Json | None = None, about: Id | None = None) -> None:
        if self._lost is None:
            message: Json = {"jsonrpc": "2.0", "method": method}
            if params is not None:
                message["params"] = params
            self._notified_after = self._last_id
            self._write(dumps(message, LINE), about)

    def reply(self, id: Id | None, body: Json) -> None:
        """Reply to a request of the other side; `body` is the `result` or `error` member."""
        original_id = self.aliases.pop(id, id) if id is not None else None
        if self._lost is None:
            self._write(dumps({"jsonrpc": "2.0", "id": original_id, **body}, LINE), id, True)

    def receive(self, message: object) -> None:
        """Take one parsed message from the other side."""
        if not isinstance(message, dict):
            self._handler.on_protocol_violation("a message that is not an object")
            if isinstance(message, list):
                self.reply(None, error(INVALID_REQUEST, f"not a batch of 1 to {MAX_BATCH} messages"))
            return
        method, id, params = message.get("method"), message.get("id"), message.get("params")
        if method is None or (("result" in message or "error" in message) and self._is_open(id)):
            self._settle(id, message)
        elif not isinstance(method, str) or not isinstance(params, dict | None) or isinstance(id, bool):
            self.reply(id if is_id(id) else None, error(INVALID_REQUEST, "not a JSON-RPC request"))
        elif "id" not in message:
            self._on_notification(method, params or {})
        elif is_id(id):
            self._handler.on_request(id, method, params or {})
        else:
            self.reply(None, error(INVALID_REQUEST, "a request id must be a string or a number"))

    def receive_unreadable(self, remains: MessageRemains, reason: str) -> None:
        """Take what was found in a message that cannot be read: its reply or its request is settled with the reason."""
        if remains.has_method and not (remains.has_outcome and self._is_open(remains.id)):
            if remains.id is not None:
                self.reply(remains.id, error(PARSE_ERROR, reason))
            return
        is_reply = remains.has_version or (remains.has_outcome and remains.id is not None)
        future = self._claim(remains.id, remains.has_outcome) if is_reply else None
        if future is not None:
            future.set_exception(UnreadableReply(reason))

    def _settle(self, id: object, message: Json) -> None:
        fault, has_version = message.get("error"), "jsonrpc" in message
        if not (has_version or "result" in message or (isinstance(fault, dict) and "code" in fault)):
            self._handler.on_protocol_violation("an object that is no JSON-RPC message")
            return
        future = self._claim(id, has_version and "error" in message)
        if future is None:
            self._handler.on_protocol_violation(f"a reply to no open request (id {str(id)[:40]})")
        elif fault or (fault is not None and "result" not in message):
            future.set_result({"error": _error_object(fault)})
        elif "result" in message:
            future.set_result({"result": message["result"]})
        else:
            future.set_result({})

    def _is_open(self, id: object) -> bool:
        """Whether it is the id of an open request. Some servers repeat its method in the reply."""
        return request_number(id) in self._pending

    def _claim(self, id: object, may_lack_id: bool) -> "asyncio.Future[Json] | None":
        """The future of the open request that a reply with this id settles."""
        number = request_number(id)
        if may_lack_id and id in NO_ID and not isinstance(id, bool):
            number = self._only_open_request()
        if number is None:
            return None
        self._given_up.pop(number, None)
        if self._notified_after is not None and number > self._notified_after:
            self._notified_after = None
        pending = self._pending.get(number)
        return pending.future if pending is not None and not pending.future.done() else None

    def _only_open_request(self) -> int | None:
        """The one request that a reply without an id can be the answer to.

        None if another may be meant: one that was given up a while ago, or a notification, which some servers answer.
        """
        now = asyncio.get_running_loop().time()
        self._given_up = {id: since for id, since in self._given_up.items() if now - since < GIVEN_UP_SECONDS}
        if len(self._pending) != 1 or self._given_up or self._notified_after is not None:
            return None
        return next(iter(self._pending))

    def _on_notification(self, method: str, params: Json) -> None:
        if method == PROGRESS:
            number = request_number(params.get("progressToken"))
            pending = self._pending.get(number) if number is not None else None
            if pending is not None and pending.progress is not None:
                pending.progress({key: value for key, value in params.items() if key != "progressToken"})
            return
        self._handler.on_notification(method, params)

    def lose_one(self, id: Id, reason: str, *, sent: bool = True) -> None:
        """The reply to one request will not come. It raises PeerLost, or NotSent, unless the reply has come already."""
        pending = self._pending.get(number) if (number := request_number(id)) is not None else None
        if pending is None:
            return
        pending.is_unsent = not sent
        if not pending.future.done():
            pending.future.set_exception(PeerLost(reason) if sent else NotSent(reason))

    def fail_one(self, id: Id, reason: str) -> None:
        """What came as the reply to one request is none. It raises UnreadableReply, unless there was another reply."""
        pending = self._pending.get(number) if (number := request_number(id)) is not None else None
        if pending is not None and not pending.future.done():
            pending.future.set_exception(UnreadableReply(reason))

    def lose(self, reason: str) -> None:
        """The other side is gone: every open request raises PeerLost, and nothing is written from now on."""
        self._lost = reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for pending in list(self._pending.values()):
            if not pending.future.done():
                pending.future.set_exception(PeerLost(reason))


def is_id(value: object) -> TypeGuard[Id]:
    """Whether a value can be the id of a request."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _error_object(fault: object) -> Json:
    """The error of a reply as clients take it: with a number as `code` and a text as `message`."""
    members = fault if isinstance(fault, dict) else {"message": fault}
    code, message = members.get("code"), members.get("message")
    if type(code) is int and isinstance(message, str):
        return members
    if type(code) is not int:
        code = number if (number := request_number(code)) is not None else INTERNAL_ERROR
    text = message if isinstance(message, str) else "no message" if message is None else dumps(message).decode()
    return {**members, "code": code, "message": text}


def error(code: int, message: str) -> Json:
    """The `error` member of a reply."""
    return {"error": {"code": code, "message": message}}
