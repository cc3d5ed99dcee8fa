"""A ledger with a past: about a thousand receipts of every kind, written by the guard's own code."""

import base64
from pathlib import Path

from mcp_guard.core.approval import ApprovalEvent, Route
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.core.receipt import Draft
from mcp_guard.core.tlog import note
from mcp_guard.ledger import key_rotation
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.approvals.approver_keys import NewKey, enrol, remove
from mcp_guard.ledger.approvals.votes import Approver, GrantTerms, Votes
from mcp_guard.ledger.open import LedgerSettings
from mcp_guard.ledger.writer import Transaction
from tests.ledger.callers import definitions_of_every_fate, who_may_call
from tests.promises.house import ALLOW, GATE, PEOPLE, SECOND, House, make_instance, open_house, pending_id

ORIGIN = "test.example/ledger"
POLICIES = f"{ALLOW}\n{GATE}".replace(
    "forbid (principal, action, resource)", 'forbid (principal, action == Action::"crm__note", resource)'
)
PEOPLE_ROUTE = Route("people", ("alice", "bob", "carol", "dana"), 7200 * SECOND, escalate_to="chiefs",
                     escalate_after=600 * SECOND)  # fmt: skip
ROUTES = {"people": PEOPLE_ROUTE, "chiefs": Route("chiefs", ("mallory",), 7200 * SECOND)}
SIZE = 1000


async def write_history(folder: Path, size: int = SIZE) -> House:
    """The house is open; its ledger is `folder/state/ledger.sqlite`."""
    house = reopen(folder)
    begin(house)
    rounds = 0
    while house.store.head().size < size:
        await live(house, f"{rounds}")
        rounds += 1
        if rounds == 3:
            key_rotation.rotate(LedgerSettings(folder / "state", ORIGIN), house.clock, "every year")
    end(house)
    return house


def reopen(folder: Path) -> House:
    """A guard on the ledger as it is."""
    house = open_house(folder, POLICIES, routes=ROUTES)
    house.clock.time = max(house.clock.time, house.store.last_time())
    return house


def begin(house: House) -> None:
    who: Json = {"agent": "agent", "instance": "run_1", "credential": "cred_run_1"}
    house.ledger.ledger.note(
        Draft("guard.started", {"guard": "guard_1"}),
        Draft("instance.started", who),
        Draft("credential.issued", who),
        Draft("policy.rejected", {"reasons": ["it does not parse"]}),
    )


def end(house: House) -> None:
    writer = house.ledger.writer
    enrol(writer, Approver("dana", "Dana"), NewKey("ed25519", bytes(range(32)), {}))
    remove(writer, "dana", NewKey("ed25519", bytes(range(32)), {}).id, "left")
    erase(house, [(2, 9), (20, 20)])
    who_may_call(house)
    definitions_of_every_fate(house)
    house.ledger.ledger.note(
        Draft("instance.ended", {"instance": "run_1"}), Draft("guard.stopped", {"guard": "guard_1"})
    )


async def live(house: House, text: str) -> None:
    """One round of all that can become of a call."""
    await house.guard.call(make_instance(), ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 5}))
    await house.guard.call(make_instance(), ToolCallRequest("crm__nothing", {}))
    await approve_and_use(house, text)
    house.approve(await ask(house, f"no {text}"), "alice", "deny")
    for event in (ApprovalEvent.EXPIRE, ApprovalEvent.WITHDRAW, ApprovalEvent.OUTDATE):
        settle(house, await ask(house, f"{event} {text}"), event)
    revoked = await ask(house, f"revoked {text}")
    house.approve(revoked, "carol")
    votes = Votes(house.ledger.writer, house.ledger.approvals.routes, PEOPLE)
    votes.revoke(revoked, "carol", "thought better of it")
    await use_a_grant(house, text, votes)
    escalated = await ask(house, f"late {text}")
    house.clock.time += 601 * SECOND
    house.approve(escalated, "mallory")
    witness(house)


async def ask(house: House, text: str) -> str:
    return pending_id(await house.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": text})))


async def approve_and_use(house: House, text: str) -> None:
    house.approve(await ask(house, text))
    await house.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": text}))


async def use_a_grant(house: House, text: str, votes: Votes) -> None:
    house.approve(await ask(house, f"many {text}"), "carol", terms=GrantTerms(3, 600, ("text",)))
    for each in ("", "a", "b"):
        await house.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": f"many {text}{each}"}))
    [grant] = house.store.grants(state="active")
    votes.revoke(grant.id, "carol", "enough")


def settle(house: House, id: str, event: ApprovalEvent) -> None:
    house.ledger.writer.run(lambda tx: transitions.move(tx, transitions.find_approval(tx, id)[0], event, "so it went"))


def witness(house: House) -> None:
    """What `ledger witness` records."""
    head, _ = note.parse(house.store.checkpoint())
    seen: Json = {"witness": "shelf", "method": "file", "size": head.size, "evidence": {"path": "shelf.txt"}}
    root = base64.b64encode(head.root).decode()
    house.ledger.ledger.note(Draft("checkpoint.witnessed", seen | {"root": root}))


def erase(house: House, ranges: list[tuple[int, int]]) -> None:
    """What `ledger forget` does: payloads go, and a receipt says so."""

    def op(tx: Transaction) -> None:
        gone = 0
        for first, last in ranges:
            gone += tx.store._run("DELETE FROM payload WHERE seq BETWEEN ? AND ?", (first, last)).rowcount
        fields: Json = {"reason": "asked to", "by": "alice", "count": gone, "seqs": [list(each) for each in ranges]}
        tx.add(Draft("payload.erased", fields))

    house.ledger.writer.run(op)
