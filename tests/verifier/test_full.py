"""P8: changing, removing, inserting, reordering or truncating receipts is detected with the public key alone."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.core.model import ToolCallRequest
from mcp_guard.verifier import FAILED, OK, UNUSABLE, UnusableInput, main, verify_ledger
from tests.promises.harness import ALLOW, HOLD, make_instance, open_harness, pending_id

Tamper = Callable[[sqlite3.Connection], object]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with an allowed, a denied and an approved call."""
    folder = tmp_path_factory.mktemp("ledger")
    hold = HOLD.replace("(principal, action, resource)", '(principal, action == Action::"crm__note", resource)')
    harness = open_harness(folder, f"{ALLOW}\n{hold}")
    await harness.guard.call(make_instance(), ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 5}))
    await harness.guard.call(make_instance(), ToolCallRequest("crm__nothing", {}))
    held = await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "x"}))
    harness.approve(pending_id(held))
    await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "x"}))
    harness.close()
    return folder / "state"


@pytest.fixture
def copy(ledger: Path, tmp_path: Path) -> Path:
    with sqlite3.connect(ledger / "ledger.sqlite") as original, sqlite3.connect(tmp_path / "ledger.sqlite") as other:
        original.backup(other)
    original.close()
    other.close()
    shutil.copy(ledger / "ledger.pub", tmp_path)
    return tmp_path


def tampered(copy: Path, tamper: Tamper) -> tuple[bool, str]:
    db = sqlite3.connect(copy / "ledger.sqlite")
    tamper(db)
    db.commit()
    db.close()
    report = verify_ledger(copy / "ledger.sqlite", copy / "ledger.pub")
    return report.ok, report.problem


def test_an_untouched_ledger_verifies(copy: Path) -> None:
    report = verify_ledger(copy / "ledger.sqlite", copy / "ledger.pub")
    assert report.ok, report.problem
    assert report.receipts > 10
    assert report.payloads_checked > 5
    assert report.calls_without_outcome == 0


def size(copy: Path) -> int:
    with sqlite3.connect(copy / "ledger.sqlite") as db:
        count = int(db.execute("SELECT count(*) FROM receipt").fetchone()[0])
    db.close()
    return count


def test_one_changed_byte_of_any_receipt_is_found(copy: Path) -> None:
    for seq in range(size(copy)):
        with sqlite3.connect(copy / "ledger.sqlite") as db:
            body = db.execute("SELECT body FROM receipt WHERE seq = ?", (seq,)).fetchone()[0]
            changed = body.replace(b"2026", b"2027", 1)
            assert changed != body
            db.execute("UPDATE receipt SET body = ? WHERE seq = ?", (changed, seq))
            db.commit()
            assert verify_ledger(copy / "ledger.sqlite", copy / "ledger.pub").failed_at == seq
            db.execute("UPDATE receipt SET body = ? WHERE seq = ?", (body, seq))
        db.close()
    assert verify_ledger(copy / "ledger.sqlite", copy / "ledger.pub").ok


def test_removed_and_renumbered_receipts_are_found(copy: Path) -> None:
    for seq in range(size(copy)):
        other = copy / "other"
        other.mkdir(exist_ok=True)
        for file in ("ledger.sqlite", "ledger.pub"):
            shutil.copy(copy / file, other)

        def remove(db: sqlite3.Connection, seq: int = seq) -> None:
            db.execute("DELETE FROM payload WHERE seq = ?", (seq,))
            db.execute("DELETE FROM receipt WHERE seq = ?", (seq,))

        assert not tampered(other, remove)[0]

        def renumber(db: sqlite3.Connection, seq: int = seq) -> None:
            db.execute("UPDATE receipt SET seq = seq - 1 WHERE seq > ?", (seq,))
            db.execute("UPDATE payload SET seq = seq - 1 WHERE seq > ?", (seq,))

        assert not tampered(other, renumber)[0]


def swap(db: sqlite3.Connection) -> None:
    for before, after in ((3, -1), (4, 3), (-1, 4)):
        db.execute("UPDATE receipt SET seq = ? WHERE seq = ?", (after, before))
        db.execute("UPDATE payload SET seq = ? WHERE seq = ?", (after, before))


def insert(db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO receipt SELECT max(seq) + 1, kind, at, call, body, signature, leaf FROM receipt")


def resign(db: sqlite3.Connection) -> None:
    seq, body = db.execute("SELECT seq, body FROM receipt ORDER BY seq DESC").fetchone()
    body = body.replace(b"ok", b"no")
    db.execute(
        "UPDATE receipt SET body = ?, signature = ? WHERE seq = ?",
        (body, Ed25519PrivateKey.generate().sign(body), seq),
    )


def other_leaf(db: sqlite3.Connection) -> None:
    db.execute("UPDATE receipt SET leaf = zeroblob(32) WHERE seq = 2")


def other_kind(db: sqlite3.Connection) -> None:
    db.execute("UPDATE receipt SET kind = 'decision' WHERE kind = 'outcome'")


def truncate(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM payload WHERE seq > 5")
    db.execute("DELETE FROM receipt WHERE seq > 5")


def truncate_with_head(db: sqlite3.Connection) -> None:
    truncate(db)
    db.execute("UPDATE head SET size = 6")


def forge_checkpoint(db: sqlite3.Connection) -> None:
    truncate(db)
    note = db.execute("SELECT checkpoint FROM head").fetchone()[0].split("\n")
    note[1] = "6"
    db.execute("UPDATE head SET size = 6, checkpoint = ?", ("\n".join(note),))


def empty(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM payload")
    db.execute("DELETE FROM receipt")
    db.execute("UPDATE head SET size = 0, edge = X'', checkpoint = ''")


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (swap, "does not match its place in this ledger"),
        (insert, "does not match its place in this ledger"),
        (resign, "not signed by the guard's key"),
        (other_leaf, "leaf hash mismatch"),
        (other_kind, "column `kind` is `decision`"),
        (truncate, "the signed checkpoint of"),
        (truncate_with_head, "the signed checkpoint of"),
        (forge_checkpoint, "the checkpoint is not signed by the guard's key"),
        (empty, "the ledger is empty"),
    ],
)
def test_tampering_is_found_and_named(copy: Path, tamper: Tamper, problem: str) -> None:
    ok, found = tampered(copy, tamper)
    assert not ok
    assert problem in found


def test_changed_payload_is_found_and_missing_reply_is_counted(copy: Path) -> None:
    db = sqlite3.connect(copy / "ledger.sqlite")
    db.execute("UPDATE payload SET response = substr(response, 1, 16)")
    db.commit()
    report = verify_ledger(copy / "ledger.sqlite", copy / "ledger.pub")
    assert report.ok
    assert report.payloads_not_kept == 3
    db.execute("UPDATE payload SET material = CAST(material || 'x' AS BLOB) WHERE material IS NOT NULL")
    db.commit()
    db.close()
    assert "does not match its commitment" in verify_ledger(copy / "ledger.sqlite", copy / "ledger.pub").problem


def test_ledger_does_not_verify_with_another_key(copy: Path) -> None:
    harness = open_harness(copy / "elsewhere")
    harness.close()
    assert verify_ledger(copy / "ledger.sqlite", copy / "elsewhere" / "state" / "ledger.pub").failed_at == 0


@pytest.mark.parametrize("key", ["", "x", "a+b+c", "a+00000000+AQ=="])
def test_invalid_key_is_unusable(copy: Path, key: str) -> None:
    (copy / "bad.pub").write_text(key)
    with pytest.raises(UnusableInput):
        verify_ledger(copy / "ledger.sqlite", copy / "bad.pub")


def test_verifier_runs_standalone_with_exit_codes(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, key = str(copy / "ledger.sqlite"), str(copy / "ledger.pub")
    assert main([ledger, "--key", key]) == OK
    assert "verified:" in capsys.readouterr().out
    assert main([ledger, "--key", str(copy / "none")]) == UNUSABLE
    assert main([str(copy / "none"), "--key", key]) == UNUSABLE
    tampered(copy, truncate)
    assert main([ledger, "--key", key, "--json"]) == FAILED
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_verifier_imports_nothing_of_the_guard(copy: Path) -> None:
    """Copied out of the package, it still verifies."""
    shutil.copytree(Path(verify_ledger.__code__.co_filename).parent, copy / "alone")
    program = """if True:
        import runpy, sys
        sys.modules["mcp_guard"] = None
        runpy.run_module("alone", run_name="__main__")
    """
    words = [str(copy / "ledger.sqlite"), "--key", str(copy / "ledger.pub")]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=copy)
    assert done.returncode == OK, done.stderr
