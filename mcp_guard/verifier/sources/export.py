"""Reading an export: a folder of entry bundles and hash tiles (c2sp.org/tlog-tiles), bundles, payloads and policies."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..bundle import Bundle, parse_bundle, read_cells, split_entry
from ..merkle import TILE
from ..notes import parse_checkpoint
from ..report import UnusableInput, VerificationFailed
from ..signatures import PAYLOADS
from . import SALT_BYTES, Row, TreeEnd

WIDTH = 1 << TILE
OF_KEY = re.compile(rb'"kind":"key\.(rotated|replaced)"')


class ExportFolder:
    """An export. Raises: UnusableInput if it is none."""

    scope = "export"

    def __init__(self, path: Path) -> None:
        if not (path / "checkpoint").is_file():
            raise UnusableInput(f"no export at `{path}`: it has no file `checkpoint`")
        self.path = path

    def open(self) -> "ExportReader":
        return ExportReader(self.path)

    def prove_kept_payloads(self) -> bool:
        return (self.path / "payloads").is_dir()


def tile_path(kind: str, number: int, width: int = WIDTH) -> str:
    """`tile/0/x001/234.p/17`; `kind` is `tile/<level>` or `tile/entries`."""
    return f"{kind}/{_digits(number)}" + (f".p/{width}" if width < WIDTH else "")


def lines_path(kind: str, number: int) -> str:
    """`bundles/x001/234.jsonl`."""
    return f"{kind}/{_digits(number)}.jsonl"


def _digits(number: int) -> str:
    *upper, last = re.findall("...", f"{number:0{-(-len(str(number)) // 3) * 3}}")
    return "/".join([*(f"x{digits}" for digits in upper), last])


def widths(total: int) -> Iterator[tuple[int, int]]:
    """Number and width of the tiles that hold so many hashes."""
    yield from ((number, min(WIDTH, total - number * WIDTH)) for number in range(-(-total // WIDTH)))


def _cells(body: bytes, cells: Mapping[str, bytes] | None) -> list[bytes | None] | None:
    """In their order. An export holds no salt of a reply that was never kept: such a one is taken for that."""
    if cells is None:
        return None
    kept = [cells.get(name) for name in PAYLOADS]
    at = PAYLOADS.index("response")
    if kept[at] is None and b'"response":"sha256:' in body:
        kept[at] = bytes(SALT_BYTES)
    return kept


class ExportReader:
    """Nothing here changes while it is read: an export is finished when its checkpoint is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._has_bundles, self._has_payloads = (path / "bundles").is_dir(), (path / "payloads").is_dir()
        self._note = (path / "checkpoint").read_bytes().decode(errors="replace")
        self._tiles: dict[int, tuple[int, list[bytes]]] = {}
        try:
            self._size = parse_checkpoint(self._note).size
        except ValueError as error:
            raise UnusableInput(f"cannot read `{path / 'checkpoint'}`: {error}") from None

    def snapshot(self) -> str:
        return self._note

    def size(self) -> int:
        return self._size

    def checkpoint(self) -> str:
        return self._note

    def rows(self, first: int, stop: int) -> Iterator[Row]:
        for number in range(first // WIDTH, -(-stop // WIDTH)):
            yield from (row for row in self._rows_of(number) if first <= row.seq < stop)

    def _rows_of(self, number: int) -> Iterator[Row]:
        start = number * WIDTH
        width = min(WIDTH, self._size - start)
        entries = self._entries(number, width)
        leaves = self.stored(0, start, start + width) or []
        bundles, payloads = self._lines("bundles", number), self._payloads(number, start + width)
        for at, entry in enumerate(entries):
            seq = start + at
            if at >= len(leaves):
                raise VerificationFailed(seq, f"its hash is missing in `{tile_path('tile/0', number, width)}`")
            head = None
            try:
                body, signature = split_entry(entry)
                cells = payloads.get(seq, {}) if self._has_payloads else None
                if self._has_bundles:
                    head = self._check_bundle(bundles[at] if at < len(bundles) else b"", seq, entry, cells)
            except ValueError as error:
                raise VerificationFailed(seq, f"{error}") from None
            yield Row(seq, None, body, signature, leaves[at], _cells(body, cells), head)

    def _entries(self, number: int, width: int) -> list[bytes]:
        """The entries of a bundle: before each its length, 16 bits, big-endian."""
        name = tile_path("tile/entries", number, width)
        data, at = self._read(name, number * WIDTH), 0
        found: list[bytes] = []
        while at < len(data):
            stop = at + 2 + int.from_bytes(data[at : at + 2], "big")
            if stop > len(data) or len(found) == width:
                raise VerificationFailed(
                    number * WIDTH + len(found), f"`{name}` is cut off, or holds more than {width} entries"
                )
            found.append(data[at + 2 : stop])
            at = stop
        return found

    def _check_bundle(self, line: bytes, seq: int, entry: bytes, cells: Mapping[str, bytes] | None) -> str | None:
        """Its checkpoint, if it is of an earlier export. Raises: ValueError."""
        bundle: Bundle = parse_bundle(line)
        if bundle.seq != seq or bundle.leaf != hashlib.sha256(b"\x00" + entry).digest():
            raise ValueError("its bundle is of another receipt")
        if cells is not None and not bundle.cells.items() <= cells.items():
            raise ValueError("its bundle has other payloads than the export")
        bundle.check_inclusion()
        return None if bundle.checkpoint.note == self._note else bundle.checkpoint.note

    def _payloads(self, number: int, stop: int) -> dict[int, dict[str, bytes]]:
        found: dict[int, dict[str, bytes]] = {}
        for line in self._lines("payloads", number):
            try:
                said = json.loads(line)
                seq = said.pop("seq")
                if type(seq) is not int or seq in found or not number * WIDTH <= seq < stop:
                    raise ValueError(f"payloads of `{seq}`, twice or in the wrong file")
                found[seq] = read_cells(said)
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise VerificationFailed(
                    number * WIDTH, f"`{lines_path('payloads', number)}` is not in its form: {error}"
                ) from None
        return found

    def _lines(self, kind: str, number: int) -> list[bytes]:
        path = self.path / lines_path(kind, number)
        return path.read_bytes().splitlines() if path.is_file() else []

    def _read(self, name: str, seq: int) -> bytes:
        path = self.path / name
        if not path.is_file():
            raise VerificationFailed(seq, f"`{name}` is missing from the export")
        return path.read_bytes()

    def stored(self, level: int, first: int, stop: int) -> list[bytes] | None:
        total = self._size >> TILE * level
        found: list[bytes] = []
        for number in range(first // WIDTH, -(-stop // WIDTH)):
            start = number * WIDTH
            if start < total:
                hashes = self._tile(level, number, min(WIDTH, total - start))
                found += hashes[max(first - start, 0) : stop - start]
        return found

    def _tile(self, level: int, number: int, width: int) -> list[bytes]:
        """The tile last read of each level is kept."""
        known = self._tiles.get(level)
        if known is None or known[0] != number:
            name = tile_path(f"tile/{level}", number, width)
            data = self._read(name, (number * WIDTH) << TILE * level)
            if len(data) != 32 * width:
                raise VerificationFailed((number * WIDTH) << TILE * level, f"`{name}` does not hold {width} hashes")
            known = number, [data[at : at + 32] for at in range(0, len(data), 32)]
            self._tiles[level] = known
        return known[1]

    def kept(self, first: int, last: int) -> int | None:
        for number in range(first // WIDTH, last // WIDTH + 1):
            found = self._payloads(number, min((number + 1) * WIDTH, self._size))
            if seqs := [seq for seq, cells in found.items() if cells and first <= seq <= last]:
                return min(seqs)
        return None

    def policy(self, version: str) -> bytes | None:
        name = version.removeprefix("sha256:")
        path = self.path / "policies" / f"{name}.json"
        return path.read_bytes() if name.isalnum() and path.is_file() else None

    def key_receipts(self) -> list[int]:
        found = []
        for number, width in widths(self._size):
            if OF_KEY.search(self._read(tile_path("tile/entries", number, width), number * WIDTH)):
                entries = enumerate(self._entries(number, width))
                found += [number * WIDTH + at for at, entry in entries if OF_KEY.search(entry)]
        return found

    def key_hints(self) -> list[str]:
        path = self.path / "ledger.pub"
        return path.read_text(errors="replace").splitlines() if path.is_file() else []

    def strays(self, end: TreeEnd) -> tuple[int | None, str] | None:
        """Files that are of no receipt of this tree."""
        size = end.size
        if self.key_hints() != end.keys:
            return None, "`ledger.pub` holds other keys than those that signed the receipts"
        expected = {tile_path("tile/entries", *each) for each in widths(size)}
        for level in range(-(-size.bit_length() // TILE) + 1):
            expected |= {tile_path(f"tile/{level}", *each) for each in widths(size >> TILE * level)}
        for kind in ("bundles", "payloads"):
            expected |= {lines_path(kind, number) for number, _ in widths(size)}
        for path in sorted(path for kind in ("tile", "bundles", "payloads") for path in (self.path / kind).rglob("*")):
            if path.is_file() and path.relative_to(self.path).as_posix() not in expected:
                return None, f"the file `{path.relative_to(self.path)}` belongs to no receipt of the tree"
        for path in sorted((self.path / "policies").rglob("*")):
            if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() + ".json" != path.name:
                return None, f"the file `policies/{path.name}` is not the policy version that it is named after"
        for number, width in widths(size):
            if self._has_bundles and len(self._lines("bundles", number)) != width:
                return number * WIDTH, f"`{lines_path('bundles', number)}` does not hold a bundle for each receipt"
        return None

    def close(self) -> None: ...
