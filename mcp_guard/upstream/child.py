"""An upstream's process: its own process group, a minimal environment, its stderr in a file of its own."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mcp_guard.core.errors import UpstreamError

INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER", "SYSTEMROOT")
"""What a child gets of our own environment; all else is named in the config, so that no secret of ours leaks."""

STDERR_LIMIT = 1024 * 1024
GRACE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Connector:
    """How one upstream is started. `stderr` is the file that its diagnostics go to."""

    name: str
    argv: tuple[str, ...]
    stderr: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    timeout: float = 300


def spawn(connector: Connector) -> "subprocess.Popen[bytes]":
    """Start the child in its own session, so that everything it starts can be ended with it.

    Raises: UpstreamError.
    """
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    try:
        for folder in (connector.stderr.parent.parent, connector.stderr.parent):  # what a server logs is nobody else's
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        small = connector.stderr.exists() and connector.stderr.stat().st_size < STDERR_LIMIT
        with connector.stderr.open("ab" if small else "wb") as stderr:
            return subprocess.Popen(
                connector.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**environment, **connector.env},
                cwd=connector.cwd,
                start_new_session=True,
                bufsize=0,
            )
    except OSError as error:
        raise UpstreamError(
            f"upstream `{connector.name}` cannot be started: `{connector.argv[0]}`: {error.strerror}",
            f"check upstreams.{connector.name}.command in the config; is it on PATH?",
        ) from None


async def stop(process: "subprocess.Popen[bytes]") -> None:
    """End the child and its whole group: end of input first, then SIGTERM, then SIGKILL; and reap it."""
    if process.stdin is not None:
        process.stdin.close()
    exited = await _wait(process, GRACE_SECONDS)
    for name in (signal.SIGTERM, signal.SIGKILL):
        if not _signal_group(process.pid, name):
            break
        if not exited:
            exited = await _wait(process, GRACE_SECONDS)
    if process.stdout is not None:
        process.stdout.close()
    process.wait()


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End the child and its group at once, and reap it."""
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, which: signal.Signals) -> bool:
    """Whether anything of the group was still there to be told."""
    try:
        os.killpg(group, which)
    except (ProcessLookupError, PermissionError):
        return False
    return True


async def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    deadline = asyncio.get_running_loop().time() + seconds
    while process.poll() is None:
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(0.01)
    return True
