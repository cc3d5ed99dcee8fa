"""A transaction without a lock builds on the head that its process knows. It has no effect if that one has moved."""

from pathlib import Path

import pytest

from mcp_guard.storage.errors import HeadMoved
from tests.storage.contract.engines import postgres, writing
from tests.storage.contract.test_transactions import head


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
