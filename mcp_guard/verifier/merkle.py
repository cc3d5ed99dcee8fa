"""The Merkle tree of RFC 6962 §2.1, in memory that grows with the logarithm of its size."""

import base64
import hashlib
from collections.abc import Callable, Sequence

TILE = 8
"""Height of the subtrees whose roots are stored: 256 leaves, 256 × 256 … (c2sp.org/tlog-tiles)."""
OnSubtree = Callable[[int, int, bytes], None]
"""Takes the height, the index at that height, and the hash of a subtree that has just become complete."""


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def leaf_of(body: bytes, signature: bytes) -> bytes:
    """The leaf of a receipt: its entry is the document, a newline, and the signature in base64."""
    return leaf_hash(body + b"\n" + base64.b64encode(signature))


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class CompactRange:
    """The leaves from `start` to `end` as their largest complete subtrees, left to right."""

    def __init__(self, start: int = 0, watch: OnSubtree | None = None) -> None:
        self.start = self.end = start
        self.nodes: list[tuple[int, int, bytes]] = []
        """First leaf, height and hash of each."""
        self._watch = watch

    def add(self, hash: bytes, height: int = 0) -> None:
        """One more complete subtree on the right; its first leaf, `end`, is a multiple of its width."""
        nodes, start = self.nodes, self.end
        self.end += 1 << height
        while nodes and nodes[-1][1] == height and not nodes[-1][0] & ((2 << height) - 1):
            start, _, left = nodes.pop()
            hash = hashlib.sha256(b"\x01" + left + hash).digest()
            height += 1
            if self._watch is not None and not height % TILE:
                self._watch(height, start >> height, hash)
        nodes.append((start, height, hash))

    def find(self, start: int, height: int) -> bytes | None:
        return next((hash for at, high, hash in self.nodes if (at, high) == (start, height)), None)

    def root(self) -> bytes:
        """Of a span that starts at 0."""
        return fold([hash for _, _, hash in self.nodes])


def fold(edge: Sequence[bytes]) -> bytes:
    """The root over complete subtrees, the largest first."""
    if not edge:
        return hashlib.sha256(b"").digest()
    *rest, top = edge
    for left in reversed(rest):
        top = node_hash(left, top)
    return top


ReadStored = Callable[[int, int], bytes]
"""Gives the stored hash at a level of tiles and an index: of the subtree of 256^level leaves."""


def subtree(start: int, end: int, stored: ReadStored, own: CompactRange | None = None) -> bytes:
    """The hash over leaves `start` to `end` (RFC 6962's MTH) from stored hashes, reading as few as can be.

    What `own` covers is taken from it and nothing of it from the store, so that equality of a root with a signed one
    proves that the leaves of `own` stand in that tree at their places.
    """
    width = end - start
    height, found = width.bit_length() - 1, None
    if width == 1 << height:
        if own is not None and start < own.end and own.start < end:
            found = own.find(start, height)
        elif not height % TILE:
            found = stored(height // TILE, start >> height)
    if found is not None:
        return found
    half = 1 << (width - 1).bit_length() - 1
    return node_hash(subtree(start, start + half, stored, own), subtree(start + half, end, stored, own))


def prefix(size: int, stored: ReadStored) -> CompactRange:
    """The first `size` leaves, from stored hashes."""
    span = CompactRange()
    for height in reversed(range(size.bit_length())):
        if size >> height & 1:
            span.add(subtree(span.end, span.end + (1 << height), stored), height)
    return span


def root_from_proof(seq: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162 §2.1.3.2). Raises: ValueError if it does not fit the size."""
    if not 0 <= seq < size:
        raise ValueError("its index is not within the tree")
    at, last, found = seq, size - 1, leaf
    for hash in proof:
        if not last:
            raise ValueError("its inclusion proof is too long")
        if at & 1 or at == last:
            found = node_hash(hash, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, hash)
        at, last = at >> 1, last >> 1
    if last:
        raise ValueError("its inclusion proof is too short")
    return found
