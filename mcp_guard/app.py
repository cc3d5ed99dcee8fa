"""Wires the guard together for one run: config in, served clients out. The only place that knows every part.

Order matters for the start-up: the upstreams' processes are started first and warm up while the rest is imported; the
policies are read when the first tool listings are in, because they are validated against them.
"""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mcp_guard import __version__
from mcp_guard.core.errors import ConfigError, IdentityError, LedgerError
from mcp_guard.core.model import Instance, Json, Tool
from mcp_guard.core.printable import printable
from mcp_guard.core.tool_pins import Quarantine
from mcp_guard.downstream.stdio import StdioDownstreamTransport
from mcp_guard.identity.instances import InstanceSpec, Launch, check_credential, reissue_credential, start_instance
from mcp_guard.ledger import registry
from mcp_guard.ledger.open import OpenLedger, open_ledger, recover
from mcp_guard.ledger.writer import Transaction
from mcp_guard.ports import Pins
from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.protocol.methods import LATEST
from mcp_guard.runtime import CLOCK, Runtime, ledger_settings, make_upstream_group, policy_environment, start_upstreams
from mcp_guard.settings import ServeSettings, Settings
from mcp_guard.upstream.connection import Upstream

if TYPE_CHECKING:
    import uvicorn

    from mcp_guard.downstream.unix import UnixSocketServer

__all__ = ["CLOCK", "ledger_settings", "listed_tools", "note", "policy_environment", "run_stdio", "serve_http"]

KEEP_ALIVE_SECONDS = 65
"""Longer than clients keep an idle connection, so that none makes a request on one that we are about to close."""


def run_stdio(settings: Settings, launch: Launch, code: str = "") -> None:
    """Serve one client on stdin and stdout until it goes, as a new instance of the agent, or as the one that was
    issued with a launch `code`.

    Raises: ConfigError, IdentityError, LedgerError.
    """
    upstreams = start_upstreams(settings)
    ledger: OpenLedger | None = None
    try:
        ledger = open_ledger(ledger_settings(settings), CLOCK)
        front = StdioDownstreamTransport(settings.message_bytes)
        runtime = Runtime(settings, ledger, front.note)
        instance, bound = _launched(runtime, code) if code else _new(runtime, launch)
        check_credential(runtime.issuer, instance)
        recover(ledger.writer, settings.state_dir, report_unknown)
        front.heed_signals()
        asyncio.run(_serve_stdio(runtime, upstreams, front, (instance, bound)))
    finally:
        for upstream in upstreams:
            upstream.transport.kill()
        if ledger is not None:
            ledger.close()


def _new(runtime: Runtime, launch: Launch) -> tuple[Instance, Json | None]:
    """A new instance, not yet known to the ledger, and what binds its credential."""
    agents = registry.all_agents(runtime.settings.agents, runtime.ledger.writer.store)
    enrolled = registry.find_agent(agents, launch.agent)
    launch = replace(launch, on_behalf_of=launch.on_behalf_of or enrolled.on_behalf_of)
    return start_instance(
        runtime.issuer, InstanceSpec(enrolled.agent, launch, enrolled.credential_seconds), runtime.now()
    )


def _launched(runtime: Runtime, code: str) -> tuple[Instance, Json | None]:
    """The instance that was issued with this code, which is used up. Raises: IdentityError."""
    writer = runtime.ledger.writer

    def op(tx: Transaction) -> Instance | None:
        id = tx.store.take_launch(registry.hash_launch_code(code), tx.now)
        return registry.find_instance(tx.store, id) if id else None

    instance = writer.run(op)
    if instance is None:
        raise IdentityError("the launch code is not valid, was used, or is too old", "mcp-guard instances issue …")
    return reissue_credential(runtime.issuer, instance), None


async def _serve_stdio(
    runtime: Runtime,
    upstreams: Sequence[Upstream],
    front: StdioDownstreamTransport,
    launched: tuple[Instance, Json | None],
) -> None:
    instance, bound = launched
    issue = [runtime.issue(instance, bound)] if bound is not None else []
    runtime.start(*issue, runtime.begin(instance))
    session = runtime.session(instance, front, upstreams)
    async with asyncio.TaskGroup() as tasks:
        beside = runtime.beside(tasks)
        await front.serve(session)
        for each in beside:
            each.cancel()
    runtime.end(instance)
    runtime.stop(lambda tx: registry.end(tx, instance))


def serve_http(settings: Settings) -> None:
    """Serve many clients over HTTP until interrupted. Raises: ConfigError, LedgerError."""
    if settings.serve is None:
        raise ConfigError(f"{settings.path}: it has no [serve]", "add one: config.example.toml shows the form")
    ledger = open_ledger(ledger_settings(settings), CLOCK)
    try:
        recover(ledger.writer, settings.state_dir, report_unknown)
        asyncio.run(_serve_http(Runtime(settings, ledger, note), settings.serve))
    finally:
        ledger.close()


def socket_door(runtime: Runtime, where: ServeSettings) -> "UnixSocketServer | None":
    """The Unix socket, if one is configured; it listens from now on. Raises: ConfigError."""
    if where.socket is None:
        return None
    from mcp_guard.downstream.unix import Admission, Caller, UnixSocketServer
    from mcp_guard.downstream.unix import listen as listen_on

    settings, writer = runtime.settings, runtime.ledger.writer

    def issue(agent: str, caller: Caller) -> Instance:
        instance, bound = _new(runtime, Launch(agent))
        assert bound is not None
        about = bound | {"by": "socket", "uid": caller.uid, "pid": caller.pid}
        steps = (runtime.issue(instance, about), runtime.begin(instance))
        writer.run(lambda tx: [each(tx) for each in steps])
        return instance

    def end(instance: Instance) -> None:
        try:
            writer.run(lambda tx: registry.end(tx, instance))
        except LedgerError as error:  # its credential ends by itself; the others go on
            runtime.note(str(error))

    admission = Admission(where.socket.users, issue, end, runtime.session, runtime.note)
    return UnixSocketServer(listen_on(where.socket), admission, settings.message_bytes, where.max_sessions)


async def _serve_http(runtime: Runtime, where: ServeSettings) -> None:
    import uvicorn

    from mcp_guard.downstream.http.app import HttpApp
    from mcp_guard.downstream.http.auth import Authenticator
    from mcp_guard.downstream.http.sessions import HttpSessions, Opening
    from mcp_guard.identity.bearer import TrustedIssuer
    from mcp_guard.ledger.token_instances import TokenInstances

    settings, ledger = runtime.settings, runtime.ledger
    opening = Opening(runtime.session, ledger.ledger.why_barred, runtime.end, runtime.note)
    sessions = HttpSessions(opening, where.max_sessions, where.idle_seconds)
    callers = TokenInstances(ledger.writer, settings.agents, ledger.guard)
    others = [TrustedIssuer(**issuer) for issuer in where.issuers]
    authenticator = Authenticator(where.url, where.hosts, where.origins, runtime.issuer, others, callers)
    door = HttpApp(authenticator, sessions, urlsplit(where.url).path or "/", settings.message_bytes)
    sockets, local, stopping = [listen(where)], socket_door(runtime, where), asyncio.Event()
    config = uvicorn.Config(
        door.app(), log_level="warning", access_log=False, server_header=False, date_header=False, lifespan="off",
        timeout_graceful_shutdown=5, timeout_keep_alive=KEEP_ALIVE_SECONDS, http="httptools",
    )  # fmt: skip
    server, started = uvicorn.Server(config), asyncio.Event()
    heed_signals(server)
    runtime.start()
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(sessions.run(started))
        beside = runtime.beside(tasks)
        await started.wait()
        connected = tasks.create_task(local.serve(stopping)) if local else None
        if where.socket:
            runtime.note(f"listening on `{where.socket.path}` for {len(where.socket.users)} users")
        runtime.note(f"serving {where.url} on {where.host} port {sockets[0].getsockname()[1]}")
        await server.serve(sockets=sockets)
        sessions.stop()
        stopping.set()
        await asyncio.gather(keeping, *([connected] if connected else []))
        for each in beside:
            each.cancel()
    runtime.stop()


def heed_signals(server: "uvicorn.Server") -> None:
    """Let it end what it serves, and us after it. By itself it would raise the signal anew when it is done, and end the
    process before the sessions' upstreams have ended and the ledger says so."""
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, server.handle_exit, name, None)


def listen(where: ServeSettings) -> socket.socket:
    """Raises: ConfigError."""
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    listener = socket.socket(
        family, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )  # asyncio sends at once only if TCP is named
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((where.host, where.port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        what = f"cannot listen on {where.host} port {where.port}: {error.strerror}"
        raise ConfigError(what, "end what listens there, or set serve.port") from None
    return listener


def note(text: str) -> None:
    """Tell the operator. INVARIANT: what an upstream wrote in it reaches no terminal as a control."""
    print("\n".join(map(printable, f"mcp-guard: {text}".splitlines())), file=sys.stderr, flush=True)


class AsListed:
    """Implements `ports.Pins` for commands that look at what is listed now, and let nothing be called."""

    def judge(self, tools: Sequence[Tool]) -> Mapping[str, Quarantine]:
        return {}

    def have_changed(self) -> bool:
        return False


async def listed_tools(settings: Settings, pins: Pins | None = None) -> tuple[list[Tool], set[str]]:
    """Start the upstreams, read their listings, end them: for commands that need the catalog without a client.

    Also gives the names of those that could not be listed. Without `pins` every tool is given as it is listed.
    """
    upstreams = make_upstream_group(settings, start_upstreams(settings), pins or AsListed())
    hello = {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": {"name": "mcp-guard", "version": __version__}}
    async with asyncio.TaskGroup() as tasks:
        await upstreams.start(hello, tasks, OperatorListener())
        upstreams.announce()
        await upstreams.ready()
        await upstreams.close()
    return upstreams.tools(), upstreams.absent()


class OperatorListener:
    """Implements `connection.UpstreamListener` where there is no client: only the operator hears of the upstreams."""

    def on_server_request(self, server: str, id: Id, method: str, params: Json) -> None:
        self.note(f"upstream `{server}` asked for `{method}`; there is no client to ask")

    def on_server_notification(self, server: str, method: str, params: Json) -> None:
        pass

    def on_tools_changed(self, server: str) -> None:
        pass

    def on_pressure(self, slow: bool) -> None:
        pass

    def note(self, text: str) -> None:
        note(text)


def report_unknown(intents: list[Json]) -> None:
    """Tell the operator of calls whose outcome nobody knows."""
    for intent in intents:
        what = f"{intent.get('tool')} (receipt {intent.get('seq')}, call {intent.get('call')})"
        print(f"mcp-guard: the outcome of {what} is unknown: a guard ended before recording it", file=sys.stderr)
        print(f"hint: look at the resource, then: mcp-guard show {intent.get('call')}", file=sys.stderr, flush=True)
