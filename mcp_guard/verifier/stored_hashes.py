"""Reads stored tree hashes by whole tiles. Where a ledger stores no nodes, they are computed from those below."""

from .merkle import TILE, CompactRange, fold, prefix, subtree
from .report import VerificationFailed
from .sources import SourceReader

WIDTH = 1 << TILE


class StoredHashes:
    """Callable as `tree.ReadStored`. Keeps one tile of each level."""

    def __init__(self, reader: SourceReader) -> None:
        self._reader = reader
        self._tiles: dict[int, tuple[int, list[bytes]]] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """Raises: VerificationFailed if it is missing."""
        number, at = index >> TILE, index & WIDTH - 1
        tile = self._tiles.get(level)
        if tile is None or tile[0] != number:
            hashes = self._reader.stored(level, number << TILE, number + 1 << TILE)
            if hashes is None:
                return self._from_below(level, index)
            tile = self._tiles[level] = number, hashes
        if at >= len(tile[1]):
            raise VerificationFailed(None, f"the stored hash {index} of level {level} is missing")
        return tile[1][at]

    def _from_below(self, level: int, index: int) -> bytes:
        span = CompactRange(index << TILE)
        for at in range(index << TILE, index + 1 << TILE):
            span.add(self(level - 1, at))
        return span.nodes[0][2]

    def root(self, size: int, own: CompactRange | None = None) -> bytes:
        """Of the first `size` receipts; `own` as in `tree.subtree`."""
        return subtree(0, size, self, own) if size else fold([])

    def earlier_root(self, size: int, whole: int, root: bytes) -> bytes:
        """The root that the tree of `whole` receipts had at `size`, proved against its root.

        Raises: VerificationFailed.
        """
        if not size:
            return fold([])
        span = prefix(size, self)
        if self.root(whole, span) != root:
            raise VerificationFailed(None, f"the stored hashes of the first {size} receipts are not those of the tree")
        return span.root()
