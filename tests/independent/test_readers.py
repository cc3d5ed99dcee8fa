"""Exports checked by verifiers that share no code with the guard: tlog-scales, and one in JavaScript."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey
from tlog_scales.tiles import leaf_hash

from mcp_guard.core import canonical
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.clock import SteadyClock
from mcp_guard.ledger.export import export
from mcp_guard.ledger.keys import SigningKey, signing_key
from mcp_guard.ledger.migration import migrate
from mcp_guard.ledger.place import FILE
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.storage.engines import open_read_only
from mcp_guard.verifier import Requirements, read_keys, verify_full
from mcp_guard.verifier.sources.export import ExportSource
from tests.ledger.older_ledger import unpack
from tests.ledger.sized_ledger import fill, open_filled
from tests.promises.harness import ALLOW, HOLD, ROUTES, make_instance, open_harness, pending_id

NODE = str(Path(sys.executable).with_name("node"))
VERIFIER = Path(__file__).with_name("verify.mjs")
SIZES = (1, 255, 256, 257, 700)


def write(writer: Writer, folder: Path, payloads: bool = False) -> Path:
    export(writer.store, writer.key.verifier + "\n", folder, payloads)
    return folder


def verify(folder: Path, keys: Path | None = None) -> dict[str, Any]:
    command = [NODE, str(VERIFIER), str(folder), str(keys or folder / "ledger.pub")]
    done = subprocess.run(command, capture_output=True, text=True)
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if document["ok"] else 1), done.stderr
    return document


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a ledger with allowed, held, self-approved and denied calls, written in three steps."""
    folder = tmp_path_factory.mktemp("real")
    harness = open_harness(folder, routes={"people": replace(ROUTES["people"], unsafe_self_approval=True)})
    harness.load(ALLOW + HOLD.replace("action,", 'action == Action::"crm__purge",'))

    for number in range(140):
        await harness.guard.call(
            make_instance(), ToolCallRequest("crm__note", {"text": f"{number} \u20ac \U0001f600 \x1b"})
        )
    await harness.guard.call(make_instance(), ToolCallRequest("nonesuch", {}))
    held = await harness.guard.call(make_instance(), ToolCallRequest("crm__purge", {}))
    harness.approve(pending_id(held), "bob")
    await harness.guard.call(make_instance(), ToolCallRequest("crm__purge", {}))
    writer = harness.ledger.writer
    write(writer, folder / "out", payloads=True)
    fill(writer, 300)
    write(writer, folder / "out", payloads=True)
    harness.close()
    return folder / "out"


def test_the_second_verifier_prints_ascii(real: Path, tmp_path: Path) -> None:
    shutil.copytree(real, tmp_path / "out")
    text = (tmp_path / "out/checkpoint").read_text()
    (tmp_path / "out/checkpoint").write_text(text.replace("\n", "\n\u202e\x9b2J", 1))
    command = [NODE, str(VERIFIER), str(tmp_path / "out"), str(real / "ledger.pub")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.isascii()
    assert "\u202e\x9b2J" in json.loads(done.stdout)["problem"]


def test_the_second_verifier_accepts_a_real_export(real: Path) -> None:
    report = verify(real)
    assert report["ok"], report
    assert report["receipts"] > 512
    assert report["heads"] == 2
    assert report["policies"] == 2
    assert {"intent", "outcome", "decision", "approval.granted", "approver.enrolled"} <= set(report["kinds"])


@pytest.mark.parametrize("size", SIZES)
def test_both_verifiers_accept_an_export_of_any_size(tmp_path: Path, size: int) -> None:
    folder = write(open_filled(tmp_path / "state", size), tmp_path / "out")
    report = verify(folder)
    assert report["ok"], report
    assert report["receipts"] == size
    read_with_tlog_scales(folder)


def read_with_tlog_scales(folder: Path) -> None:
    """Checks its signature, its root from the tiles, and the inclusion of every entry."""
    reader = TilesReader(LocalBackend(folder))
    head = reader.get_checkpoint()
    head.verify(Vkey.from_string((folder / "ledger.pub").read_text().strip()))
    assert reader.calculate_root_hash() == head.root_hash
    for index in range(head.size):
        reader.get_inclusion_proof(index, head.size).check(leaf_hash(reader.get_entry(index)), head.root_hash)
    for old in {1, head.size // 2, head.size - 1} - {0}:
        reader.set_size(old)
        before = reader.calculate_root_hash()
        reader.set_size(head.size)
        reader.get_consistency_proof(old, head.size).check(before, head.root_hash)


def test_tlog_scales_accepts_a_real_export(real: Path) -> None:
    read_with_tlog_scales(real)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def edit(path: Path, old: str, new: str) -> None:
    data = path.read_bytes()
    assert old.encode() in data
    path.write_bytes(data.replace(old.encode(), new.encode(), 1))


def drop_receipt(folder: Path) -> None:
    """The first receipt is missing from its entry bundle, its tile and its bundles."""
    entries = (folder / "tile/entries/000").read_bytes()
    (folder / "tile/entries/000").write_bytes(entries[2 + int.from_bytes(entries[:2], "big") :])
    (folder / "tile/0/000").write_bytes((folder / "tile/0/000").read_bytes()[32:])
    lines = (folder / "bundles/000.jsonl").read_text().splitlines(keepends=True)
    (folder / "bundles/000.jsonl").write_text("".join(lines[1:]))


def swap_bundles(folder: Path) -> None:
    one, two, *rest = (folder / "bundles/001.jsonl").read_text().splitlines(keepends=True)
    (folder / "bundles/001.jsonl").write_text("".join([two, one, *rest]))


def say_less(folder: Path) -> None:
    """An older signed checkpoint of fewer receipts over the current files."""
    bundle = json.loads((folder / "bundles/000.jsonl").read_text().splitlines()[0])
    (folder / "checkpoint").write_text(bundle["proof"].partition("\n\n")[2])


def resize(folder: Path) -> None:
    note = (folder / "checkpoint").read_text()
    size = note.split("\n")[1]
    (folder / "checkpoint").write_text(note.replace(f"\n{size}\n", f"\n{int(size) - 1}\n"))


def forge_policy(folder: Path) -> None:
    edit(next((folder / "policies").iterdir()), "permit", "forbid")


TAMPERED: list[tuple[str, Callable[[Path], None], str]] = [
    ("an entry", lambda folder: edit(folder / "tile/entries/000", "crm__note", "crm__nose"), "not signed"),
    ("a signature", lambda folder: flip(folder / "tile/entries/000", -5), "not base64|not signed"),
    (
        "a length",
        lambda folder: flip(folder / "tile/entries/001", 0),
        "truncated|JSON|not base64|not signed|entries, not",
    ),
    ("a leaf in its tile", lambda folder: flip(folder / "tile/0/000", 40), "leaf hash mismatch"),
    (
        "a hash of level 1",
        lambda folder: flip(folder / "tile/1/000.p/2", 0),
        "of level 1 does not match the receipts below it",
    ),
    ("the root", lambda folder: flip(folder / "checkpoint", -120), "not signed|not base64|signature line|no key"),
    ("the size", resize, "not 254|hashes|ENOENT|no such file"),
    ("an older checkpoint", say_less, "ENOENT|no such file|bytes|contains"),
    ("a receipt dropped", drop_receipt, "contains 255 entries"),
    ("bundles swapped", swap_bundles, "bundle 256 contains another entry"),
    ("a bundle's entry", lambda folder: edit(folder / "bundles/000.jsonl", "crm__note", "crm__nose"), "another entry"),
    ("a bundle's index", lambda folder: edit(folder / "bundles/000.jsonl", "index 0\\n", "index 9\\n"), "proves some"),
    ("a policy", forge_policy, "is not the policy version of that name"),
    (
        "a payload",
        lambda folder: edit(folder / "payloads/000.jsonl", '"payload":"e', '"payload":"f'),
        "does not match its commitment",
    ),
    ("the key", lambda folder: edit(folder / "ledger.pub", "+A", "+B"), "key id|verifier line"),
]


@pytest.mark.parametrize(("what", "tamper", "problem"), TAMPERED, ids=[what for what, _, _ in TAMPERED])
def test_second_verifier_detects_changes(
    tmp_path: Path, real: Path, what: str, tamper: Callable[[Path], None], problem: str
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(real, folder)
    tamper(folder)
    report = verify(folder)
    assert not report["ok"], what
    assert re.search(problem, report["problem"]), report


def test_second_verifier_refuses_another_key(tmp_path: Path, real: Path) -> None:
    other = write(open_filled(tmp_path / "other", 1), tmp_path / "out")
    assert not verify(real, other / "ledger.pub")["ok"]


def test_bundle_of_another_history_is_refused(tmp_path: Path) -> None:
    """Signed by the same key, for a receipt that both histories share, but in a tree that this one never had."""
    open_filled(tmp_path / "state", 10).store.close()
    shutil.copytree(tmp_path / "state", tmp_path / "second")
    folder = write(open_filled(tmp_path / "state", 300), tmp_path / "out")
    other = write(open_filled(tmp_path / "second", 290, b'{"other":1}'), tmp_path / "other")
    _, *rest = (folder / "bundles/000.jsonl").read_text().splitlines(keepends=True)
    first, *_ = (other / "bundles/000.jsonl").read_text().splitlines(keepends=True)
    (folder / "bundles/000.jsonl").write_text("".join([first, *rest]))
    assert "belongs to another tree" in verify(folder)["problem"]


def rotated(writer: Writer, possession: bytes | None = None) -> SigningKey:
    """Rotate to a new key: the old key signs the rotation receipt, the new one all later receipts."""
    old, private = writer.key, Ed25519PrivateKey.generate()
    new = signing_key(old.origin, private.public_key(), private.sign)
    said: Json = {"old": old.verifier, "new": new.verifier}

    def op(tx: Transaction) -> int:
        seq = writer.store.head().size
        claim = said | {"origin": old.origin, "seq": seq, "type": "mcp-guard/key-rotation/v1"}
        signature = possession or private.sign(canonical.canonicalize(claim))
        tx.add(Draft("key.rotated", said | {"possession": base64.b64encode(signature).decode()}))
        tx.change_key(new)
        return seq

    writer.run(op)
    writer.key = new
    fill(writer, 5)
    return old


def test_a_ledger_whose_key_was_rotated_is_accepted_with_its_first_key(tmp_path: Path) -> None:
    writer = open_filled(tmp_path / "state", 300)
    (tmp_path / "first.pub").write_text(writer.key.verifier + "\n")
    rotated(writer)
    folder = write(writer, tmp_path / "out")
    report = verify(folder, tmp_path / "first.pub")
    assert report["ok"], report
    assert report["kinds"] == {"decision": 305, "key.rotated": 1}


def test_rotation_not_signed_by_the_new_key_is_refused(tmp_path: Path) -> None:
    writer = open_filled(tmp_path / "state", 3)
    (tmp_path / "first.pub").write_text(writer.key.verifier + "\n")
    rotated(writer, bytes(64))
    report = verify(write(writer, tmp_path / "out"), tmp_path / "first.pub")
    assert report["problem"] == "receipt 3: the new key did not sign its own introduction"


@pytest.mark.parametrize("name", ["checkpoint", "tile/0/000", "tile/entries/000", "bundles/000.jsonl"])
def test_file_that_never_ends_is_refused(tmp_path: Path, name: str) -> None:
    writer = open_filled(tmp_path / "state", 256)
    path = write(writer, tmp_path / "out") / name
    for target in ("/dev/zero", "huge", "pipe"):
        path.unlink()
        if target == "huge":
            path.write_bytes(b"")
            os.truncate(path, 64 << 30)
        elif target == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(target)
        assert "is not a regular file" in verify(tmp_path / "out")["problem"]


def test_export_of_a_migrated_ledger_verifies(tmp_path: Path) -> None:
    settings = unpack(tmp_path)
    assert migrate(settings, SteadyClock(), settings.state_dir / FILE, "operator test")
    with open_read_only(settings.state_dir / FILE) as store:
        export(store, (settings.state_dir / "ledger.pub").read_text(), tmp_path / "export", True)
    document = verify(tmp_path / "export")
    assert (document["ok"], document["receipts"], document["votes"]) == (True, 63, 5)
    keys = read_keys(settings.state_dir / "ledger.pub")
    report = verify_full(ExportSource(tmp_path / "export"), Requirements(keys))
    assert (report.problem, report.format_4) == ("", 62)
