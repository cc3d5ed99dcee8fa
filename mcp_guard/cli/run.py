"""`mcp-guard run`: serve one MCP client on stdin and stdout."""

import gc
import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from mcp_guard.cli.late import load_late
from mcp_guard.cli.startup import begin_apart
from mcp_guard.core.errors import ConfigError, IdentityError

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from mcp_guard.settings import Settings

LAUNCH_VARIABLE = "MCP_GUARD_LAUNCH"
Words = dict[str, str | None]
"""What a `Launch` is made of."""


def main(arguments: list[str]) -> int:
    gc.disable()  # what start-up makes stays; `app` enables it again once the guard serves
    load_late()
    importlib.import_module("mcp_guard.settings")  # both processes need it
    asked = begin_apart(lambda: read(arguments))
    from mcp_guard.app import run_stdio  # imported while the other process reads
    from mcp_guard.identity.instances import Launch

    settings, words, descriptor = asked()
    run_stdio(settings, Launch(**words), launch_code(descriptor))
    return 0


def read(arguments: list[str]) -> "tuple[Settings, Words, int | None]":
    """The configuration, what is said of this run, and where a launch code is to be read. Raises: ConfigError."""
    options = build_parser().parse_args(arguments)
    spare_imports()
    from mcp_guard.config import load

    words = {name: getattr(options, name) for name in ("agent", "ticket", "reason", "on_behalf_of", "task")}
    if options.task_file is not None:
        words["task"] = read_task(options.task_file)
    return load(options.config), words, options.launch_fd


def build_parser() -> "argparse.ArgumentParser":
    from mcp_guard.cli.options import add_launch, make_parser

    parser = make_parser("run", "Serve one MCP client on stdin and stdout, as a new instance of an enrolled agent.")
    add_launch(parser)
    parser.add_argument(
        "--launch-fd", type=int, metavar="FD", help=f"read a launch code here (else: ${LAUNCH_VARIABLE})"
    )
    return parser


def spare_imports() -> None:
    """Keep from this process, which ends soon, what pydantic imports and has no use for: 14 ms of 90.

    It looks for plug-ins with `importlib.metadata`, and finds none; it imports `hmac`, which does without OpenSSL.
    """
    nowhere = ModuleType("importlib.metadata")
    vars(nowhere)["entry_points"] = lambda **_: ()
    sys.modules[nowhere.__name__] = nowhere
    sys.modules["_hashlib"] = None  # type: ignore[assignment]


def read_task(path: "Path") -> str:
    """The text of the user's task. Raises: ConfigError."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the task: {error}", "name a text file: --task-file FILE") from None


def launch_code(descriptor: int | None) -> str:
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
