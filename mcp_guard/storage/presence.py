"""That a guard is running, for every process on the same ledger: whoever is not, has its open calls closed by others.

A guard is known by its id, which is in its receipts and its open calls. Each engine has its own way to tell whether it
runs: a lock of the operating system, or a lease in a database. On every engine the guards of one machine also hold a
lock in the state folder, for the commands that look at that folder.
"""

import os
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.files import FileLock, is_locked
from mcp_guard.storage.contract import Store

GUARDS = "guards"
"""The folder with the locks of this machine's running guards."""
UPSTREAMS = ".upstreams"
"""The ending of a file that a guard keeps beside its lock (upstream/status_file.py)."""


class Presence(Protocol):
    """The presence of this process. It begins when it is opened.

    INVARIANT: once `end_dead` has named a guard and its transaction has committed, that guard's id can open no call and
    its presence can not be renewed, in any process. So an id is also a fencing token, and is never used again.
    """

    guard: str
    """The id under which this process opens calls."""

    @property
    def renew_seconds(self) -> float | None:
        """How often it must be renewed; None if it lasts as long as the process."""

    def seconds_left(self) -> float:
        """For how long it is certain that no other process considers this guard dead; 0 if that is not certain.

        By a clock of this machine that goes on while the process or the machine is suspended, and counted from before
        the last renewal was asked for. So what is started while this is positive was started by a living guard.
        """

    def check(self) -> None:
        """Raises: LedgerError if `seconds_left` is 0, with the reason why it could not be renewed if that is known."""

    async def renew(self) -> bool:
        """Renew it. False if others may have closed the calls of this guard: then it needs another id (`take`).

        Raises: LedgerError if the ledger cannot be reached; the presence is then as it was.
        """

    async def take(self, guard: str) -> None:
        """Begin to be present under this new id, after the old one was lost. It opens no call before `adopt`.

        Raises: LedgerError."""

    def adopt(self) -> None:
        """The id that was taken is `guard` from here on."""

    def find_dead(self, store: Store, guards: Set[str]) -> set[str]:
        """Those of these guards that are not running. Only reads. Those of this process count as running."""

    def end_dead(self, store: Store, guards: Set[str]) -> set[str]:
        """The same in a transaction, once it is certain that they will never come back. Leaves out those that another
        process is about to end."""

    def release(self) -> None:
        """This guard stops: others need not wait until they can tell. Never raises."""


class MachineLock:
    """The lock of one guard in the state folder. It lasts as long as the process, however that ends."""

    def __init__(self, folder: Path, guard: str) -> None:
        """Raises: LedgerError."""
        path = lock_path(folder, guard)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._lock = FileLock(path)
        except OSError as error:
            raise LedgerError(f"cannot lock `{path}`: {error.strerror}", "check the folder's owner and mode") from None

    def move_files(self, to: "MachineLock") -> None:
        """What the process keeps beside its lock is beside the other one from here on."""
        with suppress(OSError):  # there is nothing, or it is written again
            os.replace(self._lock.path.with_suffix(UPSTREAMS), to._lock.path.with_suffix(UPSTREAMS))

    def release(self) -> None:
        with suppress(OSError):  # others see that nobody holds it
            self._lock.path.unlink(missing_ok=True)
        self._lock.release()


def lock_path(folder: Path, guard: str) -> Path:
    return folder / GUARDS / f"{guard}.lock"


def guards_of_machine(folder: Path) -> dict[str, bool]:
    """The guards that have left a lock in the state folder, and whether a process holds it. Raises: OSError."""
    return {path.stem: is_running(folder, path.stem) for path in sorted((folder / GUARDS).glob("*.lock"))}


def is_running(folder: Path, guard: str) -> bool:
    """Whether a process of this machine holds the lock of this guard. Raises: OSError.

    The system releases a lock with its process, even after `kill -9`.
    """
    try:
        return is_locked(lock_path(folder, guard))
    except FileNotFoundError:
        return False


def has_ended(folder: Path, guard: str) -> bool:
    """Whether no process of this machine holds the lock of this guard; if so, its files are removed."""
    if is_running(folder, guard):
        return False
    path = lock_path(folder, guard)
    path.unlink(missing_ok=True)
    path.with_suffix(UPSTREAMS).unlink(missing_ok=True)
    return True


def presence_lost(name: str, cause: LedgerError | None = None) -> LedgerError:
    """Why a guard opens no calls whose lease of the ledger `name` has run out. `cause`: the renewal that failed."""
    if cause is not None:
        return cause.within("{}; so this gateway has lost its lease")
    return LedgerError.public(
        "this gateway has lost its lease; it takes a new one: repeat the call in a moment",
        "it was paused or did not reach the database in time; if this repeats, see docs/howto/run-a-fleet.md",
        LedgerFault.LEASE_LOST,
        f"`{name}`",
    )
