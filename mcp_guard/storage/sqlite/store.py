"""The ledger file: SQLite in WAL mode, `synchronous=FULL`. Statements only; `ledger/` decides what they mean.

Writes are compare-and-set and check that one row changed. Nothing here begins or ends a transaction but `begin`,
`commit` and `rollback`.
"""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.storage.contract import Join, Reads
from mcp_guard.storage.errors import ChangedElsewhere
from mcp_guard.storage.rows import TreeHead
from mcp_guard.storage.sql.schema import TABLES, VERSION
from mcp_guard.storage.sql.store import SqlStore
from mcp_guard.storage.sqlite.errors import FAILURES, explain
from mcp_guard.storage.sqlite.file_location import FileLocation, is_there
from mcp_guard.storage.sqlite.schema import check_schema, wrong_format

BUSY_SECONDS = 2.0
CACHE_KIB = 512
"""Page cache. A call touches some 40 pages of 4 KiB, mostly the same ones."""


class SqliteQueries(SqlStore):
    """The dialect and failures of SQLite, however statements are run."""

    failures = FAILURES
    no_head = sqlite3.DatabaseError("the ledger has no head")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def _change_one(self, name: str, sql: str, values: Sequence[Any]) -> None:
        if self._run(sql, values).rowcount != 1:
            raise ChangedElsewhere(name)

    def explain(self, failure: Exception) -> LedgerError:
        return explain(failure, self.path)

    @contextmanager
    def reading(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise explain(error, self.path) from None

    def begin(
        self, known: TreeHead | None = None, locked: bool = True, reads: Sequence[Reads] = (), join: Join = tuple
    ) -> None:
        self._run("BEGIN IMMEDIATE")

    @property
    def excludes_others(self) -> bool:
        return True

    def version(self) -> int:
        """Differs if another connection has written since."""
        return int(self._run("PRAGMA data_version").fetchone()[0])

    def stored_bytes(self) -> int:
        """Of the file, and of its write-ahead log."""
        files = (f"{self.path}{end}" for end in ("", "-wal", "-shm"))
        return sum(os.stat(file).st_size for file in files if os.path.exists(file))

    def announce(self, ids: Sequence[str]) -> None:
        """Nothing: a look costs no more than hearing of it would."""


class SqliteStore(SqliteQueries):
    """One connection to the ledger file. Implements `storage.contract.Store`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        super().__init__(path)
        self._db = connection
        self._run = self._write = connection.execute
        self.location = FileLocation(path)

    def commit(self) -> None:
        """INVARIANT: what is durable when this returns is in the file of this name.

        Raises: LedgerError, sqlite3.Error.
        """
        self.location.check()
        self._run("COMMIT")
        self.location.check()

    def rollback(self) -> None:
        if self._db.in_transaction:
            self._run("ROLLBACK")

    def close(self) -> None:
        self._db.close()

    def execute(self, sql: str) -> sqlite3.Cursor:
        """For what is done with whole tables."""
        return self._db.execute(sql)

    def copy_to(self, target: sqlite3.Connection) -> None:
        """Write what is committed now to another database, in place of what is in it."""
        self._db.backup(target)

    def empty_log(self) -> bool:
        """Move the log of changes, which holds what was overwritten, into the file, and empty it. Waits for nobody:
        False if another process is reading or writing. Outside a transaction."""
        self._run("PRAGMA busy_timeout = 0")
        try:
            busy, _, _ = self._run("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError:
            return False
        finally:
            self._run(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        return not busy


def open_store(path: Path, unsafe_skip_fsync: bool = False, create: bool = True) -> SqliteStore:
    """Open the ledger file, making it if it is not there (mode 0600).

    Raises: LedgerError.
    """
    if not is_there(path) and not create:
        raise LedgerError(f"no ledger at `{path}`", "run the guard once, or name the file: --ledger FILE")
    connection = connect_for_writing(path, unsafe_skip_fsync, create)
    try:
        _create(connection, path)
        return SqliteStore(path, connection)
    except BaseException as error:
        connection.close()
        if isinstance(error, FAILURES):
            raise explain(error, path) from None
        raise


def connect_for_writing(path: Path, unsafe_skip_fsync: bool, create: bool) -> sqlite3.Connection:
    """Connect to a file that is a ledger of any format, or may become one. Raises: LedgerError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():  # SQLite would make it readable by others
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=256)
    except (*FAILURES, OSError) as error:
        raise explain(error, path) from None
    try:
        _check_is_ours(connection, path, create)
        log_ahead(connection)
        connection.execute(f"PRAGMA synchronous = {'OFF' if unsafe_skip_fsync else 'FULL'}")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        return connection
    except BaseException as error:
        connection.close()
        if isinstance(error, FAILURES):
            raise explain(error, path) from None
        raise


def _check_is_ours(connection: sqlite3.Connection, path: Path, create: bool) -> None:
    """Check that the file is a ledger, or may become one, before anything is written to it. Raises: LedgerError."""
    has_tables = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
    version = connection.execute("PRAGMA user_version").fetchone()[0]  # read last: both appear in one transaction
    if version == 0 and (has_tables or not create):
        raise LedgerError(f"`{path}` is not a ledger", "name the ledger: --ledger FILE", LedgerFault.NOT_A_LEDGER)


def log_ahead(connection: sqlite3.Connection) -> None:
    """Turn the write-ahead log on. SQLite does not wait while another process does so in a new file, so this does."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.005)


def _create(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables, in the first process that opens the file.

    Raises: LedgerError for a file that is no ledger of this version.
    """
    connection.execute("BEGIN IMMEDIATE")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        for statement in TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
    if version not in (0, VERSION):
        raise wrong_format(path, version)
    check_schema(connection, path)
