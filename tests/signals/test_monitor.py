"""Runs are learned when they end, and an unusual call raises a signal that policies can use."""

from dataclasses import replace
from pathlib import Path

from mcp_guard.core.anomaly import DriftRule
from mcp_guard.core.model import ToolCallRequest
from mcp_guard.signals.monitor import ACTS, RiskMonitor
from mcp_guard.signals.run_history import RunHistory
from tests.promises.harness import ALLOW, SECOND, Harness, make_instance, open_harness, text

RULE = DriftRule(rate=0.1, runs=60)
HOLD = """@id("g") @require_approval("people") forbid (principal, action, resource)
when { context.risk.signals.contains("unusual_for_agent") };"""


def watched(harness: Harness) -> RiskMonitor:
    runs = RunHistory(harness.ledger.writer)
    watch = RiskMonitor((), RULE, runs.salt(), runs.recall)
    harness.guard = replace(harness.guard, signals=watch)
    return watch


async def make_run(harness: Harness, watch: RiskMonitor, number: int, *tools: str) -> list[str]:
    instance = make_instance(f"run_{number}")
    messages = []
    for tool in tools:
        arguments = {"text": "x"} if tool == "note" else {"deal_id": "1"}
        messages.append(text(await harness.guard.call(instance, ToolCallRequest(f"crm__{tool}", arguments))))
    harness.clock.time += SECOND
    await RunHistory(harness.ledger.writer).keep(instance, watch.end(instance), RULE.runs)
    return messages


async def test_unusual_behaviour_of_an_agent_is_held(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW} {HOLD}")
    watch = watched(harness)
    for number in range(60):
        said = await make_run(harness, watch, number, "update_deal", "note")
        assert said == ["done", "done"]  # nothing is held while learning
    harness.close()
    then = harness.clock.time
    harness = open_harness(tmp_path, f"{ALLOW} {HOLD}")  # another process: what was learned is in the ledger's file
    harness.clock.time = then
    watch = watched(harness)
    assert await make_run(harness, watch, 100, "update_deal", "note") == ["done", "done"]
    assert "held by mcp-guard" in (await make_run(harness, watch, 101, "update_deal", "purge"))[1]
    risk = harness.receipts("decision")[-1]["risk"]
    assert "unusual_for_agent" in risk["signals"]
    assert any("`crm__purge` after `crm__update_deal`" in because for because in risk["because"])
    assert len(harness.store.runs("agent", 1000)) == RULE.runs  # no more runs are kept than configured
    harness.close()


async def test_empty_run_is_not_stored_and_a_long_run_is_bounded(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    watch = watched(harness)
    await make_run(harness, watch, 1)
    assert harness.store.runs("agent", 10) == []
    from tests.core.provenance.test_history import SEND, call

    for _ in range(ACTS + 5):
        watch.note(call(SEND, to="x", text="y"))
    assert len(watch.end(call(SEND, to="x").instance)) == ACTS
    harness.close()
