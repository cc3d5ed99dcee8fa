"""P4: nobody approves their own request: not the agent, not the user it acts for, not a key they control."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.core.approval import ApprovalState, GrantTerms
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import ToolCallRequest
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey, enrol, remove, rotate, usable_key
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.storage.rows import ApproverKey
from mcp_guard.verifier import verify_ledger
from tests.live.running_guard import ALLOW_ALL, Client, cli, scripted, text, write_config
from tests.live.running_guard import enrol as enrol_live
from tests.promises.harness import ALLOW, HOLD, PEOPLE, ROUTES, Harness, make_instance, open_harness, pending_id
from tests.promises.harness import text as said

ASKED = ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 150, "stage": "won"})


@pytest.fixture
def harness(tmp_path: Path, each_engine: str) -> Iterator[Harness]:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    yield harness
    harness.close()


async def ask(harness: Harness) -> str:
    return pending_id(await harness.guard.call(make_instance(), ASKED))


async def untouched(harness: Harness, id: str) -> None:
    assert harness.store.approval(id)[0].state is ApprovalState.REQUESTED
    assert "pending" in said(await harness.guard.call(make_instance(), ASKED))
    assert harness.upstream.writes() == []


@pytest.mark.parametrize("approver", ["bob", "dana", "mallory"])
async def test_owner_user_and_strangers_may_not_decide(harness: Harness, approver: str) -> None:
    id = await ask(harness)
    for verdict in ("approve", "deny"):
        with pytest.raises(ApprovalError):
            harness.approve(id, approver, verdict)
    await untouched(harness, id)


def forge(harness: Harness, id: str, key: Ed25519PrivateKey, key_id: str, **changes: Any) -> None:
    """Cast a vote for alice, signed with some key, over some statement."""
    votes = Votes(harness.ledger.writer, ROUTES, PEOPLE)
    statement = votes.prepare(id, "alice", "approve", "because")
    signature = {"signature": base64.b64encode(key.sign(statement.text())).decode()}
    votes.record(replace(statement, **changes) if changes else statement, key_id, signature)


def enrolled(harness: Harness, approver: str) -> tuple[Ed25519PrivateKey, NewKey]:
    key = Ed25519PrivateKey.generate()
    new = NewKey("ed25519", key.public_key().public_bytes_raw(), {})
    enrol(harness.ledger.writer, Approver(approver, PEOPLE[approver]), new)
    return key, new


async def test_approver_cannot_vote_for_another(harness: Harness) -> None:
    """Not with an unenrolled key, not with the owner's own key, not with another's key id."""
    id = await ask(harness)
    _, alices = enrolled(harness, "alice")
    bobs, bobs_public = enrolled(harness, "bob")
    for key, key_id in ((Ed25519PrivateKey.generate(), "0" * 16), (bobs, bobs_public.id), (bobs, alices.id)):
        with pytest.raises(ApprovalError):
            forge(harness, id, key, key_id)
    await untouched(harness, id)


@pytest.mark.parametrize(
    "changes",
    [
        {"rationale": "other"}, {"verdict": "deny"}, {"decision_hash": "sha256:0"}, {"request_hash": "sha256:0"},
        {"origin": "other.example"}, {"at": 1}, {"terms": GrantTerms(100, 60)},
        {"approver": "carol"},
    ],
    ids=str,
)  # fmt: skip
async def test_signature_is_valid_only_for_its_own_statement(harness: Harness, changes: dict[str, object]) -> None:
    id = await ask(harness)
    key, new = enrolled(harness, "alice")
    with pytest.raises(ApprovalError):
        forge(harness, id, key, new.id, **changes)
    await untouched(harness, id)


@pytest.mark.parametrize(
    "changes", [{"decision_hash": "sha256:0"}, {"request_hash": "sha256:0"}, {"origin": "other.example"}], ids=str
)
async def test_a_well_signed_statement_about_something_else_is_refused(
    harness: Harness, changes: dict[str, Any]
) -> None:
    """As signed by an approver who was shown another decision, or a request with the same id in another ledger."""
    id = await ask(harness)
    key, new = enrolled(harness, "alice")
    votes = Votes(harness.ledger.writer, ROUTES, PEOPLE)
    statement = replace(votes.prepare(id, "alice", "approve", "because"), **changes)
    signature = {"signature": base64.b64encode(key.sign(statement.text())).decode()}
    with pytest.raises(ApprovalError, match="does not match approval"):
        votes.record(statement, new.id, signature)
    await untouched(harness, id)


async def test_a_vote_for_one_guard_is_invalid_at_another_where_the_approver_has_the_same_key(tmp_path: Path) -> None:
    """Not even if both ledgers have the same name and hold the same call: each request has a nonce of its own."""
    (tmp_path / "other").mkdir()
    here, there = (open_harness(folder, f"{ALLOW}\n{HOLD}") for folder in (tmp_path, tmp_path / "other"))
    key, new = enrolled(here, "alice")
    enrol(there.ledger.writer, Approver("alice", "Alice"), new)
    asked_here, asked_there = await ask(here), await ask(there)
    there.clock.time = here.clock.time  # so that nothing is refused only for its age
    assert here.ledger.writer.key.origin == there.ledger.writer.key.origin
    votes = Votes(there.ledger.writer, ROUTES, PEOPLE)
    statement = Votes(here.ledger.writer, ROUTES, PEOPLE).prepare(asked_here, "alice", "approve", "because")
    signature = {"signature": base64.b64encode(key.sign(statement.text())).decode()}
    with pytest.raises(ApprovalError, match="no approval"):
        votes.record(statement, new.id, signature)
    with pytest.raises(ApprovalError, match="does not match approval"):
        votes.record(replace(statement, approval=asked_there), new.id, signature)
    own = votes.prepare(asked_there, "alice", "approve", "because")
    with pytest.raises(ApprovalError, match="not a valid signature"):
        votes.record(own, new.id, signature)
    await untouched(there, asked_there)


async def test_old_signature_is_invalid_for_a_new_request(harness: Harness) -> None:
    id = await ask(harness)
    key, new = enrolled(harness, "alice")
    votes = Votes(harness.ledger.writer, ROUTES, PEOPLE)
    old = votes.prepare(id, "alice", "approve", "because")
    signature = {"signature": base64.b64encode(key.sign(old.text())).decode()}
    harness.upstream.facts["amount"] = 7
    other = await ask(harness)
    assert other != id
    for statement in (old, replace(old, approval=other)):
        with pytest.raises(ApprovalError):
            votes.record(statement, new.id, signature)
    harness.clock.time += 11 * 60 * 1_000_000
    fresh = votes.prepare(other, "alice", "approve", "because")
    harness.clock.time += 11 * 60 * 1_000_000
    with pytest.raises(ApprovalError, match="the statement has expired"):
        votes.record(fresh, new.id, {"signature": base64.b64encode(key.sign(fresh.text())).decode()})
    await untouched(harness, other)


def test_key_belongs_to_one_approver(harness: Harness) -> None:
    """The owner cannot enrol their key under an approver's name, nor a key that somebody else had before."""
    _, bobs = enrolled(harness, "bob")
    writer = harness.ledger.writer
    with pytest.raises(ApprovalError, match="already enrolled for `bob`"):
        enrol(writer, Approver("alice", "Alice"), bobs)
    remove(writer, "bob", bobs.id, "left")
    with pytest.raises(ApprovalError, match="already enrolled for `bob`"):
        enrol(writer, Approver("alice", "Alice"), bobs)


async def test_removed_or_rotated_key_cannot_vote(harness: Harness) -> None:
    id = await ask(harness)
    key, first = enrolled(harness, "alice")
    writer = harness.ledger.writer
    new = Ed25519PrivateKey.generate()
    second = NewKey("ed25519", new.public_key().public_bytes_raw(), {})
    rotate(writer, Approver("alice", "Alice"), first.id, second, key.sign)
    with pytest.raises(ApprovalError, match="has no enrolled key"):
        forge(harness, id, key, first.id)
    remove(writer, "alice", second.id, "lost")
    with pytest.raises(ApprovalError, match="has no enrolled key"):
        forge(harness, id, new, second.id)
    await untouched(harness, id)


async def test_who_has_approved_can_still_deny(tmp_path: Path) -> None:
    """A key was stolen, used, and replaced: its vote does not stand against its owner."""
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes={"people": replace(ROUTES["people"], quorum=2)})
    id = await ask(harness)
    harness.approve(id)
    harness.approve(id, "alice", "deny")
    assert harness.store.approval(id)[0].state is ApprovalState.DENIED
    with pytest.raises(ApprovalError):
        harness.approve(id, "carol")
    state = harness.folder / "state"
    assert not verify_ledger(state / "ledger.sqlite", state / "ledger.pub").problem
    assert harness.upstream.writes() == []


async def test_approver_counts_once(tmp_path: Path) -> None:
    routes = {"people": replace(ROUTES["people"], quorum=2)}
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}", routes=routes)
    id = await ask(harness)
    harness.approve(id)
    with pytest.raises(ApprovalError, match="already voted"):
        harness.approve(id)
    assert harness.store.approval(id)[0].state is ApprovalState.REQUESTED
    harness.approve(id, "carol")
    assert harness.store.approval(id)[0].state is ApprovalState.APPROVED


HOLD_POLICIES = (
    ALLOW_ALL + '@id("g") @require_approval("people") forbid (principal, action == Action::"up__echo", resource);'
)


def test_an_agent_with_every_tool_of_the_guard_cannot_approve(tmp_path: Path) -> None:
    """It calls each tool it is offered with everything it knows about the request."""
    config = write_config(tmp_path, scripted("up", tmp_path), HOLD_POLICIES, guard="hold_seconds = 0")
    with Client(config) as client:
        client.start()
        listed = client.tools()
        assert [name for name in listed if name.startswith("guard")] == ["guard__await", "guard__requests"]
        for name in ("guard__await", "guard__requests"):
            assert set(listed[name]["inputSchema"]["properties"]) == {"approval"}
        id = client.call("up__echo", {"text": "x"})["result"]["_meta"]["mcp-guard/decision"]["approval"]
        words = {"approval": id, "id": id, "verdict": "approve", "approver": "alice", "as": "alice", "rationale": "x"}
        for name in listed:
            if name.startswith("guard"):
                client.call(name, words)
        for method in ("approvals/approve", "guard/approve", "tasks/result", "elicitation/create"):
            assert "error" in client.request(method, words)
        for name in ("guard__approve", "approvals__approve", "guard__grant"):
            assert "unknown tool" in client.call(name, words)["error"]["message"]
        assert "pending" in text(client.call("guard__await", {"approval": id}))
        [open_one] = json.loads(cli("approvals", "list", "--config", str(config), "--json").stdout)
        assert (open_one["state"], open_one["votes"]) == ("requested", [])
        alice = enrol_live(config)
        cli("approvals", "approve", id, *alice, "--rationale", "fine")
        assert json.loads(text(client.call("guard__await", {"approval": id})))["tool"] == "echo"


def test_an_approver_whose_key_file_is_of_another_guard_learns_a_command_that_works() -> None:
    """`approvers add alice` enrols the key of that file; that of a removed key is never enrolled again."""
    with pytest.raises(ApprovalError) as refused:
        usable_key([], "key_1", "alice")
    assert refused.value.hint.endswith("mcp-guard approvers add alice")
    with pytest.raises(ApprovalError) as refused:
        usable_key([ApproverKey("key_1", "alice", "ed25519", "", {}, 1, removed=2)], "key_1", "alice")
    assert refused.value.hint.endswith("mcp-guard approvers add alice --key-file FILE")
