"""A guard of `harness.py` whose route has drills, and what its dispatcher does with them."""

import itertools
from pathlib import Path

from mcp_guard.core.approval import ApprovalEvent, ApprovalState, GrantTerms, Route
from mcp_guard.core.drills import DrillRule, Drills
from mcp_guard.core.model import Json, SequenceRule, StepOutcome, ToolCallRequest
from mcp_guard.ledger import registry
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.drills import DrillIds, put_drill
from tests.promises.harness import ALLOW, HOLD, NOW, SECOND, Harness, make_instance, open_harness, pending_id, text

HUNDREDFOLD = DrillRule("crm__update_deal", "no ticket asks for so much", {}, {"amount": 100}, ())
ROUTE = Route("people", ("alice", "carol", "erin"), 3600 * SECOND, drills=Drills(2, (HUNDREDFOLD,)))
INSTANCE = make_instance(expires=NOW + 10**9 * SECOND)
IDS = itertools.count()


def drilling(folder: Path, *routes: Route) -> Harness:
    refused = SequenceRule("refused", ("crm__update_deal",), StepOutcome.DENIED, ("agent",), 3600 * SECOND)
    by_name = {route.name: route for route in routes or (ROUTE,)}
    harness = open_harness(folder, f"{ALLOW}\n{HOLD}", routes=by_name, sequences=(refused,))
    if harness.store.instance(INSTANCE.id) is None:
        harness.ledger.writer.run(lambda tx: registry.issue(tx, INSTANCE, {"by": "cli"}))
    return harness


async def ask(harness: Harness, amount: int) -> Json:
    call = ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": amount, "stage": "won"})
    reply: Json = await harness.guard.call(INSTANCE, call)
    return reply


async def call_approved(harness: Harness, amount: int) -> None:
    harness.approve(pending_id(await ask(harness, amount)))
    assert text(await ask(harness, amount)) == "done"


def put(harness: Harness) -> bool:
    """What a dispatcher does each second."""
    makes = DrillIds(lambda: f"ap_x{next(IDS)}", lambda _: f"call_x{next(IDS)}")
    routes = harness.ledger.approvals.routes
    return harness.ledger.writer.run(lambda tx: put_drill(tx, routes["people"], routes, makes))


async def make_drill(harness: Harness) -> str:
    for amount in (150, 160):
        await call_approved(harness, amount)
    harness.clock.time += 300 * SECOND
    assert put(harness)
    [drill] = harness.store.approvals([ApprovalState.REQUESTED])
    return str(drill.id)


def expire(harness: Harness, id: str) -> None:
    harness.clock.time += 3600 * SECOND
    held, _ = harness.store.approval(id)
    harness.ledger.writer.run(lambda tx: transitions.settle(tx, held, ApprovalEvent.EXPIRE, "nobody decided"))


async def drills_of_every_fate(folder: Path) -> list[Json]:
    """The receipts of drills that were missed, caught, not decided on and withdrawn."""
    harness = drilling(folder)
    harness.approve(await make_drill(harness), terms=GrantTerms(2, 600))
    harness.approve(await make_drill(harness), verdict="deny")
    expire(harness, await make_drill(harness))
    await make_drill(harness)
    harness.end()
    receipts = harness.receipts()
    harness.close()
    return receipts
