"""Reads a ledger file without changing it, not even its journal mode: for `mcp-guard doctor`."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from mcp_guard.core.approval import ApprovalState
from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.model import Json
from mcp_guard.storage.rows import InspectedLedger
from mcp_guard.storage.sql.schema import VERSION
from mcp_guard.storage.sqlite.errors import FAILURES, explain
from mcp_guard.storage.sqlite.schema import check_schema, wrong_format
from mcp_guard.storage.sqlite.store import SqliteStore

MAX_DAMAGE_LINES = 5
BY_SOCKET = "socket"
"""In the receipt of a credential that never leaves the guard: it was issued for a connection to its Unix socket."""


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
    if not path.exists():
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
        damage = db.execute(f"PRAGMA quick_check({MAX_DAMAGE_LINES})").fetchall()
        store = SqliteStore(path, db)
        keys = Counter(key.approver for key in store.approver_keys() if key.removed is None)
        last = db.execute("SELECT seq, at FROM receipt ORDER BY seq DESC LIMIT 1").fetchone() or (-1, 0)
        requested = store.approvals([ApprovalState.REQUESTED])
        return InspectedLedger(
            format=format,
            damage=tuple(line for (text,) in damage for line in str(text).splitlines() if line != "ok"),
            head=store.head(),
            checkpoint=store.checkpoint(),
            last_seq=last[0],
            last_time=last[1],
            open_calls=tuple(db.execute("SELECT intent, guard FROM open_call ORDER BY intent")),
            pending=tuple((held, _only_guard_of(db, store, held.instance)) for held in requested),
            approvers_with_keys=frozenset(keys),
            several_keys=tuple((name, number) for name, number in sorted(keys.items()) if number > 1),
        )


def latest_receipts(path: Path, count: int) -> list[bytes]:
    """The documents of the last receipts, oldest first. Raises: LedgerError."""
    with _read_only(path) as db:
        rows = db.execute("SELECT body FROM receipt ORDER BY seq DESC LIMIT ?", (count,)).fetchall()
    return [body for (body,) in rows[::-1]]


def receipts_of_starts(path: Path, guards: Sequence[str]) -> list[bytes]:
    """The documents of the starts of these guards, of the last start without any. Raises: LedgerError.

    Read backwards, because guards that run now started recently.
    """
    found: dict[str, bytes] = {}
    with _read_only(path) as db:
        for (body,) in db.execute("SELECT body FROM receipt WHERE kind = 'guard.started' ORDER BY seq DESC"):
            name = json.loads(body)["guard"]
            if name in guards or not guards:
                found.setdefault(name, body)
            if len(found) == max(1, len(guards)):
                break
    return list(found.values())


def _only_guard_of(db: sqlite3.Connection, store: SqliteStore, instance: str) -> str | None:
    """The guard process without which the instance cannot go on; None if it can, with any guard of this ledger.

    It can where launches share it, and where its token is in other hands: issued by a command, or by another issuer.
    """
    if store.is_shared(instance):
        return None
    issued = _latest(db, "credential.issued", instance)
    if issued.get("by", BY_SOCKET) != BY_SOCKET:
        return None
    guard = _latest(db, "instance.started", instance).get("guard")
    return None if guard is None else str(guard)


def _latest(db: sqlite3.Connection, kind: str, instance: str) -> Json:
    """The instance's latest receipt of this kind; read backwards, because waiting instances started recently."""
    for (body,) in db.execute("SELECT body FROM receipt WHERE kind = ? ORDER BY seq DESC", (kind,)):
        receipt: Json = json.loads(body)
        if receipt["instance"] == instance:
            return receipt
    return {}
