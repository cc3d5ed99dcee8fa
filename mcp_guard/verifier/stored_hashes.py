"""Reads stored tree hashes in whole tiles. Levels that a ledger does not store are computed from the level below."""

from .merkle import TILE, CompactRange, fold, prefix, subtree
from .report import VerificationFailed
from .sources import SourceReader

WIDTH = 1 << TILE


class StoredHashes:
    """Callable as `merkle.ReadStored`. Caches one tile of each level."""

    def __init__(self, reader: SourceReader) -> None:
        self._reader = reader
        self._tiles: dict[int, tuple[int, list[bytes]]] = {}

    def __call__(self, level: int, index: int) -> bytes:
        """Raises: VerificationFailed if the hash is missing."""
        number, at = index >> TILE, index & WIDTH - 1
        tile = self._tiles.get(level)
        if tile is None or tile[0] != number:
            hashes = self._reader.stored(level, number << TILE, number + 1 << TILE)
            if hashes is None:
                return self._from_level_below(level, index)
            tile = self._tiles[level] = number, hashes
        if at >= len(tile[1]):
            raise VerificationFailed(None, f"the stored hash {index} of level {level} is missing")
        return tile[1][at]

    def _from_level_below(self, level: int, index: int) -> bytes:
        children = CompactRange(index << TILE)
        for at in range(index << TILE, index + 1 << TILE):
            children.add(self(level - 1, at))
        return children.nodes[0][2]

    def root(self, size: int, verified: CompactRange | None = None) -> bytes:
        """The root of the first `size` receipts; `verified` as in `merkle.subtree`."""
        return subtree(0, size, self, verified) if size else fold([])

    def earlier_root(self, size: int, whole: int, root: bytes) -> bytes:
        """The root that the tree of `whole` receipts had at `size`, proved against its present root.

        Raises: VerificationFailed.
        """
        if not size:
            return fold([])
        leaves = prefix(size, self)
        if self.root(whole, leaves) != root:
            raise VerificationFailed(None, f"the stored hashes of the first {size} receipts do not match the tree")
        return leaves.root()
