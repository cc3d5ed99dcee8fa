"""The ledger as files that anybody can serve and verify: C2SP tlog-tiles, and beside them a bundle for each receipt.

What the files are: docs/reference/export.md. Only the head is read at one instant; what stands under it never changes,
so guards may write meanwhile. Memory does not grow with the ledger: 256 receipts are read at a time, payloads singly.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from mcp_guard.core import merkle, note
from mcp_guard.core.bundle import payload_fields
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.merkle import TILE_HEIGHT, TILE_WIDTH, Tile
from mcp_guard.ledger.proofs import Proofs
from mcp_guard.ledger.witnessing import cosigned
from mcp_guard.storage.sqlite import Store, reading

CHECKPOINT, COSIGNED, KEYS, PAYLOADS = "checkpoint", "cosigned", "ledger.pub", "payloads"
UNFINISHED = ".unfinished"
Tell = Callable[[int, int], None]
"""Told how many receipts are done, of how many."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The size and root (base64) of the head that was written, and how many receipts are new in the folder."""

    receipts: int
    new: int
    root: str


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder that is written. A file is there whole or not at all."""

    path: Path
    written: set[Path] = field(default_factory=set)
    """The partial tiles of this export: others are of heads before it."""

    def write(self, name: str, parts: Iterable[bytes], durable: bool = False) -> None:
        """The parts as they come. With `durable`, they and all that was written before are on the disk first."""
        target, draft = self.path / name, self.path / UNFINISHED
        target.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.writelines(parts)
        if durable:
            os.sync()  # one for all files: a sync of each takes longer than all the rest
        draft.replace(target)

    def write_tile(self, kind: str, tile: Tile, data: bytes) -> None:
        """`kind` is the level, or `entries`."""
        name = f"tile/{kind}/{merkle.tile_number(tile.n)}"
        if not tile.is_full:
            name += f".p/{tile.width}"
            self.written.add(self.path / name)
        self.write(name, [data])

    def drop_outgrown(self) -> None:
        """Remove the partial tiles that the head does not need."""
        for partial in list(self.path.glob("tile/**/*.p/*")):
            if partial not in self.written:
                partial.unlink()
                if not any(partial.parent.iterdir()):
                    partial.parent.rmdir()


def export(store: Store, keys: str, path: Path, payloads: bool, tell: Tell = lambda *_: None) -> Exported:
    """Write the ledger into a folder, or add to an earlier export what is new. `keys` are its verifier lines.

    Raises: LedgerError if the folder holds something else, or the export of a ledger that this one does not continue.
    """
    try:
        with reading(store.path):
            proofs = Proofs(store)
            before = check_folder(proofs, keys, path, payloads)
            folder = Folder(path)
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.write(KEYS, [keys.encode()])
            for tile in merkle.level_tiles(proofs.head.size):
                is_new = (tile.n + 1) * TILE_WIDTH > before or not tile.is_full
                if is_new:
                    _write_receipts(store, proofs, folder, tile)
                if payloads:  # always anew: what was erased meanwhile must go
                    _write_payloads(store, folder, tile)
                if is_new or payloads:
                    tell(tile.n * TILE_WIDTH + tile.width, proofs.head.size)
            _write_upper_tiles(store, proofs, folder, before)
            if (note_of_witnesses := cosigned(store)) and proofs.continues(note.parse(note_of_witnesses)[0]):
                folder.write(COSIGNED, [note_of_witnesses.encode()])
            # last, and durable: whoever reads it, even after a crash, finds all that is under it
            folder.write(CHECKPOINT, [proofs.checkpoint.encode()], durable=True)
            folder.drop_outgrown()
    except OSError as error:
        raise LedgerError(f"cannot write the export `{path}`: {error.strerror}", "export to another folder") from None
    root = proofs.checkpoint.split("\n")[2]
    return Exported(proofs.head.size, proofs.head.size - before, root)


def check_folder(proofs: Proofs, keys: str, path: Path, payloads: bool) -> int:
    """How many receipts an earlier export has left there. Raises: LedgerError, OSError."""
    found = {each.name for each in path.iterdir()} - {UNFINISHED} if path.exists() else set()
    if not found:
        return 0
    elsewhere = "export to an empty folder"
    first = keys.partition("\n")[0]
    if KEYS not in found or (path / KEYS).read_text().partition("\n")[0] != first:
        raise LedgerError(f"`{path}` is not empty, and no export of this ledger", elsewhere)
    if PAYLOADS in found and not payloads:
        raise LedgerError(f"`{path}` holds payloads, which would stay as they are", "add --payloads")
    if CHECKPOINT not in found:
        return 0
    try:
        earlier, _ = note.parse((path / CHECKPOINT).read_text())
    except ValueError as error:
        raise LedgerError(f"`{path / CHECKPOINT}` is damaged: {error}", elsewhere) from None
    if not proofs.continues(earlier):
        about = f"`{path}` holds {earlier.size} receipts that are not the first of this ledger"
        raise LedgerError(f"{about}: one of the two was rolled back or changed", f"verify both; {elsewhere}")
    return earlier.size


def _write_receipts(store: Store, proofs: Proofs, folder: Folder, tile: Tile) -> None:
    """The entry bundle, the hash tile, the bundles and the policies of 256 receipts."""
    first = tile.n * TILE_WIDTH
    entries = proofs.entries(first, first + tile.width)
    folder.write_tile("entries", tile, b"".join(len(each).to_bytes(2, "big") + each for each in entries))
    folder.write_tile("0", tile, b"".join(map(merkle.leaf_hash, entries)))
    lines = (proofs.bundle(seq, each) + b"\n" for seq, each in enumerate(entries, first))
    folder.write(f"bundles/{merkle.tile_number(tile.n)}.jsonl", lines)
    receipts = (orjson.loads(each.partition(b"\n")[0]) for each in entries)
    _write_policies(store, folder, {receipt.get("policy_version") for receipt in receipts})


def _write_payloads(store: Store, folder: Folder, tile: Tile) -> None:
    first = tile.n * TILE_WIDTH
    rows = ({"seq": seq} | payload_fields(cells) for seq, cells in store.cells(first, first + tile.width) if cells)
    lines = (orjson.dumps(row) + b"\n" for row in rows)
    folder.write(f"{PAYLOADS}/{merkle.tile_number(tile.n)}.jsonl", lines)


def _write_policies(store: Store, folder: Folder, versions: Iterable[str | None]) -> None:
    """The material of each policy version that was ever in force; `none` is what a guard without policies says."""
    for version in filter(None, versions):
        name = f"policies/{version.removeprefix('sha256:')}.json"
        if not (folder.path / name).exists() and (material := store.policy(version)):
            folder.write(name, [material], durable=True)


def _write_upper_tiles(store: Store, proofs: Proofs, folder: Folder, before: int) -> None:
    for tile in merkle.tiles(proofs.head.size):
        covered = (tile.n + 1) << TILE_HEIGHT * (tile.level + 1)
        if tile.level and (covered > before or not tile.is_full):
            folder.write_tile(str(tile.level), tile, b"".join(store.tile(tile.level, tile.n)[: tile.width]))
