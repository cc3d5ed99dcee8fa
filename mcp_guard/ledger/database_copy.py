"""Copies a ledger file into a database, where it is the ledger of its origin."""

from contextlib import closing
from pathlib import Path

from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.backup import Verify, refuse_while_guards_run
from mcp_guard.ledger.keys import PUBLISHED
from mcp_guard.ledger.open import LedgerSettings, configured_keys
from mcp_guard.storage.copying import copy_ledger
from mcp_guard.storage.engines import open_read_only
from mcp_guard.storage.older import OnProgress
from mcp_guard.storage.place import Database
from mcp_guard.storage.rows import TreeHead
from mcp_guard.verifier.sources import ReceiptSource


def copy_to_database(
    settings: LedgerSettings, ledger: Path, target: Database, verify: Verify, progress: OnProgress
) -> TreeHead:
    """Copy the file; returns its head. No guard may run on it, and nobody else can write to it meanwhile. Nobody sees
    the copy before it is verified and has the checkpoint of the file. The file stays as it is.

    Raises: LedgerError, and then there is no copy.
    """
    folder = keys_folder(settings, ledger)
    refuse_while_guards_run(ledger, folder)
    with open_read_only(ledger) as store:
        head, checkpoint = store.head(), store.checkpoint()
    if not head.size:
        raise LedgerError(f"`{ledger}` has no receipts: there is nothing to copy", "run the guard with the database")
    configured_keys(settings).check_origin(head.key)

    def check(source: ReceiptSource) -> None:
        verify(source, folder / PUBLISHED)
        with closing(source.open()) as reader:
            if (reader.size(), reader.checkpoint()) != (head.size, checkpoint):
                raise LedgerError(f"`{ledger}` was changed while it was copied", "repeat the command")
        refuse_while_guards_run(ledger, folder)  # one that began meanwhile waits for the file, or has given up

    return copy_ledger(ledger, target, progress, check, locked=True)


def keys_folder(settings: LedgerSettings, ledger: Path) -> Path:
    """The folder with the public keys of a file, and the locks of its guards."""
    return settings.state_dir if ledger == settings.place else ledger.parent
