"""Which process of the host has started a guard, for hosts that start one for each call.

A process id is used again after its process has ended, so the time when that was started, and the boot, belong to it.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.errors import IdentityError

PS_SECONDS = 5


@dataclass(frozen=True, slots=True)
class HostProcess:
    """A process, for as long as it runs."""

    pid: int
    started: str


def parent_of(pid: int) -> HostProcess:
    """The process that has started this one, or has inherited it. Raises: IdentityError if the system does not say."""
    try:
        parent = _parent_from_proc(pid) if sys.platform == "linux" else _parent_from_ps(pid)
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        parent = None
    if parent is None:
        what = 'instance = "host-session": this system does not say which process has started the guard'
        raise IdentityError(what, 'use instance = "agent", which needs no process of the host')
    return parent


def _parent_from_proc(pid: int) -> HostProcess | None:
    """By proc(5). A parent outside of this namespace of processes has the id 0."""
    parent = int(_stat(pid)[1])
    if parent == 0:
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return HostProcess(parent, f"{boot} {_stat(parent)[19]}")


def _stat(pid: int) -> list[str]:
    """The fields of `/proc/PID/stat` after the name, which may itself contain blanks and parentheses."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _parent_from_ps(pid: int) -> HostProcess | None:
    parent = int(_ps("ppid", pid))
    return HostProcess(parent, _ps("lstart", parent)) if parent else None


def _ps(field: str, pid: int) -> str:
    words = ["ps", "-o", f"{field}=", "-p", str(pid)]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=PS_SECONDS, check=True).stdout.strip()
    if not shown:
        raise ValueError(f"no process {pid}")
    return shown
