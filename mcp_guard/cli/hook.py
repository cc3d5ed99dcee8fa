"""`mcp-guard hook`: pass one event of a coding agent's hook to the guard, and print the answer.

`wrap --hooks` has `hook_client.py` started directly, which is faster; this is the same by hand, or from another place.
"""

import argparse
import sys

from mcp_guard import hook_client
from mcp_guard.cli.options import make_parser
from mcp_guard.cli.output import print_error
from mcp_guard.core.errors import ConfigError, GuardError

AGENTS = ("claude-code", "codex", "gemini-cli", "cursor")


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    try:
        socket = options.socket or socket_of(options)
    except GuardError as error:  # its own exit code would let the tool run
        print_error(error)
        return hook_client.code_of_denial(sys.stdin.buffer.read())
    return hook_client.main([options.agent, socket, str(options.seconds)])


def socket_of(options: argparse.Namespace) -> str:
    """Raises: ConfigError."""
    from mcp_guard.config import load

    settings = load(options.config)
    if settings.hooks is None:
        raise ConfigError(f"{settings.path}: missing `[hooks]` section", "mcp-guard wrap AGENT --hooks adds it")
    return str(settings.hooks.socket.path)


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "hook",
        "Ask the guard about one event of a coding agent's hook: reads it on stdin, and prints the answer.",
    )
    parser.add_argument("agent", metavar="AGENT", choices=AGENTS, help=f"the coding agent: {', '.join(AGENTS)}")
    parser.add_argument("--socket", metavar="PATH", help="the guard's socket (default: as in the configuration)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=hook_client.SECONDS,
        metavar="N",
        help="how long to wait for an answer; an agent must wait longer (default: %(default)g)",
    )
    return parser
