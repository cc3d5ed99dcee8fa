"""What a connection needs of a transport, and of an upstream's protocol when that is not the handshake's.

A transport moves frames between the guard and one upstream. `connection.py` decides what they mean.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol

from mcp_guard.core.errors import ConfigError, UpstreamError
from mcp_guard.core.message_remains import OversizedLine
from mcp_guard.core.model import Json
from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.ports import ClientChannel
from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.upstream.budget import UpstreamBudget

if TYPE_CHECKING:
    from mcp_guard.upstream.last_words import LastWords


class MessageHandler(Protocol):
    """Receives what arrives over a transport."""

    @property
    def budget(self) -> UpstreamBudget:
        """Whatever is kept before it is a whole message is held in this budget."""

    def charge(self, cost: int) -> None:
        """Pay for bytes and work that lead to no message; when too much was spent, the transport is throttled."""

    def on_unread(self, reason: str) -> None:
        """A reply to a request of the upstream was dropped."""

    def on_message(self, frame: bytes | OversizedLine | None) -> None:
        """A frame; of one over the size limit both ends, or None."""

    def on_request_lost(self, request: Id, reason: str) -> None:
        """The answer to this request will not come; the request may have run. Ignored if it was answered already."""

    def on_request_not_sent(self, request: Id, reason: str) -> None:
        """The upstream never got this request, and never will: nothing of it has left, or it was refused unread.

        INVARIANT: reported only of what provably cannot have run, because the call may be made again. In doubt it is
        `on_request_lost`. Ignored if the request was answered already.
        """

    def on_request_failed(self, request: Id, what: str) -> None:
        """What came as the answer to this request is no reply: `what` says what came. Ignored if it was answered."""

    def on_session_lost(self, reason: str) -> None:
        """The upstream has forgotten the session, and must be sent `initialize` again. Open requests go on."""

    def on_reachable(self) -> None:
        """The upstream has answered. For a transport that has no connection which stays open."""

    def on_unreachable(self, reason: str) -> None:
        """The upstream did not answer, but may the next time: requests are still sent."""

    def note(self, text: str) -> None:
        """Print a note for the operator, unless there were too many about this upstream."""

    def input_schema(self, tool: str) -> Json | None:
        """The input schema in the latest listing of the upstream's tool of this name."""

    def on_closed(self, reason: str, full: str = "") -> None:
        """The transport failed to open, or closed; no more frames arrive or leave. Agents read the `reason`. `full` is
        for the operator, and may also say where."""


class Transport(Protocol):
    """One way to reach an upstream. It can be started again after each end."""

    diagnostics: str
    """Where an operator should look for the cause of a failure."""
    unscrubbed_secrets: tuple[str, ...]
    """Names of its secrets that are too short to be scrubbed."""
    starts_slowly: bool
    """Whether `start` may take seconds because of where its secrets are; it then runs in a thread."""
    is_process: bool
    """Whether it starts a process, which knows only what it is sent itself."""

    def start(self) -> None:
        """Begin to reach the upstream without waiting for it. A failure is reported by `open`."""

    async def open(self, handler: MessageHandler, on_pressure: Callable[[bool], None], max_message_bytes: int) -> bool:
        """Make it ready for frames. False if that failed; then `handler.on_closed` was called with the reason."""

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        """Send a frame. Frames leave in the order of the calls. With `last`, it is a reply to the upstream."""

    def withdraw(self, request: Id) -> bool:
        """Never send this request, unless some of it has left. Returns whether nothing has: then nothing will."""

    def take_unsent(self) -> list[Id]:
        """Send no more; returns the ids of the requests of which the upstream has got nothing.

        INVARIANT: nothing more of them leaves after this.
        """

    def throttle(self, slow: bool) -> None:
        """Stop reading, or resume: the client is slow, or the upstream has spent its budget."""

    async def last_words(self, reason: str, *, at_start: bool) -> "LastWords":
        """Why it ended, for the operator: `reason`, and what it said itself. `at_start` if it ended before it could be
        used. To be called before `close`. Does not wait long."""

    async def close(self) -> None:
        """End it, with every process that it started."""

    def kill(self) -> None:
        """End it at once, without an event loop."""


def unusable(what: str, error: ConfigError) -> UpstreamError:
    """Why an upstream is not started or reached. What is wrong with a configuration names files and commands, of which
    agents do not hear."""
    message = f"{what}: what is configured for it cannot be used; the guard's log says why"
    return UpstreamError(message, error.hint, f"{what}: {error.full}")


async def start_in_thread(transport: Transport) -> None:
    """A cancellation waits for the thread, so that nothing is started after its caller has gone."""
    starting = asyncio.ensure_future(asyncio.to_thread(transport.start))
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await starting
        raise


class TokenState(Enum):
    """Of the token of a user: in use (or nothing that the user has to see to), there but not in use yet, missing."""

    USED = auto()
    ARRIVED = auto()
    MISSING = auto()


class UserToken(Protocol):
    """The token of the user who calls, for an upstream that is called as its users."""

    async def why_unauthorized(self) -> str | None:
        """Why the upstream cannot be called as the user now, in words for the agent, or None. A token that is due is
        renewed."""

    async def find(self) -> "TokenState":
        """Whether there is one."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One configured upstream: how it is reached, which secrets its messages may not contain, and its limits. If it is
    called as its users, `user_token` is that of the session's."""

    name: str
    transport: Transport
    scrubber: Scrubber
    max_message_bytes: int
    call_seconds: float
    max_listing_bytes: int = 2 * 1024 * 1024
    user_token: UserToken | None = None

    def start(self) -> None:
        """Start its process at once, so that it warms up meanwhile; not where reading its secrets may block."""
        if not self.transport.starts_slowly:
            self.transport.start()


class InputUnavailable(Exception):
    """The upstream needs input before it can finish, and the client cannot or will not give it."""


@dataclass(slots=True)
class RoundCount:
    """How often one request has been sent; counted even if the request fails."""

    sent: int = 0
    task: str = ""
    """The id of the task that the upstream has answered with, if it has."""


class ServerProtocol(Protocol):
    """How requests, subscriptions and notifications work with an upstream that does not use the handshake."""

    @property
    def reports_tool_changes(self) -> bool: ...

    async def request(self, method: str, params: Json | None, channel: ClientChannel) -> Json: ...

    def call(
        self, method: str, params: Json, channel: ClientChannel, seconds: float | None, rounds: RoundCount
    ) -> Coroutine[Any, Any, Json]: ...

    async def listen(self) -> None: ...

    def on_request(self, id: Id, method: str) -> None: ...

    def on_notification(self, method: str, params: Json) -> None: ...

    def close(self) -> None: ...
