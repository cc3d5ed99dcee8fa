"""A transaction without a lock builds on the head that its process knows. It has no effect if that one has moved."""

from pathlib import Path
from typing import Any

import pytest
from psycopg.errors import DivisionByZero

from mcp_guard.core.receipt import Draft
from mcp_guard.ledger.writer import Op, Transaction
from mcp_guard.storage.errors import HeadMoved
from mcp_guard.storage.postgres.connection import PREPARED
from tests.storage.contract.engines import postgres, writing
from tests.storage.contract.test_transactions import head, writer_of


def test_nothing_is_written_before_the_head_is_known_to_be_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An op that reads what it wrote has it sent early. Without the lock, two can wait for each other."""
    place = postgres(tmp_path)
    store, other = place.open(), place.open()
    place.present("guard", "another")
    known = store.head()
    with writing(other):
        other.advance_head(0, head(1), "another's")
        other.open_call(0, "another")
    store.begin(known, locked=False)
    store.open_call(0, "guard")
    with pytest.raises(HeadMoved):
        store.open_calls()
    store.rollback()
    assert store.open_calls() == [(0, "another")]
    assert not caplog.records, "the operator would read of each transaction that is repeated"
    place.close()


def test_what_an_op_wrote_and_read_is_committed_on_a_head_that_is_the_same(tmp_path: Path) -> None:
    place = postgres(tmp_path)
    store, other = place.open(), place.open()
    place.present("guard")
    store.begin(store.head(), locked=False)
    store.open_call(0, "guard")
    assert store.open_calls() == [(0, "guard")]
    assert other.open_calls() == []
    store.advance_head(0, head(1), "checkpoint")
    store.commit()
    assert (other.head(), other.open_calls()) == (head(1), [(0, "guard")])
    place.close()


@pytest.mark.parametrize("is_writing", [True, False])
def test_statements_that_were_to_be_prepared_when_an_exchange_failed_work_afterwards(
    tmp_path: Path, is_writing: bool
) -> None:
    """psycopg prepares a statement that was executed a few times, and what follows a failure is not executed."""
    place = postgres(tmp_path)
    store: Any = place.open()
    works = ("SELECT %s::bigint + 1", (1,))
    for number in range(3):
        for _ in range(PREPARED if number else 0):
            store.wire.exchange([works])
        if is_writing:
            store.begin()
            store.head()
        with pytest.raises(DivisionByZero):
            store.wire.exchange([("SELECT 1 / %s::bigint", (0,)), works])
        store.rollback()
        if number:
            assert store.wire.exchange([works])[0].fetchall() == [(2,)]
    place.close()


def noting(value: str) -> Op[None]:
    def op(tx: Transaction) -> None:
        tx.store.note("name", value)
        tx.add(Draft("noted", {}))

    return op


@pytest.mark.parametrize("raises", [True, False])
def test_what_an_op_makes_of_reads_that_do_not_fit_together_is_no_result(tmp_path: Path, raises: bool) -> None:
    """Another gateway commits between two reads of it. It writes nothing, and raises or returns what it found."""
    place = postgres(tmp_path)
    writer, other = writer_of(tmp_path, place), writer_of(tmp_path, place)
    writer.run(noting("old"))
    found: list[tuple[str | None, str | None]] = []

    def op(tx: Transaction) -> tuple[str | None, str | None]:
        first = tx.store.noted("name")
        if not found:
            other.run(noting("new"))
        found.append((first, tx.store.noted("name")))
        if raises and found[-1] != ("new", "new"):
            raise LookupError(found[-1])
        return found[-1]

    assert writer.run(op) == ("new", "new")
    assert found == [("old", "new"), ("new", "new")]
    writer.close()
    other.close()
    place.close()


def test_what_an_op_raises_under_the_lock_is_its_result(tmp_path: Path) -> None:
    place = postgres(tmp_path)
    writer = writer_of(tmp_path, place)
    writer.run(noting("value"))
    excluded: list[bool] = []

    def op(tx: Transaction) -> None:
        excluded.append(tx.store.excludes_others)
        raise LookupError(tx.store.noted("name"))

    with pytest.raises(LookupError, match="value"):
        writer.run(op)
    assert excluded == [False, True]
    writer.run(noting("another"))
    writer.close()
    place.close()


def test_an_answer_that_was_looked_up_before_counts_only_if_the_head_is_the_same(tmp_path: Path) -> None:
    """The transaction itself asks the database for nothing."""
    place = postgres(tmp_path)
    store: Any = place.open()
    other = place.open()
    look = store.look([lambda store: store.noted("name")])
    store.begin(look.head, False, [look])
    assert store.noted("name") is None
    store.commit()
    with writing(other):
        other.note("name", "value")
        other.advance_head(0, head(1), "another's")
    store.begin(look.head, False, [look])
    assert store.noted("name") is None
    with pytest.raises(HeadMoved):
        store.commit()
    store.rollback()
    place.close()


def test_a_read_ahead_of_time_that_raises_is_left_to_the_op(tmp_path: Path) -> None:
    place = postgres(tmp_path)
    store = place.open()

    def read(store: Any) -> None:
        raise LookupError(store.noted("name"))

    for locked in (False, True):
        store.begin(store.head(), locked, [read, lambda store: store.noted("another")])
        assert store.noted("name") is None
        store.commit()
    place.close()
