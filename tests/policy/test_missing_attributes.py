"""A policy is not loaded if it names an argument or attribute that no call in its scope can have."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Outcome, ResourceRule
from tests.policy.fixtures import PERMIT, load, make_tool, object_of
from tests.policy.test_blind_spots import CLOSING, NULLABLE, READS_FACTS, STRING, TYPED, outcome


@pytest.mark.parametrize(
    ("condition", "missing"),
    [
        ('context.input has stgae && context.input.stgae == "c"', "`context.input.stgae`"),
        ('context["input"] has "stgae"', "`context.input.stgae`"),
        ("context.input has stage.name", "unexpected type"),
        ("context.input has o.y", "`context.input.o.y`"),
        ('{a: context.input}.a has stgae', "`context.input.stgae`"),
        ("(if context.risk.score > 1 then context.input else context.input) has stgae", "`context.input.stgae`"),
        ("context.input has untyped", "`context.input.untyped`"),
        ("context.change.delta has stage", "`context.change.delta.stage`"),
        ("context.task has tikcet", "`context.task.tikcet`"),
        ("context has inptu", "`context.inptu`"),
        ("context.rate has writes", "`context.rate.writes`"),
        ("principal has on_behalf", "`principal.on_behalf`"),
        ("resource has amount", "`resource.amount`"),
        ('principal.hasTag("x")', "`principal` has no tags"),
        ('Agent::"x" has ownr', "`Agent::ownr`"),
        ('!(context.input has stgae) || context.input.stage == "x"', "`context.input.stgae`"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("effect", ["permit", "forbid", '@require_approval("people") forbid'])
def test_an_attribute_that_no_call_can_have_is_refused(
    tmp_path: Path, condition: str, missing: str, effect: str
) -> None:
    tool = make_tool({**object_of(stage=STRING, o=object_of(x=STRING), untyped={}), "required": ["stage"]})
    with pytest.raises(PolicyError) as caught:
        load(tmp_path, f'@id("p") {effect} (principal, action, resource) when {{ {condition} }};', tool)
    assert re.match(r"test\.cedar:1:\d+: p: ", caught.value.message)
    assert missing in caught.value.message


def test_the_refusal_names_the_tool_and_the_nearest_spelling(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"`up__typed` declares no `stagge` there .*; did you mean `stage`\?"):
        load(tmp_path, PERMIT + CLOSING.replace("stage", "stagge"), TYPED)


@pytest.mark.parametrize(
    ("condition", "section"),
    [
        ("context.rate has writes", "rates.writes"),
        ("context.rate.writes > 5", "rates.writes"),
        ("context.sequence.looked", "sequences.NAME"),
        ("context has sequence && context.sequence.looked", "sequences.NAME"),
    ],
)
def test_what_is_not_configured_is_to_be_copied_or_added(tmp_path: Path, condition: str, section: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load(tmp_path, f'@id("p") permit (principal, action, resource) when {{ {condition} }};', TYPED)
    all_of_them = section.partition(".")[0]
    assert caught.value.hint.startswith(f"copy `[{all_of_them}]` from the pack's example configuration (examples/packs")
    assert caught.value.hint.endswith(f"or add `[{section}]` to the configuration")


def test_one_tool_in_scope_with_the_attribute_is_enough(tmp_path: Path) -> None:
    load(tmp_path, PERMIT + CLOSING, TYPED, make_tool(object_of(note=STRING)))
    narrow = CLOSING.replace("action,", 'action == Action::"up__tool",')
    with pytest.raises(PolicyError, match=r"context\.input\.stage"):
        load(tmp_path, PERMIT + narrow, TYPED, make_tool(object_of(note=STRING)))


@pytest.mark.parametrize(
    "scope", ["action", 'action in Action::"write"', 'action in [Action::"gone__x", Action::"up__tool"]']
)
def test_a_policy_that_an_absent_server_may_satisfy_is_loaded(tmp_path: Path, scope: str) -> None:
    """One server that is down does not take away the policies of the others."""
    tool = make_tool(object_of(note=STRING))
    engine = load(tmp_path, PERMIT + CLOSING.replace("action,", f"{scope},"), tool, absent=("gone",))
    assert outcome(engine, tool, {"stage": "closed"})[0] is Outcome.DENY
    assert outcome(engine, tool, {"note": "x"})[0] is Outcome.ALLOW
    with pytest.raises(PolicyError):
        load(tmp_path, PERMIT + CLOSING.replace("action,", 'action == Action::"up__tool",'), tool, absent=("gone",))


def test_attributes_of_a_resource_need_facts(tmp_path: Path) -> None:
    forbid = '@id("f") forbid (principal, action, resource is Deal) when { resource has locked && resource.locked };'
    attributes = {"Deal": {"locked": "boolean"}}
    tool = make_tool(object_of(id=STRING), resource=ResourceRule("Deal", "/id"))
    with pytest.raises(PolicyError, match=r"`resource\.locked`.*`up__tool` .* no `facts`"):
        load(tmp_path, PERMIT + forbid, tool, attributes=attributes)
    load(tmp_path, PERMIT + forbid, replace(tool, rule=replace(tool.rule, facts=READS_FACTS)), attributes=attributes)


@pytest.mark.parametrize(
    ("condition", "missing"),
    [
        ('context.change.fields.contains("stgae")', "`context.change.fields` never contains `stgae`"),
        ('context.change.fields.containsAny(["stage", "ammount"])', "never contains `ammount`"),
        ('["stgae"].containsAny(context["change"].fields)', "never contains `stgae`"),
        ('context.history.sinks.from_untrusted.contains("stgae")', "`context.history.sinks.from_untrusted` never"),
        ('context.history.provenance.from_task.contains("Stage")', "did you mean `stage`?"),
        ('context.input_null.contains("stgae")', "`context.input_null` never contains `stgae`"),
        ('context.facts_missing.contains("onwer")', "did you mean `owner`?"),
        ('context.change.fields.containsAny(["stage", "untyped", "a/b", "undeclared"])', None),
        ('["stage", "of_another_tool"].containsAll(context.change.fields)', None),
        ('context.input_null.contains("stage") && context.input_unknown.contains("anything")', None),
        ('context.facts_null.contains("owner")', None),
    ],
)
def test_a_name_that_no_call_can_have_is_refused_among_names_too(
    tmp_path: Path, condition: str, missing: str | None
) -> None:
    schema = object_of(id=STRING, stage=NULLABLE, amount=STRING, untyped={}, **{"a/b": STRING})
    tool = make_tool(schema, resource=ResourceRule("Deal", "/id"))
    tool = replace(tool, rule=replace(tool.rule, facts=READS_FACTS))
    policy = f'@id("f") forbid (principal, action, resource is Deal) when {{ {condition} }};'
    attributes = {"Deal": {"owner": "string"}}
    if missing is None:
        load(tmp_path, PERMIT + policy, tool, attributes=attributes)
        return
    with pytest.raises(PolicyError) as caught:
        load(tmp_path, PERMIT + policy, tool, attributes=attributes)
    assert missing in caught.value.message
    load(tmp_path, PERMIT + policy.replace(" is Deal", ""), tool, attributes=attributes, absent=("gone",))


ENUM = {"type": "string", "enum": ["open", "Closed Won"]}


@pytest.mark.parametrize(
    ("condition", "never"),
    [
        ('context.input.stage == "closed won"', "did you mean `Closed Won`?"),
        ('["won", "Lost"].contains(context.input.stage)', "`context.input.stage` is never `Lost`"),
        ('context.input has either && context.input.either has string && context.input.either.string == "x"', "`open`"),
        ('context.input has tags && context.input.tags.containsAny(["x"])', "`context.input.tags` is never `x`"),
        ('context.input has o && context.input.o has stage && context.input.o.stage == "x"', "may have `Closed Won`"),
        ('context.risk.level == "hgih"', "did you mean `high`?"),
        ('["HIGH", "x"].contains(context.risk.level)', "is never `HIGH`; did you mean `high`?"),
        ('context.risk.level != "severe"', "levels are low, medium, high"),
        ('["closed_won", "Closed Won"].contains(context.input.stage)', None),
        ('context.input has free && context.input.free == "x"', None),
    ],
)  # fmt: skip
def test_a_text_that_no_call_can_have_is_refused(tmp_path: Path, condition: str, never: str | None) -> None:
    either, tags = {"anyOf": [ENUM, {"type": "integer"}]}, {"type": "array", "items": ENUM}
    schema = object_of(stage=ENUM, either=either, tags=tags, o=object_of(stage=ENUM), free=STRING)
    tool = make_tool({**schema, "required": ["stage"]})
    gate = f'@id("f") @require_approval("people") forbid (principal, action, resource) when {{ {condition} }};'
    if never is None:
        load(tmp_path, PERMIT + gate, tool)
        return
    with pytest.raises(PolicyError) as caught:
        load(tmp_path, PERMIT + gate, tool)
    assert never in caught.value.message


def test_a_text_that_one_tool_in_scope_can_have_is_enough(tmp_path: Path) -> None:
    condition = 'context.input has stage && context.input.stage == "x"'
    gate = f'@id("f") forbid (principal, action, resource) when {{ {condition} }};'
    load(tmp_path, PERMIT + gate, make_tool(object_of(stage=ENUM)), TYPED)
