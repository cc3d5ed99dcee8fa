"""Whatever takes the ledger away from its name is noticed at the next look, in a folder that was long unchanged too."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.sqlite.engine import SqliteEngine
from mcp_guard.storage.sqlite.file_location import FileLocation

LATER_NS = 3600 * 10**9


def in_an_hour() -> int:
    return time.time_ns() + LATER_NS


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "other"):
        (folder / name).write_text("x")
    return folder / "ledger.sqlite"


def replace(path: Path) -> None:
    os.replace(path.parent / "other", path)


def replace_folder(path: Path) -> None:
    shutil.copytree(path.parent, path.parent.parent / "copy")
    path.parent.rename(path.parent.parent / "away")
    (path.parent.parent / "copy").rename(path.parent)


TAKEN: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "renamed": lambda path: path.rename(path.with_name("away")),
    "replaced": replace,
    "log removed": lambda path: Path(f"{path}-wal").unlink(),
    "folder moved": lambda path: path.parent.rename(path.parent.parent / "away"),
    "folder replaced": replace_folder,
}


@pytest.mark.parametrize("now_ns", [time.time_ns, in_an_hour], ids=["young", "settled"])
@pytest.mark.parametrize("take", TAKEN.values(), ids=TAKEN)
def test_taken_ledger_is_noticed(ledger: Path, take: Callable[[Path], object], now_ns: Callable[[], int]) -> None:
    location = FileLocation(ledger, now_ns)
    location.check()
    location.check()
    take(ledger)
    with pytest.raises(LedgerError, match="was removed or replaced while it was in use"):
        location.check()


def test_ledger_that_is_back_can_be_used(ledger: Path) -> None:
    location = FileLocation(ledger, in_an_hour)
    location.check()
    away = ledger.rename(ledger.with_name("away"))
    with pytest.raises(LedgerError):
        location.check()
    away.rename(ledger)
    location.check()


def test_ledger_behind_a_link_is_noticed_where_it_is(ledger: Path, tmp_path: Path) -> None:
    link = tmp_path / "linked.sqlite"
    link.symlink_to(ledger)
    location = FileLocation(link, in_an_hour)
    location.check()
    replace(ledger)
    with pytest.raises(LedgerError):
        location.check()


@pytest.mark.parametrize(
    ("log", "left"),
    [
        ("ledger.sqlite-wal", "nothing"),
        ("ledger.sqlite-wal", "an empty file"),
        ("ledger.sqlite-wal", "a link to nothing"),
        ("ledger.sqlite-journal", "nothing"),
    ],
)
def test_no_ledger_is_made_beside_the_log_of_one_that_was_moved_away(tmp_path: Path, log: str, left: str) -> None:
    """SQLite empties a log whose file is missing or empty, and what is in it is in no other file."""
    path = opened = tmp_path / "ledger.sqlite"
    (tmp_path / log).write_bytes(b"receipts")
    if left == "an empty file":
        path.touch()
    elif left == "a link to nothing":
        opened = tmp_path / "link"
        opened.symlink_to(path)
    before = {file.name for file in tmp_path.iterdir()}
    engine = SqliteEngine(opened)
    for look in (
        lambda: engine.open_store(False, create=True),
        lambda: engine.open_store(False, create=False),
        engine.open_reader,
        engine.open_older,
        engine.exists,
    ):
        with pytest.raises(LedgerError, match="is missing, but its log is there") as refused:
            look()
        assert "put the file back" in refused.value.hint
    assert {file.name for file in tmp_path.iterdir()} == before
    assert (tmp_path / log).read_bytes() == b"receipts"
