"""Composes a guard for one run: settings in, served clients out. The only module that knows every part.

Start-up order matters: `mcp-guard run` starts the upstreams' processes before it imports this module; the policies are
read after the first tool listings, because they are validated against them.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mcp_guard import __version__
from mcp_guard.core.errors import ConfigError, IdentityError
from mcp_guard.core.model import Instance, Json, Tool
from mcp_guard.core.tool_pins import Pin, Quarantine
from mcp_guard.downstream.adapters import ProtocolAdapters
from mcp_guard.downstream.stdio import StdioDownstreamTransport
from mcp_guard.hook_serving import check_hooks_socket, make_hook_server, note_broken_policies, serve_hooks
from mcp_guard.identity.instances import Launch, check_credential, reissue_credential
from mcp_guard.launching import issue_to, launching, leave, on_loop
from mcp_guard.ledger import registry
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_ledger
from mcp_guard.ledger.recovery import recover, report_unknown
from mcp_guard.ledger.start import open_when_there
from mcp_guard.ledger.writer import Transaction
from mcp_guard.policy_environments import policy_environment
from mcp_guard.ports import Pins
from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.protocol.methods import LATEST
from mcp_guard.runtime import Runtime, make_upstream_group
from mcp_guard.secrets import read_network
from mcp_guard.server_log import ServerLog, note
from mcp_guard.settings import ServeSettings, Settings
from mcp_guard.shared_secret import KEY_BYTES, read_shared_secret
from mcp_guard.sign_ins import SignInStorage
from mcp_guard.start_notes import note_if_new, warn_if_discontinued, warn_of_exposure, warn_of_other_secret
from mcp_guard.telemetry.setup import start_telemetry
from mcp_guard.upstream.group import UpstreamGroup
from mcp_guard.upstream.listener import NoListener
from mcp_guard.upstream.start import start_upstreams
from mcp_guard.upstream.transport import Upstream

if TYPE_CHECKING:
    from mcp_guard.downstream.http.app import HttpApp
    from mcp_guard.downstream.http.health import HealthEndpoints
    from mcp_guard.downstream.http.metrics import MetricsEndpoint
    from mcp_guard.downstream.http.sessions import HttpSessions
    from mcp_guard.downstream.limits import ReceivedBytes, SessionShares
    from mcp_guard.downstream.unix import UnixSocketServer
    from mcp_guard.network import Network
    from mcp_guard.readiness import ReadinessChecks
    from mcp_guard.upstream.last_words import LastWords

REQUEST_STATES = "request-state"
"""What the key that seals request states is derived for."""

__all__ = ["listed_tools", "policy_environment", "run_stdio", "serve_http"]


def run_stdio(
    settings: Settings, upstreams: Sequence[Upstream], launch: Launch, log: ServerLog, code: str = ""
) -> None:
    """Serve one client on stdin and stdout until it goes, as a new instance of the agent, or as the one that was
    issued with a launch `code`. `upstreams` have been started.

    Raises: ConfigError, IdentityError, LedgerError.
    """
    of_ledger = ledger_settings(settings)
    if not code and isinstance(of_ledger.place, Path) and not of_ledger.place.exists():
        registry.find_agent(settings.agents, launch.agent)  # an unknown one begins no ledger
    ledger = open_ledger(of_ledger, CLOCK, log.note)
    try:
        note_if_new(ledger.writer, settings, log.note)
        warn_if_discontinued(ledger.writer, settings.state_dir, log.note)
        if any(upstream.url for upstream in settings.upstreams.values()):
            warn_of_exposure(settings, None, log.note)
        transport = StdioDownstreamTransport(settings.client_limits.message_bytes, log.note)
        with closing(start_telemetry(settings, ledger.guard, log, serves=False)) as telemetry:
            runtime = Runtime(settings, ledger, log, telemetry, ProtocolAdapters(os.urandom(KEY_BYTES)))
            if code:
                instance, bound = _redeem_launch_code(runtime, code)
            else:
                instance, bound = ledger.writer.run(launching(runtime, launch, os.getuid(), os.getpid()))
            check_credential(runtime.issuer, instance)
            recover(ledger.ledger, partial(report_unknown, log.note))
            transport.stop_on_signals()
            serve = partial(_serve_stdio, runtime, upstreams, transport, instance, bound)
            asyncio.run(on_loop(ledger, serve))
    finally:
        ledger.close()


def _redeem_launch_code(runtime: Runtime, code: str) -> tuple[Instance, Json | None]:
    """The instance that was issued with this code, which is used up. Raises: IdentityError."""
    writer = runtime.ledger.writer

    def op(tx: Transaction) -> Instance | None:
        id = tx.store.take_launch(registry.hash_launch_code(code), tx.now)
        return registry.find_instance(tx.store, id) if id else None

    instance = writer.run(op)
    if instance is None:
        raise IdentityError("the launch code is invalid, expired or already used", "mcp-guard instances issue --launch")
    return reissue_credential(runtime.issuer, instance), None


async def _serve_stdio(
    runtime: Runtime,
    upstreams: Sequence[Upstream],
    transport: StdioDownstreamTransport,
    instance: Instance,
    bound: Json | None,
) -> None:
    """`bound` is what binds the credential of an instance that is not in the ledger yet."""
    issue = [runtime.issue(instance, bound)] if bound is not None else []
    await runtime.start(*issue, runtime.begin(instance))
    started = runtime.with_those_of_user(upstreams, instance)
    session = runtime.make_session(instance, transport, started, ends_instance=True)
    async with asyncio.TaskGroup() as tasks:
        background = runtime.start_background(tasks)
        await transport.serve(session)
        for task in background:
            task.cancel()
    await runtime.end(instance)
    await runtime.stop(lambda tx: registry.leave(tx, instance))


def serve_http(settings: Settings, log: ServerLog) -> None:
    """Serve many clients over HTTP until interrupted, and the hooks of coding agents. With [hooks] alone, only those.

    Raises: ConfigError, LedgerError.
    """
    if settings.serve is None:
        if settings.hooks is not None:
            serve_hooks(settings, log)
            return
        raise ConfigError(f"{settings.path}: missing `[serve]` section", "add one: docs/howto/serve.md shows how")
    from mcp_guard.downstream.http.waiting import WaitingServer

    secret = read_shared_secret(settings)  # before a ledger is begun
    with closing(WaitingServer(settings.serve.host, settings.serve.port)) as waiting:
        waiting.listener()
        _check_other_listeners(settings, settings.serve)
        ledger = open_when_there(ledger_settings(settings), CLOCK, log.note, waiting.begin)
    if ledger is None:
        return
    try:
        note_if_new(ledger.writer, settings, log.note)
        warn_if_discontinued(ledger.writer, settings.state_dir, log.note)
        warn_of_exposure(settings, settings.serve, log.note)
        others = set(ledger.engine.running_guards(settings.state_dir)) - {ledger.guard}
        warn_of_other_secret(ledger.writer, secret, bool(others), log.note)
        recover(ledger.ledger, partial(report_unknown, log.note))
        with closing(start_telemetry(settings, ledger.guard, log, serves=True)) as telemetry:
            runtime = Runtime(settings, ledger, log, telemetry, ProtocolAdapters(secret.derive(REQUEST_STATES)))
            asyncio.run(on_loop(ledger, partial(_serve_http, runtime, settings.serve, waiting.listener())))
    finally:
        ledger.close()


def _check_other_listeners(settings: Settings, serve: ServeSettings) -> None:
    """Find what else is occupied before a ledger is begun. Nobody connects there until it is served.

    Raises: ConfigError, ListenError.
    """
    from mcp_guard.downstream.http.server import check_address
    from mcp_guard.downstream.unix import check_socket

    if settings.telemetry is not None and settings.telemetry.metrics_listen is not None:
        check_address(*settings.telemetry.metrics_listen, "telemetry.metrics_listen")
    if serve.socket is not None:
        check_socket(serve.socket)
    check_hooks_socket(settings)


async def _serve_http(runtime: Runtime, serve: ServeSettings, listener: socket.socket) -> None:
    from mcp_guard.downstream.http.health import HealthEndpoints
    from mcp_guard.downstream.http.metrics import make_metrics_server
    from mcp_guard.downstream.limits import ReceivedBytes, SessionShares
    from mcp_guard.inbound import HttpServer
    from mcp_guard.web_process import keep_web_running

    shares, received = SessionShares(serve.session_limits), ReceivedBytes(runtime.settings.client_limits.message_bytes)
    sessions = _http_sessions(runtime, serve, shares)
    stopping, started = asyncio.Event(), asyncio.Event()
    on_sockets = (
        _unix_server(runtime, serve, shares, received),
        make_hook_server(runtime, shares, received, serve.stop_seconds),
    )
    serving: list[asyncio.Task[None]] = []

    async def end_sessions() -> None:
        """Answer what waits, then end the sessions and their upstreams."""
        runtime.stop_holding()
        sessions.stop()
        stopping.set()
        await asyncio.gather(*serving)

    readiness = _readiness(runtime)
    health = HealthEndpoints(lambda: sessions.is_stopping, readiness.check)
    metrics = _metrics(runtime, serve, readiness)
    metrics_server = make_metrics_server(metrics, runtime.settings.telemetry)
    app = _http_app(runtime, serve, sessions, received, health, metrics if metrics_server is None else None)
    server = HttpServer(app.make_asgi(), before_shutdown=end_sessions)
    server.stop_on_signals()
    await runtime.start()
    async with asyncio.TaskGroup() as tasks:
        serving.append(tasks.create_task(sessions.run(started)))
        background = [*runtime.start_background(tasks), tasks.create_task(readiness.run())]
        if metrics_server is not None:
            background.append(tasks.create_task(metrics_server()))
        if runtime.settings.web is not None and runtime.settings.web.serve:
            background.append(tasks.create_task(keep_web_running(runtime.settings, runtime.log)))
        tasks.create_task(note_broken_policies(runtime))
        await started.wait()
        serving += [tasks.create_task(at.serve(stopping)) for at in on_sockets if at is not None]
        port = listener.getsockname()[1]
        runtime.note(f"serving {serve.url} (the address that tokens are for) on {serve.host} port {port}")
        await server.serve(sockets=[listener])
        await end_sessions()  # also if it was stopped before it served
        for task in background:
            task.cancel()
    await app.authenticator.proofs.close()
    await runtime.stop()


def _http_sessions(runtime: Runtime, serve: ServeSettings, shares: "SessionShares") -> "HttpSessions":
    from mcp_guard.downstream.http.sessions import HttpSessions
    from mcp_guard.inbound import ConnectionLimits

    return HttpSessions(
        make_session=runtime.make_session,
        why_barred=runtime.ledger.ledger.why_barred,
        on_barred=runtime.end,
        note=runtime.note,
        shares=shares,
        max_responses=ConnectionLimits.of_process().open,
        idle_seconds=serve.idle_seconds,
        stop_seconds=serve.stop_seconds,
    )


def _readiness(runtime: Runtime) -> "ReadinessChecks":
    from mcp_guard.readiness import ReadinessChecks

    return ReadinessChecks(
        tuple(runtime.settings.upstreams),
        runtime.ledger.ledger,
        runtime.settings.state_dir,
        remote=[name for name, server in runtime.settings.upstreams.items() if server.url or server.share],
        sessions=runtime.sessions,
        probe=lambda: listed_tools(runtime.settings, note=runtime.note),
        try_policies=runtime.try_policies,
        policy_files=runtime.policy_files,
        note=runtime.note,
    )


def _metrics(runtime: Runtime, serve: ServeSettings, readiness: "ReadinessChecks") -> "MetricsEndpoint | None":
    """The metrics, if they are configured. Raises: ConfigError."""
    if runtime.telemetry.metrics is None:
        return None
    from mcp_guard.monitoring import Monitoring

    return Monitoring(
        runtime.telemetry.metrics,
        runtime.ledger,
        runtime.settings,
        sessions=lambda: sum(not session.upstreams.is_closed for session in runtime.sessions()),
        upstreams=readiness.known_upstreams,
    ).endpoint(serve)


def _http_app(
    runtime: Runtime,
    serve: ServeSettings,
    sessions: "HttpSessions",
    received: "ReceivedBytes",
    health: "HealthEndpoints",
    metrics: "MetricsEndpoint | None",
) -> "HttpApp":
    from mcp_guard.downstream.http.allowed_hosts import host_of_url, normalize_host, normalize_origin
    from mcp_guard.downstream.http.app import HttpApp
    from mcp_guard.downstream.http.auth import Authenticator
    from mcp_guard.identity.bearer import TrustedIssuer
    from mcp_guard.identity.dpop import ProofVerifier
    from mcp_guard.ledger.token_instances import TokenInstances

    settings, ledger = runtime.settings, runtime.ledger

    def network() -> "Network":
        return read_network(settings.network, settings.path.parent, os.environ)

    authenticator = Authenticator(
        url=serve.url,
        hosts=frozenset({host_of_url(serve.url), *map(normalize_host, serve.hosts)}),
        origins=frozenset(map(normalize_origin, serve.origins)),
        own_issuer=runtime.issuer,
        trusted_issuers=[TrustedIssuer(**issuer, network=network) for issuer in serve.issuers],
        instances=TokenInstances(ledger.ledger, settings.agents),
        proofs=ProofVerifier(ledger.engine.open_used_proofs(settings.state_dir), runtime.note),
        on_refused=runtime.telemetry.on_refused_token,
    )
    return HttpApp(
        authenticator,
        sessions,
        urlsplit(serve.url).path or "/",
        settings.client_limits.message_bytes,
        received,
        runtime.loop_share,
        health,
        metrics,
        runtime.telemetry.within_trace,
    )


def _unix_server(
    runtime: Runtime, serve: ServeSettings, shares: "SessionShares", received: "ReceivedBytes"
) -> "UnixSocketServer | None":
    """The Unix socket, if one is configured; it listens from now on. Raises: ConfigError."""
    if serve.socket is None:
        return None
    from mcp_guard.downstream.unix import UnixSocketServer, listen

    listener = listen(serve.socket)
    runtime.note(f"listening on `{serve.socket.path}` for {len(serve.socket.users)} users")
    return UnixSocketServer(
        listener,
        users=serve.socket.users,
        issue=partial(issue_to, runtime),
        end=partial(leave, runtime),
        make_session=partial(runtime.make_session, ends_instance=True),
        note=runtime.note,
        message_bytes=runtime.settings.client_limits.message_bytes,
        shares=shares,
        received=received,
        idle_seconds=serve.idle_seconds,
        stop_seconds=serve.stop_seconds,
        loop_share=runtime.loop_share,
    )


CAPABILITIES: Json = {"elicitation": {}, "sampling": {}}
"""What is announced to upstreams to see all of their tools: some list a tool only to clients that it can ask."""


class NoPins:
    """Implements `ports.Pins` for commands that read the current listings and call nothing: quarantines no tool."""

    async def judge(
        self, tools: Sequence[Tool], capabilities: AbstractSet[str] = frozenset()
    ) -> Mapping[str, Quarantine]:
        return {}

    async def accepted(self, server: str) -> Mapping[str, Pin]:
        return {}

    async def have_changed(self) -> bool:
        return False

    def known(self) -> AbstractSet[str]:
        return frozenset()

    async def retained(self, listed: Collection[str]) -> Sequence[tuple[str, Json]]:
        return ()


async def listed_tools(
    settings: Settings, pins: Pins | None = None, note: Callable[[str], None] = note
) -> "tuple[list[Tool], dict[str, LastWords | None]]":
    """Start the upstreams, read their listings and end them, for commands that need the catalog without a client.

    Returns the tools, and the upstreams that listed none, with how each ended. Without `pins` no tool is quarantined.
    """
    upstreams = make_upstream_group(
        settings, start_upstreams(settings, SignInStorage(settings, note).of), pins or NoPins(), is_patient=True
    )
    try:
        await _list_and_end(upstreams, note)
    finally:
        upstreams.kill()
    return upstreams.tools(), upstreams.absent()


async def _list_and_end(upstreams: UpstreamGroup, note: Callable[[str], None]) -> None:
    client = {"name": "mcp-guard", "version": __version__}
    params = {"protocolVersion": LATEST, "capabilities": CAPABILITIES, "clientInfo": client}
    async with asyncio.TaskGroup() as tasks:
        await upstreams.start(params, tasks, PrintingListener(note))
        upstreams.announce()
        await upstreams.ready()
        await upstreams.close()


class PrintingListener(NoListener):
    """Where there is no client: prints requests and drops notifications."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def on_server_request(self, server: str, id: Id, method: str, params: Json) -> None:
        self._note(f"upstream `{server}` asked for `{method}`; there is no client to ask")

    def note(self, text: str) -> None:
        self._note(text)
