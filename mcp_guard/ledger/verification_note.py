"""`verified.json` beside the ledger: the checkpoint of the last `mcp-guard verify`, which the ledger must continue.

It is no evidence for others: whoever can replace the ledger can replace it too. See docs/decisions/0056.
"""

from pathlib import Path

import orjson

from mcp_guard.core.tlog import merkle, note
from mcp_guard.storage.contract import Store

NOTE = "verified.json"


def why_discontinued(store: Store, folder: Path) -> str:
    """How the ledger contradicts the note in its folder; empty if it does not, or if there is no readable note.

    Reads a few hundred hashes, however long the ledger is. Raises: LedgerError.
    """
    try:
        known, _ = note.parse(orjson.loads((folder / NOTE).read_bytes())["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or malformed
        return ""
    with store.reading():
        size = store.head().size
        if size < known.size:
            return f"rolled back: {known.size} receipts were verified here, but the ledger has only {size}"
        try:
            is_same = merkle.Tree(size, store.tile).root(known.size) == known.root
        except IndexError:  # receipts are missing, which `verify` reports
            return ""
    return "" if is_same else f"replaced: its first {known.size} receipts are not those that were verified here"
