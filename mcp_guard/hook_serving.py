"""Serves the hooks of coding agents: beside HTTP, or as all that a guard does."""

import asyncio
import os
import signal
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from mcp_guard.core import credential
from mcp_guard.core.errors import ConfigError, GuardError, defect_text
from mcp_guard.core.model import Instance
from mcp_guard.core.visible_text import say
from mcp_guard.downstream.adapters import ProtocolAdapters
from mcp_guard.launching import issue_to, leave, on_loop
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_ledger
from mcp_guard.ledger.recovery import recover, report_unknown
from mcp_guard.protocol.stdio import on_signal
from mcp_guard.runtime import Runtime
from mcp_guard.server_log import ServerLog
from mcp_guard.settings import SessionLimits, Settings, SocketSettings
from mcp_guard.shared_secret import KEY_BYTES
from mcp_guard.start_notes import note_if_new, warn_if_discontinued
from mcp_guard.telemetry.setup import start_telemetry

if TYPE_CHECKING:
    from mcp_guard.downstream.hooks.server import HookServer
    from mcp_guard.downstream.limits import ReceivedBytes, SessionShares

LIMITS = SessionLimits(1000, 500, 32)
STOP_SECONDS = 5.0


def make_hook_server(
    runtime: Runtime, shares: "SessionShares", received: "ReceivedBytes", stop_seconds: float
) -> "HookServer | None":
    """The server of the hooks, which listens from now on. None if there are none, or if another gateway answers them
    and this one serves HTTP as well. Raises: ConfigError."""
    settings = runtime.settings
    if settings.hooks is None:
        return None
    from mcp_guard.downstream.hooks.server import HookServer
    from mcp_guard.downstream.unix import listen
    from mcp_guard.upstream.host import HostConnection

    hooks, socket = settings.hooks, settings.hooks.socket
    if _is_left_to_another(settings, socket):
        runtime.note(f"another guard answers the hooks of coding agents on `{socket.path}`; this one does not")
        runtime.note("hint: it takes over when it is started again without the other; or set hooks.socket for each")
        return None
    _make_folder(socket)

    def is_over(instance: Instance) -> bool:
        return bool(credential.check_time(instance.started, instance.expires, runtime.now()))

    server = HookServer(
        listen(socket, "hooks.socket"),
        users={**socket.users, str(os.getuid()): hooks.agent},
        issue=partial(issue_to, runtime, by="hook", may_share=False),
        end=partial(leave, runtime),
        is_over=is_over,
        make_session=lambda instance, transport: runtime.make_session(
            instance, transport, [HostConnection()], ends_instance=True
        ),
        is_upstream=settings.upstreams.__contains__,
        note=runtime.note,
        message_bytes=settings.client_limits.message_bytes,
        max_values=settings.client_limits.values,
        shares=shares,
        received=received,
        loop_share=runtime.loop_share,
        skips_prompts=hooks.skip_prompts,
        idle_seconds=hooks.idle_seconds,
        stop_seconds=stop_seconds,
    )
    runtime.note(f"answering the hooks of coding agents on `{socket.path}`")
    return server


def check_hooks_socket(settings: Settings) -> None:
    """Find out whether hooks can be answered, before a ledger is begun. Raises: ConfigError, ListenError."""
    if settings.hooks is None or _is_left_to_another(settings, settings.hooks.socket):
        return
    from mcp_guard.downstream.unix import check_socket

    _make_folder(settings.hooks.socket)
    check_socket(settings.hooks.socket, "hooks.socket")


def _is_left_to_another(settings: Settings, socket: SocketSettings) -> bool:
    """Whether another guard answers the hooks, and this one serves HTTP as well."""
    from mcp_guard.downstream.unix import is_answered

    return settings.serve is not None and is_answered(str(socket.path))


def _make_folder(socket: SocketSettings) -> None:
    """Raises: ConfigError."""
    try:
        socket.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make `{socket.path.parent}`: {error.strerror}", "set hooks.socket") from None


def serve_hooks(settings: Settings, log: ServerLog) -> None:
    """Answer hooks until interrupted. Raises: ConfigError, LedgerError."""
    check_hooks_socket(settings)
    ledger = open_ledger(ledger_settings(settings), CLOCK, log.note)
    try:
        note_if_new(ledger.writer, settings, log.note)
        warn_if_discontinued(ledger.writer, settings.state_dir, log.note)
        recover(ledger.ledger, partial(report_unknown, log.note))
        with closing(start_telemetry(settings, ledger.guard, log, serves=True)) as telemetry:
            runtime = Runtime(settings, ledger, log, telemetry, ProtocolAdapters(os.urandom(KEY_BYTES)))
            asyncio.run(on_loop(ledger, partial(_serve_hooks, runtime)))
    finally:
        ledger.close()


async def _serve_hooks(runtime: Runtime) -> None:
    from mcp_guard.downstream.limits import ReceivedBytes, SessionShares

    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        on_signal(number, stopping.set)
    received = ReceivedBytes(runtime.settings.client_limits.message_bytes)
    server = make_hook_server(runtime, SessionShares(LIMITS), received, STOP_SECONDS)
    assert server is not None
    await runtime.start()
    async with asyncio.TaskGroup() as tasks:
        background = runtime.start_background(tasks)
        tasks.create_task(note_broken_policies(runtime))
        serving = tasks.create_task(server.serve(stopping))
        await stopping.wait()
        runtime.stop_holding()
        await serving
        for task in background:
            task.cancel()
    await runtime.stop()


async def note_broken_policies(runtime: Runtime) -> None:
    """Tell the operator at the start what the first session would find. The guard serves all the same, and denies."""
    try:
        await runtime.try_policies((), tuple(runtime.settings.upstreams))
    except GuardError as error:
        runtime.note(say("the policies could not be loaded; every call is denied:\n{}", str(error)))
    except Exception as defect:  # the edge: it must not end the guard
        runtime.note(say("internal error: the policies could not be checked: {}", defect_text(defect)))
