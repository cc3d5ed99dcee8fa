"""What a ledger of an older format can be asked before it is migrated."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mcp_guard.storage.contract import Store

OnProgress = Callable[[int, int], None]
"""Called with how many rows of how many are done."""


class OlderLedger(Store, Protocol):
    """A ledger of an older format, open for writing. Until `migrate_tables` has run, only its head, its keys and its
    receipts may be asked for: they are the same in every format."""

    @property
    def format(self) -> int: ...

    def copy_file(self, target: Path) -> None:
        """Write what is committed to a new file, durable when this returns. Within a transaction, nobody else can have
        written since. Raises: LedgerError, OSError."""

    def migrate_tables(self, progress: OnProgress) -> None:
        """Bring the tables to the engine's present format, within the caller's transaction, which is all or nothing.
        No receipt is touched. Raises: LedgerError."""
