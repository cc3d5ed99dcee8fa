"""The Merkle tree of RFC 6962 §2.1, in memory that grows with the logarithm of its size."""

import base64
import hashlib
from collections.abc import Callable, Sequence

TILE = 8
"""Height of the subtrees whose roots are stored: of 256 leaves, 256 × 256 … (c2sp.org/tlog-tiles)."""
OnSubtree = Callable[[int, int, bytes], None]
"""Called with the height, the index at that height, and the hash of a subtree that has just become complete."""


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def leaf_of(body: bytes, signature: bytes) -> bytes:
    """The leaf of a receipt, whose entry is the document, a newline, and the signature in base64."""
    return leaf_hash(body + b"\n" + base64.b64encode(signature))


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class CompactRange:
    """The leaves from `start` up to `end` as their largest complete subtrees, from left to right."""

    def __init__(self, start: int = 0, on_subtree: OnSubtree | None = None) -> None:
        """`on_subtree` is called for subtrees whose roots are stored in tiles."""
        self.start = self.end = start
        self.nodes: list[tuple[int, int, bytes]] = []
        """First leaf, height and hash of each subtree."""
        self._on_subtree = on_subtree

    def add(self, hash: bytes, height: int = 0) -> None:
        """Append a complete subtree on the right. Its first leaf, `end`, must be a multiple of its width."""
        nodes, start = self.nodes, self.end
        self.end += 1 << height
        while nodes and nodes[-1][1] == height and not nodes[-1][0] & ((2 << height) - 1):
            start, _, left = nodes.pop()
            hash = hashlib.sha256(b"\x01" + left + hash).digest()
            height += 1
            if self._on_subtree is not None and not height % TILE:
                self._on_subtree(height, start >> height, hash)
        nodes.append((start, height, hash))

    def find_subtree(self, start: int, height: int) -> bytes | None:
        return next((hash for first, high, hash in self.nodes if (first, high) == (start, height)), None)

    def root(self) -> bytes:
        """The root of a range that starts at 0."""
        return fold([hash for _, _, hash in self.nodes])


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over complete subtrees, the largest first."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    *rest, root = hashes
    for left in reversed(rest):
        root = node_hash(left, root)
    return root


ReadStored = Callable[[int, int], bytes]
"""Returns the stored hash at a level of tiles and an index: the root of a subtree of 256^level leaves."""


def subtree(start: int, end: int, stored: ReadStored, verified: CompactRange | None = None) -> bytes:
    """The hash over the leaves from `start` up to `end` (RFC 6962's MTH), reading as few stored hashes as possible.

    Whatever `verified` covers is taken from it alone and never from the store. If the result equals a signed root, the
    leaves of `verified` are therefore proved to be in that tree, at their places.
    """
    width = end - start
    height, hash = width.bit_length() - 1, None
    if width == 1 << height:
        if verified is not None and start < verified.end and verified.start < end:
            hash = verified.find_subtree(start, height)
        elif not height % TILE:
            hash = stored(height // TILE, start >> height)
    if hash is not None:
        return hash
    half = 1 << (width - 1).bit_length() - 1
    return node_hash(subtree(start, start + half, stored, verified), subtree(start + half, end, stored, verified))


def prefix(size: int, stored: ReadStored) -> CompactRange:
    """The first `size` leaves, from stored hashes."""
    leaves = CompactRange()
    for height in reversed(range(size.bit_length())):
        if size >> height & 1:
            leaves.add(subtree(leaves.end, leaves.end + (1 << height), stored), height)
    return leaves


def root_from_proof(seq: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162 §2.1.3.2). Raises: ValueError if it does not fit the size."""
    if not 0 <= seq < size:
        raise ValueError("the index of the proof is not within the tree")
    at, last, root = seq, size - 1, leaf
    for hash in proof:
        if not last:
            raise ValueError("the inclusion proof is too long")
        if at & 1 or at == last:
            root = node_hash(hash, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = node_hash(root, hash)
        at, last = at >> 1, last >> 1
    if last:
        raise ValueError("the inclusion proof is too short")
    return root
