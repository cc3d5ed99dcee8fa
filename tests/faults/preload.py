"""Faults inside a guard's own system calls, by a small preloaded library, built with a C compiler if there is one."""

import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("fault.c")
DIE_BEFORE, DIE_HALFWAY, DIE_AFTER, SYNC_FAILS, STOP_BEFORE, STOP_AFTER, SYNC_SLOW, STOP_OUTPUT = range(1, 9)


@cache
def library() -> Path | None:
    """The library, built once per process; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or os.uname().sysname != "Linux":
        return None
    path = Path(tempfile.mkdtemp(prefix="mcp-guard-faults-")) / "fault.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", path, SOURCE, "-ldl"], check=True, capture_output=True)
    return path


class Page:
    """The shared page that controls the library in one process."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(b"\0" * mmap.PAGESIZE)
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.path = path

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(library()), "FAULT_PAGE": str(self.path)}

    def arm(self, pid: int, mode: int, after: int = 1) -> None:
        """Arm it for the call of this number, counted from now."""
        self._page[0:24] = struct.pack("3l", 0, mode, after)
        self._page[0:8] = struct.pack("l", pid)

    def slow(self, pid: int, after: int, milliseconds: int) -> None:
        """Make the sync of this number, counted from now, take this much longer."""
        self._page[32:48] = struct.pack("2l", milliseconds, 0)
        self.arm(pid, SYNC_SLOW, after)

    @property
    def returned(self) -> int:
        """When the slow sync returned, in nanoseconds of the monotonic clock; 0 if it has not."""
        return int(struct.unpack("l", self._page[40:48])[0])

    def disarm(self) -> None:
        self._page[0:8] = struct.pack("l", 0)

    @property
    def calls(self) -> int:
        """How many writes and syncs were counted."""
        return int(struct.unpack("l", self._page[24:32])[0])
