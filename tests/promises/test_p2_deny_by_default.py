"""P2: any failure while deciding denies, with a receipt; and the same call gets the same decision."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core import canonical
from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.model import (
    Call,
    Effect,
    Execution,
    ExecutionStatus,
    Facts,
    Json,
    Outcome,
    RateCounter,
    ToolCallRequest,
)
from mcp_guard.core.provenance.instances import InstanceHistories
from mcp_guard.policy.engine import load_policies
from tests.promises.harness import (
    ALLOW,
    HOLD,
    NOW,
    SECOND,
    TOOLS,
    Harness,
    make_instance,
    make_world,
    open_harness,
    text,
)

UPDATE = ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 150})
OVERFLOW = '@id("overflow") permit (principal, action, resource) when { 9223372036854775807 + context.risk.score > 0 };'


def tool_error() -> Execution:
    return Execution(ExecutionStatus.TOOL_ERROR, {"result": {"content": [], "isError": True}})


def result(content: Any) -> Callable[[], Execution]:
    return lambda: Execution(ExecutionStatus.OK, {"result": content})


def facts(reading: Callable[[], Execution]) -> Callable[[Harness], None]:
    def arrange(harness: Harness) -> None:
        harness.upstream.reading = reading

    return arrange


def no_facts_tool(harness: Harness) -> None:
    del harness.upstream.catalog["crm__get_deal"]


def dead_upstream(harness: Harness) -> None:
    harness.upstream.troubles["crm"] = "upstream `crm` exited with status 1"


def time_is_up(harness: Harness) -> None:
    harness.clock.time = NOW + 9 * 3600 * SECOND


def no_policies(harness: Harness) -> None:
    harness.policies._engine = None


def broken_engine(harness: Harness) -> None:
    assert harness.policies._engine is not None
    harness.policies._engine.attributes = None  # type: ignore[assignment]


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize(
    ("arrange", "reason"),
    [
        (facts(tool_error), "present state cannot be read"),
        (facts(result({"content": [{"type": "text", "text": "not json"}]})), "no facts in its result"),
        (facts(result({"content": []})), "no facts in its result"),
        (facts(result({"structuredContent": {"amount": "a lot"}})), "does not match the configured attributes"),
        (facts(result({"structuredContent": {"amount": 1.00001}})), "at most 4 digits"),
        (facts(result({"structuredContent": {"amount": 2**60}})), "does not match the configured attributes"),
        (no_facts_tool, "`crm__get_deal` is not listed"),
        (dead_upstream, "exited with status 1"),
        (time_is_up, "expired"),
        (no_policies, "the policies are not loaded yet"),
        (broken_engine, ""),
    ],
)
async def test_every_failure_denies_with_a_receipt(
    tmp_path: Path, arrange: Callable[[Harness], None], reason: str
) -> None:
    harness = open_harness(tmp_path)
    arrange(harness)
    reply = await harness.guard.call(make_instance(), UPDATE)
    assert "error" in reply or reply["result"]["isError"] is True
    assert harness.upstream.writes() == []
    denied = harness.receipts("decision")
    assert [receipt["outcome"] for receipt in denied] == ["deny"]
    assert any(reason in item for item in denied[0]["reasons"])
    harness.close()


@pytest.mark.usefixtures("each_engine")
async def test_policy_error_denies_even_if_another_policy_permits(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{OVERFLOW}")
    reply = await harness.guard.call(make_instance(), ToolCallRequest("crm__purge", {}))
    assert "could not be evaluated" in text(reply)
    assert harness.receipts("decision")[0]["errors"]
    assert harness.upstream.sent == []
    harness.close()


@pytest.mark.usefixtures("each_engine")
async def test_policy_error_denies_despite_an_approval_policy(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}\n{OVERFLOW}")
    reply = await harness.guard.call(make_instance(), ToolCallRequest("crm__purge", {}))
    assert reply["result"]["_meta"]["mcp-guard/decision"]["outcome"] == "deny"
    assert harness.receipts("approval.requested") == []
    harness.close()


@pytest.mark.usefixtures("each_engine")
async def test_hard_forbid_denies_despite_an_approval_policy(tmp_path: Path) -> None:
    hard = '@id("hard") @reason("never") forbid (principal, action == Action::"crm__purge", resource);'
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}\n{hard}")
    assert harness.guard.policies.may_call(make_instance(), TOOLS[3]) is False
    assert (await harness.guard.call(make_instance(), ToolCallRequest("crm__purge", {})))["error"]["code"] == -32602
    harness.close()


@pytest.mark.usefixtures("each_engine")
async def test_rates_are_exact_when_calls_race_in_one_process(tmp_path: Path) -> None:
    import asyncio

    counter = RateCounter("writes", 3600 * SECOND, ("instance",), (Effect.WRITE,))
    limit = '@id("limit") @reason("enough") forbid (principal, action, resource) when { context.rate.writes > 7 };'
    harness = open_harness(tmp_path, f"{ALLOW}\n{limit}", (counter,))

    calls = [harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": str(n)})) for n in range(30)]
    replies = await asyncio.gather(*calls)
    assert [text(reply) for reply in replies].count("done") == 7
    assert len(harness.upstream.sent) == 7
    assert [receipt["rates"]["writes"] for receipt in harness.receipts("intent")] == [*range(1, 8)]
    harness.close()


@pytest.mark.usefixtures("each_engine")
async def test_rates_are_exact_across_two_processes_on_one_ledger(tmp_path: Path) -> None:
    import asyncio

    counter = RateCounter("writes", 3600 * SECOND, ("instance",), (Effect.WRITE,))
    limit = '@id("limit") @reason("enough") forbid (principal, action, resource) when { context.rate.writes > 7 };'
    harnesses = [open_harness(tmp_path, f"{ALLOW}\n{limit}", (counter,)) for _ in range(2)]

    calls = [
        harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": str(n)}))
        for n in range(15)
        for harness in harnesses
    ]
    replies = await asyncio.gather(*calls)
    assert [text(reply) for reply in replies].count("done") <= 7
    assert sum(len(harness.upstream.sent) for harness in harnesses) <= 7
    for harness in harnesses:
        harness.close()


SETS = [ALLOW, f"{ALLOW}\n{HOLD}", '@id("some") permit (principal, action, resource) when { context.risk.score < 20 };']


@given(
    st.sampled_from(SETS),
    st.sampled_from(TOOLS),
    st.dictionaries(
        st.sampled_from(["deal_id", "amount", "stage", "text", "else"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=5)
        | st.lists(st.integers(), max_size=2),
    ),
)
def test_the_same_call_gets_the_same_decision_from_two_engines(policies: str, tool: Any, arguments: Json) -> None:
    import tempfile

    call = describe(DescriptionRules(), "call_1", make_instance(), ToolCallRequest(tool.listed_as, arguments), tool)
    call = DescriptionRules().assess(call, Facts({"amount": 1}, canonical.digest_json({"amount": 1})))
    with tempfile.NamedTemporaryFile("w", suffix=".cedar") as file:
        file.write(policies)
        file.flush()
        environment = make_world({item.listed_as: item for item in TOOLS})
        decisions = [load_policies(Path(file.name), environment).decide(call, {}) for _ in range(2)]
    assert decisions[0] == decisions[1]
    assert decisions[0].outcome in ("allow", "deny", "require_approval")


@pytest.mark.usefixtures("each_engine")
async def test_defect_in_the_guard_denies_with_a_receipt_and_is_raised(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)

    class Defective(type(harness.policies)):  # type: ignore[misc]
        def decide(self, call: Any, counts: Any, now: Any) -> Any:
            raise ZeroDivisionError("a defect")

    guard = replace(harness.guard, policies=Defective(()))
    guard.policies.replace(harness.load(ALLOW))  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        await guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "x"}))
    assert harness.upstream.sent == []
    [receipt] = harness.receipts("decision")
    assert (receipt["outcome"], receipt["reasons"]) == ("deny", ["defect: a defect"])
    harness.close()


async def test_defect_in_describing_a_call_denies_with_a_receipt_and_is_raised(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, ALLOW)
    guard = replace(harness.guard, describe_with=DescriptionRules(forward_meta={"a": "no such kind"}))
    with pytest.raises(KeyError):
        await guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "x"}, {"a": 1}))
    assert harness.upstream.sent == []
    [receipt] = harness.receipts("decision")
    assert (receipt["outcome"], receipt["reasons"]) == ("deny", ["defect: 'no such kind'"])
    harness.close()


async def test_defect_after_a_call_ran_leaves_it_with_its_outcome(tmp_path: Path) -> None:
    class Defective(InstanceHistories):
        def note(self, call: Call, reply: Json) -> None:
            raise ZeroDivisionError

    harness = open_harness(tmp_path, ALLOW)
    guard = replace(harness.guard, memory=Defective())
    with pytest.raises(ZeroDivisionError):
        await guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "x"}))
    [receipt] = harness.receipts("outcome")
    assert receipt["ending"] == "ok"
    harness.close()


@pytest.mark.usefixtures("each_engine")
async def test_intent_follows_only_from_allow(tmp_path: Path) -> None:
    """The last check: even a defect that asks for an intent gets none, and nothing is sent."""
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    call = harness.guard.identify(describe(DescriptionRules(), "call_1", make_instance(), UPDATE, TOOLS[1]))
    held = await harness.guard.decide(DescriptionRules().assess(call, None))
    assert held.outcome is Outcome.REQUIRE_APPROVAL
    for outcome in Outcome:
        decision = held._replace(outcome=outcome)
        if outcome is not Outcome.ALLOW:
            with pytest.raises(ValueError, match="no intent can follow"):
                await harness.ledger.ledger.intend(call, decision, None)
    assert harness.receipts("intent") == []
    harness.close()
