"""P3 and P9: kill -9 of the guard at each commit and send of a held call loses nothing and runs nothing twice."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.core.approval import ApprovalState
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.ledger.recovery import recover
from mcp_guard.ports import Intent
from tests.kill_points import killed_at, report_commits
from tests.promises.engines import engine, verify
from tests.promises.harness import ALLOW, HOLD, KEYS, Harness, make_instance, open_harness, pending_id, text

pytestmark = pytest.mark.usefixtures("each_engine")
POLICIES = f"{ALLOW}\n{HOLD}"
ASKED = ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 150})
KEY = Ed25519PrivateKey.generate()
KILL_POINTS = 33


def ask_approve_use(folder: Path, at: Callable[[str], None]) -> None:
    """Ask, approve, use; `at` is called at each point at which the process may die."""
    KEYS["alice"] = KEY
    harness = open_harness(folder, POLICIES)

    async def told_send(intent: Intent) -> None:
        at("before send")
        with (folder / "sent").open("a") as log:
            log.write(f"{intent.call.purpose}\n")
        at("after send")

    report_commits(harness.store, at)
    harness.upstream.before = told_send
    id = pending_id(asyncio.run(harness.guard.call(make_instance(), ASKED)))
    harness.approve(id)
    asyncio.run(harness.guard.call(make_instance(), ASKED))
    at("replied")
    harness.close()


def kill_points(folder: Path) -> list[str]:
    seen: list[str] = []
    ask_approve_use(folder, seen.append)
    return seen


def writes(folder: Path) -> int:
    log = folder / "sent"
    return log.read_text().split().count("call") if log.exists() else 0


def check(harness: Harness) -> list[Json]:
    """Verify every receipt and return them."""
    receipts = harness.receipts()
    if receipts:
        report = verify(harness.folder)
        assert report.ok, report.problem
        assert report.calls_without_outcome == 0
    return receipts


def test_every_kill_point_is_reached(tmp_path: Path) -> None:
    assert len(kill_points(tmp_path)) == KILL_POINTS


@pytest.mark.parametrize("number", range(KILL_POINTS))
async def test_guard_killed_at_any_point_loses_nothing_and_runs_nothing_twice(tmp_path: Path, number: int) -> None:
    folder = tmp_path
    assert killed_at(number, partial(ask_approve_use, folder))
    sent = writes(folder)
    engine().let_leases_run_out(folder)
    harness = open_harness(folder, POLICIES)
    recover(harness.ledger.ledger)
    receipts = check(harness)
    intents = {
        receipt["seq"] for receipt in receipts if receipt["kind"] == "intent" and receipt.get("purpose") != "facts"
    }
    outcomes = {receipt["follows"][0]: receipt["ending"] for receipt in receipts if receipt["kind"] == "outcome"}
    states = [approval.state for approval in harness.store.approvals()]
    assert sent <= len(intents)  # every sent call has an intent
    assert intents <= outcomes.keys()  # every intent has an outcome
    # An approval is consumed if and only if its intent exists.
    assert states.count(ApprovalState.CONSUMED) == len(intents)

    async def log_send(intent: Intent) -> None:
        with (folder / "sent").open("a") as log:
            log.write(f"{intent.call.purpose}\n")

    harness.upstream.before = log_send
    reply = text(await harness.guard.call(make_instance(), ASKED))
    if ApprovalState.APPROVED in states:
        assert reply == "done"
        assert writes(folder) == 1
    elif "unknown" in [outcomes[seq] for seq in intents]:
        assert "It may have taken effect" in reply
        assert writes(folder) == sent
    else:
        assert "held by mcp-guard" in reply
        assert writes(folder) == sent
    if ApprovalState.CONSUMED in states:
        await_it = ToolCallRequest(
            "guard__await", {"approval": harness.store.approvals([ApprovalState.CONSUMED])[0].id}
        )
        again = text(await harness.guard.call(make_instance(), await_it))
        assert "It may have taken effect" in again or again == "done"
        assert writes(folder) == sent
    check(harness)
    harness.close()
