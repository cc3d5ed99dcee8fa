"""The Merkle tree against a naive one, proofs of every size up to 300, and the published vectors of RFC 6962."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.tlog import merkle

MOST = 300
LEAVES = tuple(merkle.leaf_hash(str(number).encode()) for number in range(MOST))
SIZES = st.integers(0, MOST)


@cache
def naive_root(start: int, end: int) -> bytes:
    """RFC 6962 §2.1, as written there."""
    if end - start == 0:
        return merkle.EMPTY_ROOT
    if end - start == 1:
        return LEAVES[start]
    middle = start + half(end - start)
    return merkle.node_hash(naive_root(start, middle), naive_root(middle, end))


def half(size: int) -> int:
    result = 1
    while result * 2 < size:
        result *= 2
    return result


def naive_path(index: int, start: int, end: int) -> list[bytes]:
    """RFC 6962 §2.1.1, as written there."""
    if end - start == 1:
        return []
    middle = start + half(end - start)
    if index < middle:
        return [*naive_path(index, start, middle), naive_root(middle, end)]
    return [*naive_path(index, middle, end), naive_root(start, middle)]


def naive_proof(old: int, start: int, end: int, whole: bool) -> list[bytes]:
    """RFC 6962 §2.1.2, as written there; `old` counts from 0."""
    if old == end:
        return [] if whole else [naive_root(start, end)]
    middle = start + half(end - start)
    if old <= middle:
        return [*naive_proof(old, start, middle, whole), naive_root(middle, end)]
    return [*naive_proof(old, middle, end, False), naive_root(start, middle)]


class Stored:
    """What a ledger stores: leaves, nodes captured while appending, and the right edge."""

    def __init__(self, leaves: tuple[bytes, ...]) -> None:
        self.rows: dict[tuple[int, int], bytes] = {}
        self.edge: list[bytes] = []
        self.reads = 0
        for number, leaf in enumerate(leaves):
            self.rows[0, number] = leaf
            self.edge = merkle.append(self.edge, number, leaf, self.capture)

    def capture(self, level: int, index: int, hash: bytes) -> None:
        assert (level, index) not in self.rows
        self.rows[level, index] = hash

    def read(self, level: int, n: int) -> list[bytes]:
        wanted = ((level, n * 256 + at) for at in range(256))
        results = [self.rows[item] for item in wanted if item in self.rows]
        self.reads += len(results)
        return results


STORED = Stored(LEAVES)


@given(SIZES)
def test_the_compact_range_has_the_root_of_the_whole_tree(size: int) -> None:
    edge = Stored(LEAVES[:size]).edge
    assert merkle.root(edge) == naive_root(0, size) == merkle.Tree(size, STORED.read).root()
    assert len(edge) == bin(size).count("1")


@pytest.mark.parametrize("size", range(1, MOST + 1))
def test_every_inclusion_proof_is_that_of_the_naive_tree_and_verifies(size: int) -> None:
    tree, root = merkle.Tree(size, STORED.read), naive_root(0, size)
    for index in range(size):
        path = tree.inclusion(index)
        assert path == naive_path(index, 0, size)
        merkle.verify_inclusion(LEAVES[index], index, size, path, root)


@pytest.mark.parametrize("size", range(1, MOST + 1))
def test_every_consistency_proof_is_that_of_the_naive_tree_and_verifies(size: int) -> None:
    tree, root = merkle.Tree(size, STORED.read), naive_root(0, size)
    for old in range(1, size + 1):
        path = tree.consistency(old)
        assert path == naive_proof(old, 0, size, True)
        merkle.verify_consistency((old, naive_root(0, old)), (size, root), path)
        assert tree.root(old) == naive_root(0, old)


@given(st.data(), st.integers(1, MOST))
def test_a_wrong_inclusion_proof_is_refused(data: st.DataObject, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    path, root = naive_path(index, 0, size), naive_root(0, size)
    other = bytes(32)
    wrong = [(LEAVES[index], other_index, size, path, root) for other_index in (index - 1, index + 1, size)]
    wrong += [(other, index, size, path, root), (LEAVES[index], index, size, path, other)]
    wrong += [(LEAVES[index], index, size, [*path, other], root), (LEAVES[index], index, size, [other, *path], root)]
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        wrong += [(LEAVES[index], index, size, [*path[:at], other, *path[at + 1 :]], root)]
        wrong += [(LEAVES[index], index, size, [*path[:at], *path[at + 1 :]], root)]
    for item in wrong:
        with pytest.raises(ValueError):
            merkle.verify_inclusion(*item)


@given(st.data(), st.integers(1, MOST))
def test_a_wrong_consistency_proof_is_refused(data: st.DataObject, size: int) -> None:
    old = data.draw(st.integers(1, size))
    path = naive_proof(old, 0, size, True)
    before, after, other = (old, naive_root(0, old)), (size, naive_root(0, size)), bytes(32)
    wrong = [((old, other), after, path), (before, (size, other), path), (before, after, [*path, other])]
    wrong += [(before, after, [other, *path]), ((size + 1, before[1]), after, path), ((0, before[1]), after, path)]
    if path:
        at = data.draw(st.integers(0, len(path) - 1))
        wrong += [(before, after, [*path[:at], other, *path[at + 1 :]]), (before, after, [*path[:at], *path[at + 1 :]])]
    for item in wrong:
        with pytest.raises(ValueError):
            merkle.verify_consistency(*item)


def test_leaf_outside_the_tree_cannot_be_proved() -> None:
    tree = merkle.Tree(5, STORED.read)
    for index in (-1, 5):
        with pytest.raises(ValueError):
            tree.inclusion(index)
    for old in (-1, 0, 6):
        with pytest.raises(ValueError):
            tree.consistency(old)


def test_empty_tree_or_invalid_hash_proves_nothing() -> None:
    empty = (0, merkle.EMPTY_ROOT)
    merkle.verify_consistency(empty, empty, [])
    garbage = (0, LEAVES[0])
    for old, new in ((empty, garbage), (garbage, garbage), (empty, (1, LEAVES[0]))):
        with pytest.raises(ValueError):
            merkle.verify_consistency(old, new, [])
    with pytest.raises(ValueError):
        merkle.verify_inclusion(b"", 0, 1, [], b"")


def test_nodes_are_captured_once_for_each_full_tile_of_every_level() -> None:
    """Also where one leaf completes several at once: leaf 65,535 completes one of 256 and one of 65,536."""
    leaf = merkle.leaf_hash(b"")
    stored = Stored((leaf,) * 65_537)
    levels = [[index for level, index in stored.rows if level == wanted] for wanted in (1, 2, 3)]
    assert levels == [list(range(256)), [0], []]
    assert merkle.Tree(65_536, stored.read).root() == stored.rows[2, 0]
    assert merkle.Tree(65_537, stored.read).root() == merkle.root(stored.edge)


def test_proof_in_a_large_tree_reads_few_tiles() -> None:
    leaf = merkle.leaf_hash(b"")
    stored = Stored((leaf,) * 70_000)
    tree = merkle.Tree(70_000, stored.read)
    merkle.verify_inclusion(leaf, 12_345, 70_000, tree.inclusion(12_345), merkle.root(stored.edge))
    assert stored.reads <= 256 * 5


def test_a_tree_of_70000_has_the_tiles_that_the_specification_counts() -> None:
    """The example of C2SP tlog-tiles."""
    result = list(merkle.tiles(70_000))
    partial = [(tile.level, tile.n, tile.width) for tile in result if not tile.is_full]
    assert partial == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
    assert [sum(tile.is_full and tile.level == level for tile in result) for level in (0, 1, 2)] == [273, 1, 0]
    assert [(tile.level, tile.width) for tile in merkle.tiles(256)] == [(0, 256), (1, 1)]
    assert list(merkle.tiles(0)) == []


@pytest.mark.parametrize(
    ("n", "path"),
    [(0, "000"), (7, "007"), (999, "999"), (1000, "x001/000"), (1234067, "x001/x234/067"), (10**6, "x001/x000/000")],
)
def test_tile_numbers_are_written_as_specified(n: int, path: str) -> None:
    assert merkle.tile_number(n) == path


# The reference tree of Certificate Transparency: eight inputs, the roots of its sizes, and its inner nodes.

INPUTS = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
LEAF_1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
LEAF_4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
PAIR_0, PAIR_1 = ROOTS[2], "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
PAIR_2 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
PAIR_3 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
FOUR_0, FOUR_1 = ROOTS[4], "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
REFERENCE = Stored(tuple(merkle.leaf_hash(bytes.fromhex(text)) for text in INPUTS))


def as_hex(hashes: list[bytes]) -> list[str]:
    return [item.hex() for item in hashes]


@pytest.mark.parametrize("size", range(9))
def test_the_reference_tree_has_its_published_roots(size: int) -> None:
    assert merkle.Tree(size, REFERENCE.read).root().hex() == ROOTS[size]


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (0, 8, [LEAF_1, PAIR_1, FOUR_1]),
        (5, 8, [LEAF_4, PAIR_3, FOUR_0]),
        (2, 3, [PAIR_0]),
        (1, 5, [ROOTS[1], PAIR_1, LEAF_4]),
    ],
)
def test_the_reference_tree_has_its_published_inclusion_paths(index: int, size: int, path: list[str]) -> None:
    assert as_hex(merkle.Tree(size, REFERENCE.read).inclusion(index)) == path
    leaf = merkle.leaf_hash(bytes.fromhex(INPUTS[index]))
    merkle.verify_inclusion(leaf, index, size, [bytes.fromhex(item) for item in path], bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(
    ("old", "size", "path"),
    [
        (1, 1, []),
        (1, 8, [LEAF_1, PAIR_1, FOUR_1]),
        (6, 8, [PAIR_2, PAIR_3, FOUR_0]),
        (2, 5, [PAIR_1, LEAF_4]),
    ],
)
def test_the_reference_tree_has_its_published_consistency_proofs(old: int, size: int, path: list[str]) -> None:
    assert as_hex(merkle.Tree(size, REFERENCE.read).consistency(old)) == path
    before, after = (old, bytes.fromhex(ROOTS[old])), (size, bytes.fromhex(ROOTS[size]))
    merkle.verify_consistency(before, after, [bytes.fromhex(item) for item in path])
