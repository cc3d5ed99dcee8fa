"""What a failure of the ledger file means to a person, and what they can do; docs/howto/recover.md says more."""

import errno
import sqlite3
from pathlib import Path

from mcp_guard.core.errors import LedgerError

# What every group of statements shares: the connection, and the check of a compare-and-set.


class ChangedElsewhere(Exception):
    """A compare-and-set found another value than expected; the transaction must be rolled back."""


class Queries:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._run = connection.execute

    def _one_row(self, cursor: sqlite3.Cursor, what: str) -> None:
        if cursor.rowcount != 1:
            raise ChangedElsewhere(what)


FULL = (
    "the disk is full",
    "free space on the disk of `{folder}` (df), or raise the quota; the guard goes on by itself",
)
READ_ONLY = (
    "the ledger cannot be written, it is read-only",
    "check the owner, mode and flags of `{path}` and its folder (ls -la, lsattr), and how the disk is mounted",
)
DAMAGED = ("the ledger file is damaged", "run `mcp-guard verify` and `mcp-guard doctor`; restore it from a copy")
DISK_FAILS = ("the disk does not take what is written", "see the system's log (dmesg), and `mcp-guard doctor`")
HELD = ("another process holds the ledger", "find it with `fuser {path}`, and end it if it hangs")
NOT_OPENED = ("the ledger cannot be opened", "check that `{folder}` is there, and its owner and mode")

SQLITE = {
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_PERM: READ_ONLY,
    sqlite3.SQLITE_IOERR: DISK_FAILS,
    sqlite3.SQLITE_BUSY: HELD,
    sqlite3.SQLITE_LOCKED: HELD,
    sqlite3.SQLITE_PROTOCOL: HELD,
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: ("the file is no ledger", "check `{path}`; it is not overwritten"),
    sqlite3.SQLITE_CANTOPEN: NOT_OPENED,
}
"""By primary result code (sqlite.org/rescode.html): the low byte of the extended one."""
SYSTEM = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EACCES: READ_ONLY,
    errno.EPERM: READ_ONLY,
    errno.EROFS: READ_ONLY,
    errno.EIO: DISK_FAILS,
}
OTHER = ("the ledger cannot be used", "check `{path}` and its folder")

FAILURES = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises of a file: a damaged name of a table breaks its very message."""


def explain(error: Exception, path: Path) -> LedgerError:
    """What a failure of the file means, and what to do."""
    if isinstance(error, OSError):
        message, hint = SYSTEM.get(error.errno or 0, OTHER)
        detail = error.strerror or str(error)
    else:
        message, hint = SQLITE.get(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF, OTHER)
        detail = getattr(error, "sqlite_errorname", "") or str(error)
    return LedgerError(f"{message}: `{path}` ({detail})", hint.format(path=path, folder=path.parent))
