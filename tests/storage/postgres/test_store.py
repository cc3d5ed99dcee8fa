"""What a transaction does that was built on a head which another process has advanced."""

from pathlib import Path

import pytest

from mcp_guard.storage.errors import HeadMoved
from mcp_guard.storage.rows import ReceiptRow
from tests.storage.contract.engines import postgres, writing
from tests.storage.contract.test_transactions import head


def test_transaction_on_an_outdated_head_fails_as_such_even_if_it_reads_what_it_wrote(tmp_path: Path) -> None:
    place = postgres(tmp_path)
    store, other = place.open(), place.open()
    known = store.head()
    for connection in (other, store):
        connection.begin(known if connection is store else None, locked=connection is other)
        connection.add_receipt(ReceiptRow(0, "guard.started", 1, None, b"{}", b"", b"leaf"))
        if connection is store:
            with pytest.raises(HeadMoved):
                connection.receipt(0)
            connection.rollback()
        else:
            connection.advance_head(0, head(1), "checkpoint")
            connection.commit()
    with writing(store):
        assert store.head() == head(1)
    place.close()
