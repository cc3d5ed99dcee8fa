"""Receipts, the nodes of their tree, and the payloads that are erased without them."""

import pytest

from mcp_guard.storage.contract import Store
from mcp_guard.storage.errors import ChangedElsewhere
from mcp_guard.storage.rows import SALT_BYTES, GuardKey, ReceiptRow, TreeHead, WitnessedCheckpoint
from tests.storage.contract.engines import Place, writing

SALT = bytes(SALT_BYTES)


def row(seq: int, call: str | None = None, kind: str = "intent") -> ReceiptRow:
    return ReceiptRow(seq, kind, 1000 + seq, call, b'{"seq":%d}' % seq, b"signature", seq.to_bytes(32))


@pytest.fixture
def rows(store: Store) -> list[ReceiptRow]:
    rows = [row(0), row(1, "call_1"), row(2, "call_2"), row(3, "call_1"), row(4, kind="checkpoint.witnessed")]
    with writing(store):
        for each in rows:
            store.add_receipt(each)
        store.advance_head(0, TreeHead(len(rows), bytes(32), "key"), "checkpoint")
    return rows


def test_receipts_are_read_as_they_were_added(store: Store, rows: list[ReceiptRow]) -> None:
    assert [store.receipt(seq) for seq in range(6)] == [*rows, None]
    assert store.receipts_of("call_1") == [rows[1], rows[3]]
    assert store.receipts_of("call_9") == []
    assert list(store.receipts_after(2)) == rows[3:]
    assert list(store.receipts_back()) == rows[::-1]
    assert store.entries(1, 3) == [(seq, rows[seq].body, rows[seq].signature) for seq in (1, 2)]
    assert (store.leaf(3), store.leaf(5)) == (rows[3].leaf, None)
    assert store.last_receipt() == (1004, rows[4].leaf)


def test_an_empty_ledger_has_no_receipts(store: Store) -> None:
    assert (store.head().size, store.head().hashes(), store.checkpoint(), store.last_receipt()) == (0, [], "", (0, b""))
    assert [*store.receipts_after(-1), *store.receipts_back()] == []


def test_a_receipt_is_not_replaced(store: Store, rows: list[ReceiptRow]) -> None:
    with pytest.raises(store.failures), writing(store):
        store.add_receipt(rows[2]._replace(body=b"{}"))
    assert store.receipt(2) == rows[2]


def test_tiles_have_the_hashes_that_exist(store: Store, rows: list[ReceiptRow]) -> None:
    with writing(store):
        for index in (0, 1, 255, 256):
            store.add_node(1, index, index.to_bytes(32))
    assert store.tile(0, 0) == [each.leaf for each in rows]
    assert store.tile(0, 1) == []
    assert store.tile(1, 0) == [index.to_bytes(32) for index in (0, 1, 255)]
    assert store.tile(1, 1) == [(256).to_bytes(32)]


def test_payloads_are_kept_hashed_or_erased(store: Store, other: Store, rows: list[ReceiptRow]) -> None:
    with writing(store):
        store.add_payloads(1, {"request": bytearray(SALT + b"asked"), "response": bytearray(SALT)})
        store.add_payloads(3, {"response": bytearray(SALT + b"done")})
    assert other.payloads(1) == {"request": b"asked", "response": None}
    assert list(other.cells(0, 9)) == [(1, {"request": (SALT, b"asked")}), (3, {"response": (SALT, b"done")})]
    assert [kept.seq for kept in other.kept_after(-1, 9)] == [1, 3]
    assert [(kept.seq, kept.call, kept.body) for kept in other.kept_after(1, 1)] == [(3, "call_1", rows[3].body)]
    with writing(store):
        store.erase_payloads([1, 2])
    assert other.payloads(1) == other.payloads(2) == {}
    assert other.payloads(3) == {"response": b"done"}
    assert store.empty_log()
    assert list(other.receipts_after(-1)) == rows


def test_payloads_of_calls_under_way_are_needed(place: Place, store: Store) -> None:
    place.present("guard_1", "guard_2")
    with writing(store):
        store.open_call(7, "guard_1")
        store.open_call(3, "guard_2")
    assert store.needed(replies=False) == {3, 7}
    with writing(store):
        store.close_call(7)
    assert store.needed(replies=True) == {3}


def test_a_call_is_closed_once(place: Place, store: Store, other: Store) -> None:
    place.present("guard_1", "guard_2")
    with writing(store):
        store.open_call(7, "guard_1")
        store.open_call(3, "guard_2")
    assert other.open_calls() == [(3, "guard_2"), (7, "guard_1")]
    assert other.is_open_call(7)
    with writing(other):
        other.close_call(7)
    with pytest.raises(ChangedElsewhere, match="the open call 7"), writing(store):
        store.close_call(7)
    assert not store.is_open_call(7)


def test_keys_are_in_the_order_in_which_they_came_into_force(store: Store) -> None:
    keys = [GuardKey(0, "first"), GuardKey(12, "second"), GuardKey(40, "third")]
    with writing(store):
        for key in keys:
            store.add_guard_key(key.since, key.verifier)
    assert store.guard_keys() == keys


def test_a_witness_has_its_last_checkpoint(store: Store, rows: list[ReceiptRow]) -> None:
    with writing(store):
        for size in (3, 5):
            store.set_witnessed(WitnessedCheckpoint("git", size, size, f"note {size}"))
        store.set_witnessed(WitnessedCheckpoint("file", 9, 1, "note 9"))
    assert list(store.witnessed().items()) == [
        ("file", WitnessedCheckpoint("file", 9, 1, "note 9")),
        ("git", WitnessedCheckpoint("git", 5, 5, "note 5")),
    ]
    assert (store.says_more(3), store.says_more(4)) == (True, False)
