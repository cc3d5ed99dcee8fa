"""The numbered steps that bring a ledger file of an older format to the present one.

Steps run one after the other in a single transaction: a process that is killed leaves the file in the old format, and
the next attempt begins again. The tables of receipts, payloads, hashes and keys are the same in every format since 4,
and no step writes to them. To add a step: raise `VERSION`, say in `OLDER_TABLES` what the tables before it were,
add the step to `STEPS`, and a ledger of the old format to `tests/fixtures/ledgers`.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Json
from mcp_guard.storage.older import OnProgress
from mcp_guard.storage.sql.schema import VERSION
from mcp_guard.storage.sqlite import schema
from mcp_guard.storage.sqlite.copying import copy_ledger
from mcp_guard.storage.sqlite.errors import FAILURES, explain
from mcp_guard.storage.sqlite.file_location import is_there
from mcp_guard.storage.sqlite.inspection import open_unchecked
from mcp_guard.storage.sqlite.store import SqliteStore, connect_for_writing

DELIVERY = "CREATE TABLE delivery ("
SIGN_IN = "CREATE TABLE sign_in ("
CREDENTIAL = "CREATE UNIQUE INDEX instance_credential ON instance (credential)"
DELIVERY_4 = """CREATE TABLE delivery (
  id INTEGER PRIMARY KEY, approval TEXT NOT NULL, notifier TEXT NOT NULL, event TEXT NOT NULL, state TEXT NOT NULL,
  attempts INTEGER NOT NULL, due INTEGER NOT NULL, note TEXT NOT NULL
)"""
SIGN_IN_4 = (
    "CREATE TABLE sign_in (code TEXT PRIMARY KEY, approver TEXT NOT NULL, expires INTEGER NOT NULL) WITHOUT ROWID"
)
SIGNED = ("agent", "owner", "instance", "on_behalf_of", "upstream", "tool", "definition", "resource", "ticket")
"""Members of a request that its receipts of format 4 and 5 share."""


class OlderSqliteLedger(SqliteStore):
    """A ledger file of an older format. Implements `storage.older.OlderLedger`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, format: int) -> None:
        super().__init__(path, connection)
        self.format = format

    def copy_file(self, target: Path) -> None:
        with closing(open_unchecked(self.path)) as committed:
            copy_ledger(committed, target)

    def migrate_tables(self, progress: OnProgress) -> None:
        for format in range(self.format, VERSION):
            STEPS[format](self._db, progress)
            self._db.execute(f"PRAGMA user_version = {format + 1}")
        schema.check_schema(self._db, self.path)


def open_older(path: Path) -> OlderSqliteLedger | None:
    """Open a ledger file that must be migrated; None if it has the present format.

    Raises: LedgerError if it is no ledger, or of a format that there is no step for.
    """
    if not is_there(path) or not path.is_file():
        raise LedgerError(f"no ledger at `{path}`", "name the file: --ledger FILE")
    connection = connect_for_writing(path, unsafe_skip_fsync=False, create=False)
    try:
        (format,) = connection.execute("PRAGMA user_version").fetchone()
        if format == VERSION:
            connection.close()
            return None
        if format not in OLDER_TABLES:
            raise schema.wrong_format(path, format)
        schema.check_statements(connection, path, OLDER_TABLES[format])
        return OlderSqliteLedger(path, connection, format)
    except BaseException as error:
        connection.close()
        if isinstance(error, FAILURES):
            raise explain(error, path) from None
        raise


# Format 4 to 5: messages about enrolled keys, kinds of sign-in codes, one instance for each credential, and requests
# that say in clear what their approvers sign


def _tables_of_4() -> Iterator[str]:
    for statement in schema.statements():
        if statement.startswith(DELIVERY):
            yield DELIVERY_4
        elif statement.startswith(SIGN_IN):
            yield SIGN_IN_4
        elif statement != CREDENTIAL:
            yield statement


def _from_4(db: sqlite3.Connection, progress: OnProgress) -> None:
    _replace_table(db, "delivery", "SELECT * FROM older_delivery")
    # format 4 let any code enrol a key; what was issued before permits no more than signing in and a first key
    _replace_table(db, "sign_in", "SELECT code, approver, 'sign_in_code', expires FROM older_sign_in")
    _separate_credentials(db)
    db.execute(CREDENTIAL)
    _sign_members(db, progress)


def _replace_table(db: sqlite3.Connection, name: str, rows: str) -> None:
    """Create the table anew, and its indexes, with the result of this query on the one before. A renamed column would
    leave another text of the table than `schema.check_schema` expects."""
    db.execute(f"ALTER TABLE {name} RENAME TO older_{name}")
    query = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = ?"
    indexes = [index for (index,) in db.execute(query, (f"older_{name}",))]
    for index in indexes:
        db.execute(f"DROP INDEX {index}")
    for statement in schema.statements():
        if statement.startswith((f"CREATE TABLE {name} ", *(f"CREATE INDEX {index} " for index in indexes))):
            db.execute(statement)
    db.execute(f"INSERT INTO {name} {rows}")
    db.execute(f"DROP TABLE older_{name}")


def _separate_credentials(db: sqlite3.Connection) -> None:
    """Give an id of its own to each further instance of one credential, which format 5 has only once."""
    query = "SELECT credential FROM instance GROUP BY credential HAVING count(*) > 1"
    for (credential,) in db.execute(query).fetchall():
        ids = db.execute("SELECT id FROM instance WHERE credential = ? ORDER BY started, id", (credential,)).fetchall()
        for (id,) in ids[1:]:
            db.execute("UPDATE instance SET credential = ? WHERE id = ?", (f"{credential}/{id}", id))


def _sign_members(db: sqlite3.Connection, progress: OnProgress) -> None:
    """Add to each request what its receipts say of it in clear."""
    rows = db.execute("SELECT id, subject FROM approval").fetchall()
    for done, (id, subject) in enumerate(rows, 1):
        db.execute("UPDATE approval SET subject = ? WHERE id = ?", (json.dumps(with_signed(json.loads(subject))), id))
        progress(done, len(rows))


def with_signed(subject: Json) -> Json:
    """The subject of a request of format 4 in the form of format 5."""
    signed = {name: subject[name] for name in SIGNED if subject.get(name) is not None}
    return subject | {"signed": signed | {"policy_version": subject["binding"]["policy_version"]}}


OLDER_TABLES: Mapping[int, frozenset[str]] = {4: frozenset(_tables_of_4())}
"""The statements that made the tables of each older format."""
Step = Callable[[sqlite3.Connection, OnProgress], None]
STEPS: Mapping[int, Step] = {4: _from_4}
"""The step from each older format to the next one."""
