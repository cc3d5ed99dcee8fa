"""Inspect a state folder from outside: files, disk, locks, keys and the ledger. Leaves no changes behind."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.diagnostics.snapshot import DiskInfo, FileInfo, LedgerContents, PendingApproval
from mcp_guard.files import is_locked
from mcp_guard.ledger.as_receipted import find_differences
from mcp_guard.ledger.key_chain import receipted_keys
from mcp_guard.ledger.place import FILE
from mcp_guard.ledger.writer import is_signed
from mcp_guard.storage.engines import find_engine, open_read_only
from mcp_guard.storage.place import Place
from mcp_guard.storage.presence import GUARDS
from mcp_guard.storage.rows import InspectedLedger

SYNCS = 5
FindKey = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class StateFolder:
    """A state folder. `failure` and `hint` say why its ledger could not be read."""

    folder: FileInfo | None = None
    disk: DiskInfo | None = None
    ledger: str = ""
    file: FileInfo | None = None
    is_in_database: bool = False
    not_durable: tuple[str, str] | None = None
    """Why its database could lose receipts, and what to do."""
    not_writable: tuple[str, str] | None = None
    not_for_pages: tuple[str, str] | None = None
    """Why no guard could use its database with this role, and what to do."""
    unused_file: FileInfo | None = None
    """A ledger file in it that is not the one in use."""
    failure: str = ""
    hint: str = ""
    contents: LedgerContents | None = None
    table_differences: tuple[str, ...] = ()
    """What the tables have that is not `as its receipts say`."""
    key: FileInfo | None = None
    key_failure: tuple[str, str] | None = None
    public_ids: tuple[str, ...] = ()
    guards: tuple[tuple[str, bool], ...] = ()
    pending: tuple[PendingApproval, ...] = ()
    approvers_with_keys: frozenset[str] = frozenset()
    several_keys: tuple[tuple[str, int], ...] = ()

    @property
    def running(self) -> list[str]:
        """The guards that run with this state folder."""
        return [guard for guard, is_alive in self.guards if is_alive]


def inspect_state_folder(folder: Path, ledger: Place, find_key: FindKey = lambda _: None) -> StateFolder:
    """Never raises for a broken state; that is what it reports. `find_key` raises LedgerError if it has no such key.

    `ledger` is the one whose keys and locks are in the folder, wherever it is itself.
    """
    is_file = isinstance(ledger, Path)
    if (folder_info := file_info(folder)) is None and is_file:
        return StateFolder()
    failure, hint, looked, contents = "", "", None, None
    differences: tuple[str, ...] = ()
    try:
        engine = find_engine(ledger)
        if engine.exists():
            format = engine.read_format()
            looked = engine.inspect(format) if format == engine.format else None
            contents = _contents(looked, engine.format) if looked else _foreign(format, engine.format)
            differences = _table_differences(ledger) if looked and not looked.damage else ()
    except LedgerError as error:
        failure, hint = error.full, error.hint
    return StateFolder(
        folder=folder_info,
        disk=measure_disk(folder) if folder_info else None,
        ledger=str(ledger),
        file=file_info(ledger) if isinstance(ledger, Path) else None,
        is_in_database=not is_file,
        not_durable=looked.not_durable if looked else None,
        not_writable=looked.not_writable if looked else None,
        not_for_pages=looked.not_for_pages if looked else None,
        unused_file=file_info(folder / FILE) if ledger != folder / FILE else None,
        failure=failure,
        hint=hint,
        contents=contents,
        table_differences=differences,
        key=file_info(folder / "ledger.key"),
        key_failure=_try_key(looked.head.key, find_key) if looked and looked.head.key else None,
        public_ids=read_public_ids(folder / "ledger.pub"),
        guards=tuple((path.stem, _is_held(path)) for path in sorted((folder / GUARDS).glob("*.lock"))),
        pending=tuple(PendingApproval(*row) for row in looked.pending) if looked else (),
        approvers_with_keys=looked.approvers_with_keys if looked else frozenset(),
        several_keys=looked.several_keys if looked else (),
    )


def file_info(path: Path) -> FileInfo | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return FileInfo(str(path), stat.st_mode & 0o7777, stat.st_uid)


def measure_disk(folder: Path) -> DiskInfo:
    """Write and sync one page in the folder several times, and take the median."""
    space = os.statvfs(folder)
    path, took = folder / f".doctor.{os.getpid()}", []
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            for _ in range(SYNCS):
                began = time.perf_counter()
                os.write(handle, bytes(4096))
                os.fsync(handle)
                took.append(time.perf_counter() - began)
        finally:
            os.close(handle)
            path.unlink()
    except OSError as error:
        return DiskInfo(space.f_bavail * space.f_frsize, 0, error.strerror or str(error))
    return DiskInfo(space.f_bavail * space.f_frsize, median(took))


def read_public_ids(path: Path) -> tuple[str, ...]:
    """The ids of C2SP verifier lines, in hex; other lines are skipped."""
    try:
        return tuple(line.split("+")[1] for line in path.read_text().splitlines() if line.count("+") >= 2)
    except (OSError, ValueError):
        return ()


def _try_key(verifier: str, find_key: FindKey) -> tuple[str, str] | None:
    """Why the current private key is not available (message and hint), or None."""
    try:
        find_key(verifier)
    except LedgerError as error:
        return error.full, error.hint
    return None


def _contents(looked: InspectedLedger, known_format: int) -> LedgerContents:
    head = looked.head
    return LedgerContents(
        format=looked.format,
        known_format=known_format,
        size=head.size,
        last_seq=looked.last_seq,
        last_time=looked.last_time,
        bytes=looked.bytes,
        checkpoint_fits=is_signed(looked.checkpoint, head) if head.size else None,
        key_id=head.key.split("+")[1] if head.key.count("+") >= 2 else "",
        damage=looked.damage,
        open_calls=looked.open_calls,
        leased=looked.leased,
    )


def _table_differences(ledger: Place) -> tuple[str, ...]:
    """Raises: LedgerError."""
    with open_read_only(ledger) as store:
        store.pins()  # raises if one is damaged
        differences = find_differences(store)
        try:
            receipted_keys(store)
        except LedgerError as error:
            if error.fault is not LedgerFault.DAMAGED:
                raise
            differences.insert(0, "the table of the ledger's keys, `guard_key`, is not")
    return tuple(differences)


def _foreign(format: int, known_format: int) -> LedgerContents:
    """A ledger in another format, of which only the format is read."""
    return LedgerContents(format, known_format, 0, -1, 0, 0, None, "", (), ())


def _is_held(path: Path) -> bool:
    """Whether a running guard holds this lock."""
    try:
        return is_locked(path)
    except OSError:
        return False
