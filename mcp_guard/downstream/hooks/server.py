"""The socket that the hooks of coding agents ask on: one connection for each event.

The kernel says which user asks (`SO_PEERCRED`, unix(7)), and the operator has assigned an agent to that user. A session
of the coding agent is one instance, from its first event to its last.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from mcp_guard.core.errors import GuardError, IdentityError
from mcp_guard.core.host_tools import Workspace
from mcp_guard.core.model import Instance
from mcp_guard.core.visible_text import say, visible_line
from mcp_guard.downstream.hooks.dialects import (
    NOTHING,
    Dialect,
    Event,
    HookAnswer,
    HookKind,
    UnknownPayload,
    find_dialect,
)
from mcp_guard.downstream.hooks.session import HookSession, HookTransport
from mcp_guard.downstream.hooks.workspace import digest, expand, follow_links, git_runs_programs, search
from mcp_guard.downstream.isolation import run_alone
from mcp_guard.downstream.limits import LimitReached, ReceivedBytes, SessionShares
from mcp_guard.downstream.loop_share import TURN_BYTES, LoopShare, Sender
from mcp_guard.downstream.session import Session
from mcp_guard.downstream.transport import DownstreamTransport
from mcp_guard.downstream.unix import GRACE_SECONDS, UnixPeer, agent_of, peer_of

MAGIC, VERSION = b"mcp-guard-hook", b"1"
HEADER_SECONDS = 10.0
MAX_HEADER = 16 * 1024
MAX_SECONDS = 86400.0
LOOK_SECONDS = 60.0
"""How often sessions are looked at that may be idle."""
DENIED = 2
"""The exit code by which every known agent takes a call as denied."""


@dataclass(frozen=True, slots=True)
class HookRequest:
    """What a hook's process sends: which agent asks, how long it waits, its project, and its payload."""

    dialect: Dialect
    seconds: float
    project: str
    payload: bytes


SessionKey = tuple[int, str, str]
"""The user, the coding agent, and its name of the session."""


@dataclass(frozen=True, slots=True)
class Asking:
    """One event, and who asks: the user's process, and the agent that it calls as."""

    request: HookRequest
    event: Event
    peer: UnixPeer
    agent: str

    @property
    def key(self) -> SessionKey:
        return self.peer.uid, self.request.dialect.id, self.event.session


class HookServer:
    """`users` maps uids and user names to agents. `issue` makes an instance of an agent, for a user's request, and
    records it (raises GuardError); `end` records that it has ended. `make_session` makes a session over the host."""

    def __init__(
        self,
        listener: socket.socket,
        *,
        users: Mapping[str, str],
        issue: Callable[[str, UnixPeer, str], Awaitable[Instance]],
        end: Callable[[Instance], Awaitable[None]],
        is_over: Callable[[Instance], bool],
        make_session: Callable[[Instance, DownstreamTransport], Session],
        is_upstream: Callable[[str], bool],
        note: Callable[[str], None],
        message_bytes: int,
        max_values: int,
        shares: SessionShares,
        received: ReceivedBytes,
        loop_share: LoopShare,
        skips_prompts: bool,
        idle_seconds: float,
        stop_seconds: float,
    ) -> None:
        self._listener = listener
        self._users = users
        self._issue = issue
        self._end = end
        self._is_over = is_over
        self._make_session = make_session
        self._is_upstream = is_upstream
        self._note = note
        self._message_bytes, self._max_values = message_bytes, max_values
        self._shares, self._received, self._loop_share = shares, received, loop_share
        self._skips_prompts = skips_prompts
        self._idle_seconds, self._stop_seconds = idle_seconds, stop_seconds
        self._is_stopping = False
        self._sessions: dict[SessionKey, HookSession] = {}
        self._beginning: dict[SessionKey, asyncio.Lock] = {}
        self._tasks = asyncio.TaskGroup()

    async def serve(self, stopping: asyncio.Event) -> None:
        """Answer hooks until `stopping` is set, then end their sessions."""
        path = self._listener.getsockname()
        async with self._tasks:
            server = await asyncio.start_unix_server(self._on_connection, sock=self._listener, limit=MAX_HEADER)
            idle = self._tasks.create_task(self._end_idle())
            await stopping.wait()
            self._is_stopping = True
            idle.cancel()
            server.close()
            for session in self._sessions.values():
                session.end("the guard was stopped")
        os.unlink(path)

    # Connections

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._answer(reader, writer)
            head = f"{answer.exit} {len(answer.stdout)} {len(answer.stderr)}\n".encode()
            writer.write(head + answer.stdout + answer.stderr)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return  # the hook's process has gone; its agent takes that as denied
        except Exception as defect:  # the edge: it must cost this event and none after it
            self._note(say("internal error: a hook was not answered: {}", visible_line(repr(defect)[:300])))
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> HookAnswer:
        try:
            peer = peer_of(writer.get_extra_info("socket"))
            agent = agent_of(peer, self._users)
            async with asyncio.timeout(HEADER_SECONDS):
                request = await self._read(reader, agent)
        except (UnknownPayload, LimitReached) as refused:
            return _refused(str(refused))
        except GuardError as refused:
            self._note(say("refused a hook: {}", visible_line(refused.full)))
            return _refused(refused.message)
        await self._loop_share.turn(Sender(agent), TURN_BYTES)
        left = asyncio.Event()
        watch = asyncio.ensure_future(_watch(reader, left))
        try:
            return await self._on_event(request, peer, agent, left)
        finally:
            watch.cancel()

    async def _read(self, reader: asyncio.StreamReader, agent: str) -> HookRequest:
        """Raises: UnknownPayload, LimitReached, OSError, IncompleteReadError."""
        try:
            words = (await reader.readuntil(b"\n")).split()
        except asyncio.LimitOverrunError:
            raise UnknownPayload("unknown protocol between hook and guard") from None
        if words[:1] != [MAGIC] or words[1:2] != [VERSION] or len(words) != 6:
            theirs = " ".join(word.decode("ascii", "replace") for word in words[:2])[:80]
            ours = f"`{MAGIC.decode()} {VERSION.decode()}`"
            raise UnknownPayload(f"unknown protocol between hook and guard: `{theirs}`; this guard knows {ours}")
        dialect = find_dialect(words[2].decode("ascii", "replace"))
        try:
            seconds, size = float(words[3]), int(words[4])
            project = os.fsdecode(bytes.fromhex(words[5].decode("ascii").removeprefix("-")))
        except ValueError:
            raise UnknownPayload("unknown protocol between hook and guard: its first line cannot be read") from None
        if not 0 <= seconds <= MAX_SECONDS:
            raise UnknownPayload(f"the hook waits for {seconds:g} s; this guard knows 0 to {MAX_SECONDS:g}")
        if not 0 <= size <= self._message_bytes:
            raise UnknownPayload(f"the payload has {size} bytes; limits.request_bytes allows {self._message_bytes}")
        with self._received.receiving(agent) as charge:
            charge.set(size)
            return HookRequest(dialect, seconds, project, await reader.readexactly(size))

    # Events

    async def _on_event(self, request: HookRequest, peer: UnixPeer, agent: str, left: asyncio.Event) -> HookAnswer:
        dialect = request.dialect
        try:
            event = dialect.read(request.payload, self._max_values)
        except UnknownPayload as unknown:
            self._note(say("denied a hook of {}: {}", dialect.title, visible_line(str(unknown))))
            return _refused(f"{unknown}. Update mcp-guard or {dialect.title}, then: mcp-guard doctor")
        asking = Asking(request, event, peer, agent)
        if event.kind is HookKind.BEFORE:
            try:
                session = await self._session(asking)
            except (GuardError, LimitReached) as refused:
                text = refused.message if isinstance(refused, GuardError) else str(refused)
                return dialect.deny(event.name, f"denied by mcp-guard: {text}. Nothing was run.")
            return await session.decide(event, request.seconds, left)
        if event.kind is HookKind.PROMPT:
            await self._warm_up(asking)
        elif event.kind in (HookKind.AFTER, HookKind.FAILED):
            await self._report(asking)
        elif (known := self._sessions.get(asking.key)) is not None:
            known.used = asyncio.get_running_loop().time()
            if event.kind is HookKind.STOP:
                known.lose_calls("the agent's turn ended", event.part)
            elif event.kind is HookKind.END:
                known.end("the agent's session ended")
        return NOTHING

    async def _report(self, asking: "Asking") -> None:
        known = self._sessions.get(asking.key)
        if known is None or not await known.report(asking.event):
            title, tool = asking.request.dialect.title, visible_line(asking.event.tool[:80])
            self._note(say("{}: `{}` ran, but this guard was not asked before", title, tool))

    async def _warm_up(self, asking: "Asking") -> None:
        """Begin the session with what the user has asked for. What prevents it is said when a tool is to run."""
        try:
            await self._session(asking)
        except (GuardError, LimitReached) as refused:
            text = refused.full if isinstance(refused, GuardError) else str(refused)
            self._note(say("{}: no session could begin: {}", asking.request.dialect.title, visible_line(text)))

    async def _session(self, asking: "Asking") -> HookSession:
        """The session of this name, which begins with its first event. Raises: GuardError, LimitReached."""
        key = asking.key
        lock = self._beginning.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                session = self._sessions.get(key)
                if session is not None and self._is_over(session.session.instance):
                    session.end("the credential of its session expired")
                    session = None
                if session is None or session.is_closed or session.ended.is_set():
                    session = await self._begin(asking)
                session.used = asyncio.get_running_loop().time()
                return session
        finally:
            if not lock.locked() and self._beginning.get(key) is lock:
                del self._beginning[key]

    async def _begin(self, asking: "Asking") -> HookSession:
        agent, key = asking.agent, asking.key
        if self._is_stopping:
            raise IdentityError("the guard is being stopped", "mcp-guard serve")
        with self._shares.reserving(agent):
            instance = await self._issue(agent, asking.peer, asking.event.prompt)
        transport = HookTransport(lambda text: self._note(say("{}: {}", instance.id, visible_line(text))))
        try:
            session = self._open_session(asking, instance, transport)
        except Exception:
            await self._end(instance)
            raise
        self._sessions[key] = session
        self._shares.add(instance)
        self._tasks.create_task(run_alone(self._run(key, session), transport.note))
        return session

    def _open_session(self, asking: "Asking", instance: Instance, transport: HookTransport) -> HookSession:
        request = asking.request
        root = request.project or asking.event.folder

        def place(folder: str) -> Workspace:
            return Workspace(root, folder, follow_links, git_runs_programs, expand, os.path.exists, search, digest)

        return HookSession(
            self._make_session(instance, transport),
            request.dialect,
            place,
            is_upstream=self._is_upstream,
            skips_prompts=self._skips_prompts,
        )

    async def _run(self, key: SessionKey, session: HookSession) -> None:
        instance = session.session.instance
        try:
            await session.run(self._stop_seconds if self._is_stopping else GRACE_SECONDS)
        finally:
            if self._sessions.get(key) is session:
                del self._sessions[key]
            self._shares.remove(instance)
            await self._end(instance)

    async def _end_idle(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = asyncio.get_running_loop().time()
            for session in self._sessions.values():
                if now - session.used > self._idle_seconds:
                    session.end("the session was idle for too long")


async def _watch(reader: asyncio.StreamReader, left: asyncio.Event) -> None:
    """Set `left` when the hook's process has closed its end."""
    try:
        while await reader.read(1024):
            pass
    except OSError:
        pass
    left.set()


def _refused(reason: str) -> HookAnswer:
    """For an event of which the guard cannot even tell what it is: denied, whatever agent asks."""
    return HookAnswer(DENIED, stderr=f"mcp-guard: {reason}\n".encode())
