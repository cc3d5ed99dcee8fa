"""`mcp-guard serve`: serve many MCP clients over HTTP, each as the instance of its token."""

import argparse

from mcp_guard.app import serve_http
from mcp_guard.cli.options import add_log, make_parser
from mcp_guard.config import load
from mcp_guard.server_log import ServerLog


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    serve_http(load(options.config), ServerLog(options.log_format, options.log_level))
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "serve", "Serve MCP clients over HTTP, as configured in [serve]. Issue tokens with mcp-guard instances issue."
    )
    add_log(parser)
    return parser
