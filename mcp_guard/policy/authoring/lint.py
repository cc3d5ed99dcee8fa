"""Finds policies that are valid but probably not intended, and those that would not load. Pure.

To add a check, write one function here, add it to `CHECKS`, and add a row to `tests/policy/test_lint.py`.
"""

import difflib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Effect, Json, SequenceRule, StepOutcome, Tool
from mcp_guard.core.names import SEPARATOR
from mcp_guard.core.nearest import folded, nearest, suggest_tools
from mcp_guard.core.redaction import split_pointer
from mcp_guard.policy.authoring.impossible_times import find_impossible_times
from mcp_guard.policy.authoring.unknown_names import (
    find_compared_groups,
    find_unknown_resources,
    find_unknown_signals,
)
from mcp_guard.policy.cedar_text import expression, path_of, walk
from mcp_guard.policy.engine import PolicyEnvironment, load_confined
from mcp_guard.policy.reads import reads_of
from mcp_guard.policy.request import reads_sequence, view_of
from mcp_guard.policy.ruleset import Ruleset, action_groups
from mcp_guard.policy.source import (
    ANNOTATIONS,
    GATE,
    Policy,
    PolicyProblem,
    PolicySource,
    actions_in,
    entities_in,
    is_outside_schema,
    locate,
    parse_texts,
    with_unlisted,
)
from mcp_guard.policy.time_of_call import UTC_NAME
from mcp_guard.policy.validation import (
    TEST_FIRST,
    ValidationSchema,
    find_misspelt_actions,
    find_validation_problems,
    nearest_spelling,
)

LOCAL_TIME = ("context", "time", "local")
NO_RATES: Mapping[str, Collection[str]] = {}
OPTIONAL = (("context", "task", "ticket"), ("context", "task", "reason"), ("principal", "on_behalf_of"))
"""Optional whatever the tools are; so is every attribute of a typed resource, and each delta."""


@dataclass(frozen=True, slots=True)
class LintFinding:
    """`file` and `policy` are empty if the whole set is meant. A `note` may be intentional."""

    file: str
    policy: str
    what: str
    fix: str
    level: str = "warning"
    """`error` (the set does not load, or a value would be stored in clear), `warning` or `note`."""
    at: str = ""
    """Where in the file, as `line:column`."""


@dataclass(frozen=True, slots=True)
class LintInput:
    """What the checks look at. `schema` is None if no catalog is known; the other names come from the configuration."""

    texts: Mapping[str, str]
    policies: Mapping[str, Policy]
    problems: tuple[PolicyProblem, ...]
    schema: Json | None
    routes: Collection[str]
    groups: Collection[str]
    agents: Collection[str]
    rates: Mapping[str, Collection[str]]
    """What the calls of each rate are counted by."""
    environment: PolicyEnvironment | None = None
    """If it is known, an error is what keeps the set from being loaded for it: lint and the guard agree."""
    has_time_zone: bool = False
    """Whether the configuration names the time zone of the environment."""
    signals: Collection[str] | None = None
    """The signals of risk that calls may have; None if they are not known."""

    @property
    def is_complete(self) -> bool:
        """Whether every file could be read, so that the policies are all of the set."""
        return all(problem.policy for problem in self.problems)

    def rules(self) -> Ruleset:
        return Ruleset(self.policies, action_groups(self.schema) if self.schema else {})

    def tools(self) -> dict[str, Json]:
        """The actions that are tools."""
        actions = self.schema[""]["actions"] if self.schema else {}
        return {name: action for name, action in actions.items() if "appliesTo" in action}


def read_lint_input(
    texts: Mapping[str, str],
    schema: Json | None,
    routes: Collection[str],
    agents: Mapping[str, Collection[str]],
    rates: Mapping[str, Collection[str]] = NO_RATES,
    *,
    environment: PolicyEnvironment | None = None,
    has_time_zone: bool = False,
    signals: Collection[str] | None = None,
) -> LintInput:
    """`agents` maps each enrolled agent to its groups. The schema is that of the `environment`, if there is one."""
    source, problems = parse_texts(texts, routes)
    groups = {group for agent_groups in agents.values() for group in agent_groups}
    if environment is not None:
        schema = environment.schema()
    policies, found = source.policies, tuple(problems)
    return LintInput(
        texts, policies, found, schema, routes, groups, agents.keys(), rates, environment, has_time_zone, signals
    )


def lint(lint_input: LintInput, checks: "Iterable[Check] | None" = None) -> list[LintFinding]:
    """What these checks find, or all of them."""
    findings = dict.fromkeys(finding for check in checks or CHECKS for finding in check(lint_input))
    return [_located(finding, lint_input.texts) for finding in findings]


def _located(finding: LintFinding, texts: Mapping[str, str]) -> LintFinding:
    if finding.at or not finding.policy:
        return finding
    [problem] = locate([PolicyProblem(finding.file, finding.policy, finding.what)], texts)
    return replace(finding, at=problem.at)


def unreadable(lint_input: LintInput) -> Iterator[LintFinding]:
    """Problems that prevent loading, for any catalog."""
    for problem in lint_input.problems:
        fix = "the set does not load until this is fixed"
        yield LintFinding(problem.file, problem.policy, problem.text, fix, "error", problem.at)


def unfit(lint_input: LintInput) -> Iterator[LintFinding]:
    """Problems with which the set does not load, of policies on known tools: those that `policy validate` reports.

    They are found beside problems of named policies, such as an unknown route; files that cannot be read come first.
    """
    if lint_input.schema is None or not lint_input.is_complete:
        return
    try:
        problems = _find_problems(lint_input, lint_input.schema)
    except PolicyError as error:  # of the set, and of none of its policies
        yield LintFinding("", "", error.message, error.hint, "error")
        return
    for problem in problems:
        fix = problem.fix or "compare with the schema: mcp-guard policy schema"
        yield LintFinding(problem.file, problem.policy, problem.text, fix, "error", problem.at)


def _find_problems(lint_input: LintInput, schema: Json) -> list[PolicyProblem]:
    """Raises: PolicyError."""
    if lint_input.environment is not None:
        source = PolicySource(lint_input.texts, lint_input.policies)
        return list(load_confined(Path("policies"), source, lint_input.environment).problems)
    known = {id: policy for id, policy in lint_input.policies.items() if not is_outside_schema(policy, schema)}
    against = ValidationSchema(with_unlisted(schema, known.values()))
    return find_validation_problems(known, against) if known else []


def unknown_tools(lint_input: LintInput) -> Iterator[LintFinding]:
    if lint_input.schema is None:
        return
    known = lint_input.schema[""]["actions"]
    listed = lint_input.environment.listed() if lint_input.environment else None
    misspelt = find_misspelt_actions(lint_input.policies.values(), listed) if listed else ()
    reported = {problem.policy for problem in misspelt}
    for policy in (policy for policy in lint_input.policies.values() if policy.id not in reported):
        for name in sorted(set(_entities(policy.body["action"])) - known.keys()):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean `{near[0]}`?" if near else "mcp-guard policy schema lists all of them"
            yield LintFinding(policy.file, policy.id, f"no tool or tool group is named `{name}` at present", hint)


def never_listed(lint_input: LintInput) -> Iterator[LintFinding]:
    """Tools that no listing had, now or earlier, and that the configuration does not name either. Of a server of which
    no tool is known, one note; of a configured one that lists nothing now, none: its absence is reported anyway.
    """
    environment = lint_input.environment
    if environment is None:
        return
    listed = environment.listed()
    seen = {*(tool.listed_as for tool in environment.tools), *environment.seen}
    servers = {name.partition(SEPARATOR)[0] for name in seen}
    unchecked: dict[str, None] = {}
    for policy in lint_input.policies.values():
        for name in sorted(filter(listed.is_unknown_tool, actions_in(policy))):
            server = name.partition(SEPARATOR)[0]
            if server in servers:
                what = f"no tool `{name}` is listed or was before, and [tools] has none"
                yield LintFinding(policy.file, policy.id, what, suggest_tools(name, {*seen, *listed.known}))
            elif server not in listed.absent:
                unchecked[server] = None
    for server in unchecked:
        if server in listed.servers:
            what, fix = f"no tools of `{server}` are known", "list them: mcp-guard tools list --now"
        else:
            near = nearest(server, listed.servers)
            add = f"correct the name in the policies, or add [upstreams.{server}]"
            what, fix = f"no upstream `{server}` is configured", f"did you mean `{near}`?" if near else add
        yield LintFinding("", "", f"{what}, so the names of its tools are not checked", fix, "note")


def optional_without_has(lint_input: LintInput) -> Iterator[LintFinding]:
    """Without a schema only; with one, Cedar reports these."""
    for policy in lint_input.policies.values() if lint_input.schema is None else ():
        tested, read = set(), {}
        for condition in policy.body["conditions"]:
            for node in walk(condition["body"]):
                path = path_of(node)
                if path and "has" in node:
                    tested.add(path)
                elif path and "." in node and _is_optional(path):
                    read[path] = node
        for path in read.keys() - tested:
            fix = TEST_FIRST.format(".".join(path[:-1]), path[-1])
            yield LintFinding(policy.file, policy.id, f"`{'.'.join(path)}` may be absent", fix)


def _is_optional(path: tuple[str, ...]) -> bool:
    delta = path[:3] == ("context", "change", "delta") and len(path) == 4
    return path in OPTIONAL or delta or (path[0] == "resource" and len(path) == 2)


def gate_without_reason(lint_input: LintInput) -> Iterator[LintFinding]:
    for policy in lint_input.policies.values():
        if policy.body["effect"] == "forbid" and not policy.reason:
            readers = "the approver and the agent" if policy.routes else "the agent"
            fix = f'add @reason("…"), which is shown to {readers}'
            yield LintFinding(
                policy.file, policy.id, f"{'a gate' if policy.routes else 'a forbid'} without a reason", fix
            )


def permits_everything(lint_input: LintInput) -> Iterator[LintFinding]:
    for policy in lint_input.policies.values():
        if policy.body["effect"] == "permit" and _is_unconditional(policy):
            fix = 'restrict its scope: principal in Group::"…", action in […]'
            yield LintFinding(policy.file, policy.id, "permits every tool to every agent", fix)


def _is_unconditional(policy: Policy) -> bool:
    scopes = (policy.body[part]["op"] for part in ("principal", "action", "resource"))
    return all(op == "All" for op in scopes) and not policy.body["conditions"]


def never_matters(lint_input: LintInput) -> Iterator[LintFinding]:
    """Policies without effect: forbids where nothing is permitted, duplicates, and conditions that never hold."""
    seen: dict[str, str] = {}
    rules = lint_input.rules()
    permits = {id for id, policy in lint_input.policies.items() if policy.body["effect"] == "permit"}
    for id, policy in lint_input.policies.items():
        body = {**policy.body, "annotations": None}
        same = seen.setdefault(json.dumps(body, sort_keys=True) + str(policy.routes), id)
        if same != id:
            yield LintFinding(policy.file, id, f"is a duplicate of `{same}`", "remove one of them")
        if any(_is_never(condition) for condition in policy.body["conditions"]):
            yield LintFinding(policy.file, id, "its condition can never hold", "remove it or fix the condition")
        reach = [name for name in lint_input.tools() if id in rules.policies_for(name)]
        if (
            policy.body["effect"] == "forbid"
            and reach
            and not any(rules.policies_for(name) & permits for name in reach)
        ):
            yield LintFinding(
                policy.file,
                id,
                "no policy permits what it forbids",
                "remove it: without a permit, the call is denied anyway",
            )


def _is_never(condition: Json) -> bool:
    text = expression(condition["body"])
    return text == ("false" if condition["kind"] == "when" else "true")


def uncovered_effects(lint_input: LintInput) -> Iterator[LintFinding]:
    """Effects that no permit covers, and destructive tools without a forbid or gate."""
    if not lint_input.is_complete:
        return
    rules = lint_input.rules()
    effects = {
        effect: [name for name, action in lint_input.tools().items() if _is_in(action, effect)] for effect in Effect
    }
    for effect, tools in effects.items():
        permitted = [name for name in tools if _kinds(rules, name, "permit")]
        if tools and not permitted:
            fix = "no agent is offered these tools; ignore this if that is intended"
            yield LintFinding("", "", f"no permit covers any `{effect}` tool ({len(tools)} listed)", fix, "note")
        bare = [name for name in permitted if effect is Effect.DESTRUCTIVE and not _kinds(rules, name, "forbid")]
        if bare:
            fix = 'add a gate: @require_approval("…") forbid (principal, action in Action::"destructive", resource);'
            yield LintFinding(
                "", "", f"destructive and permitted without any forbid or gate: {', '.join(sorted(bare))}", fix
            )


def _is_in(action: Json, effect: Effect) -> bool:
    return any(parent["id"] == effect for parent in action.get("memberOf", []))


def _kinds(rules: Ruleset, action: str, effect: str) -> list[str]:
    return [id for id in rules.policies_for(action) if rules.policies[id].body["effect"] == effect]


def unknown_principals(lint_input: LintInput) -> Iterator[LintFinding]:
    known = {"Group": lint_input.groups, "Agent": lint_input.agents}
    for policy in lint_input.policies.values():
        for type, ids in known.items():
            for id in sorted(entities_in(policy, type) - set(ids)):
                what = "no enrolled agent is in the group" if type == "Group" else "no agent is enrolled as"
                fix = "check the name against mcp-guard agents list"
                yield LintFinding(policy.file, policy.id, f"{what} `{id}`", fix)


def rates_reset_by_reconnecting(lint_input: LintInput) -> Iterator[LintFinding]:
    for policy in lint_input.policies.values():
        for path in reads_of(policy):
            if path[:2] == ("context", "rate") and "instance" in lint_input.rates.get(path[-1], ()):
                what = f"a client that reconnects is a new instance, for which `{path[-1]}` starts at zero"
                fix = f'set rates.{path[-1]}.by = ["agent", "user"]'
                yield LintFinding(policy.file, policy.id, what, fix)


def sequences_reset_by_reconnecting(lint_input: LintInput) -> Iterator[LintFinding]:
    """What policies fear in one run is forgotten in the next. A confidential read may be meant so, a refusal hardly."""
    rules = lint_input.environment.sequences if lint_input.environment else ()
    feared = [rule for rule in rules if rule.counts is not StepOutcome.SUCCEEDED and "instance" in rule.by]
    for rule, policy in product(feared, lint_input.policies.values()):
        if reads_sequence(view_of([policy]), rule):
            what = f"a client that reconnects is a new instance, for which `context.sequence.{rule.name}` is false"
            fix = f'set sequences.{rule.name}.by = ["agent"], and within_seconds'
            level = "warning" if rule.counts is StepOutcome.DENIED else "note"
            yield LintFinding(policy.file, policy.id, what, fix, level)


def sequences_that_tell_nothing(lint_input: LintInput) -> Iterator[LintFinding]:
    """Sequences that no policy reads, and those that policies read in calls of tools that have nothing of what is
    compared. What policies fear may be read in a wide scope, unless it is true in none of it."""
    environment = lint_input.environment
    if environment is None:
        return
    against = ValidationSchema(environment.schema())
    tools = {tool.listed_as: tool for tool in (*environment.tools, *environment.operations)}
    for rule in environment.sequences:
        readers = [policy for policy in lint_input.policies.values() if reads_sequence(view_of([policy]), rule)]
        if not readers:
            fix = f"read `context.sequence.{rule.name}`, or remove [sequences.{rule.name}]"
            yield LintFinding("", "", f"no policy reads the sequence `{rule.name}`", fix, "note")
        for policy in readers:
            scope = against.tools_in_scope(policy)
            for why, lacking in _incomparable(rule, [tools[name] for name in scope if name in tools], tools):
                others = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
                what = f"`context.sequence.{rule.name}` is never true in calls of `{lacking[0]}`{others}"
                is_meant = rule.counts is not StepOutcome.SUCCEEDED and len(lacking) < len(scope)
                fix = f"narrow its scope, or correct sequences.{rule.name}.{why}"
                yield LintFinding(policy.file, policy.id, what, fix, "note" if is_meant else "warning")


def _incomparable(
    rule: SequenceRule, scope: Sequence[Tool], tools: Mapping[str, Tool]
) -> Iterator[tuple[str, list[str]]]:
    """The tools of the scope whose calls can follow no step of the sequence, by the reason."""
    if rule.same:
        argument = split_pointer(rule.same)[0]
        if lacking := [tool.listed_as for tool in scope if tool.method is None and argument not in tool.declared()]:
            yield f"same: they have no argument `{argument}`", lacking
    if "resource" in rule.by and all(name in tools for name in rule.tools):
        steps = {_resource_type(tools[name]) for name in rule.tools}
        if lacking := [tool.listed_as for tool in scope if _resource_type(tool) not in steps]:
            yield "by: its steps are about resources of another type", lacking


def _resource_type(tool: Tool) -> str:
    """A tool without a configured resource is about itself."""
    return tool.rule.resource.type if tool.rule.resource else tool.listed_as


def arguments_named_otherwise(lint_input: LintInput) -> Iterator[LintFinding]:
    """Tools in scope whose argument has a spelling that the policy does not read: the rule does not hold there."""
    if lint_input.schema is None:
        return
    against = ValidationSchema(lint_input.schema)
    for policy in lint_input.policies.values():
        names = {path[2] for path in reads_of(policy) if path[:2] == ("context", "input") and len(path) > 2}
        for tool in against.tools_in_scope(policy):
            declared = against.attributes(tool, ("context", "input")) or ()
            for other in sorted(set(declared) - names):
                for name in sorted(name for name in names - set(declared) if folded(name) == folded(other)):
                    what = f"reads `context.input.{name}`, and the argument of `{tool}` is named `{other}`"
                    fix = f"read `context.input has {other}` as well, or leave the tool out of the scope"
                    yield LintFinding(policy.file, policy.id, what, fix)


def local_time_is_utc(lint_input: LintInput) -> Iterator[LintFinding]:
    environment = lint_input.environment
    is_default = environment is not None and environment.time_zone == UTC_NAME and not lint_input.has_time_zone
    for policy in lint_input.policies.values() if is_default else ():
        if any(path[:3] == LOCAL_TIME for path in reads_of(policy)):
            fix = 'set guard.time_zone, such as "Europe/Berlin", or read `context.time.utc`'
            yield LintFinding(
                policy.file, policy.id, "`context.time.local` is UTC with this configuration", fix, "note"
            )


def impossible_times(lint_input: LintInput) -> Iterator[LintFinding]:
    for policy in lint_input.policies.values():
        for what, fix in find_impossible_times(policy):
            yield LintFinding(policy.file, policy.id, what, fix)


def names_that_no_call_has(lint_input: LintInput) -> Iterator[LintFinding]:
    for policy in lint_input.policies.values():
        found = list(find_compared_groups(policy))
        if lint_input.environment is not None:
            found += find_unknown_resources(policy, lint_input.environment)
        if lint_input.signals is not None:
            found += find_unknown_signals(policy, lint_input.signals)
        for what, fix in found:
            yield LintFinding(policy.file, policy.id, what, fix)


def misspelt_annotations(lint_input: LintInput) -> Iterator[LintFinding]:
    """Annotations that are nearly one that the guard reads, and the policy lacks. Any other is the author's own."""
    for policy in lint_input.policies.values():
        given = policy.body.get("annotations", {})
        for name in sorted(given.keys() - set(ANNOTATIONS)):
            missing = set(ANNOTATIONS) - given.keys()
            near = nearest_spelling(name, missing)
            if near is None and GATE in missing and given[name] in lint_input.routes:
                near = GATE if difflib.get_close_matches(name, NAMES_OF_GATE, 1) else None
            if near:
                what = f"the guard does not read the annotation `@{name}`, so it has no effect"
                yield LintFinding(policy.file, policy.id, what, f"did you mean `@{near}`?")


NAMES_OF_GATE = ("approve", "approval", "approvers", "route", "gate")
"""What somebody may call the annotation of a gate who does not remember it; with the name of a route, it is one."""


def unused_routes(lint_input: LintInput) -> Iterator[LintFinding]:
    if not lint_input.is_complete:
        return
    used = {route for policy in lint_input.policies.values() for route in policy.routes}
    for route in sorted(set(lint_input.routes) - used):
        yield LintFinding(
            "", "", f"no policy uses the route `{route}`", "name it in a gate or an escalation, or remove it", "note"
        )


def _entities(scope: Json) -> list[str]:
    return [entity["id"] for entity in [*scope.get("entities", []), scope.get("entity")] if entity]


Check = Callable[[LintInput], Iterator[LintFinding]]
CHECKS: tuple[Check, ...] = (
    unreadable,
    unfit,
    unknown_tools,
    optional_without_has,
    gate_without_reason,
    permits_everything,
    never_matters,
    uncovered_effects,
    unknown_principals,
    rates_reset_by_reconnecting,
    sequences_reset_by_reconnecting,
    sequences_that_tell_nothing,
    arguments_named_otherwise,
    local_time_is_utc,
    impossible_times,
    names_that_no_call_has,
    misspelt_annotations,
    unused_routes,
)
WARNINGS_OF_TEST: tuple[Check, ...] = (impossible_times, misspelt_annotations)
"""What `policy test` warns of: policies that decide otherwise than they seem to, which no case need show."""
WARNINGS_OF_VALIDATE: tuple[Check, ...] = (never_listed, names_that_no_call_has, *WARNINGS_OF_TEST)
"""What `policy validate` warns of, beside what keeps the set from being loaded."""
