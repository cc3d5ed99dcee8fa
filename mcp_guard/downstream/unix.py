"""The Unix socket transport: clients of other users of this machine, each connection a session as on stdio.

The kernel says which user has connected (`SO_PEERCRED`, unix(7)), and the operator has assigned an agent to that user.
Nothing that a client sends has a part in it. Each connection is a new instance, which ends with it.
"""

import asyncio
import os
import pwd
import socket
import stat
import struct
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from mcp_guard.core.errors import ConfigError, GuardError, IdentityError, ListenError, defect_text
from mcp_guard.core.model import Instance
from mcp_guard.core.visible_text import say, visible_line
from mcp_guard.downstream.isolation import run_alone
from mcp_guard.downstream.limits import Charge, LimitReached, ReceivedBytes, SessionShares
from mcp_guard.downstream.loop_share import TURN_BYTES, LoopShare, Sender
from mcp_guard.downstream.session import Session
from mcp_guard.downstream.transport import DownstreamTransport
from mcp_guard.files import FileLock
from mcp_guard.protocol.batches import each_message
from mcp_guard.protocol.jsonrpc import Id, error
from mcp_guard.protocol.methods import INVALID_REQUEST
from mcp_guard.protocol.stdio import Line, LineSplitter
from mcp_guard.settings import SocketSettings

NOT_ADMITTED = -32001
"""The code of the only message that a refused client gets; it answers no request."""
NOT_SERVED = "the guard cannot serve this connection"
NOBODY = 65534
"""The uid that the kernel reports for a user of another namespace (user_namespaces(7))."""
GRACE_SECONDS = 5.0
BACKLOG = 128
RETRY_SECONDS = 1.0
NOTE_SECONDS = 1.0
FIRST_MESSAGE_SECONDS = 60.0
"""How long a client may stay connected without a message."""
MAX_ARRIVING = 32
"""How many connections of one agent may wait to be admitted."""


@dataclass(frozen=True, slots=True)
class UnixPeer:
    """The process at the other end, as it was when it connected."""

    pid: int
    uid: int

    @property
    def user(self) -> str:
        """Its name, if this machine has one for it."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return ""

    def __str__(self) -> str:
        return f"user `{self.user}` (uid {self.uid})" if self.user else f"the user with uid {self.uid}"


def peer_of(connection: socket.socket) -> UnixPeer:
    """Raises: OSError."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return UnixPeer(pid, uid)


def agent_of(peer: UnixPeer, users: Mapping[str, str]) -> str:
    """The agent assigned to this user, by uid or by name. Raises: IdentityError unless there is exactly one."""
    agents = {users[key] for key in (str(peer.uid), peer.user) if key in users}
    if len(agents) != 1 or peer.uid == NOBODY:
        reason = f"{peer} has {len(agents)} agents" if agents else f"{peer} is not listed in [connect.users]"
        raise IdentityError(reason, "ask the operator of the guard to list each user there, with one agent")
    return agents.pop()


MAX_PATH = 107
"""Bytes of a socket's path (unix(7))."""


def listen(settings: SocketSettings, key: str = "serve.socket") -> socket.socket:
    """A socket on which it is known who connects; else as `open_socket`. Raises: ConfigError, ListenError."""
    if not hasattr(socket, "SO_PEERCRED"):
        raise ConfigError(f"{key}: this system does not report who connects", "serve over HTTP, or on Linux")
    return open_socket(settings, key)


def check_socket(
    settings: SocketSettings,
    key: str = "serve.socket",
    listen: Callable[[SocketSettings, str], socket.socket] = listen,
) -> None:
    """Find out whether `listen` can do that, and leave no socket behind. Raises: ConfigError, ListenError, OSError."""
    with listen(settings, key), FileLock(_lock_path(settings)):
        os.unlink(settings.path)


def _lock_path(settings: SocketSettings) -> Path:
    return settings.path.parent / f"{settings.path.name}.lock"


def open_socket(settings: SocketSettings, key: str) -> socket.socket:
    """A socket to which only users admitted by its mode and group can ever connect. `key` is its setting.

    Raises: ConfigError, ListenError if another process listens there.
    """
    path = str(settings.path)
    if len(os.fsencode(path)) > MAX_PATH:
        raise ConfigError(f"{key}: `{path}` has over {MAX_PATH} bytes", f"set {key} to a shorter path")
    listener = socket.socket(socket.AF_UNIX)
    old_umask = os.umask(0o177)
    try:
        with FileLock(_lock_path(settings)):  # or two remove each other's
            _remove_stale(path, key)
            listener.bind(path)
        if settings.group:
            os.chown(path, -1, settings.group_id())
        os.chmod(path, settings.mode)
        listener.listen(BACKLOG)
    except GuardError:
        listener.close()
        raise
    except OSError as error:
        listener.close()
        what = f"{key}: cannot listen on `{path}`: {error.strerror or error}"
        raise ConfigError(what, "check the folder's owner and mode; docs/howto/another-user.md") from None
    finally:
        os.umask(old_umask)
    listener.setblocking(False)
    return listener


def is_answered(path: str) -> bool:
    """Whether something listens on this socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            return probe.connect_ex(path) == 0
        except OSError:  # the path is too long for one
            return False


def _remove_stale(path: str, key: str) -> None:
    """Remove the socket of a guard that has ended. Raises: ListenError if it is in use, ConfigError if it
    is no socket; OSError."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError(f"{key}: `{path}` is not a socket", "choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise ListenError(f"{key}: `{path}` is in use by another process", "stop that guard, or choose another path")


class UnixDownstreamTransport(asyncio.Protocol):
    """Implements `session.DownstreamTransport` for one connection. `make_session` makes the session over it."""

    def __init__(
        self,
        limit: int,
        charge: Charge,
        note: Callable[[str], None],
        make_session: Callable[[DownstreamTransport], Session],
    ) -> None:
        self.note = note
        self.ended = asyncio.Event()
        self.used = asyncio.get_running_loop().time()
        """The event loop's time of the latest data from the client."""
        self._lines = LineSplitter(limit)
        self._charge = charge
        self._silence: asyncio.TimerHandle | None = None
        """Runs until the first message is complete."""
        self._waiting: deque[Line] = deque()
        """Lines whose turn has not come yet."""
        self._waiting_bytes = 0
        self._is_lined_up = self._has_ended_input = False
        self._is_upstream_slow = self._is_client_slow = False
        self._transport: asyncio.Transport | None = None
        """None until the connection is handed over to asyncio."""
        self.session = make_session(self)
        self._receive = each_message(self.session.receive_line)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        loop = asyncio.get_running_loop()
        self._silence = loop.call_later(FIRST_MESSAGE_SECONDS, self._end_with, "no message was sent in time")

    def data_received(self, data: bytes) -> None:
        self.used = asyncio.get_running_loop().time()
        lines = self._lines.feed(data)
        self._waiting.extend(lines)
        self._waiting_bytes += sum(map(_size, lines))
        try:
            self._charge.set(self._lines.pending_bytes + self._waiting_bytes)
        except LimitReached as reached:
            self._end_with(str(reached))
        self._line_up()
        self._apply_pause()

    def _line_up(self) -> None:
        """Wait for a turn, if there is a line to take."""
        is_slow = self._is_upstream_slow or self._is_client_slow
        if self._waiting and not self._is_lined_up and not is_slow:
            self._is_lined_up = True
            self.session.loop_share.on_turn(self.session.sender, self._take_line, _size(self._waiting[0]))

    def _take_line(self) -> bool:
        self._is_lined_up = False
        if not self._waiting:
            return False
        self._stop_timer()
        line = self._waiting.popleft()
        self._waiting_bytes -= _size(line)
        self._charge.set(self._lines.pending_bytes + self._waiting_bytes)
        self._receive(line)
        self._line_up()
        self._apply_pause()
        if self._has_ended_input and not self._waiting:
            self.ended.set()
        return True

    def _drop_lines(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0

    def _apply_pause(self) -> None:
        """Read no more while lines wait, or while an upstream or the client itself is slow to read."""
        if self._transport is None or self._transport.is_closing() or self._has_ended_input:
            return
        if self._waiting or self._is_upstream_slow or self._is_client_slow or self.ended.is_set():
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _end_with(self, reason: str) -> None:
        self._drop_lines()
        self.session.client.reply(None, error(INVALID_REQUEST, reason))
        self.ended.set()

    def _stop_timer(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def eof_received(self) -> bool:
        self._has_ended_input = True
        self._waiting.extend(self._lines.finish())
        self._line_up()
        if not self._waiting:
            self.ended.set()
        return True  # requests that were sent may still be answered

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop_lines()
        self.ended.set()

    def pause_writing(self) -> None:
        self.session.upstreams.throttle(True)
        self._is_client_slow = True
        self._apply_pause()

    def resume_writing(self) -> None:
        self.session.upstreams.throttle(False)
        self._is_client_slow = False
        self._line_up()
        self._apply_pause()

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def drop_reply(self, request: Id) -> None:
        """Nothing waits for it."""

    def throttle(self, slow: bool) -> None:
        self._is_upstream_slow = slow
        self._line_up()
        self._apply_pause()

    def close(self) -> None:
        self._stop_timer()
        self._drop_lines()
        self._charge.set(0)
        if self._transport is not None:
            self._transport.close()


def _size(line: Line) -> int:
    return len(line) if isinstance(line, bytes) else len(line.head) + len(line.tail)


class UnixSocketServer:
    """All connections of one socket.

    `users` maps uids and user names to agents. `issue` makes an instance of an agent and records it in the ledger
    (raises GuardError; if it is cancelled, the instance has ended); `end` records that it has ended. `make_session`
    makes a session over upstreams of its own, whose processes are started already.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        users: Mapping[str, str],
        issue: Callable[[str, UnixPeer], Awaitable[Instance]],
        end: Callable[[Instance], Awaitable[None]],
        make_session: Callable[[Instance, DownstreamTransport], Session],
        note: Callable[[str], None],
        message_bytes: int,
        shares: SessionShares,
        received: ReceivedBytes,
        idle_seconds: float,
        stop_seconds: float,
        loop_share: LoopShare,
    ) -> None:
        self._listener = listener
        self._users = users
        self._issue = issue
        self._end = end
        self._make_session = make_session
        self._note = note
        self._message_bytes = message_bytes
        self._shares = shares
        self._received = received
        self._idle_seconds = idle_seconds
        self._stop_seconds = stop_seconds
        self._is_stopping = False
        self._loop_share = loop_share
        self._arriving: Counter[str] = Counter()
        """How many connections of each agent wait to be admitted."""
        self._arrivals: set[asyncio.Task[None]] = set()
        self._open: set[UnixDownstreamTransport] = set()
        self._refusal_noted = -NOTE_SECONDS
        self._unnoted_refusals = 0

    async def serve(self, stopping: asyncio.Event) -> None:
        """Serve clients until `stopping` is set, then end their sessions."""
        async with asyncio.TaskGroup() as tasks:
            accepting = tasks.create_task(self._accept(tasks))
            await stopping.wait()
            self._is_stopping = True
            for task in (accepting, *self._arrivals):
                task.cancel()
            for transport in self._open:
                transport.ended.set()
        path = self._listener.getsockname()
        self._listener.close()
        os.unlink(path)

    async def _accept(self, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as failure:  # out of file descriptors: those who wait are served once one is free
                self._note(f"cannot accept a connection: {failure.strerror}")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            try:
                peer = peer_of(connection)
                agent = agent_of(peer, self._users)
                if self._arriving[agent] >= MAX_ARRIVING:
                    raise IdentityError(f"agent `{agent}` opens too many connections at once", "try again later")
            except (GuardError, OSError) as refused:
                self._refuse(connection, refused)
            else:
                self._arriving[agent] += 1
                arrival = tasks.create_task(run_alone(self._welcome(connection, agent, peer, tasks), self._note))
                self._arrivals.add(arrival)
                arrival.add_done_callback(self._arrivals.discard)
            await asyncio.sleep(0)  # `sock_accept` gives up no turn while somebody waits to be accepted

    async def _welcome(self, connection: socket.socket, agent: str, peer: UnixPeer, tasks: asyncio.TaskGroup) -> None:
        """Open a session when it is the agent's turn: it costs a commit, and processes."""
        try:
            await self._loop_share.turn(Sender(agent), TURN_BYTES)
            began = time.perf_counter()
            instance = await self._admit(agent, peer)
            try:
                transport = self._open_session(instance)
            except Exception:
                await self._end(instance)
                raise
            self._loop_share.charge(Sender(agent), time.perf_counter() - began)
        except (GuardError, OSError) as refused:
            self._refuse(connection, refused)
            return
        except BaseException:
            connection.close()
            raise
        finally:
            self._arriving[agent] -= 1
        self._open.add(transport)
        self._shares.add(instance)
        tasks.create_task(run_alone(self._serve_connection(connection, instance, transport), transport.note))

    def _open_session(self, instance: Instance) -> UnixDownstreamTransport:
        return UnixDownstreamTransport(
            self._message_bytes,
            Charge(self._received, instance.agent.name),
            lambda text: self._note(say("{}: {}", instance.id, visible_line(text))),
            lambda transport: self._make_session(instance, transport),
        )

    async def _admit(self, agent: str, peer: UnixPeer) -> Instance:
        """A new instance for whoever has connected. Raises: GuardError, OSError."""
        try:
            with self._shares.reserving(agent):
                return await self._issue(agent, peer)
        except LimitReached as reached:
            self._end_idle(agent)
            raise IdentityError(str(reached), "end other connections of this user") from None

    def _end_idle(self, agent: str) -> None:
        """End the connections of an agent that are idle for too long, so that its next one finds room."""
        now = asyncio.get_running_loop().time()
        for transport in self._open:
            is_idle = now - transport.used > self._idle_seconds and not transport.session.is_busy
            if is_idle and transport.session.instance.agent.name == agent:
                transport.ended.set()

    def _refuse(self, connection: socket.socket, refused: GuardError | OSError) -> None:
        """Send the reason, as far as it fits into the socket's buffer, and close."""
        if isinstance(refused, GuardError):
            told, noted = refused.message, refused.full
        else:
            told, noted = refused.strerror or NOT_SERVED, refused.strerror or defect_text(refused)
        self._note_refusal(noted)
        with connection:
            connection.setblocking(False)
            try:
                connection.send(orjson.dumps({"jsonrpc": "2.0", "id": None, **error(NOT_ADMITTED, told)}) + b"\n")
            except OSError:
                return  # it has gone already

    def _note_refusal(self, reason: str) -> None:
        """Print it, but at most once a second: a refused client may try again and again."""
        now = asyncio.get_running_loop().time()
        if now - self._refusal_noted < NOTE_SECONDS:
            self._unnoted_refusals += 1
            return
        more = f" (and {self._unnoted_refusals} others before)" if self._unnoted_refusals else ""
        self._note(f"refused a connection: {reason}{more}")
        self._refusal_noted, self._unnoted_refusals = now, 0

    async def _serve_connection(
        self, connection: socket.socket, instance: Instance, transport: UnixDownstreamTransport
    ) -> None:
        session = transport.session
        try:
            async with session.tasks:
                await asyncio.get_running_loop().connect_accepted_socket(lambda: transport, connection)
                await transport.ended.wait()
                await session.close(self._stop_seconds if self._is_stopping else GRACE_SECONDS)
        finally:
            transport.close()
            session.upstreams.kill()
            self._open.discard(transport)
            self._shares.remove(instance)
            await self._end(instance)
