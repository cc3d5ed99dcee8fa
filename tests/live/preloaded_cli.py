"""A process with the command line imported that forks for each command: a new process in 20 ms, not 300.

Only for commands that come and go; guards, and what is tested of a start itself, are started as users start them.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from mcp_guard.cli import main
from mcp_guard.cli.completion.parsers import list_commands

SECONDS = 60
_running: list["subprocess.Popen[bytes]"] = []
_one_at_a_time = threading.Lock()


def run_warm(words: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    """Run a command with our environment and folder and no input; returns its output and exit code."""
    with _one_at_a_time, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        server = _server()
        assert server.stdin
        assert server.stdout
        files = [f"/proc/{os.getpid()}/fd/{item.fileno()}" for item in (out, err)]
        asked = {"words": words, "files": files, "cwd": os.getcwd(), "env": dict(os.environ)}
        server.stdin.write(json.dumps(asked).encode() + b"\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(words, code, *(_read(item.fileno()) for item in (out, err)))


def _read(file: int) -> str:
    return os.pread(file, os.fstat(file).st_size, 0).decode()


def _server() -> "subprocess.Popen[bytes]":
    if not _running:
        server = subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        _running.append(server)
        atexit.register(_stop)
    return _running[0]


def _stop() -> None:
    for server in _running:
        server.communicate()


def serve() -> None:
    list(list_commands())  # every command is imported by now
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
        _, status = os.waitpid(child, 0)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(status))


def _become(asked: dict[str, Any]) -> NoReturn:
    def open_files() -> dict[str, Any]:
        for number, file in enumerate(("/dev/null", *asked["files"])):
            os.dup2(os.open(file, os.O_RDWR), number)
        return asked

    os._exit(run_command(open_files))


def run_command(take_over: Callable[[], dict[str, Any]]) -> int:
    """Run a command in this process, until it ends or the alarm goes off, and return its exit code.

    `take_over` replaces the standard files and returns the command's `words`, its folder `cwd` and environment `env`.
    """
    code = 1
    signal.alarm(SECONDS)
    measured = sys.modules["coverage"].Coverage.current() if "coverage" in sys.modules else None
    try:
        asked = take_over()
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
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
    serve()
