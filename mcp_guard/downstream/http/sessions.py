"""The sessions of a guard that serves HTTP. Each belongs to one instance for good, and has upstreams of its own.

A client of the handshake era opens a session and names it by its id; requests of the stateless era share one session
for each instance. A session ends when its client ends it, when nobody has used it for a while, or when its instance
may not call any more.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Instance
from mcp_guard.downstream.http.streams import HttpDownstreamTransport
from mcp_guard.downstream.session import DownstreamTransport, Session

REAP_SECONDS = 5.0
GRACE_SECONDS = 2.0


class SessionLimitReached(Exception):
    """There are as many sessions as there may be."""


@dataclass(eq=False)
class HttpSession:
    """One open session. `used` is the loop's time of its latest request, `busy` how many responses are open."""

    id: str
    instance: Instance
    session: Session
    front: HttpDownstreamTransport
    used: float
    busy: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Opening:
    """How a session is made, with upstreams of its own; `standing` says why an instance
    may not call, or None, and `over` is told of one that may not any more."""

    session: Callable[[Instance, DownstreamTransport], Session]
    standing: Callable[[Instance], str | None]
    over: Callable[[Instance], None]
    note: Callable[[str], None]


class HttpSessions:
    """All of one process. `run` must be running."""

    def __init__(self, opening: Opening, most: int, idle_seconds: float) -> None:
        self._opening = opening
        self._most = most
        self._idle = idle_seconds
        self._named: dict[str, HttpSession] = {}
        self._shared: dict[str, HttpSession] = {}
        self._tasks: asyncio.TaskGroup
        self._stopping = asyncio.Event()

    async def run(self, started: asyncio.Event) -> None:
        """Keep the sessions until `stop`; then end them all."""
        async with asyncio.TaskGroup() as self._tasks:
            started.set()
            while not self._stopping.is_set():
                self._reap()
                try:
                    async with asyncio.timeout(REAP_SECONDS):
                        await self._stopping.wait()
                except TimeoutError:
                    continue
            for live in self.all():
                live.ended.set()

    def stop(self) -> None:
        self._stopping.set()

    def all(self) -> list[HttpSession]:
        return [*self._named.values(), *self._shared.values()]

    def find(self, id: str, instance: Instance) -> HttpSession | None:
        """The session of this id, if it is this instance's: to anybody else it does not exist (promise P7)."""
        live = self._named.get(id)
        return self._use(live) if live is not None and live.instance.id == instance.id else None

    async def shared(self, instance: Instance) -> HttpSession:
        """The session of all stateless requests of this instance. Raises: SessionLimitReached."""
        live = self._shared.get(instance.id)
        if live is None:
            live = self._shared[instance.id] = self._open(instance, f"stateless:{instance.id}")
        await live.ready.wait()
        return self._use(live)

    async def open(self, instance: Instance) -> HttpSession:
        """A new session. Raises: SessionLimitReached."""
        id = secrets.token_urlsafe(24)
        live = self._named[id] = self._open(instance, id)
        await live.ready.wait()
        return live

    def _use(self, live: HttpSession) -> HttpSession:
        live.used = asyncio.get_running_loop().time()
        return live

    def _open(self, instance: Instance, id: str) -> HttpSession:
        if len(self._named) + len(self._shared) >= self._most or self._stopping.is_set():
            raise SessionLimitReached
        front = HttpDownstreamTransport(lambda text: self._opening.note(f"{instance.id}: {text}"))
        session = self._opening.session(instance, front)
        live = HttpSession(id, instance, session, front, asyncio.get_running_loop().time())
        self._tasks.create_task(self._keep(live))
        return live

    async def _keep(self, live: HttpSession) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                live.session.open(tasks)
                live.ready.set()
                await live.ended.wait()
                await live.session.close(GRACE_SECONDS)
                await live.session.upstreams.close()
        finally:
            live.front.close()
            live.session.upstreams.kill()
            self._named.pop(live.id, None)
            if self._shared.get(live.instance.id) is live:
                del self._shared[live.instance.id]

    def end(self, live: HttpSession) -> None:
        """No request finds it any more."""
        self._named.pop(live.id, None)
        if self._shared.get(live.instance.id) is live:
            del self._shared[live.instance.id]
        live.ended.set()

    def _reap(self) -> None:
        now = asyncio.get_running_loop().time()
        for live in self.all():
            try:
                gone = self._opening.standing(live.instance)
            except LedgerError as error:
                self._opening.note(str(error))
                continue
            if gone:
                self._opening.over(live.instance)
            if gone or (not live.busy and now - live.used > self._idle):
                self.end(live)
