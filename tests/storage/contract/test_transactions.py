"""What a transaction promises: all or nothing, seen by others once it is durable, built on what it has read."""

from pathlib import Path

import pytest

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.open import LedgerSettings, open_writer
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.storage.contract import Store
from mcp_guard.storage.errors import ChangedElsewhere
from mcp_guard.storage.place import Database
from mcp_guard.storage.rows import TreeHead
from tests.promises.harness import Clock
from tests.storage.contract.engines import Place, writing


def head(size: int) -> TreeHead:
    return TreeHead(size, bytes([size]) * 32, "ledger.example+00000000+key")


def test_what_is_committed_is_seen_by_others_and_there_when_it_is_opened_again(place: Place, store: Store) -> None:
    other = place.open()
    store.begin()
    store.note("name", "value")
    assert store.noted("name") == "value"
    assert other.noted("name") is None
    store.commit()
    assert other.noted("name") == "value"
    store.close()
    other.close()
    assert place.open().noted("name") == "value"


def test_what_is_rolled_back_has_not_happened(store: Store, other: Store) -> None:
    store.begin()
    store.advance_head(0, head(1), "checkpoint")
    store.open_call(0, "guard")
    store.rollback()
    store.rollback()  # outside a transaction it has no effect
    assert store.head().size == other.head().size == 0
    assert store.open_calls() == []


def test_a_head_that_is_not_as_expected_is_not_advanced(store: Store, other: Store) -> None:
    with writing(store):
        store.advance_head(0, head(1), "first")
    with pytest.raises(ChangedElsewhere, match="the head"), writing(other):
        other.advance_head(0, head(2), "second")
    assert (other.head(), other.checkpoint()) == (head(1), "first")


def test_a_transaction_builds_on_what_others_have_committed(store: Store, other: Store) -> None:
    for size in range(6):
        connection = (store, other)[size % 2]
        with writing(connection):
            assert connection.head().size == size
            connection.advance_head(size, head(size + 1), str(size))


def test_version_differs_when_another_connection_has_added_receipts(store: Store, other: Store) -> None:
    before = store.version()
    assert store.version() == before
    with writing(other):
        other.advance_head(0, head(1), "another's")
    assert store.version() != before


def test_a_reader_sees_what_is_committed_and_cannot_write(place: Place, store: Store) -> None:
    with writing(store):
        store.note("name", "value")
    reader = place.open_reader()
    assert reader.noted("name") == "value"
    with pytest.raises(LedgerError) as refused, reader.reading():
        reader.note("name", "other")
    assert refused.value.hint
    assert store.noted("name") == "value"


def test_a_failure_of_the_engine_is_explained(place: Place, store: Store) -> None:
    place.present("guard")
    with writing(store):
        store.open_call(1, "guard")
    with pytest.raises(store.failures) as failed, writing(store):
        store.open_call(1, "guard")
    explained = store.explain(failed.value)
    assert isinstance(explained, LedgerError)
    assert store.name in explained.full
    assert store.name not in explained.message
    assert store.open_calls() == [(1, "guard")]


def writer_of(folder: Path, place: Place) -> Writer:
    database = place.place if isinstance(place.place, Database) else None
    return open_writer(LedgerSettings(folder, "test.example", database=database), Clock())


def test_processes_that_find_the_ledger_empty_go_on_from_what_the_first_of_them_writes(
    tmp_path: Path, place: Place
) -> None:
    first, second = writer_of(tmp_path, place), writer_of(tmp_path, place)
    first.run(lambda tx: None)
    assert second.run(lambda tx: tx.add(Draft("second", {}))) == 0
    assert first.run(lambda tx: tx.add(Draft("first", {}))) == 1
    first.close()
    second.close()


def test_an_op_that_raises_where_others_are_excluded_is_run_once(tmp_path: Path, place: Place) -> None:
    writer = writer_of(tmp_path, place)
    ran: list[bool] = []

    def op(tx: Transaction) -> None:
        ran.append(tx.store.excludes_others)
        raise LookupError

    with pytest.raises(LookupError):
        writer.run(op)
    assert ran == [True]
    writer.close()


def test_a_connection_that_could_not_begin_a_transaction_begins_the_next(tmp_path: Path, place: Place) -> None:
    writer = writer_of(tmp_path, place)
    quick = "SET lock_timeout = 50" if isinstance(place.place, Database) else "PRAGMA busy_timeout = 50"
    writer.store._run(quick)  # type: ignore[attr-defined]
    other = place.open()
    other.begin()
    other.head()
    with pytest.raises(LedgerError) as refused:
        writer.run(lambda tx: tx.add(Draft("first", {})))
    assert refused.value.fault is LedgerFault.BUSY
    other.rollback()
    assert writer.run(lambda tx: tx.add(Draft("second", {}))) == 0
    writer.close()


def test_announcing_changes_nothing_else(store: Store, other: Store) -> None:
    with writing(store):
        store.announce([f"ap_{number:010}" for number in range(2000)])
        store.note("name", "value")
    assert other.noted("name") == "value"
