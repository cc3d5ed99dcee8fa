"""Opens and inspects the ledger of an origin in a database. Implements `storage.engines.Engine`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.background import PooledReader
from mcp_guard.storage.contract import Store
from mcp_guard.storage.items import Items
from mcp_guard.storage.place import Database
from mcp_guard.storage.postgres.clock import ServerClock
from mcp_guard.storage.postgres.connection import (
    SERVER,
    CommandConnection,
    Server,
    ServerCheck,
    check_url,
    connect,
)
from mcp_guard.storage.postgres.errors import explain
from mcp_guard.storage.postgres.executor import LoopExecutor, open_executor
from mcp_guard.storage.postgres.leases import LeasePresence
from mcp_guard.storage.postgres.migrations import check_format
from mcp_guard.storage.postgres.privileges import (
    LACKING_FOR_PAGES,
    USABLE,
    check_lacking,
    check_usable,
    check_usable_through,
)
from mcp_guard.storage.postgres.schema import has_tables, make_tables, read_format, taken
from mcp_guard.storage.postgres.store import PostgresStore
from mcp_guard.storage.postgres.wire import BackgroundWire, BlockingWire
from mcp_guard.storage.presence import guards_of_machine
from mcp_guard.storage.rows import InspectedLedger
from mcp_guard.storage.sign_ins import SignIns
from mcp_guard.storage.sql.schema import VERSION
from mcp_guard.storage.used_proofs import MAX_PROOFS, UsedProofs

if TYPE_CHECKING:
    from mcp_guard.storage.snapshot import Check, OnRows, Snapshot
    from mcp_guard.verifier.sources import ReceiptSource

PATIENT, MAKING_SECONDS = "SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '60s'", 70.0
"""Gateways that start together on a new origin wait for the one that makes the tables, however busy the machine is."""


class PostgresEngine:
    """The ledger of one origin."""

    format = VERSION

    def __init__(self, database: Database) -> None:
        """Raises: LedgerError."""
        check_url(database)
        self.database = database

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise explain(error, str(self.database)) from None

    def _connect(self, check: ServerCheck, create: bool) -> PostgresStore:
        with self._explained(), closing(connect(self.database)) as connection:
            store = PostgresStore(BlockingWire(self.database, check), str(self.database))
            store.wire.connect()
            try:
                if create:
                    self._make_schema(connection)
                self._check_format(connection)
                if check.writes:
                    check_usable_through(connection, store.name)
                    clock = ServerClock(store.name)
                    clock.ask(connection)
                    clock.check()
            except BaseException:
                store.close()
                raise
            return store

    def open_store(self, unsafe_skip_fsync: bool, create: bool) -> PostgresStore:
        return self._connect(ServerCheck(self.database, unsafe_skip_fsync=unsafe_skip_fsync), create)

    async def open_executor(self, store: Store) -> LoopExecutor:
        assert isinstance(store, PostgresStore)
        with self._explained():
            return await open_executor(store)

    def open_older(self) -> None:
        """There is none: ledgers in databases began with the present format."""
        self.open_reader().close()

    def open_reader(self) -> PostgresStore:
        return self._connect(ServerCheck(self.database, writes=False), create=False)

    def open_unchecked(self) -> PostgresStore:
        return self.open_reader()

    def background_reader(self) -> PooledReader:
        async def open_store() -> Store:
            return PostgresStore(BackgroundWire(self.database), str(self.database))

        return PooledReader(open_store)

    def read_format(self) -> int:
        with self._explained(), closing(connect(self.database)) as connection:
            return read_format(connection, self.database)

    def inspect(self, format: int) -> InspectedLedger:
        from mcp_guard.storage.sql.inspection import inspect_store

        with self._explained(), closing(self.open_reader()) as store:
            inspected = inspect_store(store, format, store.stored_bytes(), damage=())
            server = Server.of_row(store.ask((SERVER, ()))[0].fetchone())
            usable = store.ask((USABLE, ()))[0].fetchone()
            [lacking_for_pages] = store.ask((LACKING_FOR_PAGES, ()))[0].fetchone()
            return replace(
                inspected,
                leased=store.leased_guards(),
                not_durable=_failure(partial(store.wire.check.check_durability, server.durability)),
                not_writable=_failure(partial(store.wire.check.check_writable, server))
                or _failure(partial(check_usable, store.name, *usable)),
                not_for_pages=_failure(partial(check_lacking, store.name, lacking_for_pages)),
            )

    def latest_receipts(self, count: int) -> list[bytes]:
        with self._explained(), closing(self.open_reader()) as store:
            size = store.head().size
            return [body for _, body, _ in store.entries(max(0, size - count), size)]

    def receipts_of_starts(self, guards: Sequence[str]) -> list[bytes]:
        from mcp_guard.storage.sql.inspection import receipts_of_starts

        with self._explained(), closing(self.open_reader()) as store:
            return receipts_of_starts(store, guards)

    def taken(self) -> LedgerError:
        return taken(self.database)

    def running_guards(self, folder: Path) -> list[str]:
        guards = {guard for guard, is_running in guards_of_machine(folder).items() if is_running}
        if self.exists():
            with self._explained(), closing(self.open_reader()) as store:
                guards |= store.leased_guards()
        return sorted(guards)

    def exists(self) -> bool:
        with self._explained(), closing(connect(self.database)) as connection:
            return has_tables(connection, self.database)

    def open_source(self) -> "ReceiptSource":
        from mcp_guard.storage.postgres.verification import DatabaseSource

        return DatabaseSource(self.database)

    def open_snapshot(self, locked: bool) -> "AbstractContextManager[Snapshot]":
        from mcp_guard.storage.postgres.copying import open_snapshot

        assert not locked
        return open_snapshot(self.database)

    def import_from(self, snapshot: "Snapshot", on_rows: "OnRows", check: "Check") -> None:
        from mcp_guard.storage.postgres.copying import import_from

        import_from(self.database, snapshot, on_rows, check)

    def settle(self) -> None:
        pass

    def open_used_proofs(self, folder: Path, most: int = MAX_PROOFS) -> UsedProofs:
        from mcp_guard.storage.postgres.used_proofs import UsedProofsTable

        return UsedProofsTable(self.database, most)

    def open_items(self, folder: Path) -> Items:
        from mcp_guard.storage.postgres.items import ItemsTable

        return ItemsTable(self.database)

    def open_sign_ins(self, folder: Path) -> SignIns:
        from mcp_guard.storage.postgres.sign_ins import SignInsTable

        return SignInsTable(self.database)

    def open_presence(self, folder: Path, guard: str, lease_seconds: float) -> LeasePresence:
        return LeasePresence(self.database, folder, guard, lease_seconds)

    def _make_schema(self, connection: CommandConnection) -> None:
        """Make the tables, in the first process that opens the origin. Raises: psycopg.Error."""
        if has_tables(connection, self.database):
            return
        connection.answer_seconds = MAKING_SECONDS
        with connection.transaction():
            connection.execute(PATIENT)
            make_tables(connection, self.database)

    def _check_format(self, connection: "psycopg.Connection[Any]") -> None:
        """Raises: LedgerError, psycopg.Error."""
        check_format(read_format(connection, self.database), str(self.database))


def _failure(check: Callable[[], None]) -> tuple[str, str] | None:
    """What is wrong, and what to do."""
    try:
        check()
    except LedgerError as error:
        return error.full, error.hint
    return None
