"""`mcp-guard web`: serve the pages at the address in `[web]`, for phones and for a team."""

import argparse
import asyncio
import socket
import sys

from mcp_guard.cli.options import add_json, add_log, make_parser
from mcp_guard.cli.output import log_errors, print_result, print_text
from mcp_guard.cli.page_server import serve_pages
from mcp_guard.config import load
from mcp_guard.core.errors import ConfigError, ListenError
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.open import ledger_settings, open_writer
from mcp_guard.ledger.start import wait_for_database
from mcp_guard.ledger.writer import Writer
from mcp_guard.server_log import ServerLog
from mcp_guard.settings import Settings, SocketSettings, WebSettings
from mcp_guard.shared_secret import read_shared_secret

BUSY_SECONDS = 2.0
"""How often a supervised process tries to listen, while another gateway of the machine serves the pages."""


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    log = ServerLog(options.log_format, options.log_level)
    log_errors(log if options.log_format == "json" else None)
    settings = load(options.config)
    if settings.web is None:
        problem = f"{settings.path}: missing `[web]` section"
        raise ConfigError(problem, 'add [web] with url = "https://…", or serve this machine only: mcp-guard inbox')
    writer = None
    if not options.supervised:  # or the guard beside it waits, and starts it again
        read_shared_secret(settings)  # before a ledger is begun
        _check_listen(settings.web)  # likewise
        ledger = ledger_settings(settings)
        writer = wait_for_database(ledger.place, lambda: open_writer(ledger, CLOCK), log.note)
        if writer is None:
            return 0
    asyncio.run(serve(settings, settings.web, writer, log, options))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("web", "Serve the pages at the address in [web]; stop with Ctrl-C.")
    parser.add_argument(
        "--supervised",
        action="store_true",
        help="stop when standard input ends, and wait while the port is in use: how mcp-guard serve starts it",
    )
    add_json(parser)
    add_log(parser)
    return parser


async def serve(
    settings: Settings, web: WebSettings, writer: Writer | None, log: ServerLog, options: argparse.Namespace
) -> None:
    """`writer`: of the ledger, if it is open."""
    from mcp_guard.web.tls import ServedCertificate

    tls = ServedCertificate(web.certificate, web.key) if web.certificate and web.key else None
    ended = asyncio.create_task(_stdin_ended()) if options.supervised else None
    try:
        listener = await _listen(web, ended, log)
        if listener is None:
            return
        where, place = _describe(listener)
        by = "" if tls or web.url.startswith("http:") else ", where a proxy has to end TLS"

        def announce() -> None:
            if options.supervised:
                log.note(f"serving the pages at {web.url} on {where}{by}")
            else:
                text = f"the pages are at {web.url}, served on {where}{by}"
                print_result(options.json, {"url": web.url, **place}, text)

        delivers = not options.supervised  # or the guard beside it does
        await serve_pages(
            settings,
            web.url,
            [listener],
            announce,
            writer=writer,
            delivers=delivers,
            tls=tls,
            until=ended,
            note=log.note,
        )
    finally:
        if ended is not None:
            ended.cancel()
    if not options.supervised:
        print_text("the pages are closed", file=sys.stderr)


def _check_listen(web: WebSettings) -> None:
    """Find out whether the address is occupied. Raises: ConfigError, ListenError."""
    from mcp_guard.downstream.http.server import check_address
    from mcp_guard.downstream.unix import check_socket, open_socket

    if isinstance(web.listen, SocketSettings):
        check_socket(web.listen, "web.listen", open_socket)
    else:
        check_address(*web.listen, "web.listen")


async def _listen(web: WebSettings, ended: "asyncio.Task[object] | None", log: ServerLog) -> socket.socket | None:
    """The socket, or None if standard input ended first. Raises: ConfigError, ListenError."""
    from mcp_guard.downstream.http.server import listen
    from mcp_guard.downstream.unix import open_socket

    told = False
    while True:
        try:
            if isinstance(web.listen, SocketSettings):
                return open_socket(web.listen, "web.listen")
            return listen(*web.listen, "web.listen")
        except ListenError as error:
            if ended is None:
                raise
            if not told:
                log.note(
                    f"{error.message}: another gateway of this guard serves the pages there, and this one takes over "
                    "when it ends; anything else that listens there gets what is meant for the pages, so end it"
                )
            told = True
        done, _ = await asyncio.wait([ended], timeout=BUSY_SECONDS)
        if done:
            return None


def _describe(listener: socket.socket) -> tuple[str, dict[str, object]]:
    """Where it listens, for people and as JSON."""
    if listener.family == socket.AF_UNIX:
        path = str(listener.getsockname())
        return f"`{path}`", {"socket": path}
    host, port = listener.getsockname()[:2]
    return f"{host} port {port}", {"host": host, "port": port}


async def _stdin_ended() -> object:
    """Waits for the end of standard input: whoever started this process has ended."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while await reader.read(1024):
            pass
    finally:
        transport.close()
    return None
