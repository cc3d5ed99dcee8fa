"""A policy never decides more loosely because it cannot see a value of the call: such a call is denied."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.model import FactsRule, Json, Outcome, ResourceRule, Tool
from mcp_guard.core.nearest import FOLDED
from mcp_guard.policy.blind_spots import BlindSpots, read_policy
from mcp_guard.policy.engine import PolicyEngine
from mcp_guard.policy.reads import Hidden, could_loosen, reads_of
from mcp_guard.policy.source import Policy, parse_texts
from tests.policy.fixtures import INSTANCE, PERMIT, load, make_call, make_tool, object_of
from tests.proof_size import sized

STRING: Json = {"type": "string"}
NULLABLE: Json = {"type": ["string", "null"]}
UNTYPED: list[Any] = [
    {}, True, {"not": {"const": "x"}}, {"$ref": "https://example.com/stage.json"},
    {"enum": [str(n) for n in range(1001)]},
    {"enum": ["a", ["b"]]}, {"type": "text"}, {"anyOf": [STRING, {}]}, {"type": "array"}, {"$ref": "#/nowhere"},
]  # fmt: skip
GATE = '@id("closing") @require_approval("people") forbid (principal, action, resource)'
CLOSING = f'{GATE} when {{ context.input has stage && context.input.stage == "closed" }};'
TYPED = make_tool(object_of(stage=STRING), "typed")


def policy_of(text: str) -> Policy:
    source, problems = parse_texts({"test.cedar": text}, None)
    assert problems == []
    return next(iter(source.policies.values()))


def outcome(engine: PolicyEngine, tool: Tool, arguments: Json, facts: Json | None = None) -> tuple[Outcome, str]:
    decision = engine.decide(make_call(tool, arguments, facts), {})
    return decision.outcome, "; ".join(decision.reasons)


# At run time


@pytest.mark.parametrize("schema", [*UNTYPED, None], ids=str)
def test_an_argument_that_a_gate_reads_and_the_schema_does_not_type_is_denied(tmp_path: Path, schema: Any) -> None:
    tool = make_tool(object_of(**({} if schema is None else {"stage": schema}), note=STRING))
    engine = load(tmp_path, PERMIT + CLOSING, tool, TYPED)
    denied, reason = outcome(engine, tool, {"stage": "closed"})
    assert denied is Outcome.DENY
    assert "`closing` depends on `context.input.stage`" in reason
    assert outcome(engine, tool, {"note": "x"})[0] is Outcome.ALLOW
    assert outcome(engine, TYPED, {"stage": "closed"})[0] is Outcome.REQUIRE_APPROVAL


def test_an_argument_that_the_schema_excludes_is_denied_if_a_policy_reads_it(tmp_path: Path) -> None:
    tool = make_tool({**object_of(note=STRING), "additionalProperties": False})
    engine = load(tmp_path, PERMIT + CLOSING, tool, TYPED)
    assert outcome(engine, tool, {"note": "x"})[0] is Outcome.ALLOW
    assert "`closing` depends on `context.input.stage`" in outcome(engine, tool, {"stage": "closed"})[1]
    assert outcome(engine, tool, {"other": "closed"})[0] is Outcome.ALLOW


def test_what_no_policy_reads_is_no_reason_to_deny(tmp_path: Path) -> None:
    tool = make_tool(object_of(stage=STRING))
    assert outcome(load(tmp_path, PERMIT + CLOSING, tool), tool, {"other": 1})[0] is Outcome.ALLOW


@pytest.mark.parametrize(
    "name",
    ["Stage", "STAGE", "stage ", "stage\0", "s\uff54age", "\u017ftage", "sta\u200bge", "sta_ge", "sta-ge", "stáge"],
)
def test_a_name_that_a_server_may_take_for_one_that_is_read_is_denied(tmp_path: Path, name: str) -> None:
    tool, closing = make_tool(object_of(note=STRING)), PERMIT + CLOSING
    denied, reason = outcome(load(tmp_path, closing, tool, TYPED), tool, {name: "closed"})
    assert denied is Outcome.DENY
    assert f"differs from it only in {FOLDED}" in reason
    changes = 'forbid (principal, action, resource) when { context.change.fields.contains("stage") };'
    engine = load(tmp_path, f'{PERMIT} @id("f") {changes}', tool)
    assert f"differs from it only in {FOLDED}" in outcome(engine, tool, {name: "closed"})[1]


@pytest.mark.parametrize("name", ["Stage", "stage ", "s\uff54age", "\u200bstage", "_stage", "sta-ge"])
def test_two_names_that_a_server_may_take_for_one_are_ambiguous(tmp_path: Path, name: str) -> None:
    """Whatever else depends on the argument: the resource, its facts, a rate that sums it."""
    row = object_of(stage=STRING)
    tool = make_tool(object_of(stage=STRING, rows={"type": "array", "items": row}))
    engine = load(tmp_path, PERMIT, tool)
    for arguments in ({"stage": "open", name: "closed"}, {name: "closed"}, {"rows": [{}, {name: "closed"}]}):
        denied, reason = outcome(engine, tool, arguments)
        assert denied is Outcome.DENY
        assert f"differs from the argument `stage` only in {FOLDED}" in reason
    assert outcome(engine, tool, {"other": "closed"})[0] is Outcome.ALLOW


def test_an_untyped_member_of_an_element_is_denied(tmp_path: Path) -> None:
    forbid = '@id("f") forbid (principal, action, resource) when {{ context.input has rows && {} }};'
    condition = 'context.input.rows has to && context.input.rows.to.contains("mallory")'
    rows = {"type": "array", "items": object_of(note=STRING)}
    tool, typed = (
        make_tool(object_of(rows=rows)),
        make_tool(object_of(rows={**rows, "items": object_of(to=STRING)}), "t"),
    )
    engine = load(tmp_path, PERMIT + forbid.format(condition), tool, typed)
    assert "depends on `context.input.rows.to`" in outcome(engine, tool, {"rows": [{}, {"to": "mallory"}]})[1]
    assert outcome(engine, tool, {"rows": [{"note": "x"}, {"cc": "mallory"}]})[0] is Outcome.ALLOW


@pytest.mark.parametrize(
    ("condition", "denied"),
    [
        ("when { context.input has s }", True),
        ('when { context.input has s && context.input.s != "ok" }', True),
        ('when { context.input has s && !["ok"].contains(context.input.s) }', True),
        ('when { context.input has s && context.input.s == "bad" }', False),
        ('when { context.input has s && context.input.s like "bad*" }', False),
        ('when { context.input has s && ["bad"].contains(context.input.s) }', False),
        ('when { context.input_null.contains("s") && context.input has s }', False),
    ],
)
def test_a_null_is_denied_where_it_differs_from_an_absent_argument(
    tmp_path: Path, condition: str, denied: bool
) -> None:
    tool = make_tool(object_of(s=NULLABLE))
    engine = load(tmp_path, f'{PERMIT} @id("f") forbid (principal, action, resource) {condition};', tool)
    decided, reason = outcome(engine, tool, {"s": None})
    assert decided is (Outcome.DENY if denied else Outcome.ALLOW)
    assert ("`s` is null" in reason) == denied


def test_a_null_among_recipients_is_not_overlooked(tmp_path: Path) -> None:
    tool = make_tool({**object_of(to={"type": "array", "items": NULLABLE}), "required": ["to"]})
    only = '@id("f") forbid (principal, action, resource) unless { ["alice"].containsAll(context.input.to) };'
    never = '@id("f") forbid (principal, action, resource) when { context.input.to.contains("mallory") };'
    assert "`to/1` is null" in outcome(load(tmp_path, PERMIT + only, tool), tool, {"to": ["alice", None]})[1]
    assert outcome(load(tmp_path, PERMIT + never, tool), tool, {"to": ["alice", None]})[0] is Outcome.ALLOW


def test_a_permit_that_relies_on_an_absence_does_not_permit_an_unknown(tmp_path: Path) -> None:
    permit = '@id("p") permit (principal, action, resource) unless { context.input has force && context.input.force };'
    typed = make_tool(object_of(force={"type": "boolean"}), "typed")
    tool = make_tool(object_of(force={}))
    engine = load(tmp_path, permit, tool, typed)
    assert outcome(engine, tool, {"force": True})[0] is Outcome.DENY
    assert outcome(engine, tool, {})[0] is Outcome.ALLOW


def test_another_type_of_a_union_than_the_one_that_a_rule_reads_is_denied(tmp_path: Path) -> None:
    tool = make_tool(object_of(q={**object_of(text=STRING), "type": ["string", "integer", "object"]}))
    forbid = '@id("f{}") forbid (principal, action, resource) when {{ context.input has q && context.input.q has {} }};'
    strings = forbid.format(1, 'string && context.input.q.string like "DROP*"')
    numbers = forbid.format(2, "integer && context.input.q.integer > 5")
    engine = load(tmp_path, PERMIT + strings, tool)
    assert outcome(engine, tool, {"q": "SELECT"})[0] is Outcome.ALLOW
    assert "`q` is of type object" in outcome(engine, tool, {"q": {"text": "DROP"}})[1]
    assert outcome(engine, tool, {"q": 7})[0] is Outcome.DENY
    both = load(tmp_path, PERMIT + strings + numbers, tool)
    assert [outcome(both, tool, {"q": q})[0] for q in ("x", 1)] == [Outcome.ALLOW, Outcome.ALLOW]
    assert outcome(both, tool, {"q": 7}) == (Outcome.DENY, "")


DELTA = (
    '@id("big") forbid (principal, action, resource) when {{ context.change.delta has n && context.change.delta.n{} }};'
)
READS_FACTS = FactsRule("get", {"id": "/id"})


@pytest.mark.parametrize(
    ("number", "limit", "facts"),
    [
        ("integer", " > 10", {"n": 150.5}),
        ("integer", " > 10", {"n": None}),
        ("integer", " > 10", {"n": "150"}),
        ("integer", " > 10", {}),
        ("number", '.greaterThan(decimal("10.0"))', {"n": [150]}),
        ("number", '.greaterThan(decimal("10.0"))', {"n": 150.00001}),
    ],
)
def test_a_change_whose_size_is_not_exact_is_denied(tmp_path: Path, number: str, limit: str, facts: Json) -> None:
    tool = make_tool(object_of(id=STRING, n={"type": number}, s=STRING))
    tool = replace(tool, rule=replace(tool.rule, facts=READS_FACTS))
    engine = load(tmp_path, PERMIT + DELTA.format(limit), tool)
    assert outcome(engine, tool, {"n": 1000}, facts)[0] is Outcome.DENY
    assert outcome(engine, tool, {"s": "x"}, facts)[0] is Outcome.ALLOW
    assert outcome(load(tmp_path, PERMIT, tool), tool, {"s": "x"}, facts)[0] is Outcome.ALLOW


def test_a_rule_that_requires_a_known_change_gives_its_own_reason(tmp_path: Path) -> None:
    tool = make_tool(object_of(n={"type": "integer"}))
    tool = replace(tool, rule=replace(tool.rule, facts=READS_FACTS))
    small = "context.change.delta has n && context.change.delta.n < 10"
    rule = f'@id("small") @reason("small ones only") forbid (principal, action, resource) unless {{ {small} }};'
    assert outcome(load(tmp_path, PERMIT + rule, tool), tool, {"n": 5}, {"n": 1.5}) == (Outcome.DENY, "small ones only")


LOCKED = '@id("f") forbid (principal, action, resource is Deal) when { resource has locked && resource.locked };'
OWNER = '@id("f") forbid (principal, action, resource is Deal) when { resource has owner && resource.owner != "bob" };'


@pytest.mark.parametrize(
    ("policy", "facts", "because"),
    [
        (LOCKED, {"locked": False}, None),
        (LOCKED, {"locked": None}, None),
        (LOCKED, {}, "`f` depends on `resource.locked`, but the present state has no `locked`"),
        (LOCKED, {"Locked": True}, "`f` depends on `resource.locked`, but the present state has no `locked`"),
        (OWNER, {"owner": None}, "`owner` is null in the present state"),
        (LOCKED[:-1] + ' unless { context.facts_missing.contains("locked") };', {}, None),
        (LOCKED.replace("when", "unless"), {}, ""),
    ],
)
def test_a_fact_that_the_present_state_lacks_does_not_lift_a_rule(
    tmp_path: Path, policy: str, facts: Json, because: str | None
) -> None:
    tool = make_tool(object_of(id=STRING), resource=ResourceRule("Deal", "/id"))
    tool = replace(tool, rule=replace(tool.rule, facts=READS_FACTS))
    attributes = {"Deal": {"locked": "boolean", "owner": "string"}}
    engine = load(tmp_path, PERMIT + policy, tool, attributes=attributes)
    decided, reason = outcome(engine, tool, {"id": "1"}, facts)
    assert decided is (Outcome.ALLOW if because is None else Outcome.DENY)
    assert (because or "") in reason


def test_a_tool_whose_present_state_is_not_read_is_not_listed_under_a_rule_on_it(tmp_path: Path) -> None:
    blind = make_tool(object_of(id=STRING), resource=ResourceRule("Deal", "/id"))
    seeing = make_tool(object_of(id=STRING), "seeing", resource=ResourceRule("Deal", "/id"))
    seeing = replace(seeing, rule=replace(seeing.rule, facts=READS_FACTS))
    engine = load(tmp_path, PERMIT + LOCKED, blind, seeing, attributes={"Deal": {"locked": "boolean"}})
    assert not engine.may_call(INSTANCE, blind)
    assert engine.may_call(INSTANCE, seeing)
    assert outcome(engine, blind, {"id": "1"})[0] is Outcome.DENY


SMALL = "context.change.delta has n && context.change.delta.n > 100"
UNLOCKED = "resource has locked && resource.locked"
PERMIT_KNOWN = """@id("p") permit (principal, action, resource{})
when {{ context.input_unknown.isEmpty() }} unless {{ {} }};"""


def test_that_no_argument_is_unknown_says_nothing_of_changes_facts_and_types(tmp_path: Path) -> None:
    """`input_unknown` names arguments only: it is empty although a difference, a fact or a type is hidden."""
    tool = make_tool(object_of(id=STRING, n={"type": "integer"}))
    tool = replace(tool, rule=replace(tool.rule, facts=READS_FACTS))
    engine = load(tmp_path, PERMIT_KNOWN.format("", SMALL), tool)
    assert outcome(engine, tool, {"n": 1000}, {"n": 150.5})[0] is Outcome.DENY
    assert outcome(engine, tool, {"n": 151}, {"n": 150})[0] is Outcome.ALLOW
    deal = make_tool(object_of(id=STRING), resource=ResourceRule("Deal", "/id"))
    deal = replace(deal, rule=replace(deal.rule, facts=READS_FACTS))
    engine = load(tmp_path, PERMIT_KNOWN.format(" is Deal", UNLOCKED), deal, attributes={"Deal": {"locked": "boolean"}})
    assert outcome(engine, deal, {"id": "1"}, {})[0] is Outcome.DENY
    assert outcome(engine, deal, {"id": "1"}, {"locked": False})[0] is Outcome.ALLOW
    union = make_tool(object_of(q={**object_of(text=STRING), "type": ["string", "object"]}))
    drop = 'context.input has q && context.input.q has string && context.input.q.string like "DROP*"'
    engine = load(tmp_path, PERMIT_KNOWN.format("", drop), union)
    assert outcome(engine, union, {"q": {"text": "DROP"}})[0] is Outcome.DENY
    assert outcome(engine, union, {"q": "SELECT"})[0] is Outcome.ALLOW


def test_a_policy_decides_about_a_hidden_value_only_where_it_looks_for_that_value(tmp_path: Path) -> None:
    """A text elsewhere in the policy is not the name of a null or missing value that it has thought of."""
    tool = make_tool(object_of(stage=NULLABLE, note=NULLABLE))
    other = """@id("f") forbid (principal, action, resource)
    when { context.change.fields.contains("stage") && context.input has stage && context.input.stage != "open" }
    unless { context.input_null.contains("note") };"""
    assert "`stage` is null" in outcome(load(tmp_path, PERMIT + other, tool), tool, {"stage": None})[1]
    same = other.replace('"note"', '"stage"')
    assert outcome(load(tmp_path, PERMIT + same, tool), tool, {"stage": None})[0] is Outcome.ALLOW
    deal = make_tool(object_of(id=STRING), resource=ResourceRule("Deal", "/id"))
    deal = replace(deal, rule=replace(deal.rule, facts=READS_FACTS))
    attributes = {"Deal": {"locked": "string", "owner": "string"}}
    locked = LOCKED.replace("resource.locked }", 'resource.locked != "locked" }')
    engine = load(
        tmp_path, PERMIT + locked[:-1] + ' unless { context.facts_missing.contains("owner") };', deal,
        attributes=attributes,
    )  # fmt: skip
    assert "has no `locked`" in outcome(engine, deal, {"id": "1"}, {"owner": "x"})[1]


@pytest.mark.parametrize(
    ("arguments", "denied"),
    [
        ({"to": ["alice"]}, False),
        ({"to": [{}]}, False),
        ({"to": ["mallory"]}, True),
        ({"to": [{"email": "mallory"}]}, True),
        ({"to": ["alice", {"secret": "mallory"}]}, True),
        ({"to": [7]}, True),
    ],
)
def test_an_array_of_several_types_is_denied_only_for_elements_that_no_rule_looks_at(
    tmp_path: Path, arguments: Json, denied: bool
) -> None:
    items = {"anyOf": [STRING, object_of(email=STRING), {"type": "integer"}]}
    tool = make_tool(object_of(to={"type": "array", "items": items}))
    never = 'context.input has to && context.input.to.string.contains("mallory")'
    engine = load(tmp_path, f'{PERMIT} @id("f") forbid (principal, action, resource) when {{ {never} }};', tool)
    assert outcome(engine, tool, arguments)[0] is (Outcome.DENY if denied else Outcome.ALLOW)


def test_members_that_are_named_like_types_are_no_union(tmp_path: Path) -> None:
    tool = make_tool(object_of(card=object_of(object=STRING, number=STRING)))
    card = 'context.input has card && context.input.card has number && context.input.card.number like "4*"'
    engine = load(tmp_path, f'{PERMIT} @id("f") forbid (principal, action, resource) when {{ {card} }};', tool)
    assert outcome(engine, tool, {"card": {"object": "card"}})[0] is Outcome.ALLOW
    assert outcome(engine, tool, {"card": {"object": "card", "number": "5"}})[0] is Outcome.ALLOW
    assert outcome(engine, tool, {"card": {"object": "card", "number": "4"}}) == (Outcome.DENY, "")


LIST: Json = {"type": "array", "items": STRING}


@pytest.mark.parametrize(
    ("effect", "condition", "outcomes"),
    [  # for a list without `bad`, one with a number in it, and for a number in place of the list
        ("forbid", 'context.input has l && context.input.l.contains("bad")', "allow deny deny"),
        ("forbid", '!(context.input has l && ["ok"].containsAll(context.input.l))', "allow deny deny"),
        ("forbid", "!(context.input has l)", "allow allow deny"),
        ("forbid", 'context.input has l && [context.input.l] == [["bad"]]', "allow deny deny"),
        ("forbid", '!(context.input has s) && context.input has l && context.input.l == ["bad"]', "allow deny deny"),
        ("permit", 'context.input has l && ["ok"].containsAll(context.input.l)', "allow deny deny"),
        ("permit", "context.input has l", "allow allow deny"),
        ("permit", 'context.input has l && !(context.input.l.contains("bad"))', "allow deny deny"),
    ],
)
def test_a_set_that_is_seen_without_an_element_is_seen_all_the_same(
    tmp_path: Path, effect: str, condition: str, outcomes: str
) -> None:
    tool = make_tool(object_of(l=LIST, s=STRING))
    text = f'@id("p") {effect} (principal, action, resource) when {{ {condition} }};'
    engine = load(tmp_path, (PERMIT if effect == "forbid" else "") + text, tool)
    calls: list[Json] = [{"l": ["ok"]}, {"l": ["ok", 7]}, {"l": 7}]
    assert " ".join(outcome(engine, tool, arguments)[0] for arguments in calls) == outcomes


def test_a_permit_that_depends_on_a_hidden_value_leaves_the_decision_to_the_others(tmp_path: Path) -> None:
    tool = make_tool({**object_of(n={"type": "integer"}, s=STRING), "required": ["n"]})
    small = '@id("small") permit (principal, action, resource) when { context.input.n < 10 };'
    named = '@id("named") permit (principal, action, resource) when { context.input has s && context.input.s == "x" };'
    gate = '@id("g") @require_approval("people") forbid (principal, action, resource) when { context.input has s };'
    engine = load(tmp_path, small + named + gate, tool)
    denied, reason = outcome(engine, tool, {"n": "1"})
    assert denied is Outcome.DENY
    assert (
        "`small` depends on `context.input.n`, but `n` is missing in this call, or its value is not exactly" in reason
    )
    held = engine.decide(make_call(tool, {"n": "1", "s": "x"}), {})
    assert (held.outcome, held.policies) == (Outcome.REQUIRE_APPROVAL, ("g",))
    assert outcome(engine, tool, {"n": "1", "s": "y"})[0] is Outcome.DENY, "approved or not, nothing permits it"
    blind = load(tmp_path, small, tool)
    assert blind.may_call(INSTANCE, tool)


def test_many_hidden_elements_are_looked_at_once(tmp_path: Path) -> None:
    """An agent can send thousands of them, and each policy could depend on each."""
    tool = make_tool(object_of(l=LIST))
    permit = '@id("p") permit (principal, action, resource) when { context.input has l && context.input.l == ["x"] };'
    reads = BlindSpots([read_policy(policy_of(permit))])
    pointers = [f"l/{position}" for position in range(9000)]
    context = {"input_unknown": pointers, "input_inexact": pointers, "input_null": [], "input": {"l": []}, "change": {}}
    assert len(list(reads.find(context))) == 1
    assert outcome(load(tmp_path, PERMIT + permit, tool), tool, {"l": [0] * 9000})[0] is Outcome.ALLOW


# Listings


def test_a_tool_whose_every_call_is_denied_so_is_not_listed(tmp_path: Path) -> None:
    blind = make_tool({**object_of(stage={}), "required": ["stage"]})
    nested = make_tool({**object_of(o={**object_of(stage={}), "required": ["stage"]}), "required": ["o"]}, "nested")
    optional = make_tool(object_of(stage={}), "optional")
    deep = CLOSING.replace("context.input", "context.input.o").replace("closing", "deep")
    guarded = deep.replace("context.input.o has stage", "context.input has o && context.input.o has stage")
    full = make_tool(object_of(stage=STRING, o=object_of(stage=STRING)), "full")
    engine = load(tmp_path, PERMIT + CLOSING + guarded, blind, nested, optional, full)
    listed = {tool.name: engine.may_call(INSTANCE, tool) for tool in (blind, nested, optional, full)}
    assert listed == {"tool": False, "nested": False, "optional": True, "full": True}


def test_a_tool_whose_every_type_of_an_argument_is_unread_is_not_listed(tmp_path: Path) -> None:
    """Policies look at a text in another tool, and here the same argument is a number or an object."""
    drop = 'context.input has q && context.input.q has string && context.input.q.string like "DROP*"'
    rule = f'@id("f") forbid (principal, action, resource) when {{ {drop} }};'
    texts = make_tool(object_of(q={"type": ["string", "integer"]}), "texts")
    other: Json = object_of(q={**object_of(text=STRING), "type": ["integer", "object"]})
    tool, optional = make_tool({**other, "required": ["q"]}), make_tool(other, "optional")
    engine = load(tmp_path, PERMIT + rule, texts, tool, optional)
    assert {outcome(engine, tool, {"q": q})[0] for q in (1, {}, {"text": "x"})} == {Outcome.DENY}
    listed = {tool.name: engine.may_call(INSTANCE, tool) for tool in (texts, tool, optional)}
    assert listed == {"texts": True, "tool": False, "optional": True}


def test_two_facts_that_are_both_null_may_be_equal(tmp_path: Path) -> None:
    same = "resource has author && resource has approver && resource.author == resource.approver"
    permit = f'@id("p") permit (principal, action, resource is Deal) unless {{ {same} }};'
    deal = make_tool(object_of(id=STRING), resource=ResourceRule("Deal", "/id"))
    deal = replace(deal, rule=replace(deal.rule, facts=READS_FACTS))
    engine = load(tmp_path, permit, deal, attributes={"Deal": {"author": "string", "approver": "string"}})
    assert outcome(engine, deal, {"id": "1"}, {"author": None, "approver": None})[0] is Outcome.DENY
    assert outcome(engine, deal, {"id": "1"}, {"author": "a", "approver": "b"})[0] is Outcome.ALLOW


# For any conditions


class Condition(NamedTuple):
    """A condition in Cedar, and what it means for the plain arguments."""

    text: str
    holds: Callable[[Json], bool]


def value_of(arguments: Json, path: tuple[str, ...]) -> Any:
    at: Any = arguments
    for name in path:
        if not isinstance(at, dict) or name not in at:
            return KeyError
        at = at[name]
    return at


def conditions_on(path: tuple[str, ...]) -> list[Condition]:
    def guarded(text: str, holds: Callable[[Any], bool]) -> Condition:
        tests = " && ".join(f"{'.'.join(('context.input', *path[:at]))} has {path[at]}" for at in range(len(path)))
        full = f"({tests}{' && ' + text if text else ''})".replace("$", ".".join(("context.input", *path)))
        return Condition(full, lambda arguments: (v := value_of(arguments, path)) is not KeyError and holds(v))

    return [
        guarded("", lambda value: True),
        guarded('$ == "c"', lambda value: bool(value == "c")),
        guarded('$ != "c"', lambda value: bool(value != "c")),
        guarded('["c", "d"].contains($)', lambda value: value in ["c", "d"]),
        guarded('$ like "c*"', lambda value: isinstance(value, str) and value.startswith("c")),
    ]


PATHS = [("s",), ("t",), ("o", "x")]
ATOMS = st.sampled_from([condition for path in PATHS for condition in conditions_on(path)])


def combine(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    return (
        st.builds(lambda a: Condition(f"!{a.text}", lambda args: not a.holds(args)), inner)
        | st.builds(lambda a, b: Condition(f"({a.text} && {b.text})", lambda x: a.holds(x) & b.holds(x)), inner, inner)
        | st.builds(lambda a, b: Condition(f"({a.text} || {b.text})", lambda x: a.holds(x) | b.holds(x)), inner, inner)
        | st.builds(
            lambda a, b, c: Condition(
                f"(if {a.text} then {b.text} else {c.text})", lambda x: b.holds(x) if a.holds(x) else c.holds(x)
            ),
            inner, inner, inner,
        )
    )  # fmt: skip


CONDITIONS = st.recursive(ATOMS, combine, max_leaves=4)
EFFECTS = st.sampled_from(["permit", "forbid", '@require_approval("people") forbid'])
KINDS = st.sampled_from(["when", "unless"])
POLICIES = st.lists(st.tuples(EFFECTS, KINDS, CONDITIONS), min_size=1, max_size=3)
PROPERTY = st.sampled_from([STRING, NULLABLE, *UNTYPED[:5]])
MEMBER = st.dictionaries(st.sampled_from(["x", "y"]), PROPERTY).map(lambda fields: object_of(**fields))
SCHEMAS = st.builds(
    lambda fields, members, extra: {**object_of(**fields, **members), **extra},
    st.dictionaries(st.sampled_from(["s", "t"]), PROPERTY),
    st.dictionaries(
        st.just("o"), MEMBER | st.sampled_from(UNTYPED[:3]) | MEMBER.map(lambda m: {**m, "nullable": True})
    ),
    st.sampled_from([{}, {"additionalProperties": False}, {"additionalProperties": STRING}, {"required": ["s"]}]),
)
VALUES = st.sampled_from(["c", "d", "cd", None, "c", "d", 5, ["c"], {"x": "c"}])
ARGUMENTS = st.dictionaries(st.sampled_from(["s", "t", "S"]), VALUES) | st.builds(
    lambda values, o: {**values, "o": o},
    st.dictionaries(st.sampled_from(["s", "t"]), VALUES),
    st.none() | st.just("c") | st.dictionaries(st.sampled_from(["x", "y"]), VALUES),
)
EVERYTHING = make_tool(object_of(s=STRING, t=STRING, o=object_of(x=STRING)), "everything")


@settings(max_examples=sized(300, 25), deadline=None)
@given(SCHEMAS, POLICIES, st.booleans(), st.lists(ARGUMENTS, min_size=1, max_size=6))
def test_a_condition_that_holds_for_the_plain_arguments_is_never_overlooked(
    schema: Json, policies: list[tuple[str, str, Condition]], permit_all: bool, calls: list[Json]
) -> None:
    tool = make_tool(schema)
    text = "\n".join(
        f'@id("p{at}") {effect} (principal, action, resource) {kind} {{ {condition.text} }};'
        for at, (effect, kind, condition) in enumerate(policies)
    )
    with tempfile.TemporaryDirectory() as folder:
        engine = load(Path(folder), text + (PERMIT if permit_all else ""), tool, EVERYTHING)
    for arguments in calls:
        decided, _ = outcome(engine, tool, arguments)
        held = [(effect, (kind == "when") == condition.holds(arguments)) for effect, kind, condition in policies]
        if decided is not Outcome.DENY:
            assert permit_all or ("permit", True) in held, (text, arguments)
            assert ("forbid", True) not in held, (text, arguments)
            assert engine.may_call(INSTANCE, tool)
        if decided is Outcome.ALLOW:
            assert all(effect == "permit" or not holds for effect, holds in held), (text, arguments)


@pytest.mark.parametrize(
    ("condition", "reads"),
    [
        ("context.input has a.b", {("context", "input", "a"): False, ("context", "input", "a", "b"): False}),
        ('context["input"]["a b"] like "x*"', {("context", "input", "a b"): True}),
        ("{a: context.input}.a has s", {("context", "input", "s"): False}),
        ("context.input == {n: 1}", {("context", "input"): True}),
        ("(if principal has on_behalf_of then context.input else context.change) has s",
         {("principal", "on_behalf_of"): False, ("context", "input", "s"): False, ("context", "change", "s"): False}),
        ("[context.input.a] == [principal.owner]", {("context", "input", "a"): True, ("principal", "owner"): True}),
        ("resource.hasTag(context.input.a)", {("resource", "(tags)"): False, ("context", "input", "a"): True}),
        ("principal == resource", {}),
    ],
)  # fmt: skip
def test_reads_are_found_whatever_form_they_have(condition: str, reads: dict[tuple[str, ...], bool]) -> None:
    assert reads_of(policy_of(f'@id("p") permit (principal, action, resource) when {{ {condition} }};')) == reads


def test_a_condition_that_does_not_depend_on_the_value_is_not_loosened() -> None:
    policy = policy_of('@id("p") forbid (principal, action, resource) when { context.input has s || true };')
    assert not any(could_loosen(policy, ("context", "input", "s"), hidden) for hidden in Hidden)
