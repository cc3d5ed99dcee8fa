"""`mcp-guard serve`: serve many MCP clients over HTTP, each as the instance that its token says."""

from mcp_guard.app import serve_http
from mcp_guard.cli.options import parser
from mcp_guard.config import load


def main(arguments: list[str]) -> int:
    made = parser("serve", "Serve MCP clients over HTTP where [serve] says; tokens: mcp-guard instances issue.")
    serve_http(load(made.parse_args(arguments).config))
    return 0
