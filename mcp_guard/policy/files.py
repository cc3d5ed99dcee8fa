"""The files of a set of policies, without Cedar, which takes a while to load."""

import errno
import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from mcp_guard.core.errors import reason_of


def policy_files(path: Path) -> list[Path]:
    """Those of `path`, a folder or one file. Raises: OSError."""
    return sorted(path.glob("*.cedar")) if path.is_dir() else [path]


def read_policy_file(file: Path) -> bytes:
    """What a regular file holds, or one that a link leads to. Raises: OSError, also if it is anything else."""
    with open(file, "rb", opener=_open_without_waiting) as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        return opened.read()


def _open_without_waiting(path: str, flags: int) -> int:
    """Opening a pipe would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def unread_folders(path: Path) -> list[Path]:
    """The folders in `path` that have policies, which are not read."""
    return sorted({file.parent for file in path.glob("*/*.cedar")})


FileStamps = tuple[tuple[str, int, int, int], ...]


def file_stamps(path: Path) -> FileStamps:
    """Names, modification times, sizes and inodes of the files that can be seen."""
    stamps = []
    with suppress(OSError):  # its folder cannot be entered: a change that reading will report
        for file in policy_files(path):
            with suppress(FileNotFoundError):  # deleted meanwhile
                status = file.stat()
                stamps.append((str(file), status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(stamps)


def digest_of_files(path: Path) -> str:
    """Of their names and contents, to compare them; if they cannot be read, why."""
    hashed = hashlib.sha256()
    try:
        for file in policy_files(path):
            data = read_policy_file(file)
            hashed.update(f"{file.name}\0{len(data)}\0".encode() + data)
    except OSError as error:
        return reason_of(error)
    return hashed.hexdigest()
