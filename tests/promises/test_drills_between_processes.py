"""P3: whoever races with a drill or is killed meanwhile, nothing that was put as a drill is ever sent."""

import asyncio
import itertools
import multiprocessing
import random
from contextlib import suppress
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from mcp_guard.core.approval import ApprovalState
from mcp_guard.core.errors import GuardError
from mcp_guard.core.model import ToolCallRequest
from mcp_guard.ledger.drills import DrillIds, put_drill
from tests.promises.drilling import INSTANCE, call_approved, drilling
from tests.promises.engines import verify
from tests.promises.harness import SECOND, Harness
from tests.proof_size import FULL, sized

PROCESSES, KILLED, TURNS = sized(16, 3), sized(5, 1), sized(60, 4)
APPROVAL, CALL = "ap_drill_", "call_drill_"


def race(folder: Path, number: int, barrier: Barrier, turns: int) -> None:
    """One process: at the same moment as all others ask, decide, put drills, and ask for what a drill shows."""
    harness, dice = drilling(folder), random.Random(number)
    count = itertools.count()
    ids = DrillIds(lambda: f"{APPROVAL}{number}_{next(count)}", lambda _: f"{CALL}{number}_{next(count)}")
    routes = harness.ledger.approvals.routes

    async def act() -> None:
        barrier.wait(60)
        for _ in range(turns):
            harness.clock.time += 100 * SECOND
            open_now = harness.ledger.writer.read(lambda store: store.approvals([ApprovalState.REQUESTED]))
            arguments = {"deal_id": "1", "amount": dice.randrange(1, 6), "stage": "won"}
            if open_now and dice.random() < 0.3:
                arguments = dice.choice(open_now).subject.arguments
            with suppress(GuardError):  # another process was first
                harness.ledger.writer.run(lambda tx: put_drill(tx, routes["people"], routes, ids))
            with suppress(GuardError):
                if open_now:
                    harness.approve(dice.choice(open_now).id, verdict=dice.choice(("approve", "approve", "deny")))
            await harness.guard.call(INSTANCE, ToolCallRequest("crm__update_deal", dict(arguments)))

    asyncio.run(act())
    harness.close()


@pytest.mark.usefixtures("each_engine")
async def test_whoever_races_or_is_killed_no_drill_is_sent(tmp_path: Path) -> None:
    harness = drilling(tmp_path)
    await call_approved(harness, 1)
    harness.close()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(PROCESSES)
    racers = [
        context.Process(target=race, args=(tmp_path, number, barrier, 10**6 if number < KILLED else TURNS))
        for number in range(PROCESSES)
    ]
    for racer in racers:
        racer.start()
    for racer in racers[KILLED:]:
        racer.join(240)
        assert racer.exitcode == 0
    for racer in racers[:KILLED]:
        racer.kill()
        racer.join(60)
    harness = drilling(tmp_path)
    check_drills(harness)
    harness.close()
    report = verify(tmp_path)
    assert report.ok, report.problem


def check_drills(harness: Harness) -> None:
    """Each was put when it was due and no other was open, and has ended without an intent."""
    asked = drills = 0
    opened: set[str] = set()
    ended: set[str] = set()
    for receipt in harness.receipts():
        kind, used = receipt["kind"], receipt.get("approval", "")
        id = used["id"] if isinstance(used, dict) else used  # an intent says more of it
        if receipt.get("call", "").startswith(CALL):
            assert kind == "decision" or kind.startswith("approval.")
        if not id.startswith(APPROVAL):
            asked += kind == "approval.requested"
        elif kind == "approval.requested":
            assert not opened
            opened.add(id)
            drills += 1
            assert drills <= (asked + 1) / 2  # of two requests, either one
        else:
            opened.remove(id)
            ended.add(kind)
    assert "approval.missed" in ended or not FULL
    assert ended <= {f"approval.{state}" for state in ("missed", "denied", "expired", "stale")}
