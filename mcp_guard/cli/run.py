"""`mcp-guard run`: serve one MCP client on stdin and stdout."""

import argparse
import gc
import os
import signal
import sys

from mcp_guard.cli.options import add_launch, add_log, make_parser, read_task, read_ticket, whole_number
from mcp_guard.cli.output import log_errors
from mcp_guard.core.errors import IdentityError

LAUNCH_VARIABLE = "MCP_GUARD_LAUNCH"
UNPROVED_USER = "note: user {} is as stated with --on-behalf-of; nothing proves it"


def main(arguments: list[str]) -> int:
    gc.disable()  # start-up creates no garbage; `runtime` enables the collector once the guard serves
    options = build_parser().parse_args(arguments)
    if options.log_format == "json":
        from mcp_guard.server_log import ServerLog

        log_errors(ServerLog("json"))
    from mcp_guard.config import load_to_run

    settings = load_to_run(options.config, import_guard)
    ticket, task = read_ticket(options, settings), read_task(options)
    code = read_launch_code(options.launch_fd)

    def note(text: str) -> None:
        from mcp_guard.server_log import ServerLog

        ServerLog(options.log_format, options.log_level).note(text)

    from mcp_guard.sign_ins import SignInStorage
    from mcp_guard.upstream.start import started_upstreams

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # until the session handles it
    with started_upstreams(settings, SignInStorage(settings, note).of) as upstreams:  # they warm up meanwhile
        from mcp_guard.app import run_stdio
        from mcp_guard.core.visible_text import quote, say
        from mcp_guard.identity.instances import Launch
        from mcp_guard.server_log import ServerLog

        log = ServerLog(options.log_format, options.log_level)
        if options.on_behalf_of:
            log.note(say(UNPROVED_USER, quote(options.on_behalf_of)))

        launch = Launch(options.agent, ticket, options.reason, options.on_behalf_of, task)
        run_stdio(settings, upstreams, launch, log, code)
    return 0


def import_guard() -> None:
    """Loads what serves a client, and is not needed to read the configuration."""
    import mcp_guard.upstream.start  # noqa: F401


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("run", "Serve one MCP client on stdin and stdout, as a new instance of an enrolled agent.")
    add_launch(parser)
    add_log(parser)
    parser.add_argument(
        "--launch-fd",
        type=whole_number(0),
        metavar="FD",
        help=f"read a launch code from this file descriptor (default: from ${LAUNCH_VARIABLE})",
    )
    return parser


def read_launch_code(descriptor: int | None) -> str:
    """The code from `instances issue --launch`, or an empty string if there is none. It is never an argument, because
    other users of the machine can read arguments.

    Raises: IdentityError.
    """
    if descriptor is None:
        return os.environ.pop(LAUNCH_VARIABLE, "")
    try:
        with os.fdopen(descriptor) as source:
            return source.readline()
    except OSError as error:
        raise IdentityError(
            f"cannot read file descriptor {descriptor}: {error.strerror}", "for example: --launch-fd 3 3<FILE"
        ) from None
