"""`mcp-guard connect`: relay standard input and output to a guard of another user over its Unix socket.

It relays bytes, parses no MCP and reads no configuration, so it starts as fast as Python does.
"""

import argparse
import os
import socket
import threading

from mcp_guard.cli.options import Parser
from mcp_guard.core.errors import IdentityError, UpstreamError

SOCKET_VARIABLE = "MCP_GUARD_SOCKET"
PIECE = 256 * 1024
REFUSED = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32001,'
"""How the only message to a user who is not admitted begins (`downstream/unix.py`)."""


def main(arguments: list[str]) -> int:
    parser = build_parser()
    path = parser.parse_args(arguments).socket
    if not path:
        parser.error(f"no socket specified: use --socket PATH or set ${SOCKET_VARIABLE}")
    guard = socket.socket(socket.AF_UNIX)
    try:
        guard.connect(path)
    except OSError as error:
        hint = "check that `mcp-guard serve` runs with [serve.socket] and that this user may open it"
        raise UpstreamError(f"no guard at `{path}`: {error.strerror or error}", hint) from None
    left = threading.Event()
    threading.Thread(target=carry_in, args=(guard, left), daemon=True).start()
    carry_out(guard)
    if not left.is_set():
        raise UpstreamError(f"the guard at `{path}` closed the connection", "see the output of `mcp-guard serve`")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mcp-guard connect", description="Relay stdin and stdout to a guard that serves a Unix socket."
    )
    parser.add_argument("--socket", metavar="PATH", default=os.environ.get(SOCKET_VARIABLE, ""),
                      help=f"the guard's socket (default: ${SOCKET_VARIABLE})")  # fmt: skip
    return parser


def carry_in(guard: socket.socket, left: threading.Event) -> None:
    """Copy from the client to the guard until the client closes its end; then close ours."""
    try:
        while piece := os.read(0, PIECE):
            guard.sendall(piece)
        left.set()
        guard.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the guard is gone; `carry_out` reports it


def carry_out(guard: socket.socket) -> None:
    """Copy from the guard to the client until the guard closes its end. Raises: IdentityError, BrokenPipeError."""
    try:
        piece = guard.recv(PIECE)
        if piece.startswith(REFUSED):
            raise _refusal(piece)
        while piece:
            view = memoryview(piece)
            while view:
                view = view[os.write(1, view) :]
            piece = guard.recv(PIECE)
    except ConnectionResetError:
        return


def _refusal(line: bytes) -> IdentityError:
    import json

    why = json.loads(line)["error"]["message"]
    return IdentityError(
        f"the guard refused the connection: {why}", f"ask its operator to admit this user (uid {os.getuid()})"
    )
