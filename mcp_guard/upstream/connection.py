"""The connection to one upstream: handshake, listing, and restarts with back-off. It decides nothing about calls."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import orjson

from mcp_guard.core import exact_json
from mcp_guard.core.canonical import MAX_MESSAGE_DEPTH, is_too_deep
from mcp_guard.core.message_remains import MessageRemains, OversizedLine, read_remains
from mcp_guard.core.model import Json
from mcp_guard.core.note_limiter import MAX_NOTE_LENGTH, NoteLimiter
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel
from mcp_guard.protocol.batches import batch_of
from mcp_guard.protocol.jsonrpc import Id, Peer, PeerLost, error, request_id
from mcp_guard.protocol.methods import (
    INITIALIZED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    LIST_TOOLS,
    LISTS,
    LISTS_CHANGED,
    PING,
    TOOLS_CHANGED,
)
from mcp_guard.upstream.arrivals import Arrivals
from mcp_guard.upstream.budget import MESSAGE_COST, Holding, UpstreamBudget
from mcp_guard.upstream.handshake import Handshake, HandshakeFailed
from mcp_guard.upstream.listener import NoListener, UpstreamListener
from mcp_guard.upstream.message_parts import LineJoiner, remains_of, split_messages
from mcp_guard.upstream.notifications import NotificationCoalescer
from mcp_guard.upstream.pace import ReadingPace, WritingPace
from mcp_guard.upstream.renewal import SessionRenewal
from mcp_guard.upstream.shared_listing import SharedListing
from mcp_guard.upstream.status_file import UpstreamStatus
from mcp_guard.upstream.transport import RoundCount, ServerProtocol, Upstream, start_in_thread

if TYPE_CHECKING:
    from mcp_guard.upstream.last_words import LastWords

BACK_OFF_SECONDS = (0.5, 1, 2, 5, 10, 30)
MAX_OPEN_REQUESTS = 32
"""How many questions of an upstream the client can be asked at the same time."""
MAX_UNREAD_REPLY_BYTES = 1024 * 1024
"""Replies written to an upstream that does not read; more of them are dropped."""
MAX_UNREAD_BYTES = 16 * 1024 * 1024
"""Bytes written to an upstream that does not read; more of them end the connection."""
MAX_VALUES = 1_000_000
"""Arrays and objects in one message: an empty one takes two bytes in JSON, and forty times as much in memory."""
MIN_DENSE_BYTES = 2 * MAX_VALUES


class Connection:
    """The state of one upstream. `may_end_unread`: whether it may be ended because it does not read what it is sent."""

    def __init__(
        self, upstream: Upstream, on_status: Callable[[], None], may_end_unread: Callable[[], bool] = lambda: True
    ) -> None:
        self.name = upstream.name
        self.call_seconds = upstream.call_seconds
        self.initialize_result: Json | None = None
        """Of the latest successful handshake."""
        self.handshake_tried = asyncio.Event()
        """Set once the first handshake has succeeded or failed."""
        self.listing_tried = asyncio.Event()
        """Set once the first listing has succeeded or failed."""
        self.protocol: ServerProtocol | None = None
        """None after a handshake: then messages are passed on as they are."""
        self.status = UpstreamStatus(False, time.time(), "is starting")
        self.last_words: LastWords | None = None
        """Of its latest end, for the operator."""
        self._transport = upstream.transport
        self.has_own_process = upstream.transport.is_process
        self._scrubber = upstream.scrubber
        self._max_message_bytes = upstream.max_message_bytes
        self._on_status = on_status
        self._may_end_unread = may_end_unread
        self.budget = UpstreamBudget(upstream.max_message_bytes)
        self.listings = {method: SharedListing(method, self, upstream.max_listing_bytes) for method in LISTS}
        """What it lists, by method."""
        self._joiner = LineJoiner(self._max_message_bytes)
        self._frame_bytes = 0
        """The size of the message that is being handled."""
        self._open_requests: dict[Id, Holding] = {}
        """What the upstream has asked the client and not been answered yet."""
        self._pace = ReadingPace(
            self.budget,
            self._transport.throttle,
            lambda: self.note("it is read slowly, because it sends more than it was asked for"),
        )
        self._arrivals = Arrivals(upstream.scrubber, self._pace.set_searching, self._on_work)
        self._writing_pace = WritingPace(self._on_pressure)
        self._notifications = NotificationCoalescer(self._forward, self.budget)
        self._notes = NoteLimiter()
        self._listener: UpstreamListener = NoListener()
        self._down: str | None = "is starting"
        self._down_in_full = ""
        """Why it cannot be used now, and the same for the operator where agents do not read all of it."""
        self._closed, self._interrupted = asyncio.Event(), asyncio.Event()
        """Set when the transport has closed, or the upstream has ended its session."""
        self.renewal = SessionRenewal()
        self.peer = Peer(self._write, self, self._transport.withdraw)

    def why_unavailable(self) -> str | None:
        return None if self._down is None else f"upstream `{self.name}` {self._down}"

    @property
    def tools(self) -> list[Json] | None:
        """The latest listing of tools."""
        return self.listings[LIST_TOOLS].items

    @property
    def is_starting(self) -> bool:
        """Whether its first listing is still to come, or the first in a new session after the last one has ended."""
        return self.renewal.is_under_way or not self.listing_tried.is_set()

    @property
    def reports_tool_changes(self) -> bool:
        return self.reports_changes("tools") if self.protocol is None else self.protocol.reports_tool_changes

    def reports_changes(self, capability: str) -> bool:
        """Whether it says that it reports changes of the lists that belong to this capability."""
        offered = (self.initialize_result or {}).get("capabilities", {}).get(capability)
        return isinstance(offered, dict) and offered.get("listChanged") is True

    def has_capability(self, capability: str) -> bool:
        return self._down is None and capability in (self.initialize_result or {}).get("capabilities", {})

    async def supervise(
        self,
        initialize_params: Json,
        listener: UpstreamListener,
        *,
        prefer_stateless: bool,
        client_is_ready: asyncio.Event,
        on_listed: Callable[[], Awaitable[None]],
    ) -> None:
        """Keep the upstream running until cancelled: handshake, listing, and both again after each exit."""
        self._listener = listener
        handshake = Handshake(initialize_params, prefer_stateless, on_notification=self._notify, note=self.note)
        failures = 0
        if self._transport.starts_slowly:
            await start_in_thread(self._transport)
        for name in self._transport.unscrubbed_secrets:
            listener.note(
                f"upstream `{self.name}`: the secret `{name}` is too short to be scrubbed from what the upstream sends"
            )
        while True:
            is_open = await self._open_transport() and await self._agree(handshake)
            if is_open and await self._serve_sessions(handshake, client_is_ready, on_listed):
                failures = 0
            why = self._down_in_full or self._down or "closed"
            last_words = await self._transport.last_words(why, at_start=not is_open)
            self.renewal.fail()
            self.handshake_tried.set()
            if not self.listing_tried.is_set():
                self.listing_tried.set()
                await on_listed()
            delay, failures = BACK_OFF_SECONDS[min(failures, len(BACK_OFF_SECONDS) - 1)], failures + 1
            since = time.time() if self.status.is_up else self.status.since
            self._set_status(UpstreamStatus(False, since, last_words.summary, time.time() + delay))
            pause = f"restarting in {delay:g} s"
            self._down = f"{self._down}; {pause}"  # agents read this: it names no file of the guard
            listener.note(f"upstream `{self.name}` {why}; {pause} (see {self._transport.diagnostics})")
            if last_words != self.last_words and (report := last_words.report(self.name)):
                listener.note(report)
            self.last_words = last_words
            await self._transport.close()
            await self.renewal.rest(delay)
            if self._transport.starts_slowly:
                await start_in_thread(self._transport)
            else:
                self._transport.start()

    async def _serve_sessions(
        self, handshake: Handshake, client_is_ready: asyncio.Event, on_listed: Callable[[], Awaitable[None]]
    ) -> bool:
        """List the tools in each session over this transport, until it closes. Returns whether that ever succeeded."""
        was_listed, is_open = False, True
        while is_open:
            for listing in self.listings.values():
                listing.is_stale = True
            self._set_status(UpstreamStatus(True, time.time()))
            self.handshake_tried.set()
            await client_is_ready.wait()
            await self._announce()
            is_listed = await self.listings[LIST_TOOLS].refresh()
            self.listing_tried.set()
            await on_listed()
            self.renewal.end()
            was_listed |= is_listed or await self._retry_listing(on_listed)
            await self._interrupted.wait()
            is_open = await self._renew(handshake)
        return was_listed

    async def _retry_listing(self, on_listed: Callable[[], Awaitable[None]]) -> bool:
        """Ask for the tools until they have been listed. False if the session ended before."""
        for delay in chain(BACK_OFF_SECONDS, repeat(BACK_OFF_SECONDS[-1])):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._interrupted.wait(), delay)
            if self._interrupted.is_set():
                return False
            if await self.listings[LIST_TOOLS].refresh():
                await on_listed()
                return True
        return False

    def _set_status(self, status: UpstreamStatus) -> None:
        self.status = status
        self._on_status()

    async def _agree(self, handshake: Handshake) -> bool:
        """Do the handshake. False if it failed; `why_unavailable` has the reason."""
        try:
            agreement = await handshake.perform(self.peer)
        except HandshakeFailed as failure:
            self._down = str(failure)
        except PeerLost as lost:
            if not self._closed.is_set():  # else `on_closed` has the reason
                self._down = f"did not complete the handshake: {lost}"
        else:
            self.initialize_result, self.protocol, self._down = agreement.result, agreement.protocol, None
            return True
        return False

    async def _renew(self, handshake: Handshake) -> bool:
        """Start a new session over the same transport, if the upstream has only ended the last one.

        Requests that it is still answering go on. Without a listing in the last session, there is a pause first.
        """
        if self._closed.is_set():
            return False
        self._interrupted.clear()
        await self.renewal.pause()
        if not self.listings[LIST_TOOLS].failure and await self._agree(handshake):
            return True
        if not self._closed.is_set():
            self._end(self._down or "closed")
        return False

    async def wait_for_renewal(self) -> bool:
        """If a new session is being started, wait for it, but not for long. Returns whether there is one now."""
        return await self.renewal.wait() and self._down is None

    async def _open_transport(self) -> bool:
        self._arrivals.drop()
        for state in (self._closed, self._interrupted, self._open_requests):
            state.clear()
        self._joiner = LineJoiner(self._max_message_bytes)
        self.peer, self.protocol, self._down_in_full = Peer(self._write, self, self._transport.withdraw), None, ""
        self._notifications = NotificationCoalescer(self._forward, self.budget)
        self._writing_pace.set_slow(False)
        try:
            is_open = await self._transport.open(self, self._writing_pace.set_slow, self._max_message_bytes)
        except Exception as defect:  # the edge: a defect must cost this upstream and no other
            self.on_closed(f"caused an internal error: {type(defect).__name__}: {defect}")
            return False
        self._pace.apply()
        return is_open

    async def _announce(self) -> None:
        """Tell the upstream that the client is ready."""
        if self.protocol is None:
            self.peer.notify(INITIALIZED)
        else:
            await self.protocol.listen()

    async def request(self, method: str, params: Json, channel: ClientChannel = SILENT_CHANNEL) -> Json:
        """Send any request but a tool call; returns the `result` or `error` member of its reply.

        Raises: PeerLost, UpstreamError, InputUnavailable.
        """
        if self.protocol is not None:
            return await self.protocol.request(method, params, channel)
        return await self.peer.request(method, params, channel.progress)

    def call(self, method: str, params: Json, channel: ClientChannel, rounds: RoundCount) -> Coroutine[Any, Any, Json]:
        """Send a tool call, or another request that was decided; of an upstream that needs input first, in several
        rounds (`ServerProtocol.call`)."""
        if self.protocol is None:
            return self.peer.request(method, params, channel.progress, self.call_seconds)
        return self.protocol.call(method, params, channel, self.call_seconds, rounds)

    async def refresh_tools(self) -> None:
        """Read the tool listing again, unless it includes every change that was reported."""
        listing = self.listings[LIST_TOOLS]
        if listing.is_known and self.reports_tool_changes and not listing.is_stale:
            await listing.settle()
        else:
            await listing.refresh()

    # Reading and writing at a bearable pace

    @property
    def is_read_slowly(self) -> bool:
        """Whether the upstream reads more slowly than it is written to."""
        return self._writing_pace.is_slow

    def throttle(self, slow: bool) -> None:
        """Stop reading while the client is slow, or resume."""
        self._pace.set_client_slow(slow)

    def charge(self, cost: int) -> None:
        self._pace.charge(cost)

    def _on_pressure(self, slow: bool) -> None:
        self._listener.on_pressure(slow)

    def _write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        if self._writing_pace.may_write(len(frame), MAX_UNREAD_REPLY_BYTES if last else MAX_UNREAD_BYTES):
            self._transport.write(frame, about, last)
        elif last:
            self.on_unread("it does not read the replies to its own requests")
        else:
            reason = f"did not read {self._writing_pace.unread_bytes} bytes of its input"
            if (request := request_id(frame)) is not None:
                self.on_request_not_sent(request, reason)
            if self._may_end_unread():
                self.on_closed(reason)

    def on_unread(self, reason: str) -> None:
        self.note(f"a reply was dropped: {reason}")

    def note(self, text: str, separator: str = ": ") -> None:
        """Print a note for the operator, unless there were too many about this upstream."""
        if (limited := self._notes.limit(text, asyncio.get_running_loop().time())) is not None:
            self._listener.note(f"upstream `{self.name}`{separator}{limited}")

    # What the upstream sends (implements `transport.MessageHandler`)

    def on_message(self, frame: bytes | OversizedLine | None) -> None:
        if not isinstance(frame, bytes):
            self._arrivals.then(partial(self._on_scrubbed, frame or OversizedLine(b"", b""), 0))
            return
        # INVARIANT: nothing looks at the frame before its secrets are scrubbed (promise P10)
        self._arrivals.take(frame, partial(self._on_scrubbed, size=len(frame)))

    def _on_scrubbed(self, frame: bytes | OversizedLine, size: int) -> None:
        for line in self._joiner.join(frame) if self.has_own_process else (frame,):  # over HTTP a message is whole
            self._on_line(line, size)

    def _on_line(self, frame: bytes | OversizedLine, size: int) -> None:
        if isinstance(frame, OversizedLine):
            self._frame_bytes = 0
            self._on_unreadable(read_remains(frame), f"over {self._max_message_bytes} bytes (limits.message_bytes)")
            return
        self._frame_bytes = size = max(size, len(frame))
        if size > MIN_DENSE_BYTES and frame.count(b"[") + frame.count(b"{") > MAX_VALUES:
            self._on_unreadable(read_remains(frame), f"more than {MAX_VALUES} arrays and objects")
            return
        try:
            self._receive(frame, exact_json.loads(frame))
        except orjson.JSONDecodeError as fault:
            self._on_odd_line(frame, fault.msg)

    def _receive(self, frame: bytes, message: object) -> None:
        if is_too_deep(frame, message):
            self._on_unreadable(remains_of(message), f"more than {MAX_MESSAGE_DEPTH} levels")
            return
        if isinstance(message, dict) and "method" in message:
            self.charge(MESSAGE_COST + self._frame_bytes)
        try:
            for part in batch_of(message):
                self.peer.receive(part)
        except Exception as defect:  # the edge: a defect must cost this message and none after it
            self.on_protocol_violation(f"internal error: dropped a message: {type(defect).__name__}: {defect}")

    def _on_odd_line(self, frame: bytes, fault: str) -> None:
        """A line that is not one JSON text: some servers write marks before it, or several; else it is unreadable."""
        messages, rest = split_messages(frame)
        for text, message in messages:
            self._receive(text, message)
        if rest:
            self._on_unreadable(read_remains(rest), f"not JSON ({fault})", rest)

    def _on_unreadable(self, remains: MessageRemains | None, reason: str, frame: bytes = b"") -> None:
        """Report the message; if it is a reply, its request fails at once."""
        self.on_protocol_violation(f"cannot read a message: {reason}{f': {frame[:80]!r}' if frame else ''}")
        if remains is not None:
            self.peer.receive_unreadable(remains, f"upstream `{self.name}` sent a reply that cannot be read: {reason}")

    def _on_work(self, seconds: float) -> None:
        self._listener.on_work(seconds)

    def on_request_lost(self, request: Id, reason: str) -> None:
        text = f"upstream `{self.name}`: {self._scrubber.clean_text(reason)[:MAX_NOTE_LENGTH]}"
        self._arrivals.then(lambda: self.peer.lose_one(request, text))

    def on_request_not_sent(self, request: Id, reason: str) -> None:
        text = f"upstream `{self.name}`: {self._scrubber.clean_text(reason)[:MAX_NOTE_LENGTH]}"
        self._arrivals.then(lambda: self.peer.lose_one(request, text, sent=False))

    def on_request_failed(self, request: Id, what: str) -> None:
        text = f"upstream `{self.name}` answered with {self._scrubber.clean_text(what)[:MAX_NOTE_LENGTH]}"
        self._arrivals.then(lambda: self.peer.fail_one(request, text))

    def on_session_lost(self, reason: str) -> None:
        self._arrivals.then(partial(self._lose_session, reason))

    def _lose_session(self, reason: str) -> None:
        if self._down is None:
            self._down = reason
            self.renewal.begin()
        self._interrupted.set()

    def on_reachable(self) -> None:
        if self._down is None and not self.status.is_up:
            self._set_status(UpstreamStatus(True, time.time()))

    def on_unreachable(self, reason: str) -> None:
        # INVARIANT: the status alone changes, so calls are still tried: the upstream may be back
        if self._down is None and self.status.is_up:
            self._set_status(UpstreamStatus(False, time.time(), self._scrubber.clean_text(reason)[:MAX_NOTE_LENGTH]))
            self.note(self.status.why, " ")

    def input_schema(self, tool: str) -> Json | None:
        schema = next((item.get("inputSchema") for item in self.tools or () if item.get("name") == tool), None)
        return schema if isinstance(schema, dict) else None

    def on_closed(self, reason: str, full: str = "") -> None:
        self._arrivals.then(partial(self._end, reason, full))

    def _end(self, reason: str, full: str = "") -> None:
        self._down = reason = self._scrubber.clean_text(reason)[:MAX_NOTE_LENGTH]
        self._down_in_full = self._scrubber.clean_text(full)[:MAX_NOTE_LENGTH]
        self._close_protocol()
        for id in list(self._open_requests):
            self.release_request(id)
        self._lose(f"upstream `{self.name}` {reason}")
        self._closed.set()
        self._interrupted.set()

    def _lose(self, reason: str) -> None:
        """No reply comes any more. What has not begun to leave never will."""
        for request in self._transport.take_unsent():
            self.peer.lose_one(request, reason, sent=False)
        self.peer.lose(reason)

    async def close(self) -> None:
        """End it, with every process that it started."""
        self._close_protocol()
        if self._down is None:
            self._down = "was stopped"
            self._lose(f"upstream `{self.name}` was stopped")
        self._arrivals.drop()
        await self._transport.close()

    def _close_protocol(self) -> None:
        self._notifications.close()
        if self.protocol is not None:
            self.protocol.close()

    def kill(self) -> None:
        self._transport.kill()

    def on_request(self, id: Id, method: str, params: Json) -> None:
        if self.protocol is not None:
            self.protocol.on_request(id, method)
        elif method == PING:
            self.peer.reply(id, {"result": {}})
        elif id in self._open_requests:
            self.peer.reply(id, error(INVALID_REQUEST, "a request with this id is open already"))
        elif len(self._open_requests) >= MAX_OPEN_REQUESTS or not (room := self.budget.hold()).resize(
            self._frame_bytes
        ):
            self.peer.reply(id, error(INTERNAL_ERROR, "too many requests to the client are open"))
        else:
            self._open_requests[id] = room
            self._listener.on_server_request(self.name, id, method, params)

    def release_request(self, id: Id) -> None:
        """A request of the upstream was answered or cancelled."""
        if (room := self._open_requests.pop(id, None)) is not None:
            room.resize(0)

    def on_notification(self, method: str, params: Json) -> None:
        if self.protocol is not None:
            self.protocol.on_notification(method, params)
        else:
            self._notify(method, params)

    def _notify(self, method: str, params: Json) -> None:
        for list_method in LISTS_CHANGED.get(method, ()):
            self.listings[list_method].is_stale = True
        self._notifications.receive(method, params)

    def _forward(self, method: str, params: Json) -> None:
        if method == TOOLS_CHANGED:
            self._listener.on_tools_changed(self.name)
        else:
            self._listener.on_server_notification(self.name, method, params)

    def on_protocol_violation(self, what: str) -> None:
        self.charge(MESSAGE_COST + self._frame_bytes)
        self.note(what)
