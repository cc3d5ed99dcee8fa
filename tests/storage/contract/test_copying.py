"""A ledger copied from any engine to any other is the same ledger, is seen whole or not at all, and goes on."""

import itertools
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.receipt import Draft
from mcp_guard.files import create_file
from mcp_guard.ledger.migration import migrate
from mcp_guard.ledger.open import LedgerSettings, open_writer
from mcp_guard.ledger.place import FILE
from mcp_guard.ledger.writer import Transaction
from mcp_guard.storage.copying import copy_ledger
from mcp_guard.storage.engines import find_engine, open_read_only, open_store
from mcp_guard.storage.place import Database, Place
from mcp_guard.storage.rows import WitnessedCheckpoint
from mcp_guard.storage.sql.columns import COLUMNS
from mcp_guard.verifier import Requirements, read_keys, verify_full
from mcp_guard.verifier.cli import read_checkpoints
from mcp_guard.verifier.sources import ReceiptSource
from tests.ledger.older_ledger import unpack
from tests.promises.harness import Clock
from tests.storage.contract.engines import PLACES

LATER = 4_000_000_000_000_000
RECEIPTS = 300
"""More than a tile has."""
NAMES = itertools.count()


class CheckFailed(Exception):
    """Raised by a check of a copy."""


def new_place(engine: str, folder: Path) -> Place:
    own = folder / f"copy-{next(NAMES)}"
    own.mkdir()
    return PLACES[engine](own).place


def contents(place: Place) -> dict[str, list[tuple[Any, ...]]]:
    with find_engine(place).open_snapshot(locked=False) as snapshot:
        return {table: sorted(snapshot.rows(table), key=repr) for table in COLUMNS}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> LedgerSettings:
    """One with rows in each table."""
    settings = unpack(tmp_path_factory.mktemp("ledger"))
    clock = Clock()
    clock.time = LATER
    migrate(settings, clock, settings.place, "operator test")
    with closing(open_writer(settings, clock)) as writer:
        writer.run(fill)
    return settings


def fill(tx: Transaction) -> None:
    for number in range(RECEIPTS):
        tx.add(Draft("test", {"number": number}))
    tx.store.keep_run("agent", 5, "instance", b"acts\x00\xff")
    tx.store.note("name", "value \u00e9")
    tx.store.set_witnessed(WitnessedCheckpoint("outside", 1, 2, "note"))
    tx.store.add_delivery("ap_1", "mail", "requested", 3)


@pytest.fixture(params=itertools.product(PLACES, PLACES), ids="-".join)
def copied(ledger: LedgerSettings, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A copy of the ledger, which was in the one engine, in the other."""
    before, after = request.param
    place = new_place(before, tmp_path)
    copy_ledger(ledger.place, place)
    target = new_place(after, tmp_path)
    assert copy_ledger(place, target).size
    return target


def test_copy_has_every_row_of_every_table(ledger: LedgerSettings, copied: Place) -> None:
    rows = contents(ledger.place)
    assert all(rows.values()), "a table without rows proves nothing"
    assert contents(copied) == rows


def test_copy_verifies_against_the_checkpoint_of_the_original(ledger: LedgerSettings, copied: Place) -> None:
    keys, kept = read_keys(ledger.state_dir / "ledger.pub"), read_checkpoints(ledger.state_dir.parent / "checkpoint")
    report = verify_full(find_engine(copied).open_source(), Requirements(keys, against=kept))
    assert (report.ok, report.problem, report.against) == (True, "", [62])


def test_copy_goes_on_with_new_numbers(ledger: LedgerSettings, copied: Place, tmp_path: Path) -> None:
    settings = replace(ledger, state_dir=tmp_path, database=copied if isinstance(copied, Database) else None)
    if isinstance(copied, Path):
        copied.rename(settings.state_dir / FILE)
    create_file(tmp_path / "ledger.key", (ledger.state_dir / "ledger.key").read_bytes())
    clock = Clock()
    clock.time = LATER + 1
    with closing(open_writer(settings, clock, create=False)) as writer:
        last = writer.read(lambda store: store.head().size)
        added = writer.run(lambda tx: (tx.add(Draft("test", {})), tx.store.add_use("c", "k", LATER, 1).id))
    assert added[0] == last
    assert added[1] > max(row[0] for row in contents(ledger.place)["rate_use"])


@pytest.mark.parametrize("engine", PLACES)
def test_nothing_is_left_of_a_copy_whose_check_fails(ledger: LedgerSettings, engine: str, tmp_path: Path) -> None:
    target = new_place(engine, tmp_path)

    def refuse(source: ReceiptSource) -> None:
        with closing(source.open()) as reader:
            assert reader.size() == len(contents(ledger.place)["receipt"])
        raise CheckFailed

    with pytest.raises(CheckFailed):
        copy_ledger(ledger.place, target, check=refuse)
    assert not find_engine(target).exists()
    copy_ledger(ledger.place, target)
    assert find_engine(target).exists()
    with open_read_only(target) as store:
        assert store.stored_bytes() > 100_000


@pytest.mark.parametrize("engine", PLACES)
def test_copy_replaces_no_ledger(ledger: LedgerSettings, engine: str, tmp_path: Path) -> None:
    target = new_place(engine, tmp_path)
    open_store(target, unsafe_skip_fsync=True).close()
    with pytest.raises(LedgerError, match="there is a ledger already"):
        copy_ledger(ledger.place, target)
    assert not contents(target)["receipt"]


def test_nobody_writes_while_a_locked_ledger_is_copied(ledger: LedgerSettings, tmp_path: Path) -> None:
    target = new_place("postgres", tmp_path)

    def write(_: ReceiptSource) -> None:
        with closing(open_store(ledger.place)) as store:
            store.begin()

    with pytest.raises(LedgerError, match="locked"):
        copy_ledger(ledger.place, target, check=write, locked=True)
    assert not find_engine(target).exists()


def test_progress_counts_every_row(ledger: LedgerSettings, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    copy_ledger(ledger.place, new_place("postgres", tmp_path), lambda done, of: seen.append((done, of)))
    assert seen[-1] == (sum(map(len, contents(ledger.place).values())),) * 2
