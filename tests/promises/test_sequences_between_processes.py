"""Sequences are exact: what an intent says of them is so at its place in the ledger, whoever races, waits or is killed.

`sequences_of` recomputes it from the receipts and requests alone.
"""

import asyncio
import json
import multiprocessing
import random
from dataclasses import replace
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mcp_guard.core.approval import Approval
from mcp_guard.core.grants import Grant
from mcp_guard.core.model import (
    Call,
    Decision,
    Execution,
    ExecutionStatus,
    Json,
    SequenceRule,
    StepOutcome,
    ToolCallRequest,
)
from mcp_guard.ledger.ledger import SqlLedger
from mcp_guard.policy.authoring.past import decisions, versions
from mcp_guard.policy.authoring.replay import replay
from mcp_guard.policy.source import parse_policies, read_policies
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel, Conflict, Intent
from tests.promises.engines import verify
from tests.promises.harness import ALLOW, HOLD, SECOND, Harness, Recorder, make_instance, open_harness, pending_id, text
from tests.promises.test_p1_tasks import INSTANCES, TaskUpstream, make_client
from tests.proof_size import sized

pytestmark = pytest.mark.usefixtures("each_engine")
PROCESSES, KILLED, CALLS = sized(16, 5), sized(5, 2), sized(40, 6)
UPDATE = ("crm__update_deal",)
LOOKED = SequenceRule(
    "looked", ("crm__get_deal",), StepOutcome.SUCCEEDED, ("agent",), 600 * SECOND, "/deal_id", "/deal_id"
)
READ = SequenceRule("has_read", ("crm__get_deal",), StepOutcome.STARTED, ("instance",))
CHANGED = SequenceRule("changed", UPDATE, StepOutcome.STARTED, ("agent",), 600 * SECOND, "/deal_id", "/deal_id")
REFUSED = SequenceRule("refused", UPDATE, StepOutcome.DENIED, ("agent", "resource"), 600 * SECOND)
RULES = (LOOKED, READ, CHANGED, REFUSED)
LOOK_FIRST = """@id("look") @reason("look at the deal first")
forbid (principal, action == Action::"crm__update_deal", resource) unless { context.sequence.looked };"""
KEEP = """@id("keep") @reason("this run has read deals") forbid (principal, action == Action::"crm__note", resource)
when { context.sequence.has_read };"""
ONCE = """@id("once") @reason("changed before") forbid (principal, action == Action::"crm__update_deal", resource)
when { context.sequence.changed };"""
SECOND_LOOK = """@id("again") @require_approval("people") @reason("it was refused before")
forbid (principal, action == Action::"crm__update_deal", resource) when { context.sequence.refused };"""


def get(deal: object = "7") -> ToolCallRequest:
    return ToolCallRequest("crm__get_deal", {"deal_id": deal})


def update(deal: object = "7", amount: float = 1) -> ToolCallRequest:
    return ToolCallRequest("crm__update_deal", {"deal_id": deal, "amount": amount})


NOTE = ToolCallRequest("crm__note", {"text": "a"})


class Step(NamedTuple):
    """What a receipt says has happened to a call, and what its call was."""

    outcome: StepOutcome
    call: str
    tool: str
    instance: str
    resource: str
    deal: object


def sequences_of(harness: Harness) -> list[tuple[Json, Json]]:
    """What each intent of a call says of the sequences, and what the receipts before it and their requests say."""
    taken: list[Step] = []
    calls: dict[str, Step] = {}
    found = []
    for receipt in harness.receipts():
        kind, id = receipt["kind"], receipt.get("call", "")
        if kind in ("intent", "decision") and "purpose" not in receipt:
            request = json.loads(harness.store.payloads(receipt["seq"])["request"])
            resource = receipt.get("resource", {}).get("id", receipt["tool"])
            deal = request["arguments"].get("deal_id")
            calls[id] = Step(StepOutcome.STARTED, id, receipt["tool"], receipt["instance"], resource, deal)
        if kind == "intent" and "purpose" not in receipt:
            found.append((receipt["sequences"], {rule.name: was_taken(rule, taken, calls[id]) for rule in RULES}))
            taken.append(calls[id])
        elif kind == "outcome" and "purpose" not in receipt and receipt["ending"] == "ok":
            taken.append(calls[id]._replace(outcome=StepOutcome.SUCCEEDED))
        elif kind == "outcome" and "purpose" not in receipt and receipt["ending"] == "not_sent":
            taken.remove(calls[id])
        elif kind == "approval.denied" or (
            kind == "decision" and receipt["outcome"] == "deny" and "material" in receipt
        ):
            taken.append(calls[id]._replace(outcome=StepOutcome.DENIED))
    return found


def was_taken(rule: SequenceRule, taken: list[Step], call: Step) -> bool:
    return any(
        step.outcome is rule.counts
        and step.tool in rule.tools
        and ("instance" not in rule.by or step.instance == call.instance)
        and ("resource" not in rule.by or step.resource == call.resource)
        and (rule.same is None or (call.deal is not None and step.deal == call.deal))
        for step in taken
    )


def open_guard(folder: Path, policies: str = "", **options: Any) -> Harness:
    return open_harness(folder, ALLOW + policies, sequences=RULES, **options)


async def test_an_object_is_changed_after_it_was_read(tmp_path: Path) -> None:
    harness = open_guard(tmp_path, LOOK_FIRST)
    call = partial(harness.guard.call, make_instance())
    assert "look at the deal first" in text(await call(update("7")))  # the guard has read it, and nobody else
    failing = replace(harness.guard, upstreams=Failing(harness.upstream.catalog))
    await failing.call(make_instance(), get("7"))
    harness.upstream.is_unreachable = True
    await call(get("7"))
    harness.upstream.is_unreachable = False
    assert "look at the deal first" in text(await call(update("7")))  # neither has it been read by a call that failed
    await call(get("8"))
    assert "look at the deal first" in text(await call(update("7")))
    await call(get("7"))
    assert text(await call(update("7"))) == "done"
    assert harness.receipts("intent")[-1]["sequences"]["looked"] is True
    harness.clock.time += 601 * SECOND
    assert "look at the deal first" in text(await call(update("7")))
    harness.close()


async def test_a_call_that_may_have_run_is_a_step_and_one_that_was_not_sent_is_none(tmp_path: Path) -> None:
    harness = open_guard(tmp_path, KEEP)
    call = partial(harness.guard.call, make_instance())
    harness.upstream.is_unreachable = True
    await call(get())
    harness.upstream.is_unreachable = False
    assert text(await call(NOTE)) == "done"
    replies = []

    async def note_meanwhile(intent: Intent) -> None:
        if intent.call.name == "crm__get_deal":
            replies.append(text(await call(NOTE)))

    harness.upstream.before = note_meanwhile
    await call(get())
    assert "this run has read deals" in replies[0]
    assert "this run has read deals" in text(await call(NOTE))
    assert text(await harness.guard.call(make_instance("run_2"), NOTE)) == "done"
    harness.close()
    harness = open_guard(tmp_path, KEEP)  # a restart forgets nothing
    assert "this run has read deals" in text(await harness.guard.call(make_instance(), NOTE))
    assert [said for said, _ in sequences_of(harness)] == [expected for _, expected in sequences_of(harness)]
    harness.close()


async def test_a_step_of_another_process_between_decision_and_intent_is_seen(tmp_path: Path) -> None:
    harness, other = open_guard(tmp_path, KEEP), open_guard(tmp_path, KEEP)

    class Late(SqlLedger):
        async def intend(self, call: Call, decision: Decision, held: Approval | Grant | None) -> Intent | Conflict:
            await other.guard.call(make_instance(), get())
            return await super().intend(call, decision, held)

    late = Late(harness.ledger.writer, harness.ledger.presence, sequences=RULES)
    assert "this run has read deals" in text(await replace(harness.guard, ledger=late).call(make_instance(), NOTE))
    assert harness.upstream.writes() == []
    for each in (harness, other):
        each.close()


async def test_a_held_call_is_decided_with_the_steps_taken_while_it_waited(tmp_path: Path) -> None:
    hold = HOLD.replace("action, ", 'action == Action::"crm__note", ')
    harness = open_guard(tmp_path, KEEP + hold)
    call = partial(harness.guard.call, make_instance())
    id = pending_id(await call(NOTE))
    await call(get())
    harness.approve(id)
    assert "this run has read deals" in text(await call(NOTE))
    assert harness.upstream.writes() == []
    harness.close()


async def test_what_policies_or_an_approver_refused_is_a_step(tmp_path: Path) -> None:
    large = """@id("large") @reason("too much") forbid (principal, action == Action::"crm__update_deal", resource)
    when { context.input has amount && context.input.amount.greaterThan(decimal("5.0")) };"""
    hold = HOLD.replace("action, resource)", 'action, resource == Deal::"8")')
    harness = open_guard(tmp_path, large + SECOND_LOOK + hold)
    call = partial(harness.guard.call, make_instance())
    harness.upstream.troubles["crm"] = "is down"
    await call(update("7"))  # nothing has judged this call
    harness.upstream.troubles.clear()
    assert text(await call(update("7"))) == "done"
    assert "too much" in text(await call(update("7", 6)))
    again = pending_id(await call(update("7", 2)))
    harness.approve(again)
    assert text(await call(update("7", 2))) == "done"
    assert text(await call(update("9", 2))) == "done"
    harness.approve(pending_id(await call(update("8"))), verdict="deny")
    [decision] = [receipt for receipt in harness.receipts("decision") if receipt.get("resource", {}).get("id") == "8"]
    assert decision["sequences"]["refused"] is False
    await call(update("8", 3))  # although the agent has not been told of the refusal
    assert harness.receipts("decision")[-1]["policies"] == ["again", "gate"]
    assert [said for said, _ in sequences_of(harness)] == [expected for _, expected in sequences_of(harness)]
    harness.close()


async def test_a_task_is_a_step_once_it_has_ended_also_after_a_restart(tmp_path: Path) -> None:
    harness = open_guard(tmp_path, LOOK_FIRST)
    harness.ledger.writer.run(lambda tx: tx.store.add_instance(INSTANCES["run_1"]))
    upstream = TaskUpstream(harness.upstream.catalog, agree=harness.upstream.agree, folder=tmp_path)
    reply = await replace(harness.guard, upstreams=upstream).call(INSTANCES["run_1"], get())
    assert "look at the deal first" in text(await harness.guard.call(INSTANCES["run_1"], update()))
    harness.close()
    harness = open_guard(tmp_path, LOOK_FIRST)
    upstream.states["secret-0"] = "completed"
    ask = {"taskId": reply["task"]["taskId"]}
    await make_client(harness, upstream, "run_1").handle("tasks/get", ask, SILENT_CHANNEL)
    assert text(await harness.guard.call(INSTANCES["run_1"], update())) == "done"
    harness.close()


async def test_a_replay_has_the_value_of_then(tmp_path: Path) -> None:
    harness = open_guard(tmp_path, LOOK_FIRST)
    call = partial(harness.guard.call, make_instance())
    await call(update())
    await call(get())
    await call(update())
    candidate = read_policies(tmp_path / "policies.cedar", ()).policies
    report = replay(decisions(harness.store), versions(harness.store), candidate)
    assert report.never_more_permissive
    assert not report.unlike
    assert not report.differences
    assert report.matrix == {("deny", "deny"): 1, ("allow", "allow"): 2}
    loose = parse_policies({"a.cedar": ALLOW + ONCE}, ()).policies
    [difference] = replay(decisions(harness.store), versions(harness.store), loose).differences
    assert difference.looser
    harness.close()


async def test_a_replay_denies_what_reads_a_sequence_that_was_not_counted_then(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    for request in (get(), update()):
        assert text(await harness.guard.call(make_instance(), request)) == "done"
    candidate = parse_policies({"a.cedar": ALLOW + LOOK_FIRST}, ()).policies
    report = replay(decisions(harness.store), versions(harness.store), candidate)
    assert report.matrix == {("allow", "allow"): 1, ("allow", "deny"): 1}
    [difference] = report.differences
    assert "sequence" in difference.would.errors[0]
    harness.close()


def race(folder: Path, number: int, barrier: Barrier, calls: int) -> None:
    """One process: at the same moment as all others, look and change at random."""
    harness = open_guard(folder, LOOK_FIRST + KEEP + ONCE)
    dice = random.Random(number)

    async def act() -> None:
        barrier.wait(60)
        for turn in range(calls):
            request = dice.choice((get, get, update))(dice.choice("123456789")) if dice.random() < 0.8 else NOTE
            await harness.guard.call(make_instance(f"run_{number}_{turn // 4}"), request)

    asyncio.run(act())
    harness.close()


async def look_and_change(harness: Harness) -> None:
    for request in (get("0"), update("0")):
        await harness.guard.call(make_instance("run_last"), request)


def test_whoever_races_or_is_killed_each_intent_says_what_the_ledger_says(tmp_path: Path) -> None:
    open_guard(tmp_path, LOOK_FIRST + KEEP + ONCE).close()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(PROCESSES)
    racers = [
        context.Process(target=race, args=(tmp_path, number, barrier, 10**6 if number < KILLED else CALLS))
        for number in range(PROCESSES)
    ]
    for racer in racers:
        racer.start()
    for racer in racers[KILLED:]:
        racer.join(120)
        assert racer.exitcode == 0
    for racer in racers[:KILLED]:
        racer.kill()
        racer.join(60)
    harness = open_guard(tmp_path, LOOK_FIRST + KEEP + ONCE)
    asyncio.run(look_and_change(harness))  # maybe nobody else has come to that
    found = sequences_of(harness)
    assert [said for said, _ in found] == [expected for _, expected in found]
    changed = [receipt for receipt in harness.receipts("intent") if receipt["tool"] == UPDATE[0]]
    assert len({receipt["resource"]["id"] for receipt in changed}) == len(changed) > 0  # each once, and after a look
    assert all(receipt["sequences"]["looked"] for receipt in changed)
    harness.close()
    report = verify(tmp_path)
    assert report.ok, report.problem


class Failing(Recorder):
    """An upstream whose tools fail."""

    async def execute(self, intent: Intent, channel: ClientChannel = SILENT_CHANNEL) -> Execution:
        return Execution(ExecutionStatus.TOOL_ERROR, {"result": {"content": [], "isError": True}})
