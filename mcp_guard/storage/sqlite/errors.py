"""What a failure of the ledger file means to a person, and what they can do; docs/howto/recover.md says more."""

import errno
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.errors import LedgerError, LedgerFault


@dataclass(frozen=True, slots=True)
class FaultText:
    """`hint` has the places `{path}` (the ledger file) and `{folder}`."""

    fault: LedgerFault
    message: str
    hint: str


FULL = FaultText(
    LedgerFault.DISK_FULL,
    "the disk is full",
    "free space on the disk of `{folder}` (df), or raise the quota; the guard then continues automatically",
)
READ_ONLY = FaultText(
    LedgerFault.READ_ONLY,
    "the ledger cannot be written: it is read-only",
    "check the owner, mode and flags of `{path}` and its folder (ls -la, lsattr), and how the disk is mounted",
)
DAMAGED = FaultText(
    LedgerFault.DAMAGED,
    "the ledger file is damaged",
    "run `mcp-guard verify` and `mcp-guard doctor`; restore it from a copy",
)
DISK_FAILS = FaultText(
    LedgerFault.DISK_FAILURE,
    "the disk reports write errors",
    "see the system's log (dmesg), and `mcp-guard doctor`",
)
HELD = FaultText(
    LedgerFault.BUSY,
    "another process has locked the ledger",
    "find it with `fuser {path}`, and end it if it hangs",
)
NOT_OPENED = FaultText(
    LedgerFault.CANNOT_OPEN,
    "the ledger cannot be opened",
    "check that `{folder}` exists, and its owner and mode",
)
NO_LEDGER = FaultText(
    LedgerFault.NOT_A_LEDGER,
    "the file is not a ledger",
    "check `{path}`; it will not be overwritten",
)
NO_FOLDER = FaultText(
    LedgerFault.CANNOT_OPEN,
    "the folder of the ledger, or one above it, is a file",
    "move the file away from `{folder}`, or set guard.state_dir",
)
OTHER = FaultText(LedgerFault.OTHER, "the ledger cannot be used", "check `{path}` and its folder")

SQLITE = {
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_IOERR_SHMSIZE: FULL,
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_PERM: READ_ONLY,
    sqlite3.SQLITE_IOERR: DISK_FAILS,
    sqlite3.SQLITE_BUSY: HELD,
    sqlite3.SQLITE_LOCKED: HELD,
    sqlite3.SQLITE_PROTOCOL: HELD,
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: NO_LEDGER,
    sqlite3.SQLITE_CANTOPEN: NOT_OPENED,
}
"""By extended or primary result code (sqlite.org/rescode.html): the low byte of the extended one."""
SYSTEM = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EACCES: READ_ONLY,
    errno.EPERM: READ_ONLY,
    errno.EROFS: READ_ONLY,
    errno.EIO: DISK_FAILS,
    errno.EEXIST: NO_FOLDER,
    errno.ENOTDIR: NO_FOLDER,
}
FAILURES = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises for a file. A damaged table name makes even its error message undecodable."""


def explain(error: Exception, path: Path) -> LedgerError:
    """The LedgerError for a failure of the ledger file at `path`."""
    if isinstance(error, OSError):
        text = SYSTEM.get(error.errno or 0, OTHER)
        detail = error.strerror or str(error)
    else:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        text = SQLITE.get(code) or SQLITE.get(code & 0xFF, OTHER)
        if text is NOT_OPENED and path.exists() and os.statvfs(path).f_flag & os.ST_RDONLY:
            text = READ_ONLY
        detail = getattr(error, "sqlite_errorname", "") or str(error)
    hint = text.hint.format(path=path, folder=path.parent)
    return LedgerError.public(text.message, hint, text.fault, f"`{path}` ({detail})")
