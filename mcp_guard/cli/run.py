"""`mcp-guard run`: serve one MCP client on stdin and stdout."""

import gc
import os
from pathlib import Path

from mcp_guard.cli.apart import load_apart
from mcp_guard.cli.options import parser
from mcp_guard.core.errors import ConfigError, IdentityError

LAUNCH_VARIABLE = "MCP_GUARD_LAUNCH"


def main(arguments: list[str]) -> int:
    made = parser("run", "Serve one MCP client on stdin and stdout, as a new instance of an enrolled agent.")
    made.add_argument("--agent", metavar="AGENT", help="the enrolled agent (default: the only one)")
    made.add_argument("--ticket", metavar="TICKET", help="the ticket that this run is for")
    made.add_argument("--reason", metavar="TEXT", help="why this run is made")
    made.add_argument("--on-behalf-of", metavar="USER", help="the user it acts for (default: the config's)")
    task = made.add_mutually_exclusive_group()
    task.add_argument("--task", metavar="TEXT", help="what the user asked for: what it names, policies may trust")
    task.add_argument("--task-file", type=Path, metavar="FILE", help="a file with that text")
    made.add_argument("--launch-fd", type=int, metavar="FD", help=f"read a launch code here (else: ${LAUNCH_VARIABLE})")
    options = made.parse_args(arguments)

    code = _launch_code(options.launch_fd)
    gc.disable()  # what start-up makes stays; `app` enables it again once the guard serves
    settings = load_apart(options.config)
    from mcp_guard.app import run_stdio  # imported while the other process reads the configuration
    from mcp_guard.identity.instances import Launch

    text = options.task if options.task_file is None else read_task(options.task_file)
    launch = Launch(options.agent, options.ticket, options.reason, options.on_behalf_of, text)
    run_stdio(settings(), launch, code)
    return 0


def read_task(path: Path) -> str:
    """The text of the user's task. Raises: ConfigError."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the task: {error}", "name a text file: --task-file FILE") from None


def _launch_code(descriptor: int | None) -> str:
    """A code from `instances issue --launch`, if the launcher gave one; never from the arguments, which anybody sees.

    Raises: IdentityError.
    """
    if descriptor is None:
        return os.environ.pop(LAUNCH_VARIABLE, "")
    try:
        with os.fdopen(descriptor) as source:
            return source.readline()
    except OSError as error:
        raise IdentityError(
            f"cannot read file descriptor {descriptor}: {error.strerror}", "--launch-fd 3 3<FILE"
        ) from None
