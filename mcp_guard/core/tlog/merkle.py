"""Merkle tree of RFC 6962 §2.1: appending, roots, inclusion and consistency proofs, and their verification. Pure.

To append, the right edge (the largest complete subtrees) is enough. To prove, a tree is read as tiles, as in C2SP
tlog-tiles: tile `n` of level `l` holds the roots of up to 256 complete subtrees of 256**l leaves each, beginning with
subtree 256·n.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
MAX_CACHED_TILES = 12
"""How many tiles a `Tree` caches, about 50 KiB each; a proof in a tree of 2**40 leaves needs ten."""

OnSubtreeComplete = Callable[[int, int, bytes], None]
"""Called with the level, the index and the root of each complete subtree of 256**level leaves."""
ReadTile = Callable[[int, int], Sequence[bytes]]
"""The hashes of tile `n` of a level: `read(level, n)`. It may return more than the tree's size requires."""


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def append(
    edge: Sequence[bytes], size: int, leaf: bytes, completed: OnSubtreeComplete = lambda *_: None
) -> list[bytes]:
    """The right edge (largest complete subtrees, left to right) after one more leaf; `size` is the leaves before it."""
    grown = [*edge, leaf]
    height = 0
    while size & 1:
        right = grown.pop()
        grown[-1] = node_hash(grown[-1], right)
        size >>= 1
        height += 1
        if height % TILE_HEIGHT == 0:
            completed(height // TILE_HEIGHT, size, grown[-1])
    return grown


def root(edge: Sequence[bytes]) -> bytes:
    """The tree's root from its right edge."""
    if not edge:
        return EMPTY_ROOT
    *rest, top = edge
    for left in reversed(rest):
        top = node_hash(left, top)
    return top


# Tiles


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of a tree: `width` hashes, 256 if it is full. Entry bundles are cut like the tiles of level 0."""

    level: int
    n: int
    width: int

    @property
    def is_full(self) -> bool:
        return self.width == TILE_WIDTH


def tiles(size: int) -> Iterator[Tile]:
    """Every tile of a tree, level by level."""
    level = 0
    while size:
        yield from level_tiles(size, level)
        size >>= TILE_HEIGHT
        level += 1


def level_tiles(count: int, level: int = 0) -> Iterator[Tile]:
    """The tiles of one level that has `count` hashes."""
    full, rest = divmod(count, TILE_WIDTH)
    for n in range(full):
        yield Tile(level, n, TILE_WIDTH)
    if rest:
        yield Tile(level, full, rest)


def tile_number(n: int) -> str:
    """A tile's number as written in paths: `x001/x234/067` for 1234067."""
    digits = f"{n % 1000:03d}"
    while n := n // 1000:
        digits = f"x{n % 1000:03d}/{digits}"
    return digits


# Proofs


class Tree:
    """A tree of `size` leaves, read tile by tile."""

    def __init__(self, size: int, read: ReadTile) -> None:
        self.size = size
        self._read = read
        self._cache: OrderedDict[tuple[int, int], list[list[bytes]]] = OrderedDict()

    def root(self, size: int | None = None) -> bytes:
        """The root of the whole tree, or of the tree at an earlier size."""
        size = self.size if size is None else size
        return self._hash(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int) -> list[bytes]:
        """PATH(index, D[size]) of RFC 6962 §2.1.1: the hashes from the leaf's sibling up to the root's child."""
        if not 0 <= index < self.size:
            raise ValueError(f"no leaf {index} in a tree of {self.size}")
        start, end, path = 0, self.size, []
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old: int) -> list[bytes]:
        """PROOF(old, D[size]) of RFC 6962 §2.1.2."""
        if not 0 < old <= self.size:
            raise ValueError(f"no proof can lead from a tree of {old} leaves to one of {self.size}")
        start, end, path = 0, self.size, []
        while old < end:
            middle = start + _split(end - start)
            if old <= middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start = middle
        if start:
            path.append(self._hash(start, end))  # the old root itself, where that is not its verifier's already
        return path[::-1]

    def _hash(self, start: int, end: int) -> bytes:
        """MTH(D[start:end]) of a range that begins where a subtree of its size can."""
        pieces = []
        while start < end:
            height = (end - start).bit_length() - 1
            pieces.append(self._complete(height, start >> height))
            start += 1 << height
        return root(pieces)

    def _complete(self, height: int, index: int) -> bytes:
        """The root of complete subtree `index` of 2**height leaves."""
        level, inner = divmod(height, TILE_HEIGHT)
        n, offset = divmod(index, TILE_WIDTH >> inner)
        return self._heights(level, n)[inner][offset]

    def _heights(self, level: int, n: int) -> list[list[bytes]]:
        """A tile with the nodes between its hashes and the level above: `[height][index]`."""
        if (level, n) in self._cache:
            self._cache.move_to_end((level, n))
            return self._cache[level, n]
        heights = [list(self._read(level, n))]
        while len(heights[-1]) > 1 and len(heights) < TILE_HEIGHT:
            below = heights[-1]
            heights.append([node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)])
        self._cache[level, n] = heights
        if len(self._cache) > MAX_CACHED_TILES:
            self._cache.popitem(last=False)
        return heights


def _split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    return 1 << (size - 1).bit_length() - 1


# Verification


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], expected: bytes) -> None:
    """RFC 9162 §2.1.3.2. Raises: ValueError if the path does not lead from this leaf to the root."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    if len(leaf) != HASH_BYTES:
        raise ValueError("not the hash of a leaf")
    node = leaf
    for hash, is_left in _climb(index, size - 1, path):
        node = node_hash(hash, node) if is_left else node_hash(node, hash)
    if node != expected:
        raise ValueError("the inclusion proof does not lead to the root")


def verify_consistency(old: tuple[int, bytes], new: tuple[int, bytes], path: Sequence[bytes]) -> None:
    """RFC 9162 §2.1.4.2, for trees as (size, root). An empty old tree proves nothing, and is refused.

    Raises: ValueError if the old tree is not a prefix of the new one.
    """
    if old[0] == new[0]:
        if path or old[1] != new[1] or (old[0] == 0 and old[1] != EMPTY_ROOT):
            raise ValueError("two trees of the same size differ")
        return
    if not 0 < old[0] < new[0]:
        raise ValueError(f"no proof can lead from a tree of {old[0]} leaves to one of {new[0]}")
    if not path:
        raise ValueError("the consistency proof is empty")
    begin, *rest = path if old[0] & (old[0] - 1) else [old[1], *path]
    fn, sn = old[0] - 1, new[0] - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    before = after = begin
    for hash, is_left in _climb(fn, sn, rest):
        before = node_hash(hash, before) if is_left else before
        after = node_hash(hash, after) if is_left else node_hash(after, hash)
    if (before, after) != (old[1], new[1]):
        raise ValueError("the consistency proof does not lead to the roots")


def _climb(fn: int, sn: int, path: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The hashes of a path, each with whether it is the left sibling. `fn` and `sn` as RFC 9162 names them.

    Raises: ValueError if the path is too long or too short.
    """
    for hash in path:
        if sn == 0 or len(hash) != HASH_BYTES:
            raise ValueError("the proof is too long, or contains an invalid hash")
        is_left = bool(fn & 1) or fn == sn
        yield hash, is_left
        while is_left and fn and not fn & 1:
            fn, sn = fn >> 1, sn >> 1
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise ValueError("the proof is too short")
