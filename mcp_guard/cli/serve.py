"""`mcp-guard serve`: serve many MCP clients over HTTP, each as the instance of its token."""

import argparse

from mcp_guard.app import serve_http
from mcp_guard.cli.options import make_parser
from mcp_guard.config import load


def main(arguments: list[str]) -> int:
    serve_http(load(build_parser().parse_args(arguments).config))
    return 0


def build_parser() -> argparse.ArgumentParser:
    return make_parser(
        "serve", "Serve MCP clients over HTTP, as configured in [serve]. Issue tokens with mcp-guard instances issue."
    )
