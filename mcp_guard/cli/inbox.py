"""`mcp-guard inbox`: serve the approval page on this machine."""

import argparse
import asyncio
import errno
import secrets
import socket
import sys

from mcp_guard.cli.options import add_json, make_parser
from mcp_guard.cli.output import print_result, print_text
from mcp_guard.cli.page_server import serve_pages
from mcp_guard.config import load
from mcp_guard.core.errors import ConfigError, ListenError
from mcp_guard.server_log import note
from mcp_guard.settings import Settings


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    asyncio.run(serve(settings, options))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("inbox", "Serve the approval page on this machine only; stop with Ctrl-C.")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    add_json(parser)
    return parser


def listen(port: int) -> list[socket.socket]:
    """Listen on loopback, on IPv4, and on IPv6 if the machine has it: `localhost` may mean either, so whoever else has
    the port on one of them could be taken for the inbox. Raises: ConfigError, ListenError."""
    from mcp_guard.inbound import TRANSIENT

    sockets = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        except OSError:
            continue  # a kernel without IPv6
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(128)  # a client may connect before the server is up
            sockets.append(listener)
        except OSError as error:
            listener.close()
            if family == socket.AF_INET or error.errno != errno.EADDRNOTAVAIL:
                for other in sockets:
                    other.close()
                kind = ListenError if error.errno in TRANSIENT else ConfigError
                what = f"cannot listen on {address} port {port}: {error.strerror}"
                raise kind(what, "set inbox.port to a free port") from None
    return sockets


async def serve(settings: Settings, options: argparse.Namespace) -> None:
    sockets = listen(settings.inbox_port)

    def announce() -> None:
        print_result(options.json, {"url": settings.inbox}, f"the inbox is at {settings.inbox}")
        if options.open:
            import webbrowser

            webbrowser.open(f"{settings.inbox}/?{secrets.token_urlsafe(8)}")  # an address that no browser has cached

    await serve_pages(settings, settings.inbox, sockets, announce, note=note)
    print_text("the inbox is closed", file=sys.stderr)
