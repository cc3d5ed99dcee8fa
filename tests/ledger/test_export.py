"""Exports: the files of a tlog-tiles log for one head, extended later, and never written into a foreign folder."""

import base64
import hashlib
import json
import shutil
import sqlite3
import tracemalloc
from pathlib import Path

import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.tlog import merkle, note
from mcp_guard.ledger.export import ExportResult, LedgerProofs, export
from mcp_guard.ledger.witness_state import cosigned_checkpoint
from mcp_guard.ledger.writer import Writer
from mcp_guard.storage.rows import WitnessedCheckpoint
from tests.ledger.sized_ledger import ORIGIN, fill, open_filled
from tests.proof_size import in_full


def write(writer: Writer, folder: Path, payloads: bool = False) -> ExportResult:
    return export(writer.store, writer.key.verifier + "\n", folder, payloads)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entries(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 2], "big")
        found.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    return found


def change(writer: Writer, sql: str, *values: object) -> None:
    with sqlite3.connect(writer.store.name) as db:
        db.execute(sql, values)
    db.close()


def test_export_has_the_files_of_a_tiled_log(tmp_path: Path) -> None:
    done = write(open_filled(tmp_path / "state", 600), tmp_path / "out")
    result = files(tmp_path / "out")
    assert set(result) == {
        "checkpoint", "ledger.pub", "tile/0/000", "tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2",
        "tile/entries/000", "tile/entries/001", "tile/entries/002.p/88",
        "bundles/000.jsonl", "bundles/001.jsonl", "bundles/002.jsonl",
    }  # fmt: skip
    leaves = b"".join(result[name] for name in ("tile/0/000", "tile/0/001", "tile/0/002.p/88"))
    read = [entry for name in sorted(result) if "entries" in name for entry in entries(result[name])]
    assert [merkle.leaf_hash(item) for item in read] == [leaves[at : at + 32] for at in range(0, len(leaves), 32)]
    assert (done.receipts, done.new) == (len(read), 600)
    head, _ = note.parse(result["checkpoint"].decode())
    assert (head.origin, head.size, base64.b64encode(head.root).decode()) == (ORIGIN, 600, done.root)


def test_each_bundle_proves_its_receipt(tmp_path: Path) -> None:
    writer = open_filled(tmp_path / "state", 300)
    write(writer, tmp_path / "out")
    read = [(tmp_path / "out/bundles" / name).read_text() for name in ("000.jsonl", "001.jsonl")]
    lines = "".join(read).splitlines()
    assert len(lines) == 300
    for seq, line in enumerate(lines):
        bundle = json.loads(line)
        head, _, checkpoint = bundle["proof"].partition("\n\n")
        form, index, *path = head.split("\n")
        assert (bundle["form"], form, index) == ("mcp-guard/bundle/v1", "c2sp.org/tlog-proof@v1", f"index {seq}")
        parsed, [(_, _, signature)] = note.parse(checkpoint)
        writer.key.public.verify(signature, parsed.text().encode())
        leaf = merkle.leaf_hash(bundle["entry"].encode())
        merkle.verify_inclusion(leaf, seq, parsed.size, [base64.b64decode(item) for item in path], parsed.root)


def test_repeated_export_adds_new_receipts_and_keeps_full_tiles(tmp_path: Path) -> None:
    writer, out = open_filled(tmp_path / "state", 300), tmp_path / "out"
    write(writer, out)
    kept = {
        path: path.stat().st_ino for path in (out / "tile/0/000", out / "tile/entries/000", out / "bundles/000.jsonl")
    }
    fill(writer, 700)
    assert write(writer, out) == ExportResult(1000, 700, note_root(out))
    assert {path: path.stat().st_ino for path in kept} == kept
    write(writer, tmp_path / "fresh")
    found, fresh = files(out), files(tmp_path / "fresh")
    assert {name for name in found if found[name] != fresh.get(name)} == {"bundles/000.jsonl"}
    assert set(found) == set(fresh)
    assert write(writer, out).new == 0
    assert files(out) == found


def note_root(folder: Path) -> str:
    return (folder / "checkpoint").read_text().split("\n")[2]


def test_receipts_written_during_an_export_are_left_to_the_next(tmp_path: Path) -> None:
    writer, out = open_filled(tmp_path / "state", 300), tmp_path / "out"
    export(writer.store, writer.key.verifier + "\n", out, False, lambda done, of: fill(writer, 10))
    result = files(out)
    assert note.parse(result["checkpoint"].decode())[0].size == 300
    assert len(entries(result["tile/entries/001.p/44"])) == 44
    assert write(writer, out).receipts == 320


@pytest.mark.parametrize("at", [256, 512, 600])
def test_an_interrupted_export_is_completed_by_the_next(tmp_path: Path, at: int) -> None:
    writer, out = open_filled(tmp_path / "state", 600), tmp_path / "out"

    def give_up(done: int, of: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(writer.store, writer.key.verifier + "\n", out, False, give_up)
    assert (out / "tile/entries/000").exists()
    assert not (out / "checkpoint").exists()
    fill(writer, 1)
    write(writer, out)
    write(writer, tmp_path / "fresh")
    assert files(out) == files(tmp_path / "fresh")


def test_a_folder_with_anything_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    writer, out = open_filled(tmp_path / "state", 10), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(LedgerError, match="is not an export of this ledger"):
        write(writer, out)
    assert files(out) == {"thesis.tex": b"mine"}


def test_the_export_of_another_ledger_is_refused(tmp_path: Path) -> None:
    write(open_filled(tmp_path / "other", 10), tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(LedgerError, match="is not an export of this ledger"):
        write(open_filled(tmp_path / "state", 20), tmp_path / "out")
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize("more", [5, 10, 20])
def test_export_detects_a_rolled_back_ledger(tmp_path: Path, more: int) -> None:
    """Shorter than the export, as long, or longer: it does not extend the export."""
    writer, out = open_filled(tmp_path / "state", 300), tmp_path / "out"
    shutil.copytree(tmp_path / "state", tmp_path / "old")
    fill(writer, 10)
    write(writer, out)
    before = files(out)
    with pytest.raises(LedgerError, match="rolled back"):
        write(open_filled(tmp_path / "old", more, b'{"other":1}'), out)
    assert files(out) == before


def test_payloads_are_exported_on_request_and_removed_after_erasure(tmp_path: Path) -> None:
    writer, out = open_filled(tmp_path / "state", 300), tmp_path / "out"
    write(writer, tmp_path / "without")
    assert not (tmp_path / "without/payloads").exists()
    write(writer, out, payloads=True)
    rows = [json.loads(line) for line in (out / "payloads/000.jsonl").read_text().splitlines()]
    receipts = [json.loads(entry.split(b"\n")[0]) for entry in entries((out / "tile/entries/000").read_bytes())]
    assert [row["seq"] for row in rows] == list(range(256))
    for row, receipt in zip(rows, receipts, strict=True):
        salt, payload = (base64.b64decode(row["request"][name]) for name in ("salt", "payload"))
        assert payload == b'{"a":1}'
        assert receipt["request"] == "sha256:" + hashlib.sha256(salt + payload).hexdigest()
    with pytest.raises(LedgerError, match="contains payloads"):
        write(writer, out)
    change(writer, "DELETE FROM payload WHERE seq = 7")
    write(writer, out, payloads=True)
    assert 7 not in [json.loads(line)["seq"] for line in (out / "payloads/000.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("UPDATE receipt SET body = replace(body, 'filled', 'forged') WHERE seq = 100", "100 does not match its leaf"),
        ("UPDATE receipt SET leaf = zeroblob(32) WHERE seq = 290", "does not match the root"),
        ("DELETE FROM receipt WHERE seq = 290", "does not match the root"),
        ("DELETE FROM receipt WHERE seq = 20", "receipt 20 does not match its leaf"),
        ("DELETE FROM node", "does not match the root"),
        ("UPDATE node SET hash = zeroblob(32)", "does not match the root"),
        ("INSERT INTO witnessed VALUES ('outside', 5, 1, 'x')", "of the witness `outside` is damaged"),
    ],
)
def test_ledger_that_contradicts_its_checkpoint_is_not_exported(tmp_path: Path, sql: str, problem: str) -> None:
    writer = open_filled(tmp_path / "state", 300)
    change(writer, sql)
    with pytest.raises(LedgerError, match=problem):
        write(writer, tmp_path / "out")
    assert not (tmp_path / "out/checkpoint").exists()


@pytest.mark.parametrize(
    "sql", ["UPDATE receipt SET leaf = zeroblob(32) WHERE seq = 200", "DELETE FROM receipt WHERE seq = 200"]
)
def test_a_proof_that_would_not_verify_is_not_given(tmp_path: Path, sql: str) -> None:
    """The receipt itself and the root are as they were."""
    writer = open_filled(tmp_path / "state", 300)
    change(writer, sql)
    with pytest.raises(LedgerError, match="receipt 100 cannot be proved"):
        LedgerProofs(writer.store).prove(100, with_payloads=False)


def test_an_empty_ledger_has_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="is empty"):
        write(open_filled(tmp_path / "state", 0), tmp_path / "out")


def test_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(LedgerError, match="cannot write the export"):
        write(open_filled(tmp_path / "state", 3), tmp_path / "out")


@in_full
def test_memory_does_not_grow_with_the_ledger(tmp_path: Path) -> None:
    writer, peaks = open_filled(tmp_path / "state", 4000), []
    for count in (0, 12000):
        fill(writer, count)
        write(writer, tmp_path / f"warm{count}")  # one-time imports and caches do not count
        tracemalloc.start()
        write(writer, tmp_path / f"out{count}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2, peaks


def test_memory_does_not_grow_with_the_payloads(tmp_path: Path) -> None:
    writer = open_filled(tmp_path / "state", 100, b'"' + b"x" * 1_000_000 + b'"')
    tracemalloc.start()
    write(writer, tmp_path / "out", payloads=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out/payloads/000.jsonl").stat().st_size > 100 * 1_000_000
    assert peak < 50_000_000


def test_created_folder_is_private(tmp_path: Path) -> None:
    write(open_filled(tmp_path / "state", 1), tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0


def test_newest_cosigned_head_is_exported_and_proves_its_receipts(tmp_path: Path) -> None:
    writer = open_filled(tmp_path / "state", 300)
    line = base64.b64encode(bytes(4 + 8 + 64)).decode()
    signed = f"{writer.store.checkpoint()}— witness.example {line}\n"
    writer.run(lambda tx: tx.store.set_witnessed(WitnessedCheckpoint("outside", 300, tx.now, signed)))
    fill(writer, 10)
    write(writer, tmp_path / "out")
    assert (tmp_path / "out/cosigned").read_text() == signed
    assert note.parse((tmp_path / "out/checkpoint").read_text())[0].size == 310
    bundle = json.loads(LedgerProofs(writer.store, cosigned_checkpoint(writer.store)).prove(7, with_payloads=False))
    assert bundle["proof"].endswith(signed)
    path = [base64.b64decode(item) for item in bundle["proof"].partition("\n\n")[0].split("\n")[2:]]
    merkle.verify_inclusion(merkle.leaf_hash(bundle["entry"].encode()), 7, 300, path, note.parse(signed)[0].root)
