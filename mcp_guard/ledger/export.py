"""The ledger as files that anybody can serve and verify: C2SP tlog-tiles, and beside them a bundle for each receipt.

What the files are: docs/reference/export.md. Only the head is read at one instant; what stands under it never changes,
so guards may write meanwhile. Memory does not grow with the ledger: 256 receipts are read at a time, payloads singly.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.receipt import entry
from mcp_guard.core.tlog import bundle, merkle, note
from mcp_guard.core.tlog.bundle import Cells, payload_fields
from mcp_guard.core.tlog.merkle import TILE_HEIGHT, TILE_WIDTH, Tile
from mcp_guard.ledger.witness_state import cosigned_checkpoint
from mcp_guard.storage.contract import Store

# Proofs against one head of the ledger. What was appended since does not touch them: receipts are never changed.

VERIFY = "run `mcp-guard verify`, and restore the ledger from a copy"


class LedgerProofs:
    """The head as it was when this was made, or an earlier one, and bundles of the receipts under it."""

    def __init__(self, store: Store, earlier: str | None = None) -> None:
        """`earlier` is the signed note of the head that is meant.

        Raises: LedgerError if the ledger is empty, or its tree is not that of the checkpoint.
        """
        self._store = store
        self.checkpoint = earlier or store.checkpoint()
        if not self.checkpoint:
            raise LedgerError(f"the ledger `{store.name}` is empty", "run the guard once")
        self.head, _ = note.parse(self.checkpoint)
        self.tree = merkle.Tree(self.head.size, store.tile)
        if self._root(self.head.size) != self.head.root:
            raise LedgerError(f"the tree of `{store.name}` does not match the root in its signed checkpoint", VERIFY)

    def continues(self, earlier: note.Checkpoint) -> bool:
        """Whether this ledger is what that one has become."""
        grown = earlier.origin == self.head.origin and 0 < earlier.size <= self.head.size
        return grown and self._root(earlier.size) == earlier.root

    def entries(self, first: int, end: int) -> list[bytes]:
        """The entries of the receipts from `first` up to `end`. Raises: LedgerError if one is not as in the tree."""
        rows = {seq: entry(body, signature) for seq, body, signature in self._store.entries(first, end)}
        leaves = self._store.tile(0, first // TILE_WIDTH)[first % TILE_WIDTH :]
        for seq, leaf in zip(range(first, end), leaves, strict=False):
            if seq not in rows or merkle.leaf_hash(rows[seq]) != leaf:
                raise LedgerError(f"receipt {seq} does not match its leaf in the tree", VERIFY)
        return list(rows.values())

    def bundle(self, seq: int, entry: bytes, payloads: Cells | None = None) -> bytes:
        """One receipt as a line of JSON (core/tlog/bundle.py)."""
        return bundle.bundle(entry, bundle.proof_text(seq, self.tree.inclusion(seq), self.checkpoint), payloads)

    def prove(self, seq: int, with_payloads: bool) -> bytes:
        """The bundle of one receipt of the ledger. Raises: LedgerError."""
        [entry] = self.entries(seq, seq + 1)
        try:
            path = self.tree.inclusion(seq)
            merkle.verify_inclusion(merkle.leaf_hash(entry), seq, self.head.size, path, self.head.root)
        except (ValueError, IndexError) as error:
            raise LedgerError(f"receipt {seq} cannot be proved: {error}", VERIFY) from None
        cells = dict(self._store.cells(seq, seq + 1)).get(seq, {}) if with_payloads else None
        return self.bundle(seq, entry, cells)

    def _root(self, size: int) -> bytes | None:
        """None where rows of the tree are missing."""
        try:
            return self.tree.root(size)
        except IndexError:
            return None


CHECKPOINT, COSIGNED, KEYS, PAYLOADS = "checkpoint", "cosigned", "ledger.pub", "payloads"
UNFINISHED = ".unfinished"
PROPOSED = "policy.proposed"
"""The kind of receipt that names a set of policies, whose text is kept like that of a version."""
OnProgress = Callable[[int, int], None]
"""Told how many receipts are done, of how many."""


@dataclass(frozen=True, slots=True)
class ExportResult:
    """The size and root (base64) of the head that was written, and how many receipts are new in the folder."""

    receipts: int
    new: int
    root: str


@dataclass(frozen=True, slots=True)
class ExportFolder:
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


def export(store: Store, keys: str, path: Path, payloads: bool, tell: OnProgress = lambda *_: None) -> ExportResult:
    """Write the ledger into a folder, or add to an earlier export what is new. `keys` are its verifier lines.

    Raises: LedgerError if the folder holds something else, or the export of a ledger that this one does not continue.
    """
    try:
        with store.reading():
            proofs = LedgerProofs(store)
            before = check_folder(proofs, keys, path, payloads)
            folder = ExportFolder(path)
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.write(KEYS, [keys.encode()])
            for tile in merkle.level_tiles(proofs.head.size):
                is_new = (tile.n + 1) * TILE_WIDTH > before or not tile.is_full
                if is_new:
                    _write_receipts(store, proofs, folder, tile)
                if payloads:  # always rewritten: payloads that were erased meanwhile must go
                    _write_payloads(store, folder, tile)
                if is_new or payloads:
                    tell(tile.n * TILE_WIDTH + tile.width, proofs.head.size)
            _write_upper_tiles(store, proofs, folder, before)
            if (note_of_witnesses := cosigned_checkpoint(store)) and proofs.continues(note.parse(note_of_witnesses)[0]):
                folder.write(COSIGNED, [note_of_witnesses.encode()])
            # last, and durable: whoever reads it, even after a crash, finds all that is under it
            folder.write(CHECKPOINT, [proofs.checkpoint.encode()], durable=True)
            folder.drop_outgrown()
    except OSError as error:
        raise LedgerError(f"cannot write the export `{path}`: {error.strerror}", "export to another folder") from None
    root = proofs.checkpoint.split("\n")[2]
    return ExportResult(proofs.head.size, proofs.head.size - before, root)


def check_folder(proofs: LedgerProofs, keys: str, path: Path, payloads: bool) -> int:
    """How many receipts an earlier export has left there. Raises: LedgerError, OSError."""
    names = {child.name for child in path.iterdir()} - {UNFINISHED} if path.exists() else set()
    if not names:
        return 0
    elsewhere = "export to an empty folder"
    first = keys.partition("\n")[0]
    if KEYS not in names or (path / KEYS).read_text().partition("\n")[0] != first:
        raise LedgerError(f"`{path}` is not empty and is not an export of this ledger", elsewhere)
    if PAYLOADS in names and not payloads:
        raise LedgerError(f"`{path}` contains payloads, which would not be updated", "add --payloads")
    if CHECKPOINT not in names:
        return 0
    try:
        earlier, _ = note.parse((path / CHECKPOINT).read_text())
    except ValueError as error:
        raise LedgerError(f"`{path / CHECKPOINT}` is damaged: {error}", elsewhere) from None
    if not proofs.continues(earlier):
        about = f"`{path}` holds {earlier.size} receipts that are not the first of this ledger"
        raise LedgerError(f"{about}: one of the two was rolled back or changed", f"verify both; {elsewhere}")
    return earlier.size


def _write_receipts(store: Store, proofs: LedgerProofs, folder: ExportFolder, tile: Tile) -> None:
    """The entry bundle, the hash tile, the bundles and the policies of 256 receipts."""
    first = tile.n * TILE_WIDTH
    entries = proofs.entries(first, first + tile.width)
    folder.write_tile("entries", tile, b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries))
    folder.write_tile("0", tile, b"".join(map(merkle.leaf_hash, entries)))
    lines = (proofs.bundle(seq, entry) + b"\n" for seq, entry in enumerate(entries, first))
    folder.write(f"bundles/{merkle.tile_number(tile.n)}.jsonl", lines)
    receipts = [orjson.loads(entry.partition(b"\n")[0]) for entry in entries]
    _write_policies(store, folder, {receipt.get("policy_version") for receipt in receipts})
    _write_policies(store, folder, {receipt["policy_set"] for receipt in receipts if receipt["kind"] == PROPOSED})


def _write_payloads(store: Store, folder: ExportFolder, tile: Tile) -> None:
    first = tile.n * TILE_WIDTH
    rows = ({"seq": seq} | payload_fields(cells) for seq, cells in store.cells(first, first + tile.width) if cells)
    lines = (orjson.dumps(row) + b"\n" for row in rows)
    folder.write(f"{PAYLOADS}/{merkle.tile_number(tile.n)}.jsonl", lines)


def _write_policies(store: Store, folder: ExportFolder, versions: Iterable[str | None]) -> None:
    """The material of each policy version that was ever in force, and of each set that was proposed; `none` is what a
    guard without policies says."""
    for version in filter(None, versions):
        name = f"policies/{version.removeprefix('sha256:')}.json"
        if not (folder.path / name).exists() and (material := store.policy(version)):
            folder.write(name, [material], durable=True)


def _write_upper_tiles(store: Store, proofs: LedgerProofs, folder: ExportFolder, before: int) -> None:
    for tile in merkle.tiles(proofs.head.size):
        covered = (tile.n + 1) << TILE_HEIGHT * (tile.level + 1)
        if tile.level and (covered > before or not tile.is_full):
            folder.write_tile(str(tile.level), tile, b"".join(store.tile(tile.level, tile.n)[: tile.width]))
