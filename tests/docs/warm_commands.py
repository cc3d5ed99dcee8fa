"""Lets the commands of a document start in 30 ms and not in 300: a process that has imported the command line forks for
each. `mcp-guard` is then a small program that hands over its arguments, folder, environment and files.

Commands that serve, that start a whole demonstration, or that ask for a passphrase on the terminal run as they are.
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from tests.live.preloaded_cli import run_command

SOCKET = "warm.socket"
CLIENT = """#!{python} -IS
import json, os, socket, sys
words = sys.argv[1:]
asks = words[:1] in (["approvals"], ["approvers"], ["secrets"]) and "--passphrase-file" not in words
if asks and words[1:2] not in (["list"], ["watch"], ["show"], ["code"], ["remove"]) or words[:1] in (
    ["run"], ["serve"], ["connect"], ["demo"], ["inbox"]
):
    os.execv({real!r}, ["mcp-guard", *words])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    asked = json.dumps({{"words": words, "cwd": os.getcwd(), "env": dict(os.environ)}}).encode()
    socket.send_fds(server, [len(asked).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(asked)
    code = server.recv(1)
sys.exit(code[0] if code else 1)
"""


@cache
def warm_bin(real: Path) -> Path:
    """A folder with an `mcp-guard` that does what `real` does. The process behind it ends with this one."""
    folder = Path(tempfile.mkdtemp(prefix="warm"))
    server = subprocess.Popen(
        [sys.executable, "-m", __name__, str(folder / SOCKET)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    server.stdout.readline()  # it listens
    program = folder / "mcp-guard"
    program.write_text(CLIENT.format(python=sys.executable, real=str(real), socket=str(folder / SOCKET)))
    program.chmod(0o755)
    atexit.register(_stop, server, folder)
    return folder


def _stop(server: "subprocess.Popen[bytes]", folder: Path) -> None:
    server.terminate()
    server.communicate()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def serve(path: str) -> None:
    import cedarpy  # noqa: F401 - imported once for all

    from mcp_guard.cli.completion.parsers import list_commands

    list(list_commands())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        print("listening", flush=True)  # noqa: T201
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _become(connection)
            connection.close()


def _become(connection: socket.socket) -> NoReturn:
    """Become the command that is asked for, and send its exit code."""

    def receive() -> dict[str, Any]:
        size, files, _, _ = socket.recv_fds(connection, 4, 3)
        asked = _read(connection, int.from_bytes(size, "big"))
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        return asked

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = run_command(receive)
    with suppress(OSError):
        connection.sendall(bytes([code & 255]))
    os._exit(code)


def _read(connection: socket.socket, size: int) -> dict[str, Any]:
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data)) or b"\0"
    return dict(json.loads(data))


if __name__ == "__main__":
    serve(sys.argv[1])
