"""Each lint check finds its problem, and none is in the shipped policies."""

from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.config.file import check
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Json, ResourceRule, SequenceRule, StepOutcome
from mcp_guard.policy.authoring.lint import WARNINGS_OF_VALIDATE, LintFinding, lint, read_lint_input
from mcp_guard.policy.engine import PolicyEnvironment, load_policies
from mcp_guard.policy.schema import build_schema
from tests.policy.fixtures import make_tool, object_of
from tests.policy.strategies import ATTRIBUTES, CEDAR, TOOLS

ROOT = Path(__file__).parent.parent.parent
AGENTS = {"a1": ("g1",)}
HOLD = '@id("g") @require_approval("people") forbid (principal, action, resource);'
READING = '@id("p") permit (principal in Group::"g1", action in Action::"read", resource);'
FINE = '@id("work") permit (principal in Group::"g1", action, resource);'


# What keeps a set from being loaded for these tools.
ENVIRONMENT = PolicyEnvironment((make_tool(object_of(n={"type": "integer"})),), routes=("people",), absent=("down",))


@pytest.mark.parametrize(
    "policies",
    [
        READING,  # as `init` writes it, before any tool is configured as a read
        READING + '@id("d") @reason("r") forbid (principal, action in Action::"destructive", resource);',
        READING + '@id("d") @reason("r") forbid (principal, action == Action::"down__x", resource);',
        READING + '@id("d") @reason("r") forbid (principal, action in Action::"server:down", resource);',
        READING + '@id("d") @reason("r") forbid (principal, action == Action::"up__tol", resource);',
        READING + '@id("d") @reason("r") forbid (principal, action, resource) when { context.input.m == 1 };',
        READING + '@id("d") @reason("r") forbid (principal, action, resource) when { context.input has m };',
        READING + '@id("d") @reason("r") forbid (principal, action, resource is Deal);',
        READING.replace("permit", "permitt"),
    ],
)
def test_lint_and_validate_agree_on_what_is_an_error(tmp_path: Path, policies: str) -> None:
    (tmp_path / "x.cedar").write_text(policies)
    try:
        load_policies(tmp_path, ENVIRONMENT)
        is_valid = True
    except PolicyError:
        is_valid = False
    linted = lint(read_lint_input({"x.cedar": policies}, None, ("people",), AGENTS, environment=ENVIRONMENT))
    assert any(finding.level == "error" for finding in linted) is not is_valid, linted


@pytest.mark.parametrize(
    "scope", ['action in Action::"read"', 'action in Action::"server:x"', "action, resource is Deal"]
)
def test_a_policy_that_waits_for_tools_is_no_error(scope: str) -> None:
    """Also if only the schema of the last run is known."""
    schema, _ = build_schema([make_tool(object_of())], {"Deal": {"n": "integer"}}, (), {"server:x"})
    resource = "" if "Deal" in scope else ", resource"
    text = f'@id("p") permit (principal, {scope}{resource}) when {{ resource has n || true }};'
    assert found(text, schema, "error") == []


def found(text: str, schema: Json | None = CEDAR, level: str = "") -> list[LintFinding]:
    made = lint(read_lint_input({"x.cedar": text}, schema, ("people",), AGENTS))
    return [finding for finding in made if level in ("", finding.level)]


@pytest.mark.parametrize(
    ("policies", "policy", "what"),
    [
        ("permit (principal, action, resource) when { 1 };", "", "every policy needs an @id"),
        (FINE + FINE, "", "is already in x.cedar"),
        (HOLD.replace("forbid", "permit"), "g", "belongs on a forbid"),
        (HOLD.replace("people", "cfo"), "g", "route `cfo` is not in"),
        ('@id("g") @enforce("now") forbid (principal, action, resource);', "g", 'write @enforce("always")'),
        ('@id("a") permit (principal, action == Action::"up__lok", resource);', "a", "named `up__lok`"),
        ('@id("a") permit (principal, action, resource) when { context.task.ticket == "x" };', "a", "optional"),
        ('@id("a") permit (principal, action, resource) when { context.inptu.n == 1 };', "a", "inptu"),
        (HOLD, "g", "a gate without a reason"),
        (FINE + '@id("f") forbid (principal, action, resource) when {context.input has n};', "f", "a forbid without"),
        ('@id("all") permit (principal, action, resource);', "all", "permits every tool to every agent"),
        (FINE + FINE.replace("work", "again"), "again", "is a duplicate of `work`"),
        ('@id("f") @reason("r") forbid (principal, action, resource) when { false };', "f", "can never hold"),
        (
            READING + '@id("f") @reason("r") forbid (principal, action == Action::"up__purge", resource);',
            "f",
            "no policy permits",
        ),
        (FINE, "", "destructive and permitted without any forbid or gate: up__purge"),
        (FINE.replace("g1", "g2"), "work", "no enrolled agent is in the group `g2`"),
        (FINE.replace("Group", "Agent"), "work", "no agent is enrolled as `g1`"),
    ],
)
def test_each_problem_is_found(policies: str, policy: str, what: str) -> None:
    hits = [finding for finding in found(policies) if what in finding.what]
    assert [finding.policy for finding in hits] == [policy], found(policies)
    assert hits[0].fix
    assert hits[0].level != "note"


@pytest.mark.parametrize(
    ("annotation", "fix"),
    [
        ('@require_aproval("people")', "did you mean `@require_approval`?"),
        ('@aprove("people")', "did you mean `@require_approval`?"),
        ('@Require_Approval("people")', "did you mean `@require_approval`?"),
        ('@enforced("always")', "did you mean `@enforce`?"),
        ('@ticket("SEC-1")', ""),
        ('@owner("security")', ""),
        ('@reasons("see the wiki")', ""),  # it has a reason, so this is another
    ],
)
def test_an_annotation_that_is_nearly_one_of_the_guard_is_a_warning_of_lint_and_validate(
    annotation: str, fix: str
) -> None:
    text = FINE + f'\n@id("f") @reason("r") {annotation} forbid (principal, action, resource) when {{ 1 == 2 }};'
    linted = read_lint_input({"x.cedar": text}, CEDAR, ("people",), AGENTS)
    for checks in (None, WARNINGS_OF_VALIDATE):
        hits = [finding for finding in lint(linted, checks) if "annotation" in finding.what]
        assert [(finding.policy, finding.level, finding.fix) for finding in hits] == (
            [("f", "warning", fix)] if fix else []
        )
        assert all(finding.at.startswith("2:") for finding in hits)


LOCAL = '@id("l") @reason("r") forbid (principal, action, resource) when { context.time.local.hour < 9 };'


@pytest.mark.parametrize(
    ("line", "notes"), [("", ["l"]), ('time_zone = "UTC"', []), ('time_zone = "Europe/Berlin"', [])]
)
def test_local_time_without_a_configured_zone_is_pointed_out(tmp_path: Path, line: str, notes: list[str]) -> None:
    settings = check(f'[guard]\npolicies = "p"\n{line}\n[upstreams.up]\ncommand = "x"\n', tmp_path / "mcp-guard.toml")
    environment = PolicyEnvironment(TOOLS, ATTRIBUTES, routes=("people",), time_zone=settings.time_zone)
    texts, zone = {"x.cedar": FINE + LOCAL}, settings.has_time_zone
    linted = lint(read_lint_input(texts, None, ("people",), AGENTS, environment=environment, has_time_zone=zone))
    assert [finding.policy for finding in linted if "is UTC" in finding.what] == notes
    assert not [finding for finding in linted if finding.level == "error"], "the schema has the time"


SIGNALS = {"sensitive_fields", "no_task"}
TYPED = make_tool(object_of(), "change", resource=ResourceRule("Deal", "/id"))


@pytest.mark.parametrize(
    ("policy", "what", "fix"),
    [
        ('when { action == Action::"write" }', "`write`, which is a group", 'action in Action::"write"'),
        ('unless { action != Action::"server:up" }', "`server:up`, which is", 'action in Action::"server:up"'),
        ('when { [Action::"up__tool", Action::"read"].contains(action) }', "`read`, which is", "action in"),
        ('when { resource == Tool::"up__tol" }', "no tool `up__tol` is listed", "`up__tool`"),
        ('when { resource == Tool::"tool" }', "no tool `tool` is listed", "`up__tool`"),
        ('resource == Tool::"gone"', "no tool `gone` is listed", "`up__tool`"),
        ('resource == Tool::"up__change"', "`up__change` acts on a `Deal`", 'action == Action::"up__change"'),
        ('when { context.risk.signals.contains("sensitive_field") }', "`sensitive_field`", "`sensitive_fields`"),
        ('unless { context.risk.signals.containsAny(["a", "no_task"]) }', "`a`", "signals are no_task, sens"),
        ('when { action in [Action::"write", Action::"server:up"] || action == Action::"up__tool" }', "", ""),
        ('when { resource in [Tool::"up__tool", Tool::"down__x"] }', "", ""),
        ('resource == Tool::"up__tool"', "", ""),
        ('when { context.risk.signals.contains("no_task") }', "", ""),
    ],
)
def test_a_name_that_no_call_has_is_a_warning_of_lint_and_validate(policy: str, what: str, fix: str) -> None:
    environment = replace(ENVIRONMENT, tools=(*ENVIRONMENT.tools, TYPED), attributes={"Deal": {"n": "integer"}})
    scope = policy if policy.startswith("resource") else "resource"
    conditions = "" if policy.startswith("resource") else policy
    text = f'{FINE} @id("f") @reason("r") forbid (principal, action, {scope}) {conditions};'
    linted = read_lint_input({"x.cedar": text}, None, ("people",), AGENTS, environment=environment, signals=SIGNALS)
    for checks in (None, WARNINGS_OF_VALIDATE):
        made = [finding for finding in lint(linted, checks) if finding.policy == "f"]
        assert [(finding.level, what in finding.what, fix in finding.fix) for finding in made] == (
            [("warning", True, True)] if what else []
        ), made


@pytest.mark.parametrize("condition", ['when { principal in Group::"g2" }', 'unless { principal in Agent::"a2" }'])
def test_a_principal_of_a_condition_that_does_not_exist_is_found(condition: str) -> None:
    text = f'@id("f") @reason("r") forbid (principal, action, resource) {condition};'
    assert [finding.policy for finding in found(FINE + text) if "enrolled" in finding.what] == ["f"]


HOUR, MINUTE = "context.time.local.hour", "context.time.utc.minute"


@pytest.mark.parametrize(
    ("condition", "whats"),
    [
        (f"{HOUR} < 1800", [f"`{HOUR} < 1800` always holds"]),
        (f"{HOUR} == 24", [f"`{HOUR} == 24` never holds"]),
        (f"{HOUR} != 30", [f"`{HOUR} != 30` always holds"]),
        (f"{HOUR} > 23", [f"`{HOUR} > 23` never holds"]),
        (f"-1 < {HOUR}", [f"`-1 < {HOUR}` always holds"]),
        (f"!({MINUTE} >= 60) && context.input has n", [f"`{MINUTE} >= 60` never holds"]),
        (f"{HOUR} >= 22 && {HOUR} < 6", [f"`{HOUR} >= 22 && {HOUR} < 6` never holds"]),
        (f"{HOUR} >= 9 || context.input has n || {HOUR} < 17", [f"`{HOUR} >= 9 || {HOUR} < 17` always holds"]),
        (f"{HOUR} >= 9 && {HOUR} < 1700", [f"`{HOUR} < 1700` always holds"]),
        (f"{HOUR} >= 9 && {HOUR} < 17 && {MINUTE} < 30 && {HOUR} == 12", []),
        (f"{HOUR} >= 22 || {HOUR} < 6 || context.time.utc.hour == 0", []),
        (f"{HOUR} * 60 + {MINUTE} < 1020 && {MINUTE} < {HOUR}", []),
        ("context.input has hour && context.input.hour < 1800", []),
    ],
)
def test_a_comparison_of_the_time_that_always_or_never_holds_is_found(condition: str, whats: list[str]) -> None:
    schema, _ = build_schema([make_tool(object_of(n={"type": "integer"}, hour={"type": "integer"}))], {}, ())
    text = f'@id("t") @reason("r") forbid (principal, action, resource) when {{ {condition} }};'
    made = [finding for finding in found(FINE + text, schema) if "holds" in finding.what]
    assert [finding.what for finding in made] == whats
    assert all(finding.at and finding.policy == "t" and finding.level == "warning" for finding in made)


def test_a_tool_that_spells_an_argument_otherwise_is_found() -> None:
    tools = [make_tool(object_of(**{name: {"type": "string"}}), name) for name in ("dealStage", "deal_stage", "note")]
    schema, _ = build_schema(tools, {}, ())
    condition = 'context.input has dealStage && context.input.dealStage == "closed"'
    text = f'@id("f") @reason("r") forbid (principal, action, resource) when {{ {condition} }};'
    whats = [finding.what for finding in found(FINE + text, schema, "warning")]
    assert whats == ["reads `context.input.dealStage`, and the argument of `up__deal_stage` is named `deal_stage`"]
    both = text.replace("};", '} unless { context.input has deal_stage && context.input.deal_stage == "open" };')
    assert found(FINE + both, schema, "warning") == []


def test_optional_attributes_are_found_by_name_without_a_schema() -> None:
    text = '@id("a") permit (principal, action in Action::"read", resource) when { context.task.ticket == "x" };'
    assert "`context.task.ticket` may be absent" in [finding.what for finding in found(text, None)]
    asked = text.replace('context.task.ticket == "x"', 'context.task has ticket && context.task.ticket == "x"')
    assert "`context.task.ticket` may be absent" not in [finding.what for finding in found(asked, None)]


def test_possibly_intended_patterns_are_notes() -> None:
    assert [finding.what for finding in found(READING, level="note")] == [
        "no permit covers any `write` tool (1 listed)",
        "no permit covers any `destructive` tool (1 listed)",
        "no policy uses the route `people`",
    ]
    assert found(READING, level="warning") == []


@pytest.mark.parametrize(
    "pack", [folder.name for folder in (ROOT / "policies").iterdir() if list(folder.glob("*.cedar"))]
)
def test_shipped_policies_have_no_findings(pack: str) -> None:
    texts = {path.name: path.read_text() for path in (ROOT / "policies" / pack).glob("*.cedar")}
    routes = ("crm-approvers", "security-approvals")
    made = lint(read_lint_input(texts, None, routes, {"deal-update-agent": ("crm-agents",)}))
    # Findings about the configuration, not the pack.
    ours = ("is not in [routes]", "no enrolled agent", "no agent is enrolled")
    results = [item for item in made if item.level != "note" and not any(part in item.what for part in ours)]
    if pack == "general":  # it is about any tools, so its permit is about all of them; and lint says so
        assert [item.policy for item in results if item.what.startswith("permits every tool")] == ["general-permit"]
        results = [item for item in results if item.policy != "general-permit"]
    assert results == []


def test_a_rate_that_a_reconnect_resets_is_pointed_out() -> None:
    text = FINE + '@id("f") @reason("r") forbid (principal, action, resource) when { context.rate.writes > 5 };'
    for by, findings in ((("agent", "user"), 0), (("instance",), 1)):
        made = lint(read_lint_input({"x.cedar": text}, None, ("people",), AGENTS, {"writes": by}))
        assert sum("reconnects" in finding.what for finding in made) == findings


@pytest.mark.parametrize(
    ("counts", "by", "level"),
    [
        (StepOutcome.DENIED, ("instance",), "warning"),
        (StepOutcome.STARTED, ("instance", "resource"), "note"),
        (StepOutcome.STARTED, ("agent",), None),
        (StepOutcome.SUCCEEDED, ("instance",), None),
    ],
)
def test_what_a_reconnect_makes_policies_forget_is_pointed_out(
    counts: StepOutcome, by: tuple[str, ...], level: str | None
) -> None:
    environment = PolicyEnvironment((TOOLS[0],), sequences=(SequenceRule("feared", ("up__look",), counts, by),))
    text = FINE + '@id("f") @reason("r") forbid (principal, action, resource) when { context.sequence.feared };'
    made = lint(read_lint_input({"x.cedar": text}, None, ("people",), AGENTS, environment=environment))
    assert [item.level for item in made if "reconnects" in item.what] == ([level] if level else [])


def test_a_sequence_that_tells_nothing_is_pointed_out() -> None:
    tools = (make_tool(object_of(id={"type": "string"})), make_tool(object_of(), "other"))
    rule = SequenceRule("looked", ("up__tool",), StepOutcome.SUCCEEDED, ("instance",), same="/id", earlier="/id")
    environment = PolicyEnvironment(tools, sequences=(rule,))
    texts = {
        FINE: "note: no policy reads the sequence `looked`",
        '@id("f") @reason("r") forbid (principal, action, resource) unless { context.sequence.looked };': "warning: "
        "`context.sequence.looked` is never true in calls of `up__other`",
        '@id("f") @reason("r") forbid (principal, action == Action::"up__tool", resource) '
        "unless { context.sequence.looked };": "",
        '@id("f") @reason("r") forbid (principal, action, resource) unless { context.sequence.loked };': "error: ",
    }
    for text, expected in texts.items():
        made = lint(read_lint_input({"x.cedar": FINE + text}, None, ("people",), AGENTS, environment=environment))
        findings = [f"{finding.level}: {finding.what}" for finding in made if "sequence" in finding.what]
        assert any(finding.startswith(expected) for finding in findings) if expected else findings == [], findings


@pytest.mark.parametrize(
    ("scope", "level"),
    [
        ('action == Action::"up__change"', None),
        ('action == Action::"up__purge"', "warning"),
        ('action in [Action::"up__change", Action::"up__purge"]', "note"),
    ],
)
def test_what_is_feared_of_resources_that_no_step_is_about_is_pointed_out(scope: str, level: str | None) -> None:
    rule = SequenceRule("refused", ("up__change",), StepOutcome.DENIED, ("agent", "resource"), 1)
    environment = PolicyEnvironment(TOOLS, ATTRIBUTES, sequences=(rule,))
    text = FINE + f'@id("f") @reason("r") forbid (principal, {scope}, resource) when {{ context.sequence.refused }};'
    made = lint(read_lint_input({"x.cedar": text}, None, ("people",), AGENTS, environment=environment))
    assert [item.level for item in made if "is never true" in item.what] == ([level] if level else [])


def test_an_unknown_route_hides_no_misspelt_tool() -> None:
    policy = HOLD.replace("people", "cfo").replace("action,", 'action == Action::"up__tol",')
    linted = lint(read_lint_input({"x.cedar": policy}, None, ("people",), AGENTS, environment=ENVIRONMENT))
    errors = [finding.what for finding in linted if finding.level == "error"]
    assert [("route `cfo`" in what, "up__tol" in what) for what in errors] == [(True, False), (False, True)]
