"""P3: whoever may write to the database, and has no key, can neither approve a call nor have another one signed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.approval import GrantTerms
from mcp_guard.core.errors import ApprovalError, LedgerError
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.core.redaction import make_redaction
from mcp_guard.ledger.approvals.votes import Votes
from tests.promises.harness import ALLOW, HOLD, PEOPLE, Harness, make_instance, open_harness, pending_id, text

pytestmark = pytest.mark.usefixtures("each_engine")
NOT_RECORDED = "is not what the ledger's receipts say"


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    harness = open_harness(tmp_path, ALLOW + HOLD)
    yield harness
    harness.close()


async def ask(harness: Harness, words: str = "hello") -> Json:
    return await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": words}))


def change(harness: Harness, id: str, **columns: Any) -> None:
    """Change the row, as whoever may write to the database can."""
    members = ", ".join(f"{name} = ?" for name in columns)

    def op(tx: Any) -> None:
        tx.store._write(f"UPDATE approval SET {members} WHERE id = ?", (*columns.values(), id))

    harness.ledger.writer.run(op)


def read(harness: Harness, id: str, column: str) -> Any:
    query = f"SELECT {column} FROM approval WHERE id = ?"
    return harness.ledger.writer.read(lambda store: store._run(query, (id,)).fetchone()[0])  # type: ignore[attr-defined]


async def test_a_row_that_says_approved_approves_nothing(harness: Harness) -> None:
    approved, id = pending_id(await ask(harness)), pending_id(await ask(harness, "other"))
    harness.approve(approved)
    change(harness, id, state="approved", votes=read(harness, approved, "votes"))
    assert NOT_RECORDED in text(await ask(harness, "other"))
    change(harness, id, receipts=read(harness, approved, "receipts"))
    assert NOT_RECORDED in text(await ask(harness, "other"))
    assert harness.upstream.writes() == []
    assert text(await ask(harness)) == "done"


@pytest.mark.parametrize("member", ["arguments", "present", "reasons", "agent"])
async def test_nobody_votes_on_what_a_changed_row_shows(harness: Harness, member: str) -> None:
    id = pending_id(await ask(harness))
    subject = json.loads(read(harness, id, "subject"))
    shown = {"arguments": {"text": "harmless"}, "present": {"text": "x"}, "reasons": ["routine"], "agent": "another"}
    change(harness, id, subject=json.dumps(subject | {member: shown[member]}))
    with pytest.raises(ApprovalError, match=NOT_RECORDED):
        harness.approve(id)
    change(harness, id, subject=json.dumps(subject))
    harness.approve(id)
    assert text(await ask(harness)) == "done"


async def test_nobody_votes_by_the_rules_of_a_changed_row(harness: Harness) -> None:
    id = pending_id(await ask(harness))
    [rule] = json.loads(read(harness, id, "rules"))
    change(harness, id, rules=json.dumps([{**rule, "approvers": ["mallory"]}]))
    votes = Votes(harness.ledger.writer, harness.ledger.approvals.routes, PEOPLE | {"mallory": "Mallory"})
    with pytest.raises(ApprovalError, match=NOT_RECORDED):
        votes.prepare(id, "mallory", "approve", "because")


async def test_a_redacted_request_is_bound_to_its_exact_arguments(harness: Harness) -> None:
    tool = harness.upstream.catalog["crm__note"]
    harness.upstream.catalog["crm__note"] = replace(
        tool, rule=replace(tool.rule, redaction=make_redaction(("/text",), (), None))
    )
    id = pending_id(await ask(harness))
    subject = json.loads(read(harness, id, "subject"))
    assert subject["redacted"]
    change(harness, id, subject=json.dumps(subject | {"arguments": {"text": "harmless"}}))
    with pytest.raises(ApprovalError, match="its arguments differ"):
        harness.approve(id)
    change(harness, id, subject=json.dumps(subject))
    harness.approve(id)
    assert text(await ask(harness)) == "done"


@pytest.mark.parametrize("columns", [{"uses": 50}, {"expires": 2**60}])
async def test_a_changed_grant_permits_nothing(harness: Harness, columns: Json) -> None:
    harness.approve(pending_id(await ask(harness)), terms=GrantTerms(2, 600, ()))
    for _ in range(2):
        assert text(await ask(harness)) == "done"
    [grant] = harness.store.grants()
    changed = replace(grant, **columns)

    def op(tx: Any) -> None:
        tx.store._write("DELETE FROM granted WHERE id = ?", (grant.id,))
        tx.store.add_grant(changed, "run_1")

    harness.ledger.writer.run(op)
    assert NOT_RECORDED in text(await ask(harness))
    assert len(harness.upstream.writes()) == 2


@pytest.mark.parametrize("columns", [{"votes": '[{"approver": "alice"}]'}, {"subject": "[]"}, {"rules": "null"}])
async def test_a_row_that_cannot_be_read_denies(harness: Harness, columns: Json) -> None:
    id = pending_id(await ask(harness))
    change(harness, id, **columns)
    assert "the ledger cannot be used: damaged" in text(await ask(harness))
    with pytest.raises(LedgerError, match=f"the row of approval {id} is damaged"):
        harness.store.approval(id)
