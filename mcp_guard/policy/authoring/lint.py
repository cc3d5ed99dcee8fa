"""What is legal and probably not meant: a visible, ordered list of checks over a set of policies. Pure.

To add one: a function here, its line in `CHECKS`, one row in `tests/policy/test_lint.py`.
"""

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Effect, Json
from mcp_guard.policy.cedar_text import expression, path_of, walk
from mcp_guard.policy.ruleset import Ruleset, action_groups
from mcp_guard.policy.source import Policy, is_outside_schema, parse_texts, validate

OPTIONAL = (("context", "task", "ticket"), ("context", "task", "reason"), ("principal", "on_behalf_of"))
"""Optional whatever the tools are; so is every attribute of a typed resource, and each delta."""


@dataclass(frozen=True, slots=True)
class LintFinding:
    """`file` and `policy` are empty where the whole set is meant. A `note` may well be meant so."""

    file: str
    policy: str
    what: str
    fix: str
    level: str = "warning"
    """`error` (it would not load), `warning` or `note`."""


@dataclass(frozen=True, slots=True)
class LintInput:
    """What the checks look at. `schema` is None if no catalog is known; the rest is from the configuration."""

    texts: Mapping[str, str]
    policies: Mapping[str, Policy]
    problems: tuple[str, ...]
    schema: Json | None
    routes: Collection[str]
    groups: Collection[str]
    agents: Collection[str]

    def rules(self) -> Ruleset:
        return Ruleset(self.policies, action_groups(self.schema) if self.schema else {})

    def tools(self) -> dict[str, Json]:
        """The actions that are tools."""
        actions = self.schema[""]["actions"] if self.schema else {}
        return {name: about for name, about in actions.items() if "appliesTo" in about}


def read_linted(
    texts: Mapping[str, str], schema: Json | None, routes: Collection[str], agents: Mapping[str, Collection[str]]
) -> LintInput:
    """`agents` are the enrolled ones with their groups."""
    source, problems = parse_texts(texts, routes)
    groups = {group for each in agents.values() for group in each}
    return LintInput(texts, source.policies, tuple(problems), schema, routes, groups, agents.keys())


def lint(linted: LintInput) -> list[LintFinding]:
    return list(dict.fromkeys(finding for check in CHECKS for finding in check(linted)))


def unreadable(linted: LintInput) -> Iterator[LintFinding]:
    """What loading refuses, whatever the tools are."""
    for problem in linted.problems:
        file, _, rest = problem.partition(": ")
        policy, _, what = rest.partition(": ")
        named = policy in linted.policies or policy.startswith("policy")
        fix = "the set is not loaded until this is mended"
        yield LintFinding(file, policy if named else "", what if named else rest, fix, "error")


def unfit(linted: LintInput) -> Iterator[LintFinding]:
    """What Cedar refuses under the schema, of policies on tools that are known."""
    if linted.schema is None or linted.problems:
        return
    known = {id: policy for id, policy in linted.policies.items() if not is_outside_schema(policy, linted.schema)}
    try:
        if known:
            validate(known, json.dumps(linted.schema), Path())
    except PolicyError as error:
        alike = {re.sub(r'Action::"[^"]*"', "", line): line for line in reversed(error.message.splitlines())}
        for line in reversed(alike.values()):  # a mistake is found once for each tool: say it once
            file, _, rest = line.partition(": ")
            policy, _, what = rest.partition(": ")
            yield LintFinding(file, policy, what, _mend(what), "error")


def _mend(what: str) -> str:
    if "optional attribute" in what:
        return "ask `… has …  &&` first: what is absent makes the policy fail, and so denies"
    return "compare with the schema: mcp-guard policy schema"


def unknown_tools(linted: LintInput) -> Iterator[LintFinding]:
    if linted.schema is None:
        return
    known = linted.schema[""]["actions"]
    for policy in linted.policies.values():
        for name in sorted(set(_entities(policy.body["action"])) - known.keys()):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean `{near[0]}`?" if near else "mcp-guard policy schema lists what there is"
            yield LintFinding(policy.file, policy.id, f"no tool or group of tools is called `{name}` now", hint)


def optional_without_has(linted: LintInput) -> Iterator[LintFinding]:
    """Where no schema is known; with one, Cedar finds these."""
    for policy in linted.policies.values() if linted.schema is None else ():
        asked, read = set(), {}
        for condition in policy.body["conditions"]:
            for each in walk(condition["body"]):
                path = path_of(each)
                if path and "has" in each:
                    asked.add(path)
                elif path and "." in each and _is_optional(path):
                    read[path] = each
        for path in read.keys() - asked:
            where = f"{'.'.join(path[:-1])} has {path[-1]}"
            yield LintFinding(policy.file, policy.id, f"`{'.'.join(path)}` may be absent", f"ask `{where} &&` first")


def _is_optional(path: tuple[str, ...]) -> bool:
    delta = path[:3] == ("context", "change", "delta") and len(path) == 4
    return path in OPTIONAL or delta or (path[0] == "resource" and len(path) == 2)


def gate_without_reason(linted: LintInput) -> Iterator[LintFinding]:
    for policy in linted.policies.values():
        if policy.body["effect"] == "forbid" and not policy.reason:
            who = "the approver and the agent read" if policy.routes else "the agent reads"
            fix = f'add @reason("…"): it is what {who}'
            yield LintFinding(
                policy.file, policy.id, f"{'a gate' if policy.routes else 'a forbid'} without a reason", fix
            )


def permits_everything(linted: LintInput) -> Iterator[LintFinding]:
    for policy in linted.policies.values():
        if policy.body["effect"] == "permit" and _is_unconditional(policy):
            fix = 'name whom or what it is for: principal in Group::"…", action in […]'
            yield LintFinding(policy.file, policy.id, "allows everything, to every agent, on every tool", fix)


def _is_unconditional(policy: Policy) -> bool:
    scopes = (policy.body[part]["op"] for part in ("principal", "action", "resource"))
    return all(op == "All" for op in scopes) and not policy.body["conditions"]


def never_matters(linted: LintInput) -> Iterator[LintFinding]:
    """Forbids that change nothing: nothing is permitted there, another says the same, or it can never hold."""
    seen: dict[str, str] = {}
    rules = linted.rules()
    permits = {id for id, policy in linted.policies.items() if policy.body["effect"] == "permit"}
    for id, policy in linted.policies.items():
        body = {**policy.body, "annotations": None}
        same = seen.setdefault(json.dumps(body, sort_keys=True) + str(policy.routes), id)
        if same != id:
            yield LintFinding(policy.file, id, f"says the same as `{same}`", "remove one of them")
        if any(_is_never(condition) for condition in policy.body["conditions"]):
            yield LintFinding(policy.file, id, "its condition can never hold", "remove it, or mend the condition")
        reach = [name for name in linted.tools() if id in rules.policies_for(name)]
        if (
            policy.body["effect"] == "forbid"
            and reach
            and not any(rules.policies_for(name) & permits for name in reach)
        ):
            yield LintFinding(
                policy.file, id, "no policy permits what it forbids", "what is not permitted is denied without it"
            )


def _is_never(condition: Json) -> bool:
    text = expression(condition["body"])
    return text == ("false" if condition["kind"] == "when" else "true")


def uncovered_effects(linted: LintInput) -> Iterator[LintFinding]:
    """Effects that no permit reaches, and destructive tools that only permits are about."""
    rules = linted.rules()
    effects = {effect: [n for n, about in linted.tools().items() if _is_in(about, effect)] for effect in Effect}
    for effect, tools in effects.items():
        permitted = [name for name in tools if _kinds(rules, name, "permit")]
        if tools and not permitted:
            fix = "nobody is listed these tools; if that is meant, all is well"
            yield LintFinding("", "", f"no permit is about any `{effect}` tool ({len(tools)} listed)", fix, "note")
        bare = [name for name in permitted if effect is Effect.DESTRUCTIVE and not _kinds(rules, name, "forbid")]
        if bare:
            fix = 'add a gate: @require_approval("…") forbid (principal, action in Action::"destructive", resource);'
            yield LintFinding(
                "", "", f"permitted and destructive, with no forbid or gate: {', '.join(sorted(bare))}", fix
            )


def _is_in(about: Json, effect: Effect) -> bool:
    return any(parent["id"] == effect for parent in about.get("memberOf", []))


def _kinds(rules: Ruleset, action: str, effect: str) -> list[str]:
    return [id for id in rules.policies_for(action) if rules.policies[id].body["effect"] == effect]


def unknown_principals(linted: LintInput) -> Iterator[LintFinding]:
    known = {"Group": linted.groups, "Agent": linted.agents}
    for policy in linted.policies.values():
        scope = policy.body["principal"]
        entity = scope.get("entity") or scope.get("in", {}).get("entity") or {"type": ""}
        if entity["type"] in known and entity["id"] not in known[entity["type"]]:
            what = "no enrolled agent is in the group" if entity["type"] == "Group" else "no agent is enrolled as"
            fix = "check the name against [agents] in the config"
            yield LintFinding(policy.file, policy.id, f"{what} `{entity['id']}`", fix)


def unused_routes(linted: LintInput) -> Iterator[LintFinding]:
    used = {route for policy in linted.policies.values() for route in policy.routes}
    for route in sorted(set(linted.routes) - used):
        yield LintFinding("", "", f"no policy uses the route `{route}`", "a gate or an escalation may name it", "note")


def _entities(scope: Json) -> list[str]:
    return [entity["id"] for entity in [*scope.get("entities", []), scope.get("entity")] if entity]


CHECKS: tuple[Callable[[LintInput], Iterator[LintFinding]], ...] = (
    unreadable,
    unfit,
    unknown_tools,
    optional_without_has,
    gate_without_reason,
    permits_everything,
    never_matters,
    uncovered_effects,
    unknown_principals,
    unused_routes,
)
