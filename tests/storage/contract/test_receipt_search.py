"""The search index, for ledgers of each engine: what is found, what is counted, and what it does when it is behind."""

import asyncio
import itertools
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.model import HOUR
from mcp_guard.ledger.receipt_search import ReceiptSearch, Search, catch_up, find, index_receipt
from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import find_engine, open_receipt_index
from mcp_guard.storage.receipt_index import MAX_TERMS, IndexedReceipt, IndexPosition, ReceiptIndex
from mcp_guard.storage.rows import ReceiptRow, TreeHead
from mcp_guard.storage.sqlite.receipt_index import ReceiptIndexFile
from mcp_guard.web.search import LedgerSearch
from tests.proof_size import sized
from tests.storage.contract.engines import Place, writing

WHO = {"agent": "deal-agent", "instance": "run_1", "on_behalf_of": "dana", "ticket": "INC-1"}
CALL = {**WHO, "tool": "crm__update_deal"}
REFUND = {**WHO, "tool": "crm__refund", "call": "call_3"}
VERSION = "sha256:" + "ab" * 32


def add(store: Store, *receipts: dict[str, Any]) -> None:
    """Append receipts, an hour after each other, as rows of their own."""
    with writing(store):
        size = store.head().size
        for seq, members in enumerate(receipts, size):
            body = json.dumps({"seq": seq, **members}).encode()
            leaf = f"{store.name} {seq} {members}".encode()
            store.add_receipt(ReceiptRow(seq, members["kind"], seq * HOUR, members.get("call"), body, b"s", leaf))
        store.advance_head(size, TreeHead(size + len(receipts), b"", ""), "")


def a_history(store: Store) -> None:
    """Entries 0 (policies), 1 (a call that went well), 4 (denied), 5 (approved by Alice, then a timeout)."""
    resource = {"type": "Deal", "id": "789"}
    add(
        store,
        {"kind": "policy.loaded", "policy_version": VERSION},
        {"kind": "intent", "call": "call_1", **CALL, "purpose": "facts"},
        {"kind": "intent", "call": "call_1", **CALL, "policies": ["small"], "outcome": "allow", "resource": resource,
         "risk": {"level": "low"}, "policy_version": VERSION},
        {"kind": "outcome", "call": "call_1", **CALL, "ending": "ok", "upstream": "crm"},
        {"kind": "decision", "call": "call_2", **CALL, "agent": "other", "policies": ["no-edits"], "outcome": "deny",
         "risk": {"level": "high"}},
        {"kind": "decision", **REFUND, "policies": ["held"],
         "outcome": "require_approval", "risk": {"level": "medium"}},
        {"kind": "approval.granted", **REFUND, "approver": "alice", "name": "Alice"},
        {"kind": "intent", **REFUND, "policies": ["held"],
         "outcome": "require_approval", "approval": {"id": "ap", "approvers": []}},
        {"kind": "outcome", **REFUND, "ending": "timeout", "upstream": "crm"},
    )  # fmt: skip


@pytest.fixture
def search(place: Place, store: Store) -> Iterator[ReceiptSearch]:
    made = ReceiptSearch(find_engine(place.place), place.folder)
    yield made
    made.close()


def found(search: ReceiptSearch, **wanted: str) -> tuple[int, ...]:
    assert search.catch_up(10)
    lists = {name: value.split(",") for name, value in wanted.items()}
    return search.read(lambda index: find(index, Search(lists), 50, 10)).page.entries


@pytest.mark.parametrize(
    ("wanted", "entries"),
    [
        ({}, (5, 4, 2, 0)),
        ({"entry": "call"}, (5, 4, 2)),
        ({"entry": "other"}, (0,)),
        ({"agent": "other"}, (4,)),
        ({"agent": "other,deal-agent"}, (5, 4, 2)),
        ({"instance": "run_1"}, (5, 4, 2)),
        ({"user": "dana", "ticket": "INC-1", "tool": "crm__refund"}, (5,)),
        ({"tool": "crm__*"}, (5, 4, 2)),
        ({"resource": "Deal/789"}, (2,)),
        ({"resource": "Deal"}, (2,)),
        ({"outcome": "deny"}, (4,)),
        ({"outcome": "timeout", "approver": "alice"}, (5,)),
        ({"outcome": "ok", "approver": "alice"}, ()),
        ({"approver": "Alice"}, (5,)),
        ({"policy": "no-edits"}, (4,)),
        ({"policy": "abababab"}, (2, 0)),
        ({"risk": "high"}, (4,)),
        ({"kind": "policy.loaded"}, (0,)),
        ({"agent": "nobody"}, ()),
        ({"agent": "[a-z]*"}, ()),
    ],
)
def test_calls_and_other_receipts_are_found_by_what_any_of_their_receipts_says(
    store: Store, search: ReceiptSearch, wanted: dict[str, str], entries: tuple[int, ...]
) -> None:
    a_history(store)
    assert found(search, **wanted) == entries


def test_a_value_that_nothing_has_is_named(store: Store, search: ReceiptSearch) -> None:
    a_history(store)
    search.catch_up(10)
    result = search.read(lambda index: find(index, Search({"agent": ["deal-agnet"], "tool": ["crm__*"]}), 50, 10))
    assert result.unknown == (("agent", "deal-agnet"),)


def test_a_call_is_found_by_what_it_becomes_later(store: Store, search: ReceiptSearch) -> None:
    add(store, {"kind": "intent", "call": "call_1", **CALL})
    assert found(search, outcome="ok") == ()
    add(store, {"kind": "outcome", "call": "call_1", **CALL, "ending": "ok"})
    assert found(search, outcome="ok") == (0,)
    assert found(search, agent="deal-agent") == (0,)


def test_times_limit_a_search_by_when_calls_began(store: Store, search: ReceiptSearch) -> None:
    a_history(store)
    search.catch_up(10)
    times = Search({}, since=2 * HOUR, until=4 * HOUR)
    assert search.read(lambda index: find(index, times, 50, 10)).page.entries == (4, 2)
    late = Search({}, since=100 * HOUR)
    assert search.read(lambda index: find(index, late, 50, 10)).page.entries == ()


def test_calls_are_counted_once_by_the_hour_and_by_agent(store: Store, search: ReceiptSearch) -> None:
    a_history(store)
    search.catch_up(10)
    rows = search.read(lambda index: index.counts(0, 8 * HOUR, 24))
    counts = {(kind, value): number for _, kind, value, number in rows}
    assert {value: number for (kind, value), number in counts.items() if kind == "call"} == {
        "allowed": 1, "denied": 1, "held": 1, "approved": 1,
    }  # fmt: skip
    assert counts["agent", "deal-agent"] == 2
    assert counts["tool", "crm__refund"] == counts["denied_by", "no-edits"] == counts["trouble", "crm"] == 1
    assert search.read(lambda index: index.numbers("policy", ["no-edits", "held"])) == {"no-edits": 1, "held": 1}
    assert (counts["policy", "no-edits"], counts["policy", "held"]) == (1, 1)
    assert counts["ending", "ok"] == counts["ending", "timeout"] == counts["risk", "medium"] == 1
    assert search.read(lambda index: index.numbers("instance", ["run_1", "run_2"])) == {"run_1": 3, "run_2": 0}
    steps = search.read(lambda index: index.counts(0, 8 * HOUR, 1))
    assert [step for step, kind, value, _ in steps if (kind, value) == ("ending", "timeout")] == [8]


def test_a_denial_by_people_is_counted_once_and_not_as_the_gates(store: Store, search: ReceiptSearch) -> None:
    add(
        store,
        {"kind": "decision", **REFUND, "policies": ["held"], "outcome": "require_approval"},
        {"kind": "approval.denied", **REFUND, "approver": "alice", "name": "Alice"},
        {"kind": "decision", **REFUND, "policies": ["held"], "outcome": "deny"},
    )
    search.catch_up(10)
    rows = search.read(lambda index: index.counts(0, 8 * HOUR, 24))
    counts = {(kind, value): number for _, kind, value, number in rows}
    assert {pair: number for pair, number in counts.items() if pair[0] in ("call", "denied_by")} == {
        ("call", "held"): 1, ("call", "refused"): 1,
    }  # fmt: skip


def test_what_is_not_a_receipt_is_found_and_stops_nothing(store: Store, search: ReceiptSearch) -> None:
    with writing(store):
        store.add_receipt(ReceiptRow(0, "intent", 0, "call_1", b"[1]", b"s", b"l"))
        store.advance_head(0, TreeHead(1, b"", ""), "")
    add(store, {"kind": "intent", "call": "call_2", **CALL})
    assert found(search) == (1, 0)


def test_the_index_of_another_ledger_is_forgotten(store: Store, place: Place, search: ReceiptSearch) -> None:
    a_history(store)
    assert found(search, agent="other") == (4,)
    index = open_receipt_index(place.folder)
    position = index.position()
    assert index.add([], position, IndexPosition(position.size, b"of another ledger"))
    index.close()
    add(store, {"kind": "guard.started"})
    assert found(search, agent="other") == (4,)
    assert found(search, kind="guard.started") == (9,)
    assert search.read(lambda index: index.numbers("agent", ["other"])) == {"other": 1}


async def test_an_index_of_a_ledger_that_was_given_up_is_forgotten_before_the_first_receipt(
    store: Store, place: Place, search: ReceiptSearch
) -> None:
    with closing(open_receipt_index(place.folder)) as index:
        of_another = IndexedReceipt(0, 0, None, {("agent", "of-another")}, (), ())
        assert index.add([of_another], index.position(), IndexPosition(1, b"of another ledger"))
    reader = find_engine(place.place).background_reader()
    try:
        assert await LedgerSearch(search, reader).read(lambda index: index.position().size) == 0
    finally:
        await reader.close()


async def test_searches_that_wait_for_each_other_leave_threads_to_others(
    store: Store, place: Place, search: ReceiptSearch
) -> None:
    is_searched, is_released = threading.Event(), threading.Event()

    def wait(_: ReceiptIndex) -> bool:
        is_searched.set()
        return is_released.wait(5)

    reader = find_engine(place.place).background_reader()
    of_pages = LedgerSearch(search, reader)
    try:
        async with asyncio.TaskGroup() as searches:
            for _ in range(40):
                searches.create_task(of_pages.read(wait))
            try:
                async with asyncio.timeout(2):
                    await asyncio.to_thread(is_searched.wait)
                    await asyncio.to_thread(int)
            finally:
                is_released.set()
    finally:
        await reader.close()


def test_processes_that_add_the_same_receipts_at_once_add_them_once(store: Store, place: Place) -> None:
    a_history(store)
    indexes = [open_receipt_index(place.folder) for _ in range(2)]
    before = indexes[0].position()
    rows = list(store.receipts_after(-1))
    after = IndexPosition(len(rows), rows[-1].leaf)
    added = [index.add([index_receipt(row) for row in rows], before, after) for index in indexes]
    assert added == [True, False]
    assert indexes[1].numbers("agent", ["deal-agent"]) == {"deal-agent": 2}
    assert catch_up(indexes[1], store, 10, lambda: False)
    for index in indexes:
        index.close()


# Paging, whatever the engine of the ledger


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceiptIndex]:
    made = ReceiptIndexFile(tmp_path_factory.mktemp("index") / "receipt-index.sqlite")
    yield made
    made.close()


TERMS = [("agent", "a"), ("agent", "b"), ("tool", "t"), ("tool", "u"), ("outcome", "ok")]


@settings(max_examples=sized(60, 20), deadline=None)
@given(
    entries=st.lists(st.sets(st.sampled_from(TERMS), min_size=1), max_size=60),
    wanted=st.lists(st.sets(st.sampled_from(TERMS), min_size=1), max_size=3),
    count=st.integers(1, 7),
    seconds=st.sampled_from([0.0, 10.0]),
)
def test_the_pages_of_a_search_have_each_match_once_in_order(
    index: ReceiptIndex,
    entries: list[set[tuple[str, str]]],
    wanted: list[set[tuple[str, str]]],
    count: int,
    seconds: float,
) -> None:
    index.clear()
    receipts = [IndexedReceipt(seq, seq, None, terms, (), ()) for seq, terms in enumerate(entries)]
    assert index.add(receipts, index.position(), IndexPosition(len(entries), b"l"))
    groups = [[id for kind, value in terms for id in index.find_terms(kind, [value], 10) or ()] for terms in wanted]
    expected = [seq for seq, terms in enumerate(entries) if all(terms & group for group in wanted)]
    below: int | None = len(entries)
    pages: list[tuple[int, ...]] = []
    while below is not None:
        page = index.find_entries(groups, below, 0, count, seconds)
        assert page.next is None or page.next < below or page.entries
        pages.append(page.entries)
        below = page.next
    assert list(itertools.chain(*pages)) == expected[::-1]


def test_a_search_that_takes_too_long_says_how_far_it_came(index: ReceiptIndex) -> None:
    index.clear()
    terms = [{("agent", "a")}, {("tool", "t")}]
    receipts = [IndexedReceipt(seq, seq, None, terms[seq % 2], (), ()) for seq in range(2000)]
    index.add(receipts, index.position(), IndexPosition(2000, b"l"))
    groups = [index.find_terms("agent", ["a"], 10) or (), index.find_terms("tool", ["t"], 10) or ()]
    page = index.find_entries(groups, 2000, 0, 10, 0)
    assert page.is_partial
    assert page.next is not None
    assert 0 < page.next < 2000


def test_a_filter_that_too_much_matches_is_named_instead_of_searched(index: ReceiptIndex) -> None:
    index.clear()
    size = MAX_TERMS + 1
    receipts = [
        IndexedReceipt(seq, seq, None, {("ticket", f"INC-{seq}"), ("agent", "a")}, (), ()) for seq in range(size)
    ]
    index.add(receipts, index.position(), IndexPosition(size, b"l"))
    result = find(index, Search({"ticket": ["INC-*"], "agent": ["a"]}), 50, 10)
    assert (result.page.entries, result.too_broad) == ((), (("ticket", "INC-*"),))
    halves = Search({"ticket": [f"INC-*{digit}" for digit in range(10)] + ["INC-1*"]})
    assert find(index, halves, 50, 10).too_broad  # each alone matches few enough
    assert len(find(index, Search({"ticket": ["INC-7*"]}), 50, 10).page.entries) == 50


def test_looking_for_what_matches_ends_in_time(index: ReceiptIndex) -> None:
    index.clear()
    receipts = [IndexedReceipt(seq, seq, None, {("ticket", f"INC-{seq}" + "a" * 90)}, (), ()) for seq in range(5000)]
    index.add(receipts, index.position(), IndexPosition(5000, b"l"))
    assert index.find_terms("ticket", ["*" + "a*" * 20 + "b"], 0) is None
    assert index.find_terms("ticket", ["INC-77" + "a" * 90], 10) is not None


def test_a_file_of_another_version_is_made_again(tmp_path: Path) -> None:
    first = ReceiptIndexFile(tmp_path / "index")
    first.add([], first.position(), IndexPosition(7, b"l"))
    first.close()
    with closing(sqlite3.connect(tmp_path / "index")) as other:
        other.execute("PRAGMA user_version = 99")
    again = ReceiptIndexFile(tmp_path / "index")
    assert again.position().size == 0
    again.close()
