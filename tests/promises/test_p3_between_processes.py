"""P3 between processes: guards on one ledger race for each of many approvals, and each is used once."""

import asyncio
import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from mcp_guard.core.approval import Approval, ApprovalState
from mcp_guard.core.describe import describe
from mcp_guard.core.model import Call, Decision, ToolCallRequest
from mcp_guard.ports import SILENT_CHANNEL, Intent
from mcp_guard.verifier import verify_ledger
from tests.promises.harness import ALLOW, HOLD, Harness, make_instance, open_harness, pending_id
from tests.proof_size import sized

PROCESSES, ROUNDS = sized(8, 4), sized(1000, 40)
POLICIES = f"{ALLOW}\n{HOLD}"


def asked(number: int) -> ToolCallRequest:
    return ToolCallRequest("crm__note", {"text": str(number)})


async def ready(harness: Harness, number: int) -> tuple[Call, Decision]:
    """The call just before its approval is consumed: identified, described and decided."""
    guard, what = harness.guard, asked(number)
    call = describe(guard.describe_with, guard.new_id(), make_instance(), what, harness.upstream.find_tool(what.name))
    call = guard.describe_with.assess(guard.identify(call), None)
    return call, await guard.decide(call)


def race(folder: Path, ids: list[str], barrier: Barrier, wins: Any) -> None:
    """One process: consume each approval and dispatch at the same moment as all others."""
    harness = open_harness(folder, POLICIES)
    mine = os.open(folder / f"dispatched-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def use_approvals() -> None:
        for number, id in enumerate(ids):
            call, decision = await ready(harness, number)
            result = harness.store.approval(id)
            barrier.wait(60)
            held: Approval = result[0]
            intent = await harness.guard.record_intent(call, decision, held)
            if isinstance(intent, Intent):
                os.write(mine, f"{number}\n".encode())
                execution = await harness.guard.execute(intent, SILENT_CHANNEL)
                await harness.guard.record_outcome(intent, execution, SILENT_CHANNEL)

    asyncio.run(use_approvals())
    wins.put(len(harness.upstream.sent))
    harness.close()
    os.close(mine)


async def test_processes_use_each_approval_exactly_once(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, POLICIES)
    harness.store._run("PRAGMA synchronous = OFF")  # only while preparing
    ids = []
    for number in range(ROUNDS):
        ids.append(pending_id(await harness.guard.call(make_instance(), asked(number))))
        harness.approve(ids[-1])
    harness.close()
    context = multiprocessing.get_context("fork")
    barrier, wins = context.Barrier(PROCESSES), context.Queue()
    racers = [context.Process(target=race, args=(tmp_path, ids, barrier, wins)) for _ in range(PROCESSES)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(120)
    assert [racer.exitcode for racer in racers] == [0] * PROCESSES
    won = [wins.get(timeout=5) for _ in racers]
    dispatched = sorted(int(line) for file in tmp_path.glob("dispatched-*") for line in file.read_text().split())
    assert dispatched == list(range(ROUNDS))
    assert sum(won) == ROUNDS
    harness = open_harness(tmp_path, POLICIES)
    assert {approval.state for approval in harness.store.approvals()} == {ApprovalState.CONSUMED}
    assert len(harness.receipts("approval.consumed")) == len(harness.receipts("intent")) == ROUNDS
    harness.close()
    report = verify_ledger(tmp_path / "state" / "ledger.sqlite", tmp_path / "state" / "ledger.pub")
    assert report.ok, report.problem
