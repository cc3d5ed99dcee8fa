"""Opens and inspects ledger files. Implements `storage.engines.Engine`; a guard loads only what it needs of this."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from mcp_guard.storage.contract import UsedProofs
from mcp_guard.storage.rows import InspectedLedger
from mcp_guard.storage.sqlite import schema
from mcp_guard.storage.sqlite.store import SqliteStore, open_store


class SqliteEngine:
    """One file for each ledger."""

    format = schema.VERSION

    def open_store(self, place: Path, unsafe_skip_fsync: bool, create: bool) -> SqliteStore:
        return open_store(place, unsafe_skip_fsync, create)

    def open_reader(self, place: Path) -> SqliteStore:
        from mcp_guard.storage.sqlite.inspection import open_reader

        return open_reader(place)

    def open_unchecked(self, place: Path) -> SqliteStore:
        from mcp_guard.storage.sqlite.inspection import open_unchecked

        return open_unchecked(place)

    def read_format(self, place: Path) -> int:
        from mcp_guard.storage.sqlite.inspection import read_format

        return read_format(place)

    def inspect(self, place: Path, format: int) -> InspectedLedger:
        from mcp_guard.storage.sqlite.inspection import inspect_ledger

        return inspect_ledger(place, format)

    def latest_receipts(self, place: Path, count: int) -> list[bytes]:
        from mcp_guard.storage.sqlite.inspection import latest_receipts

        return latest_receipts(place, count)

    def receipts_of_starts(self, place: Path, guards: Sequence[str]) -> list[bytes]:
        from mcp_guard.storage.sqlite.inspection import receipts_of_starts

        return receipts_of_starts(place, guards)

    def copy(self, place: Path, target: Path) -> None:
        from mcp_guard.storage.sqlite.copying import copy_ledger

        with closing(self.open_reader(place)) as store:
            copy_ledger(store, target)

    def settle(self, place: Path) -> None:
        from mcp_guard.storage.sqlite.copying import empty_log

        empty_log(place)

    def open_used_proofs(self, place: Path) -> UsedProofs:
        from mcp_guard.storage.sqlite.used_proofs import UsedProofsFile

        return UsedProofsFile(place)
