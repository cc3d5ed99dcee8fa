"""Reads a ledger file without changing it, not even its journal mode: for `mcp-guard doctor`."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.storage.rows import InspectedLedger
from mcp_guard.storage.sql.inspection import inspect_store, receipts_of_starts
from mcp_guard.storage.sql.schema import VERSION
from mcp_guard.storage.sqlite.errors import FAILURES, explain
from mcp_guard.storage.sqlite.file_location import is_there
from mcp_guard.storage.sqlite.schema import check_schema, wrong_format
from mcp_guard.storage.sqlite.store import SqliteStore

MAX_DAMAGE_LINES = 5


@contextmanager
def _read_only(path: Path, any_schema: bool = False) -> Iterator[sqlite3.Connection]:
    """Raises: LedgerError."""
    db = _connect(path)
    try:
        with closing(db):
            if not any_schema:
                _check_tables(db, path)
            yield db
    except FAILURES as error:
        raise explain(error, path) from None


def _check_tables(db: sqlite3.Connection, path: Path) -> None:
    """Raises: LedgerError for tables of another format, or that are not a ledger's."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version not in (0, VERSION):
        raise wrong_format(path, version)
    check_schema(db, path)


def _connect(path: Path) -> sqlite3.Connection:
    from mcp_guard.verifier.report import UnusableInput
    from mcp_guard.verifier.sources.sqlite import LedgerSource, connect_read_only

    try:
        return connect_read_only(LedgerSource(path).path)
    except UnusableInput as error:
        raise LedgerError(str(error), "mcp-guard doctor", LedgerFault.CANNOT_OPEN) from None
    except FAILURES as error:
        raise explain(error, path) from None


def open_reader(path: Path) -> SqliteStore:
    """A store that can only be read, for a ledger of whatever origin. Raises: LedgerError."""
    if not is_there(path):
        raise LedgerError(f"no ledger at `{path}`", "run the guard once, or name the file: --ledger FILE")
    if path.is_dir():
        raise LedgerError(f"`{path}` is a folder", f"name the file in it: --ledger {path / 'ledger.sqlite'}")
    if path.stat().st_size == 0:
        raise LedgerError(f"`{path}` is empty, and no ledger", "name another file: --ledger FILE")
    db = _connect(path)
    try:
        _check_tables(db, path)
        return SqliteStore(path, db)
    except FAILURES as error:
        raise explain(error, path) from None


def open_unchecked(path: Path) -> SqliteStore:
    """A store that can only be read, without the checks for a file that somebody else may have written, which would
    import the verifier at each Tab of a shell. Raises: LedgerError."""
    try:
        return SqliteStore(path, sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True))
    except FAILURES as error:
        raise explain(error, path) from None


def read_format(path: Path) -> int:
    """Raises: LedgerError."""
    with _read_only(path, any_schema=True) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def inspect_ledger(path: Path, format: int) -> InspectedLedger:
    """Inspect a file of the format that this version reads. Raises: LedgerError."""
    with _read_only(path) as db:
        found = db.execute(f"PRAGMA quick_check({MAX_DAMAGE_LINES})").fetchall()
        damage = tuple(line for (text,) in found for line in str(text).splitlines() if line != "ok")
        store = SqliteStore(path, db)
        return inspect_store(store, format, store.stored_bytes(), damage)


def latest_receipts(path: Path, count: int) -> list[bytes]:
    """The documents of the last receipts, oldest first. Raises: LedgerError."""
    with _read_only(path) as db:
        rows = db.execute("SELECT body FROM receipt ORDER BY seq DESC LIMIT ?", (count,)).fetchall()
    return [body for (body,) in rows[::-1]]


def starts_of(path: Path, guards: Sequence[str]) -> list[bytes]:
    """Raises: LedgerError."""
    with _read_only(path) as db:
        return receipts_of_starts(SqliteStore(path, db), guards)
