"""Files that are written whole or not at all, and locks that end with their process. POSIX only; imports nothing else
of the package.

A lock is an advisory `flock(2)` on a file that exists for nothing else: the system releases it when its holder closes
the file or ends, even after `kill -9`.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


def create_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Create the file; its contents are on disk when this returns. `mode` is subject to the umask, as with `open(2)`.

    Raises: FileExistsError if there is a file already; OSError.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        _write_and_sync(descriptor, data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def replace_file(
    path: Path,
    data: bytes,
    mode: int = 0o600,
    *,
    exact_mode: bool = False,
    owner: tuple[int, int] | None = None,
    durable: bool = True,
) -> None:
    """Put a new file in the place of this one, if there is one. A reader sees the old contents or the new ones, whole.

    Contents and name are on disk when this returns, unless `durable` is False. `mode` is subject to the umask unless
    `exact_mode` is True. `owner` is the user and group id that the file gets, if not those of this process.

    Raises: OSError; then the file is as it was.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode & 0o600 if exact_mode else mode)
    try:
        _write_and_sync(descriptor, data, mode if exact_mode else None, owner, durable)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the creations, renames and removals in a folder durable. Raises: OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileLock:
    """An exclusive lock, held from its construction to `release`, the end of its `with` block, or of the process.

    The file is made with mode 0600 if there is none, and stays. Its folder must exist.
    """

    def __init__(self, path: Path, *, wait: bool = True) -> None:
        """Raises: BlockingIOError if another holds the lock and `wait` is False; OSError."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Whether anybody holds a `FileLock` on this file; it is looked at, and not changed.

    A lock whose state cannot be told counts as held. Raises: FileNotFoundError, OSError if it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two who look do not see each other
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _write_and_sync(
    descriptor: int,
    data: bytes,
    exact_mode: int | None = None,
    owner: tuple[int, int] | None = None,
    durable: bool = True,
) -> None:
    with os.fdopen(descriptor, "wb") as file:
        if owner is not None:
            os.fchown(descriptor, *owner)
        if exact_mode is not None:
            os.fchmod(descriptor, exact_mode)
        file.write(data)
        file.flush()
        if durable:
            os.fsync(descriptor)
