"""What the inbox reads while thousands of requests wait."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from mcp_guard.core.approval import ApprovalState, RouteRule
from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import RequestRow
from mcp_guard.web.open_requests import READ_AGAIN, OpenRequests
from tests.proof_size import sized
from tests.storage.contract.engines import sqlite, writing
from tests.storage.contract.test_approvals import make_approval

COUNT = sized(10_000, 2_000)
MORE = f"""WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {COUNT - 1})
INSERT INTO approval SELECT id || printf('%05d', n), state, instance, lookup, request_hash, decision_hash, nonce, rules,
  subject, votes, requested + n % 97, expires, note, outcome, answered, receipts FROM approval, number"""


def test_a_look_reads_only_rows_that_are_new_or_may_have_escalated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = sqlite(tmp_path)
    store = place.open()
    with writing(store):
        store.add_approval(make_approval("ap_0", 100), [0])
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as ledger, ledger:
        ledger.execute(MORE)
    read: list[int] = []
    real = type(store).open_requests

    def counted(store: Store, ids: Iterable[str]) -> list[RequestRow]:
        found = real(store, ids)
        read.append(len(found))
        return found

    monkeypatch.setattr(type(store), "open_requests", counted)
    requests = OpenRequests()
    rows = requests.read(store)
    assert [(row.requested, row.id) for row in rows] == sorted((row.requested, row.id) for row in rows)
    with writing(store):
        store.move_approval(make_approval("ap_0", 100), ApprovalState.DENIED, "", [1])
        store.add_approval(make_approval("ap_new", 500), [2])
    assert requests.read(store)[-1].id == "ap_new"
    assert len(requests.read(store)) == COUNT
    assert read == [COUNT, READ_AGAIN + 1, READ_AGAIN]
    escalated = make_approval("ap_new", 500, rules=(RouteRule("leads", ("dave",), 1),))
    with writing(store):
        store.move_approval(escalated, ApprovalState.REQUESTED, "", [3])
    looks = [requests.read(store)[-1].approvers for _ in range(COUNT // READ_AGAIN + 1)]
    assert looks[-1] == frozenset({"dave"})
    place.close()
