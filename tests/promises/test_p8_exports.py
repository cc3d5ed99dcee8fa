"""P8 for exports: changes to the files are detected with the guard's public keys alone."""

import base64
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.ledger.export import export
from mcp_guard.verifier import FAILED, OK, Report, main
from mcp_guard.verifier.bundle import split_entry
from mcp_guard.verifier.checkpoints import Requirements
from mcp_guard.verifier.full import verify_full
from mcp_guard.verifier.merkle import leaf_hash
from mcp_guard.verifier.notes import parse_checkpoint, read_keys
from mcp_guard.verifier.report import describe
from mcp_guard.verifier.sources.export import ExportSource
from tests.ledger.sample_ledger import live, reopen, write_history
from tests.proof_size import in_full

WRONG = Ed25519PrivateKey.from_private_bytes(bytes(32))
Tamper = Callable[[Path], object]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the export `out`, exported twice while the ledger grew, and the key `ledger.pub`."""
    folder = tmp_path_factory.mktemp("export")
    harness = await write_history(folder, 400)
    keys = folder / "state" / "ledger.pub"
    export(harness.store, keys.read_text(), folder / "out", payloads=True)
    shutil.copytree(folder / "out", folder / "before")
    for number in range(6):
        await live(harness, f"more {number}")
    export(harness.store, keys.read_text(), folder / "out", payloads=True)
    harness.close()
    shutil.copy(keys, folder)
    return folder


@pytest.fixture
def out(past: Path, tmp_path: Path) -> Path:
    shutil.copytree(past / "out", tmp_path / "out")
    return tmp_path / "out"


def verify(out: Path, past: Path, *against: Path) -> Report:
    checkpoints = tuple(parse_checkpoint((item / "checkpoint").read_text()) for item in against)
    return verify_full(ExportSource(out), Requirements(read_keys(past / "ledger.pub"), against=checkpoints, workers=1))


def test_an_export_is_proved_with_its_earlier_heads_and_payloads(past: Path, out: Path) -> None:
    report = verify(out, past, past / "before")
    assert report.ok, report.problem
    assert report.receipts > 600
    assert report.payloads_checked > 300
    assert len(report.keys) == 2


def entries(path: Path) -> list[bytes]:
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        found.append(data[at + 2 : end])
        at = end
    return found


def write_entries(path: Path, found: list[bytes]) -> None:
    path.write_bytes(b"".join(len(item).to_bytes(2, "big") + item for item in found))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def of_entries(change: Callable[[list[bytes]], object], tile: int = 1, leaves: bool = False) -> Tamper:
    """Change the list of entries of one bundle, and with `leaves` the hashes of the tile too."""

    def tamper(out: Path) -> None:
        path = out / f"tile/entries/{tile:03}"
        result = entries(path)
        change(result)
        write_entries(path, result)
        shutil.rmtree(out / "bundles")  # which would be noticed at once
        if leaves:
            (out / f"tile/0/{tile:03}").write_bytes(b"".join(map(leaf_hash, result))[: 256 * 32].ljust(256 * 32, b"\0"))

    return tamper


def alter(found: list[bytes]) -> None:
    found[9] = found[9].replace(b"2026", b"2027", 1)


def exchange(found: list[bytes]) -> None:
    found[9], found[10] = found[10], found[9]


def sign_wrongly(found: list[bytes]) -> None:
    body, _ = split_entry(found[9])
    found[9] = body + b"\n" + base64.b64encode(WRONG.sign(body))


def of_lines(name: str, change: Callable[[list[str]], object]) -> Tamper:
    def tamper(out: Path) -> None:
        lines = (out / name).read_text().splitlines()
        change(lines)
        (out / name).write_text("\n".join([*lines, ""]))

    return tamper


def forget_payload(name: str) -> Callable[[list[str]], object]:
    def change(lines: list[str]) -> None:
        at = next(at for at, line in enumerate(lines) if name in json.loads(line))
        document = json.loads(lines[at])
        del document[name]
        lines[at] = json.dumps(document)

    return change


def drop_request(lines: list[str]) -> None:
    del lines[next(at for at, line in enumerate(lines) if "request" in json.loads(line))]


def cut_last(lines: list[str]) -> None:
    lines[-1] = lines[-1][:50]


def other_salt_text(lines: list[str]) -> None:
    """Other base64 of the same salt: `…A==` and `…B==` decode alike."""
    last = re.search(r'"salt":\s*"[^"]*([AQgw])==', lines[0])
    assert last is not None
    lines[0] = lines[0][: last.start(1)] + chr(ord(last[1]) + 1) + lines[0][last.end(1) :]


def alter_payload(lines: list[str]) -> None:
    document = json.loads(lines[0])
    name = next(item for item in document if item != "seq")
    document[name]["payload"] = base64.b64encode(b"other").decode()
    lines[0] = json.dumps(document)


def other_entry(lines: list[str]) -> None:
    bundle = json.loads(lines[4])
    bundle["entry"] = json.loads(lines[5])["entry"]
    lines[4] = json.dumps(bundle)


def other_proof(lines: list[str]) -> None:
    bundle = json.loads(lines[4])
    hashes = bundle["proof"].split("\n")
    hashes[2] = base64.b64encode(bytes(32)).decode()
    bundle["proof"] = "\n".join(hashes)
    lines[4] = json.dumps(bundle)


def forge_earlier_head(lines: list[str]) -> None:
    """A head of 256 receipts that the guard never signed, with a proof that fits it, cannot be: its key is not his."""
    for at, line in enumerate(lines):
        lines[at] = line.replace("\\n\\u2014 ", "\\n\\u2014 x").replace("\\n— ", "\\n— x")


def drop_key(out: Path) -> None:
    (out / "ledger.pub").write_text((out / "ledger.pub").read_text().splitlines()[1] + "\n")


def shorten(out: Path) -> None:
    """As if there had been only 512 receipts, except for the signature."""
    lines = (out / "checkpoint").read_text().split("\n")
    (out / "checkpoint").write_text("\n".join([lines[0], "512", *lines[2:]]))


def policy(out: Path) -> Path:
    return next((out / "policies").iterdir())


def other_root(lines: list[str]) -> None:
    lines[2] = ("B" if lines[2][0] == "A" else "A") + lines[2][1:]


def misname(out: Path) -> None:
    shutil.copy(policy(out), out / "policies" / f"{'0' * 64}.json")


@pytest.mark.parametrize(
    ("tamper", "at", "expected"),
    [
        (of_entries(alter), 265, "not signed by the guard's key"),
        (of_entries(alter, leaves=True), 265, "not signed by the guard's key"),
        (of_entries(exchange), 265, "does not match its place in this ledger"),
        (of_entries(exchange, leaves=True), 265, "does not match its place in this ledger"),
        (of_entries(sign_wrongly), 265, "not signed by the guard's key"),
        (of_entries(lambda found: found.pop(9)), 265, "does not match its place in this ledger"),
        (of_entries(lambda found: found.insert(9, found[9])), 512, "is truncated, or holds more"),
        (of_entries(lambda found: found.pop()), 511, "is missing"),
        (lambda out: flip(out / "tile/entries/001", 0), None, ""),
        (lambda out: (out / "tile/entries/001").unlink(), 256, "is missing from the export"),
        (lambda out: (out / "tile/0/001").unlink(), 256, "is missing from the export"),
        (lambda out: flip(out / "tile/0/001", 32 * 9), 265, "leaf hash mismatch"),
        (lambda out: (out / "tile/0/002").write_bytes(b"short"), 512, "does not hold 256 hashes"),
        (lambda out: flip(next((out / "tile/1").rglob("*/*")), 32), 511, "the stored node 1 of level 1"),
        (lambda out: shutil.rmtree(out / "tile/1"), 0, "is missing"),
        (lambda out: (out / "tile/0/009").write_bytes(bytes(32)), None, "belongs to no receipt of the tree"),
        (lambda out: (out / "payloads/009.jsonl").write_bytes(b""), None, "belongs to no receipt of the tree"),
        (of_lines("bundles/001.jsonl", lambda lines: lines.reverse()), 256, "its bundle belongs to another receipt"),
        (of_lines("bundles/001.jsonl", lambda lines: lines.pop()), 511, "`bundles/001.jsonl`: it is missing; copy the"),
        (of_lines("bundles/001.jsonl", cut_last), 511, "`bundles/001.jsonl`: it is not JSON, or it was cut (at char"),
        (of_lines("bundles/001.jsonl", lambda lines: lines.append(lines[0])), 256, "does not hold a bundle for each"),
        (of_lines("bundles/001.jsonl", other_entry), 260, "its bundle belongs to another receipt"),
        (of_lines("bundles/001.jsonl", other_proof), 260, "does not lead to the root"),
        (of_lines("bundles/000.jsonl", forge_earlier_head), 0, "is not signed by a key of this ledger"),
        (lambda out: shutil.rmtree(out / "bundles"), None, None),
        (of_lines("payloads/001.jsonl", alter_payload), None, "does not match its commitment"),
        (of_lines("payloads/001.jsonl", forget_payload("request")), None, "no receipt records that it was erased"),
        (of_lines("payloads/001.jsonl", forget_payload("subject")), None, "no receipt records that it was erased"),
        (of_lines("payloads/001.jsonl", drop_request), None, "no receipt records that it was erased"),
        (of_lines("payloads/001.jsonl", lambda lines: lines.append(lines[0])), 256, "twice or in the wrong file"),
        (of_lines("payloads/001.jsonl", lambda lines: lines.append("{}")), 256, "is malformed"),
        (of_lines("payloads/001.jsonl", other_salt_text), 256, "is not canonical base64: unused bits are set"),
        (lambda out: (out / "payloads/001.jsonl").unlink(), None, "no receipt records that it was erased"),
        (lambda out: flip(policy(out), 5), None, "of its policy version"),
        (lambda out: policy(out).unlink(), None, "is not stored"),
        (misname, None, "is not the policy version of that name"),
        (of_lines("checkpoint", other_root), None, ""),
        (drop_key, None, "`ledger.pub` does not list the keys"),
        (shorten, None, "is missing from the export"),
    ],
)  # fmt: skip
def test_changes_to_export_files_are_found(
    past: Path, out: Path, tamper: Tamper, at: int | None, expected: str | None
) -> None:
    tamper(out)
    report = verify(out, past)
    assert report.ok == (expected is None), report.problem
    assert (expected or "") in report.problem
    assert at is None or report.failed_at == at


def test_a_stray_file_beside_the_export_is_named_as_not_proved(past: Path, out: Path) -> None:
    assert not verify(out, past).unknown_files
    for name in ("receipts.jsonl", "tiles"):
        (out / name).mkdir()
    report = verify(out, past)
    assert report.ok
    assert report.unknown_files == ["receipts.jsonl", "tiles"]
    assert "NOT PROVED  other_files    anything about what is no part of the export: `receipts.jsonl`, `tiles`" in (
        describe(report)
    )


@in_full
async def test_older_export_is_a_rollback_and_a_forked_one_a_split(past: Path, tmp_path: Path) -> None:
    assert verify(past / "before", past).ok
    assert "rolled back" in verify(past / "before", past, past / "out").problem
    shutil.copytree(past / "state", tmp_path / "state")
    harness = reopen(tmp_path)
    await live(harness, "the same key, another life")
    export(harness.store, (past / "ledger.pub").read_text(), tmp_path / "fork", payloads=False)
    await live(harness, "and it goes on")
    export(harness.store, (past / "ledger.pub").read_text(), tmp_path / "longer", payloads=False)
    harness.close()
    assert verify(tmp_path / "fork", past, past / "out").ok
    assert verify(tmp_path / "longer", past, tmp_path / "fork").ok
    other = (tmp_path / "fork" / "checkpoint").read_text()
    shutil.rmtree(tmp_path / "state")
    shutil.copytree(past / "state", tmp_path / "state")
    harness = reopen(tmp_path)
    await live(harness, "a third life")
    await live(harness, "of the same key")
    export(harness.store, (past / "ledger.pub").read_text(), tmp_path / "third", payloads=False)
    harness.close()
    (tmp_path / "kept").write_text(other)
    words = [str(tmp_path / "third"), "--key", str(past / "ledger.pub")]
    assert main(words) == OK
    assert main([*words, "--against", str(tmp_path / "kept")]) == FAILED
    shutil.copy(tmp_path / "third" / "bundles" / "000.jsonl", tmp_path / "longer" / "bundles" / "000.jsonl")
    report = verify(tmp_path / "longer", past)
    assert (report.failed_at, report.problem) == (0, "the checkpoint of its bundle belongs to another tree")


def test_export_without_payloads_says_so(past: Path, out: Path) -> None:
    shutil.rmtree(out / "payloads")
    report = verify(out, past)
    assert report.ok, report.problem
    assert any(item.check == "payloads" for item in report.not_proved)
