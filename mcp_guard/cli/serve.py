"""`mcp-guard serve`: serve many MCP clients over HTTP, each as the instance of its token."""

import argparse
from dataclasses import replace

from mcp_guard.app import serve_http
from mcp_guard.cli.options import add_log, make_parser
from mcp_guard.cli.output import log_errors
from mcp_guard.config import load
from mcp_guard.server_log import ServerLog
from mcp_guard.settings import Settings


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    log = ServerLog(options.log_format, options.log_level)
    log_errors(log if options.log_format == "json" else None)
    serve_http(listen_on(options.port, load(options.config)), log)
    return 0


def listen_on(port: int | None, settings: Settings) -> Settings:
    """The settings with this port. Tokens stay those for `serve.url`, so that one is valid at every gateway."""
    if port is None or settings.serve is None:
        return settings
    return replace(settings, serve=replace(settings.serve, port=port))


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "serve", "Serve MCP clients over HTTP, as configured in [serve]. Issue tokens with mcp-guard instances issue."
    )
    parser.add_argument(
        "--port",
        type=port_number,
        metavar="PORT",
        help="listen on this port instead of serve.port, for several gateways with one configuration",
    )
    add_log(parser)
    return parser


def port_number(text: str) -> int:
    """The `type` of an option that takes a TCP port; 0 is any that is free."""
    if not text.isascii() or not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"`{text}` is not a port; write a number up to 65535")
    return int(text)
