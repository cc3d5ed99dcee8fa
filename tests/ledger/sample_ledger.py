"""A sample ledger: about a thousand receipts of every kind, written by the guard's own code."""

import base64
from pathlib import Path

from mcp_guard.core.approval import ApprovalEvent, GrantTerms, Route
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.core.receipt import Draft
from mcp_guard.core.tlog import note
from mcp_guard.ledger import key_rotation
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.approvals.approver_keys import Approver, NewKey, enrol, remove
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.ledger.open import LedgerSettings
from mcp_guard.ledger.writer import Transaction
from tests.ledger.identity_receipts import definitions_of_every_fate, who_may_call
from tests.promises.harness import ALLOW, HOLD, PEOPLE, SECOND, Harness, make_instance, open_harness, pending_id

ORIGIN = "test.example/ledger"
POLICIES = f"{ALLOW}\n{HOLD}".replace(
    "forbid (principal, action, resource)", 'forbid (principal, action == Action::"crm__note", resource)'
)
PEOPLE_ROUTE = Route("people", ("alice", "bob", "carol", "dana"), 7200 * SECOND, escalate_to="chiefs",
                     escalate_after=600 * SECOND)  # fmt: skip
ROUTES = {"people": PEOPLE_ROUTE, "chiefs": Route("chiefs", ("mallory",), 7200 * SECOND)}
SIZE = 1000


async def write_history(folder: Path, size: int = SIZE) -> Harness:
    """Write receipts until there are `size`. The harness stays open; its ledger is `folder/state/ledger.sqlite`."""
    harness = reopen(folder)
    begin(harness)
    rounds = 0
    while harness.store.head().size < size:
        await live(harness, f"{rounds}")
        rounds += 1
        if rounds == 3:
            key_rotation.rotate(LedgerSettings(folder / "state", ORIGIN), harness.clock, "every year")
    await end(harness)
    return harness


def reopen(folder: Path) -> Harness:
    """A guard on the ledger as it is."""
    harness = open_harness(folder, POLICIES, routes=ROUTES)
    harness.clock.time = max(harness.clock.time, harness.store.last_receipt()[0])
    return harness


def begin(harness: Harness) -> None:
    who: Json = {"agent": "agent", "instance": "run_1", "credential": "cred_run_1"}
    harness.note(
        Draft("guard.started", {"guard": "guard_1"}),
        Draft("instance.started", who),
        Draft("credential.issued", who),
        Draft("policy.rejected", {"reasons": ["it does not parse"]}),
    )


async def end(harness: Harness) -> None:
    writer = harness.ledger.writer
    enrol(writer, Approver("dana", "Dana"), NewKey("ed25519", bytes(range(32)), {}))
    remove(writer, "dana", NewKey("ed25519", bytes(range(32)), {}).id, "left")
    erase(harness, [(2, 9), (20, 20)])
    who_may_call(harness)
    await definitions_of_every_fate(harness)
    harness.note(Draft("instance.ended", {"instance": "run_1"}), Draft("guard.stopped", {"guard": "guard_1"}))


async def live(harness: Harness, text: str) -> None:
    """One round of every possible course of a call."""
    await harness.guard.call(make_instance(), ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 5}))
    await harness.guard.call(make_instance(), ToolCallRequest("crm__nothing", {}))
    await approve_and_use(harness, text)
    harness.approve(await ask(harness, f"no {text}"), "alice", "deny")
    for event in (ApprovalEvent.EXPIRE, ApprovalEvent.WITHDRAW, ApprovalEvent.OUTDATE):
        settle(harness, await ask(harness, f"{event} {text}"), event)
    revoked = await ask(harness, f"revoked {text}")
    harness.approve(revoked, "carol")
    votes = Votes(harness.ledger.writer, harness.ledger.approvals.routes, PEOPLE)
    votes.revoke(revoked, "carol", "thought better of it")
    await use_a_grant(harness, text, votes)
    escalated = await ask(harness, f"late {text}")
    harness.clock.time += 601 * SECOND
    harness.approve(escalated, "mallory")
    witness(harness)


async def ask(harness: Harness, text: str) -> str:
    return pending_id(await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": text})))


async def approve_and_use(harness: Harness, text: str) -> None:
    """At first the upstream is down."""
    harness.approve(await ask(harness, text))
    for harness.upstream.is_unreachable in (True, False):
        await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": text}))


async def use_a_grant(harness: Harness, text: str, votes: Votes) -> None:
    harness.approve(await ask(harness, f"many {text}"), "carol", terms=GrantTerms(3, 600, ("text",)))
    for item in ("", "a", "b", "c"):
        harness.upstream.is_unreachable = item == "a"
        await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": f"many {text}{item}"}))
    [grant] = harness.store.grants(state="active")
    votes.revoke(grant.id, "carol", "enough")


def settle(harness: Harness, id: str, event: ApprovalEvent) -> None:
    harness.ledger.writer.run(
        lambda tx: transitions.move(tx, transitions.find_approval(tx, id)[0], event, "so it went")
    )


def witness(harness: Harness) -> None:
    """What `ledger witness` records."""
    head, _ = note.parse(harness.store.checkpoint())
    seen: Json = {"witness": "shelf", "method": "file", "size": head.size, "evidence": {"path": "shelf.txt"}}
    root = base64.b64encode(head.root).decode()
    harness.note(Draft("checkpoint.witnessed", seen | {"root": root}))


def erase(harness: Harness, ranges: list[tuple[int, int]]) -> None:
    """What `ledger forget` does: payloads are deleted and a receipt records it."""

    def op(tx: Transaction) -> None:
        gone = 0
        for first, last in ranges:
            seqs = [row.seq for row in tx.store.kept_after(first - 1, last - first + 1) if row.seq <= last]
            tx.store.erase_payloads(seqs)
            gone += len(seqs)
        fields: Json = {"reason": "asked to", "by": "alice", "count": gone, "seqs": [list(item) for item in ranges]}
        tx.add(Draft("payload.erased", fields))

    harness.ledger.writer.run(op)
