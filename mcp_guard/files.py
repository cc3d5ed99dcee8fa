"""Files that are written whole or not at all, and locks that end with their process. POSIX only; imports nothing else
of the package.

A lock is an advisory `flock(2)` on a file that exists for nothing else: the system releases it when its holder closes
the file or ends, even after `kill -9`.

A file is replaced by way of a draft beside it, `.NAME.draft`. The draft of a process that was killed may contain a
secret; its name is fixed, so that the next write finds and removes it. The process that writes a draft holds a lock on
the draft, and only the holder of that lock removes or renames it. So processes that replace the same file at once take
turns, even if they share no other lock.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self


def create_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Create the file; its contents and name are on disk when this returns.

    `mode` is subject to the umask, as with `open(2)`.

    Raises: FileExistsError if there is a file already; OSError.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _write(file, data)
        sync_folder(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def publish_file(path: Path, data: bytes) -> None:
    """Create the file as `create_file` does; no other process sees it before it is complete.

    Raises: FileExistsError if there is a file already; OSError.
    """
    with _open_draft(path, 0o600) as (draft, file):
        _write(file, data)
        os.link(draft, path)
    sync_folder(path.parent)


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

    A draft that a killed process left is removed first. Concurrent calls for one file take turns; the last one wins.

    Raises: OSError; then the file is as it was.
    """
    with _open_draft(path, 0o600 if exact_mode else mode) as (draft, file):
        if owner is not None:
            os.fchown(file.fileno(), *owner)
        _write(file, data, mode if exact_mode else None, durable)
        os.replace(draft, path)
    if durable:
        sync_folder(path.parent)


def remove_stale_draft(path: Path) -> None:
    """Remove the draft of this file that a killed process left, if there is one. A draft in use stays.

    Raises: OSError.
    """
    with suppress(BlockingIOError):  # its writer is at work, and removes it
        _remove_draft(_draft_of(path), wait=False)


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


def _draft_of(path: Path) -> Path:
    return path.parent / f".{path.name}.draft"  # unlike `with_name`, also of `/`: the write then fails


@contextmanager
def _open_draft(path: Path, mode: int) -> Iterator[tuple[Path, BinaryIO]]:
    """A new, empty draft, locked until the end of the block. It is removed unless the block has renamed it."""
    draft = _draft_of(path)
    while True:
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            _remove_draft(draft, wait=True)
            continue
        with os.fdopen(descriptor, "wb") as file:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_at(draft, descriptor):  # else another process took it for a stale one before it was locked
                    yield draft, file
                    return
            finally:
                if _is_at(draft, descriptor):  # a renamed draft may have been followed by that of another process
                    draft.unlink()


def _remove_draft(draft: Path, *, wait: bool) -> None:
    """Remove a draft after its writer, if there is one. Raises: BlockingIOError if it has one and `wait` is False."""
    try:
        descriptor = os.open(draft, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        draft.unlink(missing_ok=True)  # a symbolic link: no writer makes one
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if _is_at(draft, descriptor):
            draft.unlink()
    finally:
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one with this name."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write(file: BinaryIO, data: bytes, exact_mode: int | None = None, durable: bool = True) -> None:
    file.write(data)
    file.flush()
    if exact_mode is not None:  # last: a draft must stay writable for its owner, to be found stale
        os.fchmod(file.fileno(), exact_mode)
    if durable:
        os.fsync(file.fileno())
