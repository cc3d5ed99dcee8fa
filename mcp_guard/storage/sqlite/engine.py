"""Opens and inspects ledger files. Implements `storage.engines.Engine`; a guard loads only what it needs of this."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.contract import Store
from mcp_guard.storage.executors import InPlaceExecutor
from mcp_guard.storage.items import Items
from mcp_guard.storage.older import OlderLedger
from mcp_guard.storage.presence import guards_of_machine
from mcp_guard.storage.rows import InspectedLedger
from mcp_guard.storage.sign_ins import SignIns
from mcp_guard.storage.sql.schema import VERSION
from mcp_guard.storage.sqlite.file_location import FileLocation, is_there
from mcp_guard.storage.sqlite.presence import LockPresence
from mcp_guard.storage.sqlite.store import SqliteStore, open_store
from mcp_guard.storage.used_proofs import MAX_PROOFS, UsedProofs

if TYPE_CHECKING:
    from mcp_guard.storage.background import PooledReader
    from mcp_guard.storage.snapshot import Check, OnRows, Snapshot
    from mcp_guard.verifier.sources import ReceiptSource


class SqliteEngine:
    """A ledger that is one file."""

    format = VERSION

    def __init__(self, path: Path) -> None:
        self.path = path

    def open_store(self, unsafe_skip_fsync: bool, create: bool) -> SqliteStore:
        return open_store(self.path, unsafe_skip_fsync, create)

    async def open_executor(self, store: Store) -> InPlaceExecutor:
        return InPlaceExecutor(store)

    def open_older(self) -> OlderLedger | None:
        from mcp_guard.storage.sqlite.migrations import open_older

        return open_older(self.path)

    def open_reader(self) -> SqliteStore:
        from mcp_guard.storage.sqlite.inspection import open_reader

        return open_reader(self.path)

    def open_unchecked(self) -> SqliteStore:
        from mcp_guard.storage.sqlite.inspection import open_unchecked

        return open_unchecked(self.path)

    def background_reader(self) -> "PooledReader":
        from mcp_guard.storage.background import PooledReader

        address, location = self.path.absolute().as_uri(), FileLocation(self.path)

        async def open_store() -> Store:
            from mcp_guard.storage.sqlite.background import open_background_store

            return await open_background_store(self.path, address, location)

        return PooledReader(open_store)

    def read_format(self) -> int:
        from mcp_guard.storage.sqlite.inspection import read_format

        return read_format(self.path)

    def inspect(self, format: int) -> InspectedLedger:
        from mcp_guard.storage.sqlite.inspection import inspect_ledger

        return inspect_ledger(self.path, format)

    def latest_receipts(self, count: int) -> list[bytes]:
        from mcp_guard.storage.sqlite.inspection import latest_receipts

        return latest_receipts(self.path, count)

    def receipts_of_starts(self, guards: Sequence[str]) -> list[bytes]:
        from mcp_guard.storage.sqlite.inspection import starts_of

        return starts_of(self.path, guards)

    def open_snapshot(self, locked: bool) -> "AbstractContextManager[Snapshot]":
        from mcp_guard.storage.sqlite.copying import open_snapshot

        return open_snapshot(self.path, locked)

    def import_from(self, snapshot: "Snapshot", on_rows: "OnRows", check: "Check") -> None:
        from mcp_guard.storage.sqlite.copying import import_from

        if self.exists():
            raise self.taken()
        import_from(self.path, snapshot, on_rows, check)

    def open_source(self) -> "ReceiptSource":
        from mcp_guard.verifier.sources.sqlite import LedgerSource

        return LedgerSource(self.path)

    def taken(self) -> LedgerError:
        hint = "move it aside with --replace, or name another state_dir"
        return LedgerError(f"there is a ledger already: `{self.path}`", hint)

    def running_guards(self, folder: Path) -> list[str]:
        return [guard for guard, is_running in guards_of_machine(folder).items() if is_running]

    def exists(self) -> bool:
        return is_there(self.path)

    def settle(self) -> None:
        from mcp_guard.storage.sqlite.copying import empty_log

        empty_log(self.path)

    def open_used_proofs(self, folder: Path, most: int = MAX_PROOFS) -> UsedProofs:
        from mcp_guard.storage.sqlite.used_proofs import UsedProofsFile

        return UsedProofsFile(folder / "used-proofs.sql", most)

    def open_items(self, folder: Path) -> Items:
        from mcp_guard.storage.sqlite.items import ItemsFile

        return ItemsFile(folder / "web.sqlite")

    def open_sign_ins(self, folder: Path) -> SignIns:
        from mcp_guard.storage.sqlite.sign_ins import SignInsFolder

        return SignInsFolder(folder / "sign-ins")

    def open_presence(self, folder: Path, guard: str, lease_seconds: float) -> LockPresence:
        return LockPresence(folder, guard)
