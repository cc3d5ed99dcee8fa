"""Reads an export: a folder with entry bundles and hash tiles (c2sp.org/tlog-tiles), bundles, payloads and policies."""

import hashlib
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..bundle import parse_bundle, read_payloads, split_entry
from ..files import MAX_CHECKPOINT, MAX_KEYS, MAX_LINES, MAX_POLICY, parse_json, read_limited
from ..merkle import TILE
from ..notes import parse_checkpoint
from ..report import UnusableInput, VerificationFailed
from ..signatures import PAYLOADS
from . import SALT_BYTES, Row, TreeEnd

WIDTH = 1 << TILE
MAX_TILE = WIDTH * (2 + 65_535)
"""Bytes of the largest file of a tile: a bundle of entries, each with its length of 16 bits."""
NAMES = ("checkpoint", "cosigned", "ledger.pub", "tile", "bundles", "payloads", "policies")
"""What an export consists of."""
EXPORT_AGAIN = "copy the export again, or write it again: mcp-guard ledger export DIR"
KEY_CHANGE = re.compile(rb'"kind":"key\.(rotated|replaced)"')
MIGRATION = re.compile(rb'"kind":"ledger\.migrated"')


class ExportSource:
    """An export. Raises: UnusableInput if the folder is not one."""

    scope = "export"
    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, path: Path) -> None:
        if not _is_regular(path / "checkpoint"):
            raise UnusableInput(f"no export at `{path}`: the file `checkpoint` is missing")
        for folder in (path / name for name in ("tile", "bundles", "payloads", "policies")):
            if folder.is_symlink():
                raise UnusableInput(f"`{folder}` is a symbolic link, which could lead out of the export")
        self.path = path

    def open(self) -> "ExportReader":
        return ExportReader(self.path)

    def holds_payloads(self) -> bool:
        return (self.path / "payloads").is_dir()

    def unknown_files(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir() if path.name not in NAMES)


def _is_regular(path: Path) -> bool:
    """A symbolic link could lead out of the export, and a device never ends."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


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
    """Number and width of each tile that is needed for `total` hashes."""
    yield from ((number, min(WIDTH, total - number * WIDTH)) for number in range(-(-total // WIDTH)))


def _in_order(body: bytes, payloads: Mapping[str, bytes] | None) -> list[bytes | None] | None:
    """The payloads in the order of `PAYLOADS`.

    An export has no salt for a response that was never kept, so a missing response is taken for one of those.
    """
    if payloads is None:
        return None
    ordered = [payloads.get(name) for name in PAYLOADS]
    at = PAYLOADS.index("response")
    if ordered[at] is None and b'"response":"sha256:' in body:
        ordered[at] = bytes(SALT_BYTES)
    return ordered


class ExportReader:
    """Reads a finished export, whose files do not change: the checkpoint is written last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._has_bundles, self._has_payloads = (path / "bundles").is_dir(), (path / "payloads").is_dir()
        self._note = read_limited(path / "checkpoint", MAX_CHECKPOINT).decode(errors="replace")
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
                raise VerificationFailed(seq, f"its leaf hash is missing from `{tile_path('tile/0', number, width)}`")
            head = None
            try:
                body, signature = split_entry(entry)
                own_payloads = payloads.get(seq, {}) if self._has_payloads else None
                if self._has_bundles:
                    head = self._check_bundle(bundles[at] if at < len(bundles) else b"", seq, entry, own_payloads)
            except ValueError as error:
                raise VerificationFailed(seq, f"{error}") from None
            yield Row(seq, None, body, signature, leaves[at], _in_order(body, own_payloads), head)

    def _entries(self, number: int, width: int) -> list[bytes]:
        """The entries of an entry bundle, each preceded by its length (16 bits, big-endian)."""
        name = tile_path("tile/entries", number, width)
        data, at = self._read(name, number * WIDTH), 0
        entries: list[bytes] = []
        while at < len(data):
            stop = at + 2 + int.from_bytes(data[at : at + 2], "big")
            if stop > len(data) or len(entries) == width:
                raise VerificationFailed(
                    number * WIDTH + len(entries), f"`{name}` is truncated, or holds more than {width} entries"
                )
            entries.append(data[at + 2 : stop])
            at = stop
        return entries

    def _check_bundle(self, line: bytes, seq: int, entry: bytes, payloads: Mapping[str, bytes] | None) -> str | None:
        """Check a line of bundles. Returns its checkpoint if that is of an earlier export. Raises: ValueError."""
        try:
            if not line:
                raise ValueError("it is missing")
            bundle = parse_bundle(line)
        except ValueError as error:
            raise ValueError(f"its line in `{lines_path('bundles', seq >> TILE)}`: {error}; {EXPORT_AGAIN}") from None
        if bundle.seq != seq or bundle.leaf != hashlib.sha256(b"\x00" + entry).digest():
            raise ValueError("its bundle belongs to another receipt")
        if payloads is not None and not bundle.payloads.items() <= payloads.items():
            raise ValueError("its bundle and the export have different payloads")
        bundle.check_inclusion()
        return None if bundle.checkpoint.note == self._note else bundle.checkpoint.note

    def _payloads(self, number: int, stop: int) -> dict[int, dict[str, bytes]]:
        payloads: dict[int, dict[str, bytes]] = {}
        for line in self._lines("payloads", number):
            try:
                document = parse_json(line)
                seq = document.pop("seq")
                if type(seq) is not int or seq in payloads or not number * WIDTH <= seq < stop:
                    raise ValueError(f"payloads of receipt `{seq}` appear twice or in the wrong file")
                payloads[seq] = read_payloads(document)
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise VerificationFailed(
                    number * WIDTH, f"`{lines_path('payloads', number)}` is malformed: {error}"
                ) from None
        return payloads

    def _lines(self, kind: str, number: int) -> list[bytes]:
        path = self.path / lines_path(kind, number)
        data = read_limited(path, MAX_LINES) if _is_regular(path) else b""
        return data.removesuffix(b"\n").split(b"\n", WIDTH) if data else []

    def _read(self, name: str, seq: int) -> bytes:
        path = self.path / name
        if not _is_regular(path):
            raise VerificationFailed(seq, f"`{name}` is missing from the export")
        return read_limited(path, MAX_TILE)

    def stored(self, level: int, first: int, stop: int) -> list[bytes] | None:
        total = self._size >> TILE * level
        collected: list[bytes] = []
        for number in range(first // WIDTH, -(-stop // WIDTH)):
            start = number * WIDTH
            if start < total:
                hashes = self._tile(level, number, min(WIDTH, total - start))
                collected += hashes[max(first - start, 0) : stop - start]
        return collected

    def _tile(self, level: int, number: int, width: int) -> list[bytes]:
        """The hashes of a tile. The last tile of each level is cached."""
        cached = self._tiles.get(level)
        if cached is None or cached[0] != number:
            name = tile_path(f"tile/{level}", number, width)
            data = self._read(name, (number * WIDTH) << TILE * level)
            if len(data) != 32 * width:
                raise VerificationFailed((number * WIDTH) << TILE * level, f"`{name}` does not hold {width} hashes")
            cached = number, [data[at : at + 32] for at in range(0, len(data), 32)]
            self._tiles[level] = cached
        return cached[1]

    def first_with_payload(self, first: int, last: int) -> int | None:
        for number in range(first // WIDTH, last // WIDTH + 1):
            payloads = self._payloads(number, min((number + 1) * WIDTH, self._size))
            if seqs := [seq for seq, present in payloads.items() if present and first <= seq <= last]:
                return min(seqs)
        return None

    def policy(self, version: str) -> bytes | None:
        name = version.removeprefix("sha256:")
        path = self.path / "policies" / f"{name}.json"
        return read_limited(path, MAX_POLICY) if name.isalnum() and _is_regular(path) else None

    def key_receipts(self) -> list[int]:
        return list(self._find(KEY_CHANGE))

    def format_4_end(self) -> int:
        return next(self._find(MIGRATION), -1) + 1

    def _find(self, pattern: re.Pattern[bytes]) -> Iterator[int]:
        """The receipts in which this is found."""
        for number, width in widths(self._size):
            if pattern.search(self._read(tile_path("tile/entries", number, width), number * WIDTH)):
                entries = enumerate(self._entries(number, width))
                yield from (number * WIDTH + at for at, entry in entries if pattern.search(entry))

    def key_hints(self) -> list[str]:
        path = self.path / "ledger.pub"
        if not _is_regular(path):
            return []
        return read_limited(path, MAX_KEYS).decode(errors="replace").splitlines()

    def strays(self, end: TreeEnd) -> tuple[int | None, str] | None:
        """Files that belong to no receipt of this tree."""
        size = end.size
        if self.key_hints() != end.keys:
            return None, "`ledger.pub` does not list the keys that signed the receipts"
        expected = {tile_path("tile/entries", number, width) for number, width in widths(size)}
        for level in range(-(-size.bit_length() // TILE) + 1):
            expected |= {tile_path(f"tile/{level}", number, width) for number, width in widths(size >> TILE * level)}
        for kind in ("bundles", "payloads"):
            expected |= {lines_path(kind, number) for number, _ in widths(size)}
        for path in sorted(path for kind in ("tile", "bundles", "payloads") for path in (self.path / kind).rglob("*")):
            if (path.is_symlink() or not path.is_dir()) and path.relative_to(self.path).as_posix() not in expected:
                return None, f"the file `{path.relative_to(self.path)}` belongs to no receipt of the tree"
        for path in sorted((self.path / "policies").rglob("*")):
            if not path.is_dir() and hashlib.sha256(read_limited(path, MAX_POLICY)).hexdigest() + ".json" != path.name:
                return None, f"the file `policies/{path.name}` is not the policy version of that name"
        for number, width in widths(size):
            if self._has_bundles and len(self._lines("bundles", number)) != width:
                return number * WIDTH, f"`{lines_path('bundles', number)}` does not hold a bundle for each receipt"
        return None

    def check_file(self) -> str | None:
        return None

    def close(self) -> None: ...
