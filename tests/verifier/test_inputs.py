"""What can be verified: a range, a receipt, a bundle, an export; against checkpoints, with witnesses, standalone."""

import base64
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import cryptography
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard import verifier
from mcp_guard.core.tlog import merkle
from mcp_guard.core.tlog import note as notes
from mcp_guard.ledger.export import LedgerProofs, export
from mcp_guard.verifier import FAILED, OK, UNUSABLE, main
from mcp_guard.verifier import merkle as stored_merkle
from mcp_guard.verifier import verify_ledger as whole
from mcp_guard.verifier.stored_hashes import StoredHashes
from mcp_guard.verifier.workers import CHUNK, open_workers
from tests.ledger.sized_ledger import ORIGIN, fill, open_filled
from tests.proof_size import in_full, sized

SIZE = 700


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger in `state`, its export `out`, a bundle `one.json`, and an earlier checkpoint `early`."""
    folder = tmp_path_factory.mktemp("made")
    writer = open_filled(folder / "state", 300)
    (folder / "early").write_text(writer.store.checkpoint())
    fill(writer, SIZE - 300)
    export(writer.store, writer.key.verifier + "\n", folder / "out", payloads=True)
    (folder / "one.json").write_bytes(LedgerProofs(writer.store).prove(77, with_payloads=True))
    writer.store.close()
    return folder


def run(folder: Path, what: str, *more: str) -> int:
    return main([str(folder / what), "--key", str(folder / "state" / "ledger.pub"), *more])


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def change(ledger: Path, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(ledger)) as db:
        db.execute(sql)
        db.commit()


# A range, one receipt


@pytest.mark.parametrize("what", ["state/ledger.sqlite", "out"])
@pytest.mark.parametrize(
    ("first", "last"), [(0, 0), (0, 699), (1, 698), (255, 256), (256, 511), (300, 300), (511, 699), (699, 699)]
)
def test_range_is_proved_to_be_in_the_tree(
    made: Path, what: str, first: int, last: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(made, what, "--from", str(first), "--to", str(last), "--json", "--against", str(made / "early")) == OK
    report = json.loads(capsys.readouterr().out)
    assert report["receipts"] == report["payloads_checked"] == last - first + 1
    assert report["against"] == [300]
    assert {"signatures", "tree", "against"} <= {item["check"] for item in report["proved"]}
    assert {"links", "truncation"} <= {item["check"] for item in report["not_proved"]}


@pytest.mark.parametrize("what", ["state/ledger.sqlite", "out"])
def test_one_receipt_is_printed_with_its_proof(made: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(made, what, "--receipt", "42", "--json") == OK
    assert json.loads(capsys.readouterr().out)["receipt"]["call"] == "call_42"


@pytest.mark.parametrize("words", [("--receipt", "700"), ("--from", "5"), ("--from", "9", "--to", "5"), ("--to", "5")])
def test_invalid_range_is_unusable(made: Path, words: tuple[str, ...]) -> None:
    assert run(made, "state/ledger.sqlite", *words) == UNUSABLE


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE receipt SET body = CAST(replace(body, '2026', '2027') AS BLOB) WHERE seq = 300",
        "DELETE FROM receipt WHERE seq = 299",
        "UPDATE payload SET request = CAST(request || 'x' AS BLOB) WHERE seq = 301",
        "UPDATE receipt SET leaf = zeroblob(32) WHERE seq = 2",
        "UPDATE receipt SET leaf = zeroblob(32) WHERE seq = 600",
        "UPDATE node SET hash = zeroblob(32) WHERE idx = 0",
        "UPDATE head SET checkpoint = (SELECT replace(checkpoint, '700', '701') FROM head)",
    ],
)
def test_errors_in_a_range_or_its_tree_are_found(copy: Path, statement: str) -> None:
    """Outside the range only what the proof needs is checked; a full verification checks everything."""
    change(copy / "state" / "ledger.sqlite", statement)
    code = run(copy, "state/ledger.sqlite", "--from", "256", "--to", "400")
    assert code == (OK if statement.endswith("seq = 2") else FAILED)
    assert run(copy, "state/ledger.sqlite") == FAILED


def test_ledger_without_stored_nodes_is_not_a_ledger(copy: Path) -> None:
    change(copy / "state" / "ledger.sqlite", "DROP TABLE node")
    assert run(copy, "state/ledger.sqlite", "--receipt", "5") == UNUSABLE
    assert run(copy, "state/ledger.sqlite") == UNUSABLE


# One bundle


def test_bundle_verifies_on_its_own(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(made, "one.json", "--json") == OK
    report = json.loads(capsys.readouterr().out)
    assert (report["scope"], report["first"], report["payloads_checked"]) == ("bundle", 77, 1)


def spoil(bundle: dict[str, str], name: str, old: str, new: str) -> None:
    assert old in bundle[name]
    bundle[name] = bundle[name].replace(old, new, 1)


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("entry", '"filled"', '"Filled"', "does not lead to the root"),
        ("proof", "index 77", "index 76", "does not lead to the root"),
        ("proof", "index 77", "index 7700", "the index of the proof is not within the tree"),
        ("proof", "\n700\n", "\n701\n", ""),
        ("proof", f"— {ORIGIN} ", f"— {ORIGIN}x ", "the checkpoint is not signed by the guard's key"),
        ("proof", "tlog-proof@v1", "tlog-proof@v9", "not a tlog-proof"),
    ],
)
def test_changes_in_a_bundle_are_found(
    copy: Path, name: str, old: str, new: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = json.loads((copy / "one.json").read_text())
    spoil(bundle, name, old, new)
    (copy / "one.json").write_text(json.dumps(bundle))
    assert run(copy, "one.json") == FAILED
    assert expected in capsys.readouterr().out


def test_bundle_with_another_payload_or_unknown_key_is_refused(copy: Path) -> None:
    bundle = json.loads((copy / "one.json").read_text())
    bundle["payloads"]["request"]["payload"] = base64.b64encode(b"other").decode()
    (copy / "other.json").write_text(json.dumps(bundle))
    assert run(copy, "other.json") == FAILED
    (copy / "other.pub").write_text(open_filled(copy / "elsewhere", 1).key.verifier)
    assert main([str(copy / "one.json"), "--key", str(copy / "other.pub")]) == FAILED


# Checkpoints and witnesses


def cosigned(note: str, name: str, private: Ed25519PrivateKey, at: int = 1_790_000_000) -> tuple[str, str]:
    """The note with a cosignature line (C2SP tlog-cosignature), and the witness's verifier line."""
    text = note.partition("\n\n")[0] + "\n"
    public = private.public_key().public_bytes_raw()
    signature = at.to_bytes(8, "big") + private.sign(f"cosignature/v1\ntime {at}\n{text}".encode())
    line = notes.signature_line(name, notes.key_id(name, public, b"\x04"), signature)
    return note + line + ("" if line.endswith("\n") else "\n"), notes.verifier(name, public, b"\x04")


def test_witness_quorum_is_enforced(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = (copy / "out" / "checkpoint").read_text()
    for number, name in enumerate(("w1.example", "w2.example"), 1):
        note, line = cosigned(note, name, Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))
        (copy / f"w{number}.pub").write_text(line)
    _, stranger = cosigned(note, "w3.example", Ed25519PrivateKey.from_private_bytes(bytes([3]) * 32))
    (copy / "w3.pub").write_text(stranger)
    (copy / "out" / "checkpoint").write_text(note)
    shutil.rmtree(copy / "out" / "bundles")
    one, two, three = (["--witness", str(copy / f"w{number}.pub")] for number in (1, 2, 3))
    assert run(copy, "out", *one, *two, "--json") == OK
    seen = json.loads(capsys.readouterr().out)["witnesses"]
    assert seen == [{"witness": f"w{number}.example", "at": 1_790_000_000} for number in (1, 2)]
    assert run(copy, "out", *one, *three, "--quorum", "1") == OK
    assert run(copy, "out", *one, *three) == FAILED
    assert run(copy, "out", *one, "--quorum", "2") == UNUSABLE
    body, _, signatures = note.partition("\n\n")
    first, witness, *rest = signatures.splitlines()
    head, _, encoded = witness.rpartition(" ")
    raw = bytearray(base64.b64decode(encoded))
    raw[11] ^= 1  # the witness's time
    (copy / "out" / "checkpoint").write_text(
        "\n".join([body, "", first, f"{head} {base64.b64encode(raw).decode()}", *rest, ""])
    )
    assert run(copy, "out", *one) == FAILED


def test_earlier_witnessed_head_counts_if_the_tree_extends_it(copy: Path) -> None:
    """Recording a witnessed head extends the ledger, so the newest head is never the cosigned one."""
    note, line = cosigned((copy / "early").read_text(), "w1.example", Ed25519PrivateKey.from_private_bytes(b"1" * 32))
    (copy / "w1.pub").write_text(line)
    requirements = ("--witness", str(copy / "w1.pub"))
    assert run(copy, "out", *requirements) == FAILED
    (copy / "out" / "cosigned").write_text(note)
    assert run(copy, "out", *requirements) == OK
    (copy / "seen").write_text(note)
    assert run(copy, "state/ledger.sqlite", *requirements, "--against", str(copy / "seen")) == OK
    writer = open_filled(copy / "other", 300)  # another history, that the same witness signed
    forked, _ = cosigned(writer.store.checkpoint(), "w1.example", Ed25519PrivateKey.from_private_bytes(b"1" * 32))
    writer.store.close()
    (copy / "out" / "cosigned").write_text(forked)
    assert run(copy, "out", *requirements) == UNUSABLE  # no key of this ledger signed it


@pytest.mark.parametrize("note", ["", "nonsense", "a\nb\nc\n\n— x y\n"])
def test_invalid_checkpoint_is_unusable(copy: Path, note: str) -> None:
    (copy / "bad").write_text(note)
    assert run(copy, "out", "--against", str(copy / "bad")) == UNUSABLE


def test_printed_checkpoint_is_accepted(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(copy, "state/ledger.sqlite") == OK
    printed = capsys.readouterr().out.partition("give it with --against next time\n")[2]
    (copy / "kept").write_text(printed)
    assert run(copy, "out", "--against", str(copy / "kept")) == OK


def collected(copy: Path) -> str:
    """What a file witness has collected: the checkpoints of 300 and of all receipts."""
    notes = ((copy / "early").read_text(), (copy / "out" / "checkpoint").read_text())
    return "".join(f"{note}\n" for note in notes)


def test_every_checkpoint_that_a_witness_collected_is_checked(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (collected(copy), f"\n{collected(copy)}\n\n", collected(copy).replace("\n", "\r\n")):
        (copy / "checkpoints").write_bytes(text.encode())
        assert run(copy, "state/ledger.sqlite", "--json", "--against", str(copy / "checkpoints")) == OK
        assert json.loads(capsys.readouterr().out)["against"] == [300, SIZE]


def test_ledger_behind_a_witness_is_told_the_newest_checkpoint(tmp_path: Path) -> None:
    writer, notes = open_filled(tmp_path / "state", 3), []
    for _ in range(3):
        notes.append(f"{writer.store.checkpoint()}\n")
        fill(writer, 2)
        if len(notes) == 1:
            export(writer.store, writer.key.verifier + "\n", tmp_path / "old", payloads=True)
    (tmp_path / "checkpoints").write_text("".join(notes))
    shutil.copytree(Path(verifier.__file__).parent, tmp_path / "verifier")
    command = [sys.executable, "-m", "verifier", "old", "--key", "state/ledger.pub", "--against", "checkpoints"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, "rolled back: a checkpoint of 7 receipts was signed" in done.stdout) == (FAILED, True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: f"Checkpoint; keep it elsewhere\n{text}", "begins with the heading that `verify` prints"),
        (lambda text: text[:-30], "checkpoint of 700 receipts: the signature of"),
        (lambda text: text.rpartition("\n—")[0], "checkpoint 2 in it: not a signature line"),
        (lambda text: "\n", "it is empty"),
    ],
)
def test_unusable_checkpoints_are_explained_and_none_is_skipped(
    copy: Path, change: Callable[[str], str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "checkpoints").write_text(change(collected(copy)))
    assert run(copy, "out", "--against", str(copy / "checkpoints")) == UNUSABLE
    assert reason in capsys.readouterr().err


def test_checkpoint_of_another_ledger_or_key_is_unusable(copy: Path) -> None:
    for origin in ("other.example/ledger", ORIGIN):
        writer = open_filled(copy / origin, 5, origin=origin)
        (copy / "other").write_text(writer.store.checkpoint())
        assert run(copy, "state/ledger.sqlite", "--against", str(copy / "other")) == UNUSABLE


# Concurrent writers, standalone use, read-only places


@in_full
def test_verification_uses_one_snapshot_while_a_guard_writes(tmp_path: Path) -> None:
    writer = open_filled(tmp_path, 4 * CHUNK + 10)
    writer.store.close()
    program = """if True:
        import sys
        from pathlib import Path
        from tests.ledger.sized_ledger import fill, open_filled
        writer = open_filled(Path(sys.argv[1]), 0)
        print("ready", flush=True)
        while True:
            fill(writer, 1)
    """
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as guard:
        assert guard.stdout is not None
        guard.stdout.readline()
        try:
            done = [
                subprocess.run(
                    [sys.executable, "-m", "mcp_guard.verifier", str(tmp_path / "ledger.sqlite"), "--json",
                     "--workers", "2", "--key", str(tmp_path / "ledger.pub")],
                    capture_output=True, text=True,
                )
                for _ in range(2)
            ]  # fmt: skip
        finally:
            guard.kill()
    reports = [json.loads(item.stdout or item.stderr) for item in done]
    assert [report["problem"] for report in reports] == ["", ""]
    assert 4 * CHUNK < reports[0]["receipts"] < reports[1]["receipts"]


@in_full
def test_workers_and_single_process_agree(tmp_path: Path) -> None:
    writer = open_filled(tmp_path, 2 * CHUNK + 300)
    writer.store.close()
    change(
        tmp_path / "ledger.sqlite", f"UPDATE receipt SET leaf = zeroblob(32) WHERE seq IN ({CHUNK + 9}, {CHUNK + 5})"
    )
    results = []
    for workers in ("1", "2", "3"):
        words = [str(tmp_path / "ledger.sqlite"), "--key", str(tmp_path / "ledger.pub"), "--workers", workers, "--json"]
        done = subprocess.run([sys.executable, "-m", "mcp_guard.verifier", *words], capture_output=True, text=True)
        assert done.returncode == FAILED
        results.append(json.loads(done.stdout))
    assert results[0]["failed_at"] == CHUNK + 5
    assert results[0] == results[1] == results[2]


class Restless:
    """A source whose head changes three times in this process before the workers see the final one."""

    scope = "ledger"

    def __init__(self) -> None:
        self.parent, self.seen = os.getpid(), 0

    def open(self) -> "Restless":
        return self

    def snapshot(self) -> str:
        self.seen += 1
        return "now" if os.getpid() != self.parent or self.seen > 3 else f"before {self.seen}"

    def close(self) -> None: ...


def test_all_workers_verify_the_same_head() -> None:
    source = Restless()
    with open_workers(source, 2):  # type: ignore[arg-type]
        assert source.seen == 4


def test_verifier_does_not_fork_a_process_with_threads(made: Path) -> None:
    seen: list[bool] = []
    ledger = made / "state" / "ledger.sqlite"
    thread = threading.Thread(target=lambda: seen.append(whole(ledger, made / "state" / "ledger.pub").ok))
    thread.start()
    thread.join()
    assert seen == [True]


@pytest.mark.parametrize("what", ["state/ledger.sqlite", "out", "one.json"])
def test_copied_verifier_needs_only_python_and_cryptography(copy: Path, what: str) -> None:
    """In a zip file, isolated (`-I`), with only the standard library and cryptography on the path."""
    source = Path(stored_merkle.__file__).parent
    with zipfile.ZipFile(copy / "verify.zip", "w") as archive:
        for path in sorted(source.rglob("*.py")):
            archive.write(path, f"verifier/{path.relative_to(source)}")
    packages = Path(cryptography.__file__).parent.parent
    (copy / "packages").mkdir()
    for name in ("cryptography", "cffi", "_cffi_backend", "pycparser"):
        for path in packages.glob(f"{name}*"):
            (copy / "packages" / path.name).symlink_to(path)
    program = f"""if True:
        import runpy, sys
        sys.path[:] = [each for each in sys.path if "site-packages" not in each]
        sys.path += [{str(copy / "verify.zip")!r}, {str(copy / "packages")!r}]
        try:
            runpy.run_module("verifier", run_name="__main__", alter_sys=True)
        finally:
            assert not [name for name in sys.modules if name.partition(".")[0] in ("mcp_guard", "orjson", "pydantic")]
    """
    words = [str(copy / what), "--key", str(copy / "state" / "ledger.pub")]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program, *words], capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stderr) == (OK, "")
    assert done.stdout.startswith("verified: ")


def test_verifier_module_loads_nothing_of_the_guard(made: Path) -> None:
    program = """if True:
        import runpy, sys
        try:
            runpy.run_module("mcp_guard.verifier", run_name="__main__", alter_sys=True)
        finally:
            print(sorted(name for name in sys.modules if name.startswith("mcp_guard") and "verifier" not in name))
            print([name for name in ("orjson", "pydantic", "cedarpy", "rfc8785", "anyio") if name in sys.modules])
    """
    words = [str(made / "out"), "--key", str(made / "state" / "ledger.pub")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["['mcp_guard']", "[]"], done.stderr


def test_read_only_copy_is_verified(copy: Path) -> None:
    ledger = copy / "state" / "ledger.sqlite"
    for name in ("ledger.sqlite-wal", "ledger.sqlite-shm"):
        (copy / "state" / name).unlink(missing_ok=True)
    ledger.chmod(0o400)
    (copy / "state").chmod(0o500)
    before = sorted(os.listdir(copy / "state"))
    try:
        assert run(copy, "state/ledger.sqlite") == OK
    finally:
        (copy / "state").chmod(0o700)
    assert [name for name in sorted(os.listdir(copy / "state")) if "-" not in name] == before


# The tree


@given(size=st.integers(1, 300), data=st.data())
@settings(max_examples=sized(60, 20), deadline=None)
def test_verifier_tree_agrees_with_the_guards_tree(size: int, data: st.DataObject) -> None:
    leaves = [merkle.leaf_hash(bytes([at % 256, at // 256])) for at in range(size)]
    edge: list[bytes] = []
    for at, leaf in enumerate(leaves):
        edge = merkle.append(edge, at, leaf)

    def stored(level: int, index: int) -> bytes:
        span = stored_merkle.CompactRange(index << 8 * level)
        for leaf in leaves[index << 8 * level : index + 1 << 8 * level]:
            span.add(leaf)
        return span.nodes[0][2]

    first = data.draw(st.integers(0, size - 1))
    own = stored_merkle.CompactRange(first)
    for leaf in leaves[first : data.draw(st.integers(first + 1, size))]:
        own.add(leaf)
    assert stored_merkle.subtree(0, size, stored, own) == merkle.root(edge)
    assert stored_merkle.prefix(size, stored).root() == merkle.root(edge)


def test_missing_stored_hash_is_reported(made: Path) -> None:
    class Nothing:
        def stored(self, level: int, first: int, stop: int) -> list[bytes]:
            return []

    with pytest.raises(Exception, match="the stored hash 0 of level 0 is missing"):
        StoredHashes(Nothing()).root(1)  # type: ignore[arg-type]
