"""Whether the ledger is still in the file of its name. SQLite goes on writing to one that was removed or replaced."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.storage.sqlite.errors import explain

SETTLED_NS = 3_000_000_000
"""Within this time two changes of a folder may have one time: file systems count in steps of up to two seconds."""


class FileLocation:
    """The files of an open ledger, as they were when it was opened.

    Nothing in a folder can be removed, replaced or renamed without a change of the folder's times. So while it has the
    times that it had when each file was last found in place, one look at the folder is enough.
    """

    def __init__(self, path: Path, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._files = tuple((file, _identity(file)) for file in (str(path), f"{path}-wal"))
        self._folder = None if path.is_symlink() else str(path.parent)
        self._now_ns = now_ns
        self._unchanged: tuple[int, ...] | None = None
        """The folder as it was when every file was found in place, once that had not changed for a while."""

    def check(self) -> None:
        """Raises: LedgerError if a file is not the one that was opened."""
        folder = _folder_state(self._folder) if self._folder is not None else None
        if folder is not None and folder == self._unchanged:
            return
        for file, known in self._files:
            if _identity(file) != known:
                raise LedgerError.public(
                    "the ledger was removed or replaced while it was in use",
                    "restore the original file, or restart the guard to use the present one; see mcp-guard doctor",
                    LedgerFault.REPLACED,
                    f"`{file}`",
                )
        if folder is not None and self._now_ns() - max(folder[2:]) > SETTLED_NS:
            self._unchanged = folder


def is_there(path: Path) -> bool:
    """Whether there is a ledger file. SQLite empties the log of a file that is missing or empty, and what is in the log
    is in no other file: so nothing may be made beside one.

    Raises: LedgerError if only the log is there.
    """
    file = os.path.realpath(path)
    log, journal = f"{file}-wal", f"{file}-journal"
    has_log, has_journal = _size_of(log), _size_of(journal)
    size = _size_of(file)  # looked at last: another process that makes a ledger makes this file first
    if (has_log and not size) or (has_journal and size is None):
        log = log if has_log else journal
        raise LedgerError.public(
            "the file of the ledger is missing, but its log is there, with receipts that may be in no other file",
            f"put the file back (mv, not cp); if it is lost, keep `{log}` elsewhere, then restore the newest backup",
            LedgerFault.REPLACED,
            f"`{log}`",
        )
    return size is not None


def _size_of(file: str) -> int | None:
    """None if it is not there. Raises: LedgerError."""
    try:
        return os.stat(file).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise explain(error, Path(file)) from None


def _identity(file: str) -> tuple[int, int] | None:
    """Device and inode of the file that has this name now; None if there is none."""
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _folder_state(folder: str) -> tuple[int, int, int, int] | None:
    """Which folder it is, and when it was last changed; None if there is none."""
    try:
        status = os.stat(folder)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
