"""Observe mode: everything is decided and recorded, and only always-enforced policies block."""

from pathlib import Path

import pytest
from hypothesis import given, settings

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Effect, Json, Mode, Outcome, ToolCallRequest
from mcp_guard.policy.ruleset import always_in_force
from tests.policy.fixtures import INSTANCE, PERMIT, load, make_call, make_tool, object_of
from tests.policy.strategies import TEXTS, GeneratedRequest, requests, ruleset
from tests.promises.harness import make_instance, open_harness
from tests.proof_size import sized

TOOL = make_tool(object_of(n={"type": "integer"}))
READER = make_tool(object_of(), "read", Effect.READ)
HARD = (
    '@id("hard") @enforce("always") @reason("never that") forbid (principal, action, resource)'
    " when {context.input has n};"
)
SOFT = '@id("soft") @reason("not that") forbid (principal, action, resource);'


@settings(max_examples=sized(300, 25), deadline=None)
@given(TEXTS, requests())
def test_always_enforced_policies_are_never_stricter_than_all_policies(written: str, asked: GeneratedRequest) -> None:
    """In observe mode only annotated policies block or hold a call."""
    rules = ruleset(written)
    marked = {id for id, policy in rules.policies.items() if policy.always}
    everything, always = (
        item.decide(asked.request, asked.entities, asked.principal) for item in (rules, always_in_force(rules))
    )
    if everything.outcome is Outcome.ALLOW:
        assert always.outcome is Outcome.ALLOW
    if always.outcome is not Outcome.ALLOW and not always.errors:
        assert set(always.policies) <= marked
        assert always.policies


@pytest.mark.parametrize(
    ("policies", "arguments", "outcome", "would"),
    [
        (PERMIT, {"n": 1}, Outcome.ALLOW, Outcome.ALLOW),
        (PERMIT + SOFT, {"n": 1}, Outcome.ALLOW, Outcome.DENY),
        (PERMIT + HARD, {"n": 1}, Outcome.DENY, Outcome.DENY),
        (PERMIT + HARD, {}, Outcome.ALLOW, Outcome.ALLOW),
        (HARD, {}, Outcome.ALLOW, Outcome.DENY),
        (SOFT, {"n": "no integer"}, Outcome.ALLOW, Outcome.DENY),
        (HARD, {"n": "no integer"}, Outcome.DENY, Outcome.DENY),
        (PERMIT + HARD.replace("@reason", '@require_approval("people") @reason'), {"n": 1},
         Outcome.REQUIRE_APPROVAL, Outcome.REQUIRE_APPROVAL),
    ],
)  # fmt: skip
def test_observed_outcome_and_enforced_outcome_are_both_given(
    tmp_path: Path, policies: str, arguments: Json, outcome: Outcome, would: Outcome
) -> None:
    decision = load(tmp_path, policies, TOOL).observe(make_call(TOOL, arguments), {})
    assert decision.would is not None
    assert (decision.outcome, decision.would.outcome) == (outcome, would)
    assert "(all)" not in decision.policies


def test_failing_always_enforced_policy_denies(tmp_path: Path) -> None:
    failing = HARD.replace("context.input has n", "context.risk.score + 9223372036854775807 > 0")
    decision = load(tmp_path, PERMIT + failing, TOOL).observe(make_call(TOOL, {}), {})
    assert decision.outcome is Outcome.DENY
    assert decision.errors


def test_all_tools_except_always_forbidden_ones_are_listed(tmp_path: Path) -> None:
    never = '@id("never") @enforce("always") forbid (principal, action in Action::"read", resource);'
    engine = load(tmp_path, never, TOOL, READER)
    assert not engine.may_call(INSTANCE, TOOL)
    assert engine.may_call(INSTANCE, TOOL, observing=True)
    assert not engine.may_call(INSTANCE, READER, observing=True)


@pytest.mark.parametrize(
    "written", [HARD.replace("always", "sometimes"), PERMIT.replace("permit", '@enforce("always") permit')]
)
def test_misplaced_enforce_annotation_is_refused(tmp_path: Path, written: str) -> None:
    with pytest.raises(PolicyError, match="only on a forbid"):
        load(tmp_path, written, TOOL)


async def test_receipt_records_the_enforced_outcome(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, '@id("no") @reason("not this") forbid (principal, action, resource);')
    harness.policies.mode = Mode.OBSERVE
    reply = await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "a"}))
    assert reply["result"]["content"][0]["text"] == "done"
    receipt = harness.receipts("intent")[0]
    assert (receipt["outcome"], receipt["mode"], receipt["would"]["outcome"]) == ("allow", "observe", "deny")
    assert receipt["would"]["policies"] == ["no"]
    assert receipt["would"]["reasons"] == ["not this"]
    assert {tool["_meta"]["mcp-guard/mode"] for tool in await harness.guard.list_tools(make_instance())} == {"observe"}
    harness.close()


async def test_tool_can_have_its_own_mode(tmp_path: Path) -> None:
    from dataclasses import replace

    harness = open_harness(tmp_path, '@id("no") forbid (principal, action, resource);')
    note = harness.upstream.catalog["crm__note"]
    harness.upstream.catalog["crm__note"] = replace(note, rule=replace(note.rule, mode=Mode.OBSERVE))
    assert [tool["name"] for tool in await harness.guard.list_tools(make_instance())] == ["crm__note"]
    assert "result" in await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {}))
    assert "error" in await harness.guard.call(make_instance(), ToolCallRequest("crm__purge", {}))
    harness.policies.mode = Mode.OBSERVE
    harness.upstream.catalog["crm__note"] = replace(note, rule=replace(note.rule, mode=Mode.ENFORCE))
    assert "crm__note" not in [tool["name"] for tool in await harness.guard.list_tools(make_instance())]
    harness.close()


async def test_shadow_policies_are_evaluated_but_not_enforced(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    (tmp_path / "shadow").mkdir()
    harness.policies.shadow = load(
        tmp_path / "shadow",
        '@id("shade") forbid (principal, action, resource);',
        *harness.upstream.tools(),
        attributes={"Deal": {"amount": "number", "stage": "string"}},
    )
    assert "result" in await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "a"}))
    shadow = harness.receipts("intent")[0]["shadow"]
    assert (shadow["outcome"], shadow["policies"]) == ("deny", ["shade"])
    assert shadow["policy_version"] == harness.policies.shadow.version
    harness.policies.shadow.attributes = None  # type: ignore[assignment]
    deal = ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 150})
    assert "isError" not in (await harness.guard.call(make_instance(), deal))["result"], (
        "a shadow that fails fails alone"
    )
    assert harness.receipts("intent")[-1]["shadow"]["reasons"] == ["'NoneType' object is not subscriptable"]
    harness.close()
