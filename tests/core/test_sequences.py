"""Which earlier calls a call is compared with, and how their values are."""

from dataclasses import replace

import pytest

from mcp_guard.core.decided_methods import METHODS, READ
from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.model import Call, SequenceRule, StepOutcome, ToolCallRequest
from mcp_guard.core.sequences import asked_keys, is_taken, steps_of
from tests.promises.harness import DEAL, SECOND, make_instance, make_tool

TOOL = make_tool("update_deal", {"deal_id": {"type": "string"}, "ids": {"type": "array"}}, resource=DEAL)
OTHER = make_tool("note", {"text": {"type": "string"}})


def call_of(arguments: dict[str, object], instance: str = "run_1", tool: object = TOOL) -> Call:
    request = ToolCallRequest(tool.listed_as, arguments)  # type: ignore[attr-defined]
    return describe(DescriptionRules(), "call", make_instance(instance), request, tool)  # type: ignore[arg-type]


def rule_of(counts: StepOutcome, **more: object) -> SequenceRule:
    members = {"by": ("instance",), "same": "/deal_id", "earlier": "/deal_id", **more}
    return SequenceRule("looked", ("crm__update_deal",), counts, window=SECOND, **members)  # type: ignore[arg-type]


def follows(rule: SequenceRule, step: Call, call: Call) -> bool:
    """Whether the one call counts as a step before the other."""
    keys = {key for _, key in steps_of([rule], step, rule.counts)}
    return is_taken(rule, [key in keys for key in asked_keys(rule, call)])


@pytest.mark.parametrize(
    ("step", "call", "succeeded", "started"),
    [
        ({"deal_id": "7"}, {"deal_id": "7"}, True, True),
        ({"deal_id": "7"}, {"deal_id": "8"}, False, False),
        ({"deal_id": "A-7"}, {"deal_id": "a7"}, False, True),  # another spelling
        ({"deal_id": 7}, {"deal_id": "7"}, True, True),
        ({"deal_id": -7}, {"deal_id": "-7"}, True, True),
        ({"deal_id": 7}, {"deal_id": "007"}, False, True),
        ({"deal_id": ["7", "8"]}, {"deal_id": "8"}, True, True),
        ({"deal_id": "7"}, {"deal_id": ["7", "8"]}, False, True),  # of several, all must have been read
        ({"deal_id": ["7", "8"]}, {"deal_id": ["8", "7"]}, True, True),
        ({}, {"deal_id": "7"}, False, True),  # a step that may have been about any
        ({"deal_id": {"id": "7"}}, {"deal_id": "7"}, False, True),
        ({"deal_id": "7"}, {}, False, True),  # a call that may be about any
        ({"deal_id": "7"}, {"deal_id": True}, False, True),
        ({"deal_id": "7"}, {"deal_id": []}, False, True),
    ],
)
def test_values_are_compared_towards_the_safe_side(
    step: dict[str, object], call: dict[str, object], succeeded: bool, started: bool
) -> None:
    for counts, expected in (
        (StepOutcome.SUCCEEDED, succeeded),
        (StepOutcome.STARTED, started),
        (StepOutcome.DENIED, started),
    ):
        assert follows(rule_of(counts), call_of(step), call_of(call)) is expected, counts


@pytest.mark.parametrize("counts", StepOutcome)
def test_another_spelling_of_a_resource_is_the_same_for_what_policies_fear(counts: StepOutcome) -> None:
    rule = rule_of(counts, by=("resource",), same=None, earlier=None)
    is_feared = counts is not StepOutcome.SUCCEEDED
    assert follows(rule, call_of({"deal_id": "A-7"}), call_of({"deal_id": "a7"})) is is_feared
    assert follows(rule, call_of({"deal_id": "A-7"}), call_of({"deal_id": "A-7"}))
    assert not follows(rule, call_of({"deal_id": "A-7"}), call_of({"deal_id": "A-8"}))


def test_a_resource_that_was_read_is_a_step_under_the_name_of_its_method() -> None:
    read = METHODS[READ].operation("crm", {})
    rule = replace(rule_of(StepOutcome.STARTED, same=None, earlier=None), tools=(read.listed_as,))
    assert follows(rule, call_of({"uri": "file:///a"}, tool=read), call_of({"deal_id": "7"}))


@pytest.mark.parametrize("counts", StepOutcome)
def test_a_tool_without_the_argument_is_about_no_object(counts: StepOutcome) -> None:
    assert not follows(rule_of(counts), call_of({"deal_id": "7"}), call_of({"text": "7"}, tool=OTHER))


@pytest.mark.parametrize("counts", StepOutcome)
def test_a_step_counts_for_those_with_whom_it_is_grouped(counts: StepOutcome) -> None:
    step, later = call_of({"deal_id": "7"}), call_of({"deal_id": "7"}, instance="run_2")
    assert not follows(rule_of(counts), step, later)
    assert follows(rule_of(counts, by=("agent",)), step, later)
    of_resource = rule_of(counts, by=("agent", "resource"), same=None, earlier=None)
    assert follows(of_resource, step, later)
    assert not follows(of_resource, call_of({"deal_id": "8"}), later)


def test_only_calls_of_its_tools_with_its_outcome_are_steps() -> None:
    rule = rule_of(StepOutcome.SUCCEEDED)
    step = call_of({"deal_id": "7"})
    assert not steps_of([rule], step, StepOutcome.STARTED)
    assert not steps_of([rule], step._replace(purpose="facts"), StepOutcome.SUCCEEDED)
    assert not steps_of([rule], call_of({"deal_id": "7"}, tool=OTHER), StepOutcome.SUCCEEDED)


def test_the_earlier_call_may_have_the_value_elsewhere() -> None:
    rule = rule_of(StepOutcome.SUCCEEDED, earlier="/ids/0")
    assert follows(rule, call_of({"ids": ["7"]}), call_of({"deal_id": "7"}))
    assert not follows(rule, call_of({"ids": ["8"], "deal_id": "7"}), call_of({"deal_id": "7"}))


def test_no_value_can_be_taken_for_a_group() -> None:
    rule = rule_of(StepOutcome.SUCCEEDED, by=("instance", "resource"))
    [(_, key)] = steps_of([rule], call_of({"deal_id": "7"}), StepOutcome.SUCCEEDED)
    hidden = call_of({"deal_id": "7\x1f" + key})
    assert not {key} & {other for _, other in steps_of([rule], hidden, StepOutcome.SUCCEEDED)}
