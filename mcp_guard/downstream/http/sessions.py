"""The sessions of a guard that serves HTTP. Each belongs to one instance for good, and has upstreams of its own.

A client of the handshake revisions opens a session and names it by its id; stateless requests of one instance share a
session. A session ends when its client ends it, when it has been idle too long, or when its instance may not call any
more.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import anyio

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Instance
from mcp_guard.core.visible_text import say, visible_line
from mcp_guard.downstream.http.streams import HttpDownstreamTransport, KeptFrames
from mcp_guard.downstream.isolation import run_alone
from mcp_guard.downstream.limits import LimitReached, SessionShares
from mcp_guard.downstream.loop_share import Sender
from mcp_guard.downstream.session import Session
from mcp_guard.downstream.transport import DownstreamTransport

REAP_SECONDS = 5.0
GRACE_SECONDS = 2.0
"""How long running calls may take to finish when their session ends."""
OPEN_FILES = "ulimit -n"
SEND_AGAIN = (
    "it did not handle this request, which may be sent again when the guard is back. "
    "Calls that have their result are done: do not repeat them"
)
"""To a client of a guard that is shutting down."""


@dataclass(eq=False)
class HttpSession:
    """One open session. `used` is the event loop's time of its latest request."""

    id: str
    instance: Instance
    session: Session
    transport: HttpDownstreamTransport
    used: float
    open_responses: int = 0
    has_responded: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once its upstreams have ended, too."""

    @property
    def is_idle(self) -> bool:
        return self.has_responded and not self.open_responses and not self.session.is_busy


class HttpSessions:
    """All sessions of one process; `run` must be running.

    `make_session` makes a session over upstreams of its own, whose processes are started already. `why_barred` returns
    why an instance may not call, or None (raises LedgerError); `on_barred` is called when a session ends for that.
    `shares` are the sessions of this process, and `max_responses` is how many responses it can have open. Running calls
    may take `stop_seconds` to finish after `stop`.
    """

    def __init__(
        self,
        *,
        make_session: Callable[[Instance, DownstreamTransport], Session],
        why_barred: Callable[[Instance], Awaitable[str | None]],
        on_barred: Callable[[Instance], Awaitable[None]],
        note: Callable[[str], None],
        shares: SessionShares,
        max_responses: int,
        idle_seconds: float,
        stop_seconds: float,
    ) -> None:
        self._make_session = make_session
        self._why_barred = why_barred
        self._on_barred = on_barred
        self._note = note
        self._shares = shares
        self._max_responses = max_responses
        self._idle_seconds = idle_seconds
        self._stop_seconds = stop_seconds
        self._by_id: dict[str, HttpSession] = {}
        self._stateless: dict[str, HttpSession] = {}
        """The session of all stateless requests of an instance, by the instance's id."""
        self._kept: WeakValueDictionary[str, KeptFrames] = WeakValueDictionary()
        """What is kept for clients to read, by instance."""
        self._responses: dict[Sender, int] = {}
        """How many responses are open, by instance and, without an instance, by agent."""
        self._has_failed = False
        """Whether the ledger could not be asked about instances last time, so that the operator knows."""
        self._tasks = asyncio.TaskGroup()
        self._stopping = asyncio.Event()

    async def run(self, started: asyncio.Event) -> None:
        """Serve sessions until `stop`, then end them all. `started` is set once sessions can be opened."""
        async with self._tasks:
            started.set()
            while not self._stopping.is_set():
                await self._end_unused()
                with anyio.move_on_after(REAP_SECONDS):
                    await self._stopping.wait()
            for http_session in self.all():
                http_session.ended.set()

    def stop(self) -> None:
        self._stopping.set()

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def check_running(self) -> None:
        """Raises: LimitReached if the guard is being stopped."""
        if self.is_stopping:
            raise LimitReached("the guard is shutting down", is_own=False, advice=SEND_AGAIN)

    def all(self) -> list[HttpSession]:
        return [*self._by_id.values(), *self._stateless.values()]

    def find_session(self, id: str, instance: Instance) -> HttpSession | None:
        """The session of this id, if it is this instance's: to anybody else it does not exist (promise P7)."""
        http_session = self._by_id.get(id)
        if http_session is None or http_session.instance.id != instance.id:
            return None
        return self._mark_used(http_session)

    async def stateless_session(self, instance: Instance) -> HttpSession:
        """The session of all stateless requests of this instance. Raises: LimitReached."""
        http_session = self._stateless.get(instance.id)
        if http_session is None:
            await self._make_room(instance)
            http_session = self._stateless.get(instance.id)
        if http_session is None:
            http_session = self._stateless[instance.id] = self._open(instance, f"stateless:{instance.id}")
        await http_session.ready.wait()
        return self._mark_used(http_session)

    async def open(self, instance: Instance, *, is_single_stream: bool = False) -> HttpSession:
        """A new session; `is_single_stream` as in `HttpDownstreamTransport`. Raises: LimitReached."""
        await self._make_room(instance)
        id = secrets.token_urlsafe(24)
        http_session = self._by_id[id] = self._open(instance, id, is_single_stream)
        await http_session.ready.wait()
        return http_session

    def _mark_used(self, http_session: HttpSession) -> HttpSession:
        http_session.used = asyncio.get_running_loop().time()
        return http_session

    def _open(self, instance: Instance, id: str, is_single_stream: bool = False) -> HttpSession:
        self.check_running()
        self._shares.check(instance.agent.name, instance.id)
        transport = HttpDownstreamTransport(
            lambda text: self._note(say("{}: {}", instance.id, visible_line(text))),
            kept=self._kept.setdefault(instance.id, KeptFrames()),
            is_single_stream=is_single_stream,
        )
        began = time.thread_time()
        session = self._make_session(instance, transport)
        session.loop_share.charge(session.sender, time.thread_time() - began)
        self._shares.add(instance)
        http_session = HttpSession(id, instance, session, transport, asyncio.get_running_loop().time())
        self._tasks.create_task(run_alone(self._serve(http_session), session.note))
        return http_session

    async def _serve(self, http_session: HttpSession) -> None:
        session = http_session.session
        kept = self._kept[http_session.instance.id]
        try:
            with kept.throttling(session.upstreams.throttle):
                async with session.tasks:
                    http_session.ready.set()
                    await http_session.ended.wait()
                    await session.close(self._stop_seconds if self.is_stopping else GRACE_SECONDS)
        finally:
            http_session.transport.close()
            session.upstreams.kill()
            self._forget(http_session)
            self._shares.remove(http_session.instance)
            http_session.closed.set()

    async def _make_room(self, instance: Instance) -> None:
        """If the instance has all its sessions, end the idle one that it used least recently: many clients never end
        theirs. The others' sessions stay."""
        try:
            self._shares.check(instance.agent.name, instance.id)
        except LimitReached:
            idle = [other for other in self.all() if other.instance.id == instance.id and other.is_idle]
            if not idle:
                raise
            oldest = min(idle, key=lambda other: other.used)
            self.end(oldest)
            await oldest.closed.wait()

    # Responses that are open

    def check_responses(self, instance: Instance) -> None:
        """Whether one more response to this instance may be opened: its connections must leave some to the others.

        Raises: LimitReached.
        """
        if self._responses.get(Sender.of(instance), 0) >= max(1, self._max_responses // 4):
            raise LimitReached("this instance has too many open requests", OPEN_FILES)
        if self._responses.get(Sender(instance.agent.name), 0) >= max(1, self._max_responses // 2):
            raise LimitReached(f"agent `{instance.agent.name}` has too many open requests", OPEN_FILES)

    @contextmanager
    def counted(self, instance: Instance) -> Iterator[None]:
        """For as long as a request is received, answered and read."""
        keys = (Sender.of(instance), Sender(instance.agent.name))
        for key in keys:
            self._responses[key] = self._responses.get(key, 0) + 1
        try:
            yield
        finally:
            for key in keys:
                self._responses[key] -= 1
                if not self._responses[key]:
                    del self._responses[key]

    def begin_response(self, http_session: HttpSession) -> None:
        http_session.open_responses += 1

    def end_response(self, http_session: HttpSession) -> None:
        self._mark_used(http_session)
        http_session.open_responses -= 1
        http_session.has_responded = True

    # The end of a session

    def end(self, http_session: HttpSession) -> None:
        """End a session. From now on no request finds it."""
        self._forget(http_session)
        http_session.ended.set()

    def _forget(self, http_session: HttpSession) -> None:
        self._by_id.pop(http_session.id, None)
        if self._stateless.get(http_session.instance.id) is http_session:
            del self._stateless[http_session.instance.id]

    async def _end_unused(self) -> None:
        now, failed = asyncio.get_running_loop().time(), False
        for http_session in self.all():
            try:
                is_barred = await self._why_barred(http_session.instance) is not None
            except LedgerError as error:
                if not (failed or self._has_failed):
                    self._note(str(error))
                failed = True
                continue
            if is_barred or (not http_session.open_responses and now - http_session.used > self._idle_seconds):
                self.end(http_session)
            if is_barred:
                await self._on_barred(http_session.instance)
        self._has_failed = failed
