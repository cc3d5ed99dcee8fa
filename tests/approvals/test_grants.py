"""Grants: limited in number and time, bound to every argument not declared free, revocable at once."""

from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.cli import log
from mcp_guard.cli.receipt_filters import ReceiptFilter
from mcp_guard.core.approval import GrantTerms
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.events import ocsf
from mcp_guard.events.summary import summary
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.verifier import verify_ledger
from tests.promises.harness import (
    ALLOW,
    HOLD,
    PEOPLE,
    ROUTES,
    SECOND,
    Harness,
    make_instance,
    open_harness,
    pending_id,
    text,
)

DEAL: Json = {"deal_id": "1", "amount": 150, "stage": "won"}


async def ask(harness: Harness, run_id: str = "run_1", **changes: object) -> Json:
    reply: Json = await harness.guard.call(make_instance(run_id), ToolCallRequest("crm__update_deal", DEAL | changes))
    return reply


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return open_harness(tmp_path, f"{ALLOW}\n{HOLD}")


async def granted(harness: Harness, terms: GrantTerms) -> str:
    """Give a grant on the first call, make that call, and return the grant's id."""
    harness.approve(pending_id(await ask(harness)), terms=terms)
    assert text(await ask(harness)) == "done"
    [grant] = harness.store.grants()
    return str(grant.id)


def verified(harness: Harness) -> str:
    """What cannot be verified of the harness's ledger."""
    return verify_ledger(harness.folder / "state" / "ledger.sqlite", harness.folder / "state" / "ledger.pub").problem


async def test_grant_allows_its_limit_of_matching_calls_and_no_more(harness: Harness) -> None:
    id = await granted(harness, GrantTerms(2, 3600, ("amount",)))
    assert [text(await ask(harness, amount=n)) for n in (1, 2)] == ["done", "done"]
    assert "pending" in text(await ask(harness, amount=3))
    assert harness.store.grant(id).state == "used up"
    assert [receipt["use"] for receipt in harness.receipts("grant.used")] == [1, 2]
    assert len(harness.upstream.writes()) == 3
    assert verified(harness) == ""


async def test_arguments_that_are_not_free_must_match_the_grant(harness: Harness) -> None:
    await granted(harness, GrantTerms(9, 3600, ("amount",)))
    for changes in ({"stage": "lost"}, {"deal_id": "2"}, {"more": 1}):
        assert "pending" in text(await ask(harness, **changes))
    assert "pending" in text(await ask(harness, "run_2"))
    assert text(await ask(harness, amount=7)) == "done"


async def test_resource_is_free_only_if_its_argument_is_free(harness: Harness) -> None:
    await granted(harness, GrantTerms(9, 3600, ("deal_id",)))
    assert text(await ask(harness, deal_id="2")) == "done"
    assert "pending" in text(await ask(harness, deal_id="2", amount=7))


async def test_grant_expires(harness: Harness) -> None:
    await granted(harness, GrantTerms(9, 60, ("amount",)))
    assert text(await ask(harness, amount=1)) == "done"
    harness.clock.time += 61 * SECOND
    assert "pending" in text(await ask(harness, amount=2))


async def test_revoked_grant_ends_at_once(harness: Harness) -> None:
    id = await granted(harness, GrantTerms(9, 3600, ("amount",)))
    Votes(harness.ledger.writer, ROUTES, PEOPLE).revoke(id, "alice", "enough")
    assert "pending" in text(await ask(harness, amount=1))
    with pytest.raises(ApprovalError, match="is revoked"):
        Votes(harness.ledger.writer, ROUTES, PEOPLE).revoke(id, "alice", "enough")
    assert verified(harness) == ""


async def test_changed_policies_end_the_grant(harness: Harness) -> None:
    await granted(harness, GrantTerms(9, 3600, ("amount",)))
    harness.load(f'{ALLOW}\n{HOLD}\n@id("x") forbid (principal, action == Action::"crm__purge", resource);')
    assert "pending" in text(await ask(harness, amount=1))


async def test_hard_forbid_denies_despite_the_grant(harness: Harness) -> None:
    await granted(harness, GrantTerms(9, 3600, ("amount",)))
    tool = harness.upstream.catalog["crm__update_deal"]
    harness.upstream.catalog["crm__update_deal"] = replace(tool, definition_hash="sha256:other")
    assert "pending" in text(await ask(harness, amount=1))  # another definition counts as another tool


@pytest.mark.parametrize(
    "terms",
    [
        GrantTerms(0, 60),
        GrantTerms(101, 60),
        GrantTerms(1, 0),
        GrantTerms(1, 25 * 3600),
        GrantTerms(1, 60, ("nonesuch",)),
    ],
)
async def test_grant_without_limits_is_refused(harness: Harness, terms: GrantTerms) -> None:
    id = pending_id(await ask(harness))
    with pytest.raises(ApprovalError):
        harness.approve(id, terms=terms)


async def test_all_votes_of_a_quorum_must_sign_the_same_grant_terms(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes={"people": replace(ROUTES["people"], quorum=2)})
    id = pending_id(await ask(harness))
    harness.approve(id, "alice", terms=GrantTerms(1, 60))
    with pytest.raises(ApprovalError, match="other grant terms"):
        harness.approve(id, "carol")


async def test_first_vote_of_two_is_not_listed_as_granted(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes={"people": replace(ROUTES["people"], quorum=2)})
    id = pending_id(await ask(harness))
    harness.approve(id, "alice")
    harness.approve(id, "carol")
    votes = harness.receipts("approval.granted")
    shown = harness.ledger.writer.read(lambda store: [log.row(store, vote)[2] for vote in votes])
    assert shown == ["approval.voted (1 of 2)", "approval.granted"]
    assert [summary(vote).split()[0] for vote in votes] == ["approval.voted", "approval.granted"]
    assert [ocsf.event(vote)["activity_id"] for vote in votes] == [ocsf.OTHER, 1]
    assert [ReceiptFilter({"kind": ["approval.voted"]}).matches(vote, lambda _: []) for vote in votes] == [True, False]


async def test_only_approvers_of_its_routes_revoke_a_grant_or_approval(harness: Harness) -> None:
    id = await granted(harness, GrantTerms(9, 3600, ("amount",)))
    votes = Votes(harness.ledger.writer, ROUTES, PEOPLE | {"erin": "Erin"})
    unused = pending_id(await ask(harness, stage="lost"))
    harness.approve(unused)
    for revoked in (id, unused):
        with pytest.raises(ApprovalError, match="`erin` is none"):
            votes.revoke(revoked, "erin", "Alice withdrew her approval")
    votes.revoke(id, "alice", "enough")
