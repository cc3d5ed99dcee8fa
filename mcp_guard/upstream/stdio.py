"""The stdio transport: an upstream as a process of its own group, with a minimal environment and its stderr in a file.

Where secrets are configured, its stderr passes through the guard, so that none of them gets into that file.
"""

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from io import BufferedReader, FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mcp_guard.core.errors import RAISE_THREAD_LIMIT, ConfigError, UpstreamError
from mcp_guard.core.secret_scrubber import Scrubber
from mcp_guard.protocol.jsonrpc import Id, request_id
from mcp_guard.protocol.stdio import Pipes
from mcp_guard.secrets import is_slow, make_environment, network_variables
from mcp_guard.settings import SecretReference
from mcp_guard.upstream.budget import WorkMeter
from mcp_guard.upstream.transport import MessageHandler, unusable

if TYPE_CHECKING:
    from mcp_guard.upstream.last_words import LastWords

INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER", "SYSTEMROOT")
"""The variables of the guard's environment that an upstream inherits. The configuration adds others by name, so that no
secret of the guard leaks. It also inherits how requests leave this machine (`secrets.network_variables`), as a server
that is started by hand does."""

MAX_STDERR_FILE_BYTES = 1024 * 1024
"""A larger file is emptied, before the process starts and while it runs."""
STDERR_BURST_BYTES = 1024 * 1024
STDERR_BYTES_PER_SECOND = 256 * 1024
LINE_COST = 256
"""What a line of stderr is counted as, beside its bytes: searching it for secrets takes time however short it is."""
OMISSION_SECONDS, DROP_SECONDS = 2.0, 0.01
"""How long stderr is dropped once it was written too fast, and the pause after each piece of it."""
OMISSION = b"\n[mcp-guard: left out what was written too fast]\n"
EXIT_SECONDS, TERMINATION_SECONDS, REAP_SECONDS = 0.8, 0.6, 0.3
"""How long a process may take to exit after the end of its input, and after SIGTERM, and how long its stderr is read
then. A host sends the guard SIGTERM 2 s after the end of its input, and SIGKILL 2 s later (MCP, "Shutdown")."""
MAX_DESCENDANTS = 256
MAX_LINE_BYTES = 64 * 1024
"""Bytes of stderr that are scrubbed together if no line ends before."""
LAST_WORDS_POLLS, LAST_WORDS_POLL_SECONDS = 60, 0.005
"""How often it is looked whether a process has ended and its stderr has been read, before its last words are taken."""
TAIL_BYTES = 4096
"""How much of the end of stderr is kept in memory, to say what a process said before it ended."""


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
    cwd: Path | None = None
    inherits_network: bool = True
    """Whether it inherits the variables for proxies and certificates (`[network] environment`)."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process of this machine: when it was started tells it from a later one with the same number."""

    pid: int
    started: str


class StderrTail:
    """The end of what a process has written to its stderr, as `text`. One thread writes it, others read it."""

    def __init__(self) -> None:
        self.text = b""

    def add(self, data: bytes) -> None:
        self.text = (self.text + data)[-TAIL_BYTES:]


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A running upstream."""

    popen: subprocess.Popen[bytes]
    stdin: IO[bytes]
    stdout: IO[bytes]
    unscrubbed_secrets: tuple[str, ...]
    """Names of its secrets that are too short to be scrubbed."""
    stderr_thread: threading.Thread
    """Copies its stderr to the file until the process closes it."""
    stderr_tail: StderrTail
    variables: frozenset[str]
    """The names in its environment."""


def open_stderr_file(path: Path) -> FileIO:
    """The file, appended to, so that it can be emptied at any time. Raises: UpstreamError."""
    try:
        for folder in (path.parent.parent, path.parent):  # only the owner may read the logs
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path.open("ab", buffering=0)
    except OSError as error:
        raise UpstreamError(
            f"cannot be started: its stderr cannot be written: {error.strerror}",
            "check the state folder (guard.state_dir), its owner and mode, and how the disk is mounted",
            f"cannot be started: its stderr cannot be written to `{path}`: {error.strerror}",
        ) from None


def start_process(parameters: StdioServerParameters) -> ServerProcess:
    """Start the process in a session of its own, so that everything it starts can be ended with it.

    Raises: UpstreamError; the message does not name the upstream.
    """
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    network = network_variables(os.environ) if parameters.inherits_network else {}
    tail = StderrTail()
    try:
        added, unscrubbed = make_environment(
            network | dict(parameters.env), parameters.secrets, parameters.here, parameters.scrubber, empty_ok=True
        )
        with open_stderr_file(parameters.stderr) as stderr:
            if os.fstat(stderr.fileno()).st_size >= MAX_STDERR_FILE_BYTES:
                stderr.truncate(0)
            popen = subprocess.Popen(
                parameters.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**inherited, **added},
                cwd=parameters.cwd,
                start_new_session=True,
                bufsize=0,
            )
            thread = _start_copying(popen, stderr, parameters.scrubber, tail)
    except ConfigError as error:
        raise unusable("cannot be started", error) from None
    except RuntimeError as error:  # from `Thread.start`
        raise UpstreamError(f"cannot be started: {error}", RAISE_THREAD_LIMIT) from None
    except OSError as error:
        raise UpstreamError(
            f"cannot be started: {error.strerror}",
            f"check upstreams.{parameters.name}.command in the config; is it on the guard's PATH? "
            f"That is `{os.environ.get('PATH', '')}`",
            f"cannot be started: `{parameters.argv[0]}`: {error.strerror}",
        ) from None
    assert popen.stdin is not None
    assert popen.stdout is not None
    variables = frozenset(inherited.keys() | added.keys())
    return ServerProcess(popen, popen.stdin, popen.stdout, tuple(unscrubbed), thread, tail, variables)


def _start_copying(
    popen: subprocess.Popen[bytes], stderr: FileIO, scrubber: Scrubber, tail: StderrTail
) -> threading.Thread:
    """A thread that copies the stderr of a process to this file. Without one, the process is ended.

    Raises: OSError, RuntimeError.
    """
    assert popen.stderr is not None
    try:
        with ExitStack() as opened:
            file = opened.enter_context(os.fdopen(os.dup(stderr.fileno()), "ab", buffering=0))
            thread = threading.Thread(target=copy_stderr, args=(popen.stderr, file, scrubber, tail), daemon=True)
            thread.start()
            opened.pop_all()  # the thread closes it
    except BaseException:
        with popen:  # closes its pipes, and waits for its end
            _signal_group(popen.pid, signal.SIGKILL)
        raise
    return thread


def copy_stderr(source: IO[bytes], file: IO[bytes], scrubber: Scrubber, tail: StderrTail | None = None) -> None:
    """Copy what a process writes to its stderr, without secrets, until it is closed; the end of it also to `tail`.

    What is written too fast is read and dropped, so that neither is the process blocked nor the guard kept busy.
    """
    log, budget, held = (
        StderrFile(file, tail or StderrTail()),
        WorkMeter(STDERR_BURST_BYTES, STDERR_BYTES_PER_SECOND),
        b"",
    )
    with BufferedReader(FileIO(source.fileno(), closefd=False), MAX_LINE_BYTES) as lines, source, file:
        while piece := lines.readline(MAX_LINE_BYTES):
            if budget.charge(LINE_COST + len(piece), time.monotonic()) > 0:
                log.write(held + OMISSION)
                held = b""
                until = time.monotonic() + OMISSION_SECONDS
                while time.monotonic() < until and lines.read1(MAX_LINE_BYTES):
                    time.sleep(DROP_SECONDS)
                while (rest := lines.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass  # the rest of a line could be the rest of a secret
                continue
            held = scrubber.clean(held + piece)
            if held.endswith(b"\n"):
                log.write(held)
                held = b""
            elif len(held) > MAX_LINE_BYTES:  # a line without end: hold back what could be the beginning of a secret
                cut = max(0, len(held) - scrubber.longest)
                log.write(held[:cut])
                held = held[cut:]
        log.write(held)


class StderrFile:
    """The file with an upstream's diagnostics. When it is full it is emptied."""

    def __init__(self, file: IO[bytes], tail: StderrTail) -> None:
        self._file = file
        self._tail = tail
        self._written = os.fstat(file.fileno()).st_size

    def write(self, data: bytes) -> None:
        self._tail.add(data)
        with suppress(OSError):  # with a full disk diagnostics are lost, but the process must not block on its stderr
            if self._written + len(data) > MAX_STDERR_FILE_BYTES:
                self._file.truncate(0)
                self._written = 0
            self._written += self._file.write(data)


def how_ended(process: subprocess.Popen[bytes]) -> str:
    """How it ended, in words; empty if it still runs."""
    status = process.poll()
    if status is None:
        return ""
    return f"exited with status {status}" if status >= 0 else f"was ended by signal {-status}"


async def stop_process(process: ServerProcess) -> None:
    """End the process and everything it has started, and reap it: end of input first, then SIGTERM, then SIGKILL."""
    others = set(_processes_outside(process.popen.pid))
    process.stdin.close()
    for number, seconds in ((None, EXIT_SECONDS), (signal.SIGTERM, TERMINATION_SECONDS), (signal.SIGKILL, 0)):
        if number is not None:
            others.update(_processes_outside(process.popen.pid))  # it may have started more
            _signal_all(process, others, number)
        if await _has_ended(process, others, seconds):
            break
    process.stdout.close()
    _reap(process)


def kill_process(process: ServerProcess) -> None:
    """End the process and everything it has started at once, and reap it."""
    _signal_all(process, _processes_outside(process.popen.pid), signal.SIGKILL)
    _reap(process)


def _reap(process: ServerProcess) -> None:
    """Wait for its exit and for the last of its stderr; not long, because a process that left the group may hold it."""
    process.popen.wait()
    process.stderr_thread.join(REAP_SECONDS)


async def _has_ended(process: ServerProcess, others: Collection[ProcessId], seconds: float) -> bool:
    """Whether all of it has ended in this time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while process.popen.poll() is None or _signal_group(process.popen.pid, 0) or any(map(_is_running, others)):
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(0.01)
    return True


def _signal_all(process: ServerProcess, others: Iterable[ProcessId], number: signal.Signals) -> None:
    _signal_group(process.popen.pid, number)
    for other in others:
        if _is_running(other):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(other.pid, number)


def _signal_group(group: int, number: int) -> bool:
    """Whether the group still had a process."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _processes_outside(group: int) -> list[ProcessId]:
    """The processes that the leader of a group has started, directly or not, and that are not in the group.

    A browser that a server controls is one. Empty where the system does not list them (proc(5), `children`).
    """
    found: list[ProcessId] = []
    pending = [group]
    while pending and len(found) < MAX_DESCENDANTS:
        folder = Path("/proc", str(pending.pop()))
        with suppress(OSError):
            for listing in folder.glob("task/*/children"):
                pending += map(int, listing.read_text().split())
        if (status := _process_status(folder)) is not None and status[0] != group:
            found.append(ProcessId(int(folder.name), status[1]))
    return found


def _process_status(folder: Path) -> tuple[int, str] | None:
    """The group of a running process and when it was started; None if it is not running."""
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[2]), fields[19]) if fields[0] not in "ZX" else None


def _is_running(process: ProcessId) -> bool:
    """Whether this process is still running: its number may be that of another by now."""
    status = _process_status(Path("/proc", str(process.pid)))
    return status is not None and status[1] == process.started


class StdioTransport:
    """Implements `transport.Transport`."""

    is_process = True

    def __init__(self, parameters: StdioServerParameters) -> None:
        self.diagnostics = f"its stderr: {parameters.stderr}"
        self.unscrubbed_secrets: tuple[str, ...] = ()
        self.starts_slowly = is_slow(parameters.secrets.values())
        self._parameters = parameters
        self._process: ServerProcess | None = None
        self._start_failure = UpstreamError("is not started")
        self._pipes: Pipes | None = None
        self._has_closed = False
        """Whether the process has closed its end of a pipe: it may be about to exit."""

    def start(self) -> None:
        try:
            self._process = start_process(self._parameters)
        except UpstreamError as error:
            self._start_failure = error
        else:
            self.unscrubbed_secrets = self._process.unscrubbed_secrets

    async def open(self, handler: MessageHandler, on_pressure: Callable[[bool], None], max_message_bytes: int) -> bool:
        process = self._process
        if process is None:
            handler.on_closed(self._start_failure.message, self._start_failure.full)
            return False

        def on_end() -> None:
            self._has_closed = True
            handler.on_closed(how_ended(process.popen) or "closed its output or its input")

        self._has_closed = False
        self._pipes = Pipes(on_end, remembers_frames=True)
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

    def withdraw(self, request: Id) -> bool:
        return self._pipes is not None and self._pipes.withdraw(lambda frame: request_id(frame) == request)

    def take_unsent(self) -> list[Id]:
        frames = self._pipes.take_unsent() if self._pipes is not None else []
        return [id for frame in frames if (id := request_id(frame)) is not None]

    def throttle(self, slow: bool) -> None:
        if self._pipes is not None:
            self._pipes.throttle(slow)

    async def last_words(self, reason: str, *, at_start: bool) -> "LastWords":
        from mcp_guard.upstream.last_words import LastWords, lines_of

        process = self._process
        if process is None:
            return LastWords(reason, hint=self._start_failure.hint)
        for _ in range(LAST_WORDS_POLLS if self._has_closed else 0):
            if process.popen.poll() is not None and not process.stderr_thread.is_alive():
                break
            await asyncio.sleep(LAST_WORDS_POLL_SECONDS)
        if self._has_closed:
            reason = how_ended(process.popen) or reason
        lines = lines_of(process.stderr_tail.text)
        if not at_start or process.popen.poll() is None:
            return LastWords(reason, lines)
        return LastWords.of_start(reason, self._parameters.name, lines, os.environ, process.variables)

    async def close(self) -> None:
        pipes, self._pipes = self._pipes, None
        if pipes is not None:
            pipes.close()
        if self._process is not None:
            await stop_process(self._process)
            self._process = None  # not before: if this is cancelled, another call must find the process

    def kill(self) -> None:
        if self._process is not None:
            kill_process(self._process)
