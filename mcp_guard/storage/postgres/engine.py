"""Opens and inspects the ledger of an origin in a database. Implements `storage.engines.Engine`."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from mcp_guard.core.approval import ApprovalState
from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.storage.contract import Store
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.connection import check_durability, connect, quoted_schema
from mcp_guard.storage.postgres.dialect import ONE_ROW, tables
from mcp_guard.storage.postgres.errors import explain
from mcp_guard.storage.postgres.executor import LoopExecutor, open_executor
from mcp_guard.storage.postgres.store import PostgresStore
from mcp_guard.storage.postgres.wire import BlockingWire
from mcp_guard.storage.rows import InspectedLedger
from mcp_guard.storage.sql.schema import VERSION
from mcp_guard.storage.used_proofs import MAX_PROOFS, UsedProofs

MAKING = 0x6D6370
"""The advisory lock of whoever makes or migrates a schema."""


class PostgresEngine:
    """The ledger of one origin."""

    format = VERSION

    def __init__(self, database: Database) -> None:
        self.database = database

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise explain(error, str(self.database)) from None

    def _store(self, connection: "psycopg.Connection[Any]") -> PostgresStore:
        return PostgresStore(BlockingWire(connection), str(self.database))

    def open_store(self, unsafe_skip_fsync: bool, create: bool) -> PostgresStore:
        with self._explained():
            connection = connect(self.database)
            try:
                if not unsafe_skip_fsync:
                    check_durability(connection, self.database)
                if create:
                    self._make_schema(connection)
                self._check_format(connection)
            except BaseException:
                connection.close()
                raise
        return self._store(connection)

    async def open_executor(self, store: Store) -> LoopExecutor:
        with self._explained():
            return await open_executor(self.database)

    def open_older(self) -> None:
        """There is none: ledgers in databases began with the present format."""
        self.open_reader().close()

    def open_reader(self) -> PostgresStore:
        with self._explained():
            connection = connect(self.database)
            try:
                connection.execute("SET default_transaction_read_only = on")
                self._check_format(connection)
            except BaseException:
                connection.close()
                raise
        return self._store(connection)

    def open_unchecked(self) -> PostgresStore:
        return self.open_reader()

    def read_format(self) -> int:
        with self._explained(), closing(connect(self.database)) as connection:
            return self._format(connection)

    def inspect(self, format: int) -> InspectedLedger:
        with self._explained(), closing(self.open_reader()) as store:
            keys = Counter(key.approver for key in store.approver_keys() if key.removed is None)
            last = next(store.receipts_back(), None)
            requested = store.approvals([ApprovalState.REQUESTED])
            return InspectedLedger(
                format=format,
                damage=(),
                head=store.head(),
                checkpoint=store.checkpoint(),
                last_seq=last.seq if last else -1,
                last_time=last.at if last else 0,
                open_calls=tuple(store.open_calls()),
                pending=tuple((held, None) for held in requested),
                approvers_with_keys=frozenset(keys),
                several_keys=tuple((name, number) for name, number in sorted(keys.items()) if number > 1),
            )

    def latest_receipts(self, count: int) -> list[bytes]:
        with self._explained(), closing(self.open_reader()) as store:
            size = store.head().size
            return [body for _, body, _ in store.entries(max(0, size - count), size)]

    def receipts_of_starts(self, guards: Sequence[str]) -> list[bytes]:
        found: dict[str, bytes] = {}
        with self._explained(), closing(self.open_reader()) as store:
            for row in store.receipts_back():
                if row.kind == "guard.started":
                    name = json.loads(row.body)["guard"]
                    if name in guards or not guards:
                        found.setdefault(name, row.body)
                    if len(found) == max(1, len(guards)):
                        break
        return list(found.values())

    def copy(self, target: Path) -> None:
        raise LedgerError(
            f"`{self.database}` is not a file, and is not copied as one",
            "back the database up with its own tools (pg_dump), and the keys: mcp-guard keys",
        )

    def settle(self) -> None:
        pass

    def open_used_proofs(self, folder: Path, most: int = MAX_PROOFS) -> UsedProofs:
        from mcp_guard.storage.postgres.used_proofs import UsedProofsTable

        return UsedProofsTable(self.database, most)

    def _make_schema(self, connection: "psycopg.Connection[Any]") -> None:
        """Make the tables, in the first process that opens the origin. Raises: psycopg.Error."""
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (MAKING,))
            if connection.execute("SELECT to_regclass('format') IS NULL").fetchone() == (True,):
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted_schema(self.database)}".encode())
                for statement in (*tables(), ONE_ROW, "CREATE TABLE format (number BIGINT NOT NULL)"):
                    connection.execute(statement.encode())
                connection.execute("INSERT INTO format VALUES (%s)", (VERSION,))

    def _format(self, connection: "psycopg.Connection[Any]") -> int:
        """Raises: LedgerError, psycopg.Error."""
        if connection.execute("SELECT to_regclass('format') IS NULL").fetchone() == (True,):
            hint = "run the guard once, or correct `guard.origin`"
            raise LedgerError(f"no ledger of this origin in `{self.database}`", hint, LedgerFault.NOT_A_LEDGER)
        row = connection.execute("SELECT number FROM format").fetchone()
        return 0 if row is None else int(row[0])

    def _check_format(self, connection: "psycopg.Connection[Any]") -> None:
        """Raises: LedgerError, psycopg.Error."""
        if (format := self._format(connection)) != VERSION:
            raise LedgerError(
                f"the ledger in `{self.database}` has format {format}; this version reads {VERSION}",
                "update every gateway to the same version",
            )
