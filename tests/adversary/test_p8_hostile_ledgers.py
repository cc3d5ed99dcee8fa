"""P8: whatever somebody hands to a verifier, it ends soon in a report or a refusal, and what is read afterwards is what
was verified. Each attack is a file, and the verifier a process with little memory and time."""

import contextlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from mcp_guard.ledger.export import LedgerProofs, export
from mcp_guard.verifier import main
from tests.ledger.sized_ledger import open_filled
from tests.live.running_guard import cli

MEMORY, SECONDS = 1 << 30, 20
FAILED, UNUSABLE = 1, 2
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT {} FROM c"
RECEIPT = "seq, kind, at, call, body, signature, leaf"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger `state`, its export `out` and a bundle `one.json`."""
    folder = tmp_path_factory.mktemp("made")
    writer = open_filled(folder / "state", 300)
    export(writer.store, writer.key.verifier + "\n", folder / "out", payloads=True)
    (folder / "one.json").write_bytes(LedgerProofs(writer.store).prove(77, with_payloads=True))
    writer.store.close()
    with contextlib.closing(sqlite3.connect(folder / "state/ledger.sqlite")) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


@dataclass(frozen=True)
class Verdict:
    code: int
    out: str
    err: str


def verify(folder: Path, what: str, *more: str) -> Verdict:
    """Run the verifier in a process of its own, with 1 GiB and 20 s."""
    files = [folder / "stdout", folder / "stderr"]
    child = os.fork()
    if child == 0:
        _become_verifier(
            [str(folder / what), "--key", str(folder / "state/ledger.pub"), "--workers", "1", *more], files
        )
    _, status = os.waitpid(child, 0)
    verdict = Verdict(os.waitstatus_to_exitcode(status), *(file.read_text() for file in files))
    assert "Traceback" not in verdict.err
    assert verdict.code in (0, FAILED, UNUSABLE), "it was killed by the alarm"
    return verdict


def _become_verifier(words: list[str], files: list[Path]) -> NoReturn:
    code = 70
    try:
        for number, file in zip((1, 2), files, strict=True):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.alarm(SECONDS)
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def script(folder: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / "state/ledger.sqlite")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def rewrite_schema(folder: Path, name: str, old: str, new: str) -> None:
    script(
        folder,
        "PRAGMA writable_schema = ON",
        f"UPDATE sqlite_master SET sql = replace(sql, '{old}', '{new}') WHERE name = '{name}'",
    )


def as_utf16(folder: Path) -> None:
    path = folder / "state/ledger.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        dump = list(db.iterdump())
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA encoding = 'UTF-16le'")
        db.executescript("\n".join(dump))


def root_page(folder: Path, name: str) -> tuple[int, int]:
    """The page of a table's root, and the size of a page."""
    with contextlib.closing(sqlite3.connect(folder / "state/ledger.sqlite")) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
        return page, db.execute("PRAGMA page_size").fetchone()[0]


def make_page_dag(folder: Path) -> None:
    """An interior page of the table `node` all of whose children are the page itself: 100^20 rows to read."""
    page, size = root_page(folder, "guard_key")
    cells = 100
    header = struct.pack(">BHHHBI", 5, 0, cells, size - cells * 6, 0, page)
    content = b"".join(struct.pack(">IBB", page, 0x81, number) for number in range(cells))
    pointers = b"".join(struct.pack(">H", size - cells * 6 + 6 * at) for at in range(cells))
    body = (header + pointers).ljust(size - cells * 6, b"\0") + content
    with (folder / "state/ledger.sqlite").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(body)


def hide_from_index(folder: Path) -> None:
    """The index by which `show` finds the receipts of a call no longer lists one of them."""
    rewrite_schema(folder, "receipt_call", "call IS NOT NULL", "call IS NOT NULL AND seq < 200")
    script(folder, "REINDEX receipt_call")
    rewrite_schema(folder, "receipt_call", " AND seq < 200", "")


def leave_hot_journal(folder: Path) -> None:
    """A transaction that a reader with write access would roll back, so that it reads another ledger."""
    ledger = folder / "state/ledger.sqlite"
    old = shutil.copy(ledger, folder / "old.sqlite")
    page = Path(old).read_bytes()[:4096]
    header = bytes.fromhex("d9d505f920a163d7") + struct.pack(
        ">IIIII", 1, 0, len(ledger.read_bytes()) // 4096, 512, 4096
    )
    (folder / "state/ledger.sqlite-journal").write_bytes(header.ljust(512, b"\0") + struct.pack(">I", 1) + page)


ON_LEDGERS: dict[str, Callable[[Path], None]] = {
    "endless view": lambda f: script(
        f, "ALTER TABLE receipt RENAME TO r2",
        f"CREATE VIEW receipt AS {ENDLESS.format(', '.join(f'x AS {name}' for name in RECEIPT.split(', ')))}",
    ),
    "view over the same rows": lambda f: script(
        f, "ALTER TABLE receipt RENAME TO r2", "CREATE VIEW receipt AS SELECT * FROM r2"
    ),
    "endless view of keys": lambda f: script(
        f, "ALTER TABLE guard_key RENAME TO g2", f"CREATE VIEW guard_key AS {ENDLESS.format('x AS id, x AS verifier')}"
    ),
    "trigger": lambda f: script(f, "CREATE TRIGGER t AFTER INSERT ON receipt BEGIN SELECT 1; END"),
    "view beside the tables": lambda f: script(f, "CREATE VIEW other AS SELECT 1"),
    "virtual table": lambda f: script(f, "CREATE VIRTUAL TABLE other USING fts5(x)"),
    "generated column": lambda f: rewrite_schema(f, "payload", "response BLOB", "response BLOB AS (facts)"),
    "collation": lambda f: rewrite_schema(f, "receipt", "call TEXT", "call TEXT COLLATE NOCASE"),
    "another index": lambda f: script(f, "CREATE INDEX more ON receipt (length(body))"),
    "UTF-16": as_utf16,
    "page cycle": make_page_dag,
    "row hidden from the index": hide_from_index,
    "unfinished transaction": leave_hot_journal,
    "text in place of bytes": lambda f: script(f, "UPDATE receipt SET body = CAST(body AS TEXT) WHERE seq = 7"),
    "text that is not UTF-8": lambda f: script(f, "UPDATE receipt SET kind = CAST(x'ff' AS TEXT) WHERE seq = 7"),
    "huge field": lambda f: script(f, "UPDATE receipt SET body = zeroblob(100000000) WHERE seq = 7"),
    "receipt far away": lambda f: script(f, "UPDATE receipt SET seq = 9223372036854775807 WHERE seq = 299"),
    "deep receipt": lambda f: script(f, f"UPDATE receipt SET body = CAST('{'[' * 100_000}' AS BLOB) WHERE seq = 7"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ON_LEDGERS)
def test_hostile_ledger_is_refused(copy: Path, attack: str) -> None:
    assert verify(copy, "state/ledger.sqlite").code == 0
    ON_LEDGERS[attack](copy)
    assert verify(copy, "state/ledger.sqlite").code in (FAILED, UNUSABLE)
    verify(copy, "state/ledger.sqlite", "--receipt", "7")  # proves less, and ends as well
    for words in (
        ("show", "7"),
        ("log", "--last", "300"),
        ("status",),
        ("ledger", "events"),
        ("policy", "explain", "7"),
    ):
        shown = cli(*words, "--ledger", str(copy / "state/ledger.sqlite"), check=False)
        assert "Traceback" not in shown.stderr
        assert shown.returncode >= 0, "it was killed by the alarm"


def put(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def put_huge(path: Path) -> None:
    put(path, b"")
    os.truncate(path, 64 << 30)


def put_link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def put_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FILES = (
    "checkpoint", "ledger.pub", "tile/0/000", "tile/entries/000", "bundles/000.jsonl", "payloads/000.jsonl",
)  # fmt: skip
PUTS: dict[str, Callable[[Path], None]] = {
    "64 GiB": put_huge,
    "device": lambda path: put_link(path, "/dev/zero"),
    "pipe": put_pipe,
    "deep": lambda path: put(path, b"[" * 200_000 + b"]" * 200_000),
    "link": lambda path: put_link(path, "/etc/passwd"),
}


@pytest.mark.parametrize("attack", PUTS)
def test_hostile_export_is_refused(copy: Path, attack: str) -> None:
    for name in FILES:
        with contextlib.ExitStack() as undo:
            kept = (copy / "out" / name).read_bytes()
            undo.callback(put, copy / "out" / name, kept)
            PUTS[attack](copy / "out" / name)
            assert verify(copy, "out").code in (FAILED, UNUSABLE), name


def link_folder(export: Path, name: str) -> None:
    (export / name).rename(export.parent / "elsewhere")
    (export / name).symlink_to("/")


def claim_size(export: Path, size: str) -> None:
    put(export / "checkpoint", (export / "checkpoint").read_bytes().replace(b"\n300\n", f"\n{size}\n".encode(), 1))


EXPORTS: dict[str, Callable[[Path], None]] = {
    "folder that is a link to all files": lambda export: link_folder(export, "payloads"),
    "tiles elsewhere": lambda export: link_folder(export, "tile"),
    "endless lines": lambda export: put(export / "bundles/000.jsonl", b"\n" * (100 << 20)),
    "size of 4,000 digits": lambda export: claim_size(export, "9" * 4_000),
    "size of 5,000 digits": lambda export: claim_size(export, "9" * 5_000),
    "signatures without end": lambda export: put(export / "checkpoint", b"x\n1\nx\n\n" + b"\xe2\x80\x94 a b\n" * 8_000),
    "link beside the tiles": lambda export: (export / "tile/0/001").symlink_to("/"),
}


@pytest.mark.parametrize("attack", EXPORTS)
def test_export_without_end_is_refused(copy: Path, attack: str) -> None:
    EXPORTS[attack](copy / "out")
    for more in ((), ("--receipt", "7")):
        assert verify(copy, "out", *more).code in ((FAILED, UNUSABLE) if not more else (0, FAILED, UNUSABLE))


def doubled(bundle: str) -> str:
    return bundle.replace("{", '{"entry":"x",', 1)


BUNDLES: dict[str, Callable[[str], str]] = {
    "deep": lambda _: '{"form":"mcp-guard/bundle/v1","x":' + "[" * 200_000 + "]" * 200_000 + "}",
    "member twice": doubled,
    "NaN": lambda bundle: bundle.replace("{", '{"x":NaN,', 1),
    "digits": lambda bundle: bundle.replace("{", '{"x":' + "9" * 1_000_000 + ",", 1),
    "index": lambda bundle: bundle.replace("index 77", "index " + "7" * 10_000),
    "not an object": lambda _: "7",
    "payloads": lambda bundle: json.dumps(json.loads(bundle) | {"payloads": {"request": 7}}),
}


@pytest.mark.parametrize("attack", BUNDLES)
def test_hostile_bundle_is_refused(copy: Path, attack: str) -> None:
    assert verify(copy, "one.json").code == 0
    text = (copy / "one.json").read_text()
    (copy / "one.json").write_text(BUNDLES[attack](text))
    assert verify(copy, "one.json").code in (FAILED, UNUSABLE)


def test_what_the_input_says_adds_no_line_and_hides_nothing(copy: Path) -> None:
    text = (copy / "one.json").read_text()
    key = (copy / "state/ledger.pub").read_text()
    (copy / "one.json").write_text(text.replace("mcp-guard/bundle/v1", "x\\nverified: 9 receipts \\u202e\\u001b[2J", 1))
    done = verify(copy, "one.json")
    assert done.code == UNUSABLE
    assert [line for line in done.err.splitlines() if line.startswith("verified")] == []
    assert done.err.isascii()
    assert "\x1b" not in done.err + key


def test_show_says_that_what_it_shows_is_not_verified(copy: Path) -> None:
    ledger = ("--ledger", str(copy / "state/ledger.sqlite"))
    assert cli("show", "7", *ledger).stdout.startswith("the guard: decision.")
    script(copy, "UPDATE receipt SET body = CAST(replace(body, 'filled', 'approved by Alice') AS BLOB) WHERE seq = 7")
    done = cli("show", "7", *ledger, check=False)
    assert done.returncode == FAILED
    assert done.stdout.startswith("NOT VERIFIED: receipt 7: not signed by the guard's key\n")
    assert json.loads(cli("show", "7", "--json", *ledger, check=False).stdout)["problem"].startswith("receipt 7")


def test_a_file_that_is_no_ledger_is_left_alone(tmp_path: Path) -> None:
    files = (("notes.sqlite", "CREATE TABLE note (text)"), ("empty.sqlite", "PRAGMA user_version = 0"))
    for name, statement in files:
        with contextlib.closing(sqlite3.connect(tmp_path / name)) as db:
            db.execute(statement)
            db.commit()
        before = (tmp_path / name).read_bytes()
        for words in (("log",), ("show", "1"), ("ledger", "export", str(tmp_path / "out"))):
            assert cli(*words, "--ledger", str(tmp_path / name), check=False).returncode != 0
        assert (tmp_path / name).read_bytes() == before
