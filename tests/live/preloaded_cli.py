"""A process with the command line imported that forks for each command: a new process in 20 ms, not 300.

For commands that come and go, for guards where the start is not what is tested, and for servers in Python that would
import the MCP SDK. Each is a process of its own with its own arguments, environment, folder and files; only the imports
are shared.
"""

import atexit
import faulthandler
import gc
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

from mcp_guard.cli import main
from mcp_guard.cli.completion.parsers import list_commands
from mcp_guard.identity import key_file

SECONDS = 60
"""How long a command may run."""
USED_BY_GUARDS = (
    "cedarpy", "mcp_guard.app", "mcp_guard.config.file", "mcp_guard.downstream.handshake",
    "mcp_guard.downstream.http.app", "mcp_guard.downstream.stdio", "mcp_guard.ledger.approvals", "mcp_guard.sign_ins",
    "mcp_guard.storage.engines", "mcp_guard.storage.postgres.engine", "mcp_guard.storage.sqlite.engine",
    "mcp_guard.storage.sqlite.inspection", "mcp_guard.upstream.start", "mcp_guard.verifier", "mcp_guard.web.app",
    "platformdirs", "uvicorn",
)  # fmt: skip
USED_BY_SERVERS = ("mcp.server.mcpserver", "mcp.server.stdio", "mcp.server.streamable_http", "uvicorn.main")
USED_BY_CLIENTS = ("mcp_guard.cli.guard_client",)
COMMAND, SCRIPT, CLIENT = b"c", b"s", b"m"
CLIENTS = ("call", "demo")
"""The commands that use the official client, whose import takes a second."""
STAND_IN = """
import json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    kind, script, *words = sys.argv[2:]
    socket.send_fds(server, [kind.encode()], [0, 1, 2])
    asked = {"words": words, "script": script, "cwd": os.getcwd(), "env": dict(os.environ), "seconds": 0}
    body = json.dumps(asked).encode()
    server.sendall(len(body).to_bytes(4, "big") + body)
    pid = int.from_bytes(server.recv(4, socket.MSG_WAITALL), "big")
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
    sys.exit(int.from_bytes(server.recv(4, socket.MSG_WAITALL), "big", signed=True) & 255)
"""
PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL
_running: dict[str, tuple["subprocess.Popen[bytes]", socket.socket, str]] = {}
"""By the library that is preloaded into it and what it forks, or nothing."""
_one_at_a_time = threading.Lock()


class Forked:
    """A command in a process forked from the preloaded one, with what tests use of `subprocess.Popen`."""

    def __init__(
        self,
        words: tuple[str, ...] | list[str],
        *,
        stdin: int = DEVNULL,
        stdout: int = 1,
        stderr: int = 2,
        text: bool = False,
        script: Path | None = None,
        env: Mapping[str, str] | None = None,
        prelude: str = "",
        seconds: int = 0,
        buffering: int = -1,
    ) -> None:
        """Descriptors are numbers, `PIPE` or `DEVNULL`. With `script`, that program runs in place of `mcp-guard`.
        `prelude` is Python that the process executes first. After so many `seconds`, unless 0, it is killed."""
        self.args = list(words)
        self.returncode: int | None = None
        self._answer, theirs = socket.socketpair()
        env = dict(env or os.environ)
        asked: dict[str, Any] = {"words": self.args, "cwd": os.getcwd(), "env": env}
        asked |= {"prelude": prelude, "seconds": seconds, "script": str(script or "")}
        body = json.dumps(asked).encode()
        mode = "" if text else "b"
        files = [_file(stdin, mode, buffering, reading=True), *(_file(to, mode, buffering) for to in (stdout, stderr))]
        kind = SCRIPT if script else CLIENT if next(iter(words), "") in CLIENTS else COMMAND
        server, _ = _server(env.get("LD_PRELOAD", ""))
        socket.send_fds(server, [kind], [theirs.fileno(), *(given for given, _ in files)])
        theirs.close()
        for asked_for, (given, _) in zip((stdin, stdout, stderr), files, strict=True):
            if asked_for < 0:
                os.close(given)
        self.stdin, self.stdout, self.stderr = (kept for _, kept in files)
        self._answer.sendall(len(body).to_bytes(4, "big") + body)
        self.pid = int.from_bytes(_receive(self._answer, 4), "big")

    def __del__(self) -> None:
        self._answer.close()  # nobody has waited for it

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._answer, selectors.EVENT_READ)
                if not selector.select(timeout):
                    return None
            self.returncode = int.from_bytes(_receive(self._answer, 4), "big", signed=True)
            self._answer.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _file(wanted: int, mode: str, buffering: int, *, reading: bool = False) -> tuple[int, IO[Any] | None]:
    """The descriptor for the command, and our end if it is a pipe."""
    if wanted == DEVNULL:
        return os.open(os.devnull, os.O_RDWR), None
    if wanted != PIPE:
        return wanted, None
    read, write = os.pipe()
    if reading:
        return read, os.fdopen(write, "w" + mode, buffering)
    return write, os.fdopen(read, "r" + mode, buffering)


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError("the other process is gone")
        data += more
    return data


def run_warm(
    words: tuple[str, ...], stdin: int = DEVNULL, env: Mapping[str, str] = {}
) -> "subprocess.CompletedProcess[str]":
    """Run a command with our environment and more, and our folder; returns its output and exit code."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        files, env = (out.fileno(), err.fileno()), {**os.environ, **env}
        code = Forked(words, stdin=stdin, stdout=files[0], stderr=files[1], env=env, seconds=SECONDS).wait()
        return subprocess.CompletedProcess(words, code, *(_read(item.fileno()) for item in (out, err)))


def _read(file: int) -> str:
    return os.pread(file, os.fstat(file).st_size, 0).decode()


def _server(library: str = "") -> tuple[socket.socket, str]:
    """Its connection for this process, and the path of the socket for others."""
    with _one_at_a_time:
        if library not in _running:
            ours, theirs = socket.socketpair()
            path = str(Path(tempfile.mkdtemp(prefix="warm")) / "socket")
            with theirs, socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen(64)
                files = [theirs.fileno(), listener.fileno()]
                words = [sys.executable, "-m", __name__, *map(str, files)]
                env = {**os.environ, "LD_PRELOAD": library} if library else None
                process = subprocess.Popen(words, pass_fds=files, stdin=DEVNULL, env=env)
            _running[library] = process, ours, path
            atexit.register(_stop, *_running[library])
        return _running[library][1:]


def _stop(process: "subprocess.Popen[bytes]", connection: socket.socket, path: str) -> None:
    connection.close()
    process.wait()
    shutil.rmtree(Path(path).parent)


def stand_in(script: Path, *words: str) -> tuple[str, ...]:
    """A command that others can start: it hands its files and this script, with these words, to a forked process."""
    return (sys.executable, "-ISc", STAND_IN, socket_path(), SCRIPT.decode(), str(script), *words)


def socket_path() -> str:
    """Where `STAND_IN` finds the preloaded process of this one."""
    return _server()[1]


def serve(control: socket.socket, listener: socket.socket) -> None:
    """Fork for each request until the other end of `control` is closed, and report each exit code."""
    faulthandler.enable()  # a command that is aborted prints where it is
    list(list_commands())  # every command is imported by now
    _import(*USED_BY_GUARDS)
    key_file.COST = 2**10  # guessing the passphrases of tests may be cheap: a key took as long as a guard's start
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj in (control, listener):
                    connection = control if key.fileobj is control else listener.accept()[0]
                    request, files, _, _ = socket.recv_fds(connection, 1, 4)
                    if not request:
                        return
                    if request != COMMAND:
                        _import(*(USED_BY_SERVERS if request == SCRIPT else USED_BY_CLIENTS))
                    _fork(selector, files if connection is control else [connection.detach(), *files])
                else:
                    pid, answer = key.data
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    _report(pid, answer)


def _import(*names: str) -> None:
    for name in names:
        import_module(name)
    gc.freeze()  # so that collecting garbage does not copy the memory that is shared


def _fork(selector: selectors.BaseSelector, files: list[int]) -> None:
    child = os.fork()
    if child == 0:
        _become(files)
    for file in files[1:]:
        os.close(file)
    answer = socket.socket(fileno=files[0])
    with suppress(OSError):  # nobody waits for it
        answer.sendall(child.to_bytes(4, "big"))
    selector.register(os.pidfd_open(child), selectors.EVENT_READ, (child, answer))


def _report(child: int, answer: socket.socket) -> None:
    _, status = os.waitpid(child, 0)
    with answer, suppress(OSError):
        answer.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))


def _become(files: list[int]) -> NoReturn:
    def receive() -> dict[str, Any]:
        with socket.socket(fileno=files[0]) as answer:
            asked = json.loads(_receive(answer, int.from_bytes(_receive(answer, 4), "big")))
        for number, file in enumerate(files[1:]):
            os.dup2(file, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        return dict(asked)

    os._exit(run_command(receive))


def run_command(take_over: Callable[[], dict[str, Any]]) -> int:
    """Run a command in this process, until it ends or the alarm goes off, and return its exit code.

    `take_over` replaces the standard files and returns the command's `words`, its folder `cwd` and environment `env`.
    It may add after how many `seconds` the alarm goes off, 0 for never, the Python to execute first, `prelude`, and the
    `script` to run with these words.
    """
    code = 1
    measured = sys.modules["coverage"].Coverage.current() if "coverage" in sys.modules else None
    try:
        asked = take_over()
        signal.alarm(asked.get("seconds", SECONDS))
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        time.tzset()
        exec(asked.get("prelude", ""), {})
        if script := asked.get("script"):
            sys.argv = [script, *asked["words"]]
            runpy.run_path(script, run_name="__main__")
            code = 0
        else:
            code = main(asked["words"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(BrokenPipeError, ValueError):
                stream.flush()
        if measured:
            measured.save()
    return code


if __name__ == "__main__":
    serve(*(socket.socket(fileno=int(number)) for number in sys.argv[1:]))
