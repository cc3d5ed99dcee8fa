"""The stdio transport: an upstream as a process of its own group, with a minimal environment and its stderr in a file.

Where secrets are configured, its stderr passes through the guard, so that none of them gets into that file.
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
"""The variables of the guard's environment that an upstream inherits. The configuration adds others by name, so that no
secret of the guard leaks."""

MAX_STDERR_FILE_BYTES = 1024 * 1024
"""A larger file is emptied before the process starts."""
GRACE_SECONDS = 2.0
MAX_LINE_BYTES = 64 * 1024
"""Bytes of stderr that are scrubbed together if no line ends before."""


@dataclass(frozen=True, slots=True)
class StdioServerParameters:
    """How one upstream is started. `stderr` is the file that its diagnostics go to."""

    name: str
    argv: tuple[str, ...]
    stderr: Path
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, SecretReference] = field(default_factory=dict)
    here: Path = Path()
    """The folder that relative paths of secrets start from."""
    scrubber: Scrubber = field(default_factory=Scrubber)
    scrubs_later_secrets: bool = False
    """Whether its stderr passes through the guard even while the scrubber knows no secret, as it may learn some."""
    cwd: Path | None = None


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A running upstream."""

    popen: subprocess.Popen[bytes]
    stdin: IO[bytes]
    stdout: IO[bytes]
    unscrubbed_secrets: tuple[str, ...]
    """Names of its secrets that are too short to be scrubbed."""
    stderr_thread: threading.Thread | None
    """Copies its stderr to the file until the process closes it."""


def start_process(parameters: StdioServerParameters) -> ServerProcess:
    """Start the process in a session of its own, so that everything it starts can be ended with it.

    Raises: UpstreamError; the message does not name the upstream.
    """
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    try:
        added, unscrubbed = make_environment(parameters.env, parameters.secrets, parameters.here, parameters.scrubber)
        for folder in (parameters.stderr.parent.parent, parameters.stderr.parent):  # only the owner may read the logs
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_small = parameters.stderr.exists() and parameters.stderr.stat().st_size < MAX_STDERR_FILE_BYTES
        with parameters.stderr.open("ab" if is_small else "wb") as stderr:
            popen = subprocess.Popen(
                parameters.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if parameters.scrubber or parameters.scrubs_later_secrets else stderr,
                env={**inherited, **added},
                cwd=parameters.cwd,
                start_new_session=True,
                bufsize=0,
            )
            thread = None
            if popen.stderr is not None:
                file = os.fdopen(os.dup(stderr.fileno()), "ab", buffering=0)
                thread = threading.Thread(
                    target=copy_stderr, args=(popen.stderr, file, parameters.scrubber), daemon=True
                )
                thread.start()
    except ConfigError as error:
        raise UpstreamError(f"cannot be started: {error.message}", error.hint) from None
    except OSError as error:
        raise UpstreamError(
            f"cannot be started: `{parameters.argv[0]}`: {error.strerror}",
            f"check upstreams.{parameters.name}.command in the config; is it on PATH?",
        ) from None
    assert popen.stdin is not None
    assert popen.stdout is not None
    return ServerProcess(popen, popen.stdin, popen.stdout, tuple(unscrubbed), thread)


def copy_stderr(source: IO[bytes], file: IO[bytes], scrubber: Scrubber) -> None:
    """Copy what a process writes to its stderr, without secrets, until it is closed."""

    def write(data: bytes) -> None:
        with suppress(OSError):  # with a full disk diagnostics are lost, but the process must not block on its stderr
            file.write(data)

    held = b""
    with open(source.fileno(), "rb", MAX_LINE_BYTES, closefd=False) as lines, source, file:
        while piece := lines.readline(MAX_LINE_BYTES):
            held = scrubber.clean(held + piece)
            if held.endswith(b"\n"):
                write(held)
                held = b""
            elif len(held) > MAX_LINE_BYTES:  # a line without end: hold back what could be the beginning of a secret
                cut = max(0, len(held) - scrubber.longest)
                write(held[:cut])
                held = held[cut:]
        write(held)


def _reap(process: ServerProcess) -> None:
    """Wait for its exit and for the last of its stderr; not long, because a process that left the group may hold it."""
    process.popen.wait()
    if process.stderr_thread is not None:
        process.stderr_thread.join(GRACE_SECONDS / 4)


async def stop_process(process: ServerProcess) -> None:
    """End the process and its group: end of input first, then SIGTERM, then SIGKILL; and reap it."""
    process.stdin.close()
    exited = await _wait(process, GRACE_SECONDS)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _signal_group(process.popen.pid, number):
            break
        if not exited:
            exited = await _wait(process, GRACE_SECONDS)
    process.stdout.close()
    _reap(process)


def kill_process(process: ServerProcess) -> None:
    """End the process and its group at once, and reap it."""
    _signal_group(process.popen.pid, signal.SIGKILL)
    _reap(process)


def _signal_group(group: int, number: signal.Signals) -> bool:
    """Whether the group still had a process."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


async def _wait(process: ServerProcess, seconds: float) -> bool:
    deadline = asyncio.get_running_loop().time() + seconds
    while process.popen.poll() is None:
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(0.01)
    return True


class StdioTransport:
    """Implements `transport.Transport`."""

    def __init__(self, parameters: StdioServerParameters) -> None:
        self.diagnostics = f"its stderr: {parameters.stderr}"
        self.unscrubbed_secrets: tuple[str, ...] = ()
        self.starts_slowly = is_slow(parameters.secrets.values())
        self._parameters = parameters
        self._process: ServerProcess | None = None
        self._start_failure = "is not started"
        self._pipes: Pipes | None = None

    def start(self) -> None:
        try:
            self._process = start_process(self._parameters)
        except UpstreamError as error:
            self._start_failure = error.message
        else:
            self.unscrubbed_secrets = self._process.unscrubbed_secrets

    async def open(self, handler: MessageHandler, on_pressure: Callable[[bool], None], max_message_bytes: int) -> bool:
        process = self._process
        if process is None:
            handler.on_closed(self._start_failure)
            return False

        def on_end() -> None:
            status = process.popen.poll()
            handler.on_closed(
                f"exited with status {status}" if status is not None else "closed its output or its input"
            )

        self._pipes = Pipes(on_end)
        await self._pipes.open(
            process.stdout,
            process.stdin,
            limit=max_message_bytes,
            on_line=handler.on_message,
            on_pressure=on_pressure,
        )
        return True

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
