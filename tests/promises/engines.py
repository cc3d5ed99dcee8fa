"""The engines of storage that promises are kept with. `each_engine` in `conftest.py` runs a test with each of them."""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg

from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import quoted_schema
from mcp_guard.verifier import Report, verify_ledger
from tests.storage.as_file import write_as_file
from tests.storage.postgres_server import server


class Engine(Protocol):
    """Where the ledgers of the harness are, how they are read by others, and how they are broken."""

    def database(self, folder: Path) -> Database | None:
        """Of the ledger that belongs to this folder; None for the file in it."""

    def configuration(self, folder: Path) -> tuple[str, str]:
        """What `[guard]` says for a guard of this folder, and other sections."""

    def file(self, folder: Path) -> Path:
        """A SQLite file with what was committed to this ledger so far."""

    def read(self, folder: Path, query: str) -> list[tuple[Any, ...]]:
        """What another connection sees, which is what was committed."""

    def lock(self, folder: Path) -> AbstractContextManager[object]:
        """Keep everybody else from writing to this ledger."""

    def let_leases_run_out(self, folder: Path) -> None:
        """As if the guards that run now had been paused or killed long ago, where others wait before they can tell."""

    def break_writes(self, store: Any) -> None:
        """Make this store unable to write, until `restore_writes`."""

    def restore_writes(self, store: Any) -> None: ...

    def refuse(self, store: Any, change: str) -> None:
        """Make the ledger refuse a change, such as `INSERT ON open_call`, until `accept`."""

    def accept(self, store: Any, change: str) -> None: ...


class SqliteFiles:
    """Implements `Engine`."""

    def database(self, folder: Path) -> None:
        return None

    def configuration(self, folder: Path) -> tuple[str, str]:
        return "", ""

    def file(self, folder: Path) -> Path:
        return folder / "state" / "ledger.sqlite"

    def read(self, folder: Path, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.file(folder))) as db:
            return db.execute(query).fetchall()

    @contextmanager
    def lock(self, folder: Path) -> Iterator[None]:
        with closing(sqlite3.connect(self.file(folder), isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            yield

    def let_leases_run_out(self, folder: Path) -> None:
        pass

    def break_writes(self, store: Any) -> None:
        store._run("PRAGMA query_only = ON")

    def restore_writes(self, store: Any) -> None:
        store._run("PRAGMA query_only = OFF")

    def refuse(self, store: Any, change: str) -> None:
        store._run(f"CREATE TRIGGER no BEFORE {change} BEGIN SELECT RAISE(ABORT, 'no room'); END")

    def accept(self, store: Any, change: str) -> None:
        store._run("DROP TRIGGER no")


NO_ROOM = """
CREATE OR REPLACE FUNCTION no_room() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = 'disk_full'; END $$
"""
DATABASE = "PROMISES_DATABASE"
"""The variable in which guards and commands find the URL."""
READER = "promises_reader"
"""A role that may read everything and write nothing."""
MAKE_READER = f"""
DO $$ BEGIN CREATE ROLE {READER} IN ROLE pg_read_all_data; EXCEPTION WHEN duplicate_object THEN NULL; END $$
"""


class PostgresSchemas:
    """Implements `Engine`. Each folder's ledger has a schema of its own."""

    def database(self, folder: Path) -> Database:
        return Database(server().url, f"promises/{hashlib.sha256(bytes(folder.resolve())).hexdigest()[:20]}")

    def configuration(self, folder: Path) -> tuple[str, str]:
        os.environ[DATABASE] = server().url
        return f'origin = "{self.database(folder).origin}"', f'[ledger]\ndatabase = {{ env = "{DATABASE}" }}'

    def file(self, folder: Path) -> Path:
        return write_as_file(self.database(folder), folder / "as-file.sqlite")

    def _connect(self, folder: Path) -> "psycopg.Connection[Any]":
        db = psycopg.connect(server().url)
        db.execute(f"SET search_path = {quoted_schema(self.database(folder))}".encode())
        return db

    def read(self, folder: Path, query: str) -> list[tuple[Any, ...]]:
        with self._connect(folder) as db:
            return db.execute(query.encode()).fetchall()

    @contextmanager
    def lock(self, folder: Path) -> Iterator[None]:
        with self._connect(folder) as db:
            db.execute("SELECT 1 FROM head FOR UPDATE")
            yield

    def let_leases_run_out(self, folder: Path) -> None:
        with self._connect(folder) as db:
            if db.execute("SELECT to_regclass('lease')").fetchone() != (None,):  # else it has not been made yet
                db.execute("UPDATE lease SET expires = now() - INTERVAL '1 minute'")

    def break_writes(self, store: Any) -> None:
        store._run(MAKE_READER)
        store._run(f"SET ROLE {READER}")

    def restore_writes(self, store: Any) -> None:
        store._run("RESET ROLE")

    def refuse(self, store: Any, change: str) -> None:
        store._run(NO_ROOM)
        store._run(f"CREATE TRIGGER no BEFORE {change} EXECUTE FUNCTION no_room()")

    def accept(self, store: Any, change: str) -> None:
        store._run(f"DROP TRIGGER no ON {change.rpartition(' ')[2]}")


ENGINES: Mapping[str, Callable[[], Engine]] = {"sqlite": SqliteFiles, "postgres": PostgresSchemas}
_in_use: list[Engine] = [SqliteFiles()]


def engine() -> Engine:
    """The engine of the test that runs; SQLite, unless it runs with each of them."""
    return _in_use[-1]


@contextmanager
def using(name: str) -> Iterator[None]:
    _in_use.append(ENGINES[name]())
    try:
        yield
    finally:
        _in_use.pop()


def verify(folder: Path) -> Report:
    """Verify the harness's ledger in this folder."""
    return verify_ledger(engine().file(folder), folder / "state" / "ledger.pub")
