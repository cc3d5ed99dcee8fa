"""The Unix socket: clients of other users of this machine, each connection a session as on stdio.

Who calls is what the kernel says of the process that connected (`SO_PEERCRED`, unix(7)): its user, to whom the
operator has given an agent. Nothing that a client sends has a part in it. Each connection is a new
instance, and ends with it.
"""

import asyncio
import os
import pwd
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import orjson

from mcp_guard.core.errors import ConfigError, GuardError, IdentityError
from mcp_guard.core.model import Instance
from mcp_guard.downstream.session import DownstreamTransport, Session
from mcp_guard.protocol.jsonrpc import Id, error
from mcp_guard.protocol.stdio import LineSplitter
from mcp_guard.settings import SocketSettings

NOT_ADMITTED = -32001
"""The code of the one message that somebody gets who is refused; it answers no request."""
NOBODY = 65534
"""Whom the kernel names if it cannot say who it is: a user of another namespace (user_namespaces(7))."""
GRACE_SECONDS = 5.0
ATTEMPTS = 128


@dataclass(frozen=True, slots=True)
class Caller:
    """The process at the other end, at the moment when it connected."""

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


def caller_of(connection: socket.socket) -> Caller:
    """Raises: OSError."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Caller(pid, uid)


def agent_of(caller: Caller, users: Mapping[str, str]) -> str:
    """The agent that this user calls as, by number or by name. Raises: IdentityError."""
    named = {users[key] for key in (str(caller.uid), caller.user) if key in users}
    if len(named) != 1 or caller.uid == NOBODY:
        what = f"{caller} has {len(named)} agents" if named else f"{caller} is not among [connect.users]"
        raise IdentityError(what, "the operator of the guard lists users there, each with one agent")
    return named.pop()


def listen(where: SocketSettings) -> socket.socket:
    """Only the users that mode and group let in can connect, from the first moment. Raises: ConfigError."""
    if not hasattr(socket, "SO_PEERCRED"):
        raise ConfigError("serve.socket: this system does not say who connects", "serve over HTTP, or on Linux")
    listener, path = socket.socket(socket.AF_UNIX), str(where.path)
    before = os.umask(0o177)
    try:
        _clear(path)
        listener.bind(path)
        if where.group:
            os.chown(path, -1, where.group_id())
        os.chmod(path, where.mode)
        listener.listen(ATTEMPTS)
    except OSError as error:
        listener.close()
        what = f"serve.socket: cannot listen on `{path}`: {error.strerror or error}"
        raise ConfigError(what, "check the folder's owner and mode; docs/howto/another-user.md") from None
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def _clear(path: str) -> None:
    """Remove what a guard left that has ended. Raises: ConfigError if one is there that answers, OSError."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError(f"serve.socket: `{path}` is no socket", "name another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise ConfigError(f"serve.socket: somebody listens on `{path}` already", "end that guard, or name another path")


class UnixDownstreamTransport(asyncio.Protocol):
    """Implements `session.DownstreamTransport` for one connection."""

    def __init__(self, limit: int, note: Callable[[str], None]) -> None:
        self.note = note
        self.ended = asyncio.Event()
        self.on_pressure: Callable[[bool], None] = lambda _: None
        self.session: Session
        self._lines = LineSplitter(limit)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            self.session.receive_line(line)

    def eof_received(self) -> bool:
        self.ended.set()
        return True  # what is still running may be answered

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()

    def pause_writing(self) -> None:
        self.on_pressure(True)

    def resume_writing(self) -> None:
        self.on_pressure(False)

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def throttle(self, slow: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if slow:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@dataclass(frozen=True, slots=True)
class Admission:
    """How somebody is let in: `issue` makes an instance of this agent, known to the ledger (raises GuardError), and
    `end` says that it is over; `session` is as for HTTP."""

    users: Mapping[str, str]
    issue: Callable[[str, Caller], Instance]
    end: Callable[[Instance], None]
    session: Callable[[Instance, DownstreamTransport], Session]
    note: Callable[[str], None]


class UnixSocketServer:
    """All connections of one socket."""

    def __init__(self, listener: socket.socket, admission: Admission, limit: int, most: int) -> None:
        self._listener, self._admission, self._limit, self._most = listener, admission, limit, most
        self._open: set[UnixDownstreamTransport] = set()

    async def serve(self, stopping: asyncio.Event) -> None:
        """Serve whoever connects until `stopping`; then end them all."""
        async with asyncio.TaskGroup() as tasks:
            accepting = tasks.create_task(self._accept(tasks))
            await stopping.wait()
            accepting.cancel()
            for front in self._open:
                front.ended.set()
        path = self._listener.getsockname()
        self._listener.close()
        os.unlink(path)

    async def _accept(self, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as failure:  # no descriptor is free: those who wait are served once there is one
                self._admission.note(f"cannot take a connection: {failure.strerror}")
                await asyncio.sleep(1)
                continue
            try:
                instance = self._admit(connection)
            except (GuardError, OSError) as refused:
                self._refuse(connection, refused)
                continue
            front = UnixDownstreamTransport(self._limit, partial(self._note, instance))
            self._open.add(front)
            tasks.create_task(self._keep(connection, instance, front))

    def _note(self, instance: Instance, text: str) -> None:
        self._admission.note(f"{instance.id}: {text}")

    def _admit(self, connection: socket.socket) -> Instance:
        """Raises: GuardError, OSError."""
        caller = caller_of(connection)
        agent = agent_of(caller, self._admission.users)
        if len(self._open) >= self._most:
            raise IdentityError("there are as many sessions as there may be", "try again later, or raise max_sessions")
        return self._admission.issue(agent, caller)

    def _refuse(self, connection: socket.socket, refused: GuardError | OSError) -> None:
        """Say why, as far as that goes into the buffer of a socket, and close."""
        why = refused.message if isinstance(refused, GuardError) else str(refused.strerror)
        self._admission.note(f"a connection is refused: {why}")
        with connection:
            connection.setblocking(False)
            try:
                connection.send(orjson.dumps({"jsonrpc": "2.0", "id": None, **error(NOT_ADMITTED, why)}) + b"\n")
            except OSError:
                return  # it did not wait to hear

    async def _keep(self, connection: socket.socket, instance: Instance, front: UnixDownstreamTransport) -> None:
        front.session = self._admission.session(instance, front)
        upstreams = front.session.upstreams
        front.on_pressure = upstreams.throttle
        try:
            async with asyncio.TaskGroup() as tasks:
                front.session.open(tasks)
                await asyncio.get_running_loop().connect_accepted_socket(lambda: front, connection)
                await front.ended.wait()
                await front.session.close(GRACE_SECONDS)
                await upstreams.close()
        finally:
            front.close()
            upstreams.kill()
            self._open.discard(front)
            self._admission.end(instance)
