"""Merkle tree of RFC 6962 §2.1, as a compact range: the right edge is enough to append and to know the root."""

import hashlib
from collections.abc import Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def append(edge: Sequence[bytes], size: int, leaf: bytes) -> list[bytes]:
    """The right edge (largest complete subtrees, left to right) after one more leaf; `size` is the leaves before it."""
    grown = [*edge, leaf]
    while size & 1:
        right = grown.pop()
        grown[-1] = node_hash(grown[-1], right)
        size >>= 1
    return grown


def root(edge: Sequence[bytes]) -> bytes:
    """The tree's root from its right edge."""
    if not edge:
        return EMPTY_ROOT
    *rest, top = edge
    for left in reversed(rest):
        top = node_hash(left, top)
    return top
