"""An upstream's process: its own process group, a minimal environment, its stderr in a file of its own.

Where secrets are configured, what it writes to stderr passes through us, so that none of them gets into that file.
"""

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mcp_guard.core.errors import ConfigError, UpstreamError
from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.protocol.jsonrpc import Id
from mcp_guard.protocol.stdio import Pipes
from mcp_guard.settings import SecretReference
from mcp_guard.upstream.secrets import is_slow, make_environment
from mcp_guard.upstream.transport import MessageHandler

INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER", "SYSTEMROOT")
"""What a child gets of our own environment; all else is named in the config, so that no secret of ours leaks."""

STDERR_LIMIT = 1024 * 1024
GRACE_SECONDS = 2.0
MAX_LINE_BYTES = 64 * 1024
"""Bytes of stderr that are looked at together, if no line ends before."""


@dataclass(frozen=True, slots=True)
class StdioServerParameters:
    """How one upstream is started. `stderr` is the file that its diagnostics go to."""

    name: str
    argv: tuple[str, ...]
    stderr: Path
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, SecretReference] = field(default_factory=dict)
    here: Path = Path()
    """The folder that files of secrets are looked for in."""
    scrubber: Scrubber = field(default_factory=Scrubber)
    is_searched: bool = False
    """Whether its stderr passes through us even while the scrubber knows no secret: some become known later."""
    cwd: Path | None = None


class ServerProcess(subprocess.Popen[bytes]):
    """A running upstream. `unguarded` names its secrets that are too short to be scrubbed."""

    unguarded: tuple[str, ...] = ()
    pump: threading.Thread | None = None
    """Carries its stderr to the file, until it closes it."""


def start_process(connector: StdioServerParameters) -> ServerProcess:
    """Start the child in its own session, so that everything it starts can be ended with it.

    Raises: UpstreamError.
    """
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    try:
        added, unguarded = make_environment(connector.env, connector.secrets, connector.here, connector.scrubber)
        for folder in (connector.stderr.parent.parent, connector.stderr.parent):  # what a server logs is nobody else's
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        small = connector.stderr.exists() and connector.stderr.stat().st_size < STDERR_LIMIT
        with connector.stderr.open("ab" if small else "wb") as stderr:
            started = ServerProcess(
                connector.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if connector.scrubber or connector.is_searched else stderr,
                env={**environment, **added},
                cwd=connector.cwd,
                start_new_session=True,
                bufsize=0,
            )
            started.unguarded = tuple(unguarded)
            if started.stderr is not None:
                sink = os.fdopen(os.dup(stderr.fileno()), "ab", buffering=0)
                started.pump = threading.Thread(
                    target=copy_stderr, args=(started.stderr, sink, connector.scrubber), daemon=True
                )
                started.pump.start()
            return started
    except ConfigError as error:
        raise UpstreamError(f"upstream `{connector.name}` cannot be started: {error.message}", error.hint) from None
    except OSError as error:
        raise UpstreamError(
            f"upstream `{connector.name}` cannot be started: `{connector.argv[0]}`: {error.strerror}",
            f"check upstreams.{connector.name}.command in the config; is it on PATH?",
        ) from None


def copy_stderr(source: IO[bytes], sink: IO[bytes], scrubber: Scrubber) -> None:
    """Copy what a child writes to its stderr, without secrets, until it is closed."""

    def write(data: bytes) -> None:
        with suppress(OSError):  # a full disk loses diagnostics; reading goes on, or the child would hang on its stderr
            sink.write(data)

    held = b""
    with open(source.fileno(), "rb", MAX_LINE_BYTES, closefd=False) as lines, source, sink:
        while piece := lines.readline(MAX_LINE_BYTES):
            held = scrubber.clean(held + piece)
            if held.endswith(b"\n"):
                write(held)
                held = b""
            elif len(held) > MAX_LINE_BYTES:  # a line without end: what could be the beginning of a secret waits
                write(held[: -scrubber.longest])
                held = held[-scrubber.longest :]
        write(held)


def _finish(process: ServerProcess) -> None:
    """Reap it, and wait for the last of its stderr; somebody who left its group may hold that open, and is not waited
    for."""
    process.wait()
    if process.pump is not None:
        process.pump.join(GRACE_SECONDS / 4)


async def stop_process(process: ServerProcess) -> None:
    """End the child and its whole group: end of input first, then SIGTERM, then SIGKILL; and reap it."""
    if process.stdin is not None:
        process.stdin.close()
    exited = await _wait(process, GRACE_SECONDS)
    for name in (signal.SIGTERM, signal.SIGKILL):
        if not _signal_group(process.pid, name):
            break
        if not exited:
            exited = await _wait(process, GRACE_SECONDS)
    if process.stdout is not None:
        process.stdout.close()
    _finish(process)


def kill_process(process: ServerProcess) -> None:
    """End the child and its group at once, and reap it."""
    _signal_group(process.pid, signal.SIGKILL)
    _finish(process)


def _signal_group(group: int, which: signal.Signals) -> bool:
    """Whether anything of the group was still there to be told."""
    try:
        os.killpg(group, which)
    except (ProcessLookupError, PermissionError):
        return False
    return True


async def _wait(process: ServerProcess, seconds: float) -> bool:
    deadline = asyncio.get_running_loop().time() + seconds
    while process.poll() is None:
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(0.01)
    return True


# The link to an upstream that we start: a process on two pipes.


class StdioTransport:
    """Implements `transport.Transport`."""

    def __init__(self, connector: StdioServerParameters) -> None:
        self.where = f"its stderr: {connector.stderr}"
        self.unguarded: tuple[str, ...] = ()
        self.is_slow = is_slow(connector.secrets.values())
        self._connector = connector
        self._process: ServerProcess | None = None
        self._pipes: Pipes | None = None
        self._ears: MessageHandler

    def start(self) -> None:
        self._process = start_process(self._connector)
        self.unguarded = self._process.unguarded

    async def open(self, ears: MessageHandler, on_pressure: Callable[[bool], None], limit: int) -> bool:
        process, self._ears = self._process, ears
        if process is None or process.stdin is None or process.stdout is None:
            return False
        self._pipes = Pipes(ears.on_line, self._on_end)
        self._pipes.on_pressure = on_pressure
        await self._pipes.open(process.stdout, process.stdin, limit)
        return True

    def _on_end(self) -> None:
        code = self._process.poll() if self._process else None
        self._ears.on_end(f"exited with status {code}" if code is not None else "closed its output or its input")

    def write(self, frame: bytes, about: Id | None = None, last: bool = False) -> None:
        if self._pipes is not None:
            self._pipes.write(frame)

    def throttle(self, slow: bool) -> None:
        if self._pipes is not None:
            self._pipes.throttle(slow)

    async def close(self) -> None:
        if self._pipes is not None:
            self._pipes.close()
        process, self._process, self._pipes = self._process, None, None
        if process is not None:
            await stop_process(process)

    def kill(self) -> None:
        if self._process is not None:
            kill_process(self._process)
