"""Policies on tools that are not listed: which are dormant, which are misspelt, and what a misfit costs."""

from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Effect, Outcome, ResourceRule
from mcp_guard.core.names import short_form
from mcp_guard.core.nearest import is_misspelling
from mcp_guard.policy.engine import PolicyEngine, PolicyEnvironment, load_confined
from mcp_guard.policy.source import read_policies
from tests.policy.fixtures import INSTANCE, PERMIT, load, make_call, make_tool, object_of

STRING = {"type": "string"}
TOOL, OTHER = make_tool(object_of(s=STRING)), make_tool(object_of(n={"type": "integer"}), "other")


@pytest.mark.parametrize(
    ("name", "other"),
    [("tol", "tool"), ("tooll", "tool"), ("tolo", "tool"), ("Tool", "tool"), ("update-deal", "update_deal"),
     ("create_isue", "create_issue"), ("create_issues", "create_issue"), ("serch_deals", "search_deals"),
     ("seerch_deals", "search_deals"), ("up", "upp")],
)  # fmt: skip
def test_a_name_that_is_nearly_another_one_is_a_misspelling(name: str, other: str) -> None:
    assert is_misspelling(name, other)
    assert is_misspelling(other, name)


@pytest.mark.parametrize(
    ("name", "other"),
    [("get_user", "set_user"), ("tool_a", "tool_b"), ("page1", "page2"), ("echo", "echo2"), ("a", "b"), ("a", "ab"),
     ("import", "export"), ("trigger-sampling-request", "trigger-elicitation-request"), ("read", "write"),
     ("create_issue_comment", "update_issue_comment"), ("", "a")],
)  # fmt: skip
def test_other_names_are_other_names(name: str, other: str) -> None:
    assert not is_misspelling(name, other)
    assert not is_misspelling(other, name)


@pytest.mark.parametrize(
    "scope",
    [
        'action == Action::"up__gone"',
        'action in [Action::"up__gone", Action::"up__also_gone"]',
        'action == Action::"elsewhere__tool"',
        'action in Action::"server:elsewhere"',
        'action in Action::"destructive"',
    ],
)
def test_a_policy_on_what_is_not_listed_is_dormant(tmp_path: Path, scope: str) -> None:
    policy = (
        f'@id("later") forbid (principal, {scope}, resource) when {{ context.input has x && context.input.x > 1 }};'
    )
    engine = load(tmp_path, PERMIT + policy, TOOL)
    assert engine.dormant == ("later",)
    assert engine.decide(make_call(TOOL, {}), {}).outcome is Outcome.ALLOW


def test_the_short_form_that_clients_are_shown_is_a_misspelling(tmp_path: Path) -> None:
    long = make_tool(object_of(s=STRING), "a_name_that_is_longer_than_clients_take_it")
    policy = '@id("f") forbid (principal, action == Action::"{}", resource);'
    for limit in (30, 40):
        short = short_form(long.listed_as, limit)
        world = environment(tools=(long,), known=frozenset({short}))  # because [tools] has it as well
        engine = confined(tmp_path, PERMIT + policy.format(short), world)
        assert [problem.text.endswith(f"did you mean `{long.listed_as}`?") for problem in engine.problems] == [True]
        assert engine.decide(make_call(long, {}), {}).outcome is Outcome.DENY, "the policy may mean it"
    other = short_form(long.listed_as + "_too", 40)
    assert load(tmp_path, PERMIT + policy.format(other), long).dormant == ("f",)


@pytest.mark.parametrize("action", ["wirte", "tool", "up__", ""])
def test_a_name_that_no_tool_can_have_is_an_error(tmp_path: Path, action: str) -> None:
    if action == "up__":
        assert load(tmp_path, f'@id("p") forbid (principal, action == Action::"{action}", resource);', TOOL).dormant
        return
    with pytest.raises(PolicyError, match="p: "):
        load(tmp_path, f'@id("p") forbid (principal, action == Action::"{action}", resource);', TOOL)


def test_some_unlisted_tools_in_a_scope_or_condition_do_not_harm_the_policy(tmp_path: Path) -> None:
    scope = 'action in [Action::"up__tool", Action::"up__gone"], resource) when { context.input has s }'
    condition = 'action, resource) when { action == Action::"up__gone" || action == Action::"up__other" }'
    text = f'@id("a") forbid (principal, {scope}; @id("b") forbid (principal, {condition};'
    engine = load(tmp_path, PERMIT + text, TOOL, OTHER)
    assert engine.dormant == ()
    assert engine.decide(make_call(TOOL, {"s": "x"}), {}).policies == ("a",)
    assert engine.decide(make_call(TOOL, {}), {}).outcome is Outcome.ALLOW
    assert engine.decide(make_call(OTHER, {}), {}).policies == ("b",)


def environment(*tools: object, **more: object) -> PolicyEnvironment:
    return replace(PolicyEnvironment((TOOL, OTHER), routes=("people",)), **more)  # type: ignore[arg-type]


def confined(folder: Path, text: str, world: PolicyEnvironment) -> PolicyEngine:
    path = folder / "test.cedar"
    path.write_text(text)
    return load_confined(path, read_policies(path, world.routes), world)


def test_a_definition_that_was_accepted_still_says_what_a_policy_may_read(tmp_path: Path) -> None:
    gone = make_tool(object_of(stage=STRING), "gone")
    closing = 'when { context.input has stage && context.input.stage == "closed" }'
    for scope in ("action", 'action in [Action::"up__tool", Action::"up__gone"]'):
        text = f'{PERMIT} @id("f") forbid (principal, {scope}, resource) {closing};'
        assert not confined(tmp_path, text, environment(retained=(gone,))).problems
    text = f'{PERMIT} @id("f") forbid (principal, action, resource) {closing.replace("stage", "stgae")};'
    assert confined(tmp_path, text, environment(retained=(gone,))).problems, "misspelt there too"


MISFIT = 'when { context.input has n && context.input.n == "x" }'


@pytest.mark.parametrize("always", [False, True])
def test_a_forbid_that_does_not_fit_withholds_the_tools_in_its_scope(tmp_path: Path, always: bool) -> None:
    marked = '@enforce("always")' if always else ""
    text = f'{PERMIT} @id("f") {marked} forbid (principal, action == Action::"up__other", resource) {MISFIT};'
    engine = confined(tmp_path, text, environment())
    assert engine.decide(make_call(TOOL, {}), {}).outcome is Outcome.ALLOW
    denied = engine.decide(make_call(OTHER, {}), {})
    assert denied.outcome is Outcome.DENY
    assert denied.reasons[0].startswith("`f` may forbid it, and is not valid: test.cedar:1:")
    assert not engine.may_call(INSTANCE, OTHER)
    observed = engine.observe(make_call(OTHER, {}), {})
    assert observed.outcome is (Outcome.DENY if always else Outcome.ALLOW)
    assert engine.may_call(INSTANCE, OTHER, observing=True) == (not always)
    assert engine.dormant == ("f",)


CATALOG = (
    make_tool(object_of(), "update_deal", server="crm"),
    make_tool(object_of(), "update_deal", server="second_crm"),
    make_tool(object_of(), "close_all", server="crm", effect=Effect.DESTRUCTIVE),
    make_tool(object_of(), "list_deals", server="crm", effect=Effect.READ),
    make_tool(object_of(), "close_ticket", server="desk", resource=ResourceRule("Ticket", "/id")),
)
WRITES = {"crm__update_deal", "second_crm__update_deal", "crm__close_all", "desk__close_ticket"}
ALL = {*WRITES, "crm__list_deals"}


@pytest.mark.parametrize(
    ("scope", "meant"),
    [
        ('action in Action::"writ", resource', WRITES),
        ('action in [Action::"crm__list_deals", Action::"writ"], resource', ALL),
        ('action in Action::"destructve", resource', {"crm__close_all"}),
        ('action in Action::"server:deskk", resource', {"desk__close_ticket"}),
        ('action == Action::"update_deal", resource', {"crm__update_deal", "second_crm__update_deal"}),
        ('action == Action::"desk_close_ticket", resource', {"desk__close_ticket"}),
        ('action == Action::"what_is_like_nothing", resource', ALL),
        ('action, resource is Tikcet', ALL),
        ('action, resource == Order::"7"', ALL),
        ('action in Action::"destructive", resource is Order', {"crm__close_all"}),
        ('action in Action::"destructive", resource is Ticket', {"crm__close_all", "desk__close_ticket"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("annotation", ["", '@require_approval("people")', '@enforce("always")'])
def test_a_wrong_name_withholds_every_tool_that_it_may_mean(
    tmp_path: Path, annotation: str, scope: str, meant: set[str]
) -> None:
    world = environment(tools=CATALOG, attributes={"Ticket": {"state": "string"}})
    engine = confined(tmp_path, f'{PERMIT} @id("f") {annotation} forbid (principal, {scope});', world)
    assert meant <= engine.withheld.keys()
    assert {tool.listed_as for tool in CATALOG if not engine.may_call(INSTANCE, tool)} == set(engine.withheld)
    assert "crm__list_deals" in meant or "crm__list_deals" not in engine.withheld, "the fault costs no other tool"
    reasons = {withheld.reason for withheld in engine.withheld.values()}
    assert all(reason.startswith("`f` may forbid it, and is not valid: test.cedar:1:") for reason in reasons)
    observed = {tool.listed_as for tool in CATALOG if engine.may_call(INSTANCE, tool, observing=True)}
    assert observed == (ALL - engine.withheld.keys() if "always" in annotation else ALL)


@pytest.mark.parametrize(
    "scope",
    [
        'action in Action::"server:mail", resource',
        'action in [Action::"mail__send", Action::"server:mail"], resource',
        'action in Action::"resources/read", resource is Resource',
        'action, resource is Prompt',
        'action, resource is Invoice',
    ],
)  # fmt: skip
def test_what_is_only_not_listed_at_present_withholds_nothing(tmp_path: Path, scope: str) -> None:
    world = environment(tools=CATALOG, absent=("mail",), attributes={"Ticket": {}, "Invoice": {}})
    engine = confined(tmp_path, f'{PERMIT} @id("f") forbid (principal, {scope});', world)
    assert (engine.problems, engine.withheld, engine.dormant) == ((), {}, ("f",))


def test_a_misspelt_server_that_lists_nothing_yet_withholds_no_tool_of_another(tmp_path: Path) -> None:
    text = f'{PERMIT} @id("f") forbid (principal, action in Action::"server:mial", resource is Ticket);'
    types = {"Ticket": {"state": "string"}}
    assert confined(tmp_path, text, environment(tools=CATALOG, absent=("mail",), attributes=types)).withheld == {}
    send = make_tool(object_of(), "send", server="mail", resource=ResourceRule("Ticket", "/id"))
    assert set(confined(tmp_path, text, environment(tools=(*CATALOG, send), attributes=types)).withheld) == {
        "mail__send"
    }


def test_a_type_that_does_not_exist_is_an_error_before_any_tool_is_listed(tmp_path: Path) -> None:
    world = environment(tools=(), absent=("crm",))
    engine = confined(tmp_path, f'{PERMIT} @id("f") forbid (principal, action, resource is Deal);', world)
    assert ["unrecognized entity type `Deal`" in problem.text for problem in engine.problems] == [True]


def test_a_permit_that_does_not_fit_permits_nothing_and_withholds_nothing(tmp_path: Path) -> None:
    text = f'@id("a") permit (principal, action, resource) {MISFIT};'
    text += '@id("b") permit (principal, action == Action::"up__tool", resource);'
    engine = confined(tmp_path, text, environment())
    assert engine.withheld == {}
    assert engine.decide(make_call(TOOL, {}), {}).policies == ("b",)
    assert engine.decide(make_call(OTHER, {"n": 1}), {}).outcome is Outcome.DENY


def test_a_version_names_what_is_withheld(tmp_path: Path) -> None:
    forbid = '@id("f") forbid (principal, action == Action::"up__{}", resource) {};'
    dormant = confined(tmp_path, PERMIT + forbid.format("gone", ""), environment())
    misfit = confined(tmp_path, PERMIT + forbid.format("other", MISFIT), environment())
    assert dormant.version != misfit.version
    assert b'"withheld"' not in dormant.material()
    assert b'"withheld":["up__other"]' in misfit.material()


def test_a_tool_that_the_policies_do_not_know_is_denied_in_observe_mode_too(tmp_path: Path) -> None:
    """They were loaded before it was listed, and one that waits for it is not in force yet."""
    engine = confined(tmp_path, PERMIT, environment())
    new = make_tool(object_of(), "new")
    assert not engine.may_call(INSTANCE, new, observing=True)
    assert engine.observe(make_call(new, {}), {}).outcome is Outcome.DENY
