"""Proofs against one head of the ledger. What was appended since does not touch them: receipts are never changed."""

from mcp_guard.core import bundle, merkle, note
from mcp_guard.core.bundle import Cells
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.merkle import TILE_WIDTH
from mcp_guard.core.receipt import entry
from mcp_guard.storage.sqlite import Store

VERIFY = "run `mcp-guard verify`, and restore the ledger from a copy"


class Proofs:
    """The head as it was when this was made, or an earlier one, and bundles of the receipts under it."""

    def __init__(self, store: Store, earlier: str | None = None) -> None:
        """`earlier` is the signed note of the head that is meant.

        Raises: LedgerError if the ledger is empty, or its tree is not that of the checkpoint.
        """
        self._store = store
        self.checkpoint = earlier or store.checkpoint()
        if not self.checkpoint:
            raise LedgerError(f"the ledger `{store.path}` is empty", "run the guard once")
        self.head, _ = note.parse(self.checkpoint)
        self.tree = merkle.Tree(self.head.size, store.tile)
        if self._root(self.head.size) != self.head.root:
            raise LedgerError(f"the tree of `{store.path}` does not have the root that its checkpoint signs", VERIFY)

    def continues(self, earlier: note.Checkpoint) -> bool:
        """Whether this ledger is what that one has become."""
        grown = earlier.origin == self.head.origin and 0 < earlier.size <= self.head.size
        return grown and self._root(earlier.size) == earlier.root

    def entries(self, first: int, end: int) -> list[bytes]:
        """The entries of the receipts from `first` up to `end`. Raises: LedgerError if one is not as in the tree."""
        rows = {seq: entry(body, signature) for seq, body, signature in self._store.entries(first, end)}
        leaves = self._store.tile(0, first // TILE_WIDTH)[first % TILE_WIDTH :]
        for seq, leaf in zip(range(first, end), leaves, strict=False):
            if seq not in rows or merkle.leaf_hash(rows[seq]) != leaf:
                raise LedgerError(f"receipt {seq} is not the one whose leaf stands in the tree", VERIFY)
        return list(rows.values())

    def bundle(self, seq: int, entry: bytes, payloads: Cells | None = None) -> bytes:
        """One receipt as a line of JSON (core/bundle.py)."""
        return bundle.bundle(entry, bundle.proof_text(seq, self.tree.inclusion(seq), self.checkpoint), payloads)

    def prove(self, seq: int, with_payloads: bool) -> bytes:
        """The bundle of one receipt of the ledger. Raises: LedgerError."""
        [entry] = self.entries(seq, seq + 1)
        cells = dict(self._store.cells(seq, seq + 1)).get(seq, {}) if with_payloads else None
        return self.bundle(seq, entry, cells)

    def _root(self, size: int) -> bytes | None:
        """None where rows of the tree are missing."""
        try:
            return self.tree.root(size)
        except IndexError:
            return None
