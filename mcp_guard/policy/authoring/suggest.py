"""Suggests policies from decisions of the past: the narrowest rules that cover what people always approved.

Calls are grouped by agent, tool and resource type. A gate that was always approved gets an exception (`unless`),
because no permit can override it; a call that observe mode let through without any permit gets a permit of its own. A
group in which an approver denied a call, or with a call that a plain `forbid` denies, is never the basis of a
suggestion.

`build_candidate` writes the suggestions into the policy files, validates them, and replays the ledger under the result.
INVARIANT: no replayed decision is more permissive under the candidate, except for requests that an approver or observe
mode let through. A suggestion that would go further is withdrawn and reported as skipped.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Json, Outcome
from mcp_guard.core.visible_text import join
from mcp_guard.policy.authoring.generalize import Condition, Unbounded, record_conditions
from mcp_guard.policy.authoring.recorded import PolicyVersion, RecordedDecision
from mcp_guard.policy.authoring.replay import FindVersion, ReplayReport, replay
from mcp_guard.policy.cedar_text import is_plain, quoted
from mcp_guard.policy.ruleset import entity_text
from mcp_guard.policy.source import Policy, is_outside_schema, parse_texts, with_unlisted
from mcp_guard.policy.validation import ValidationSchema, find_validation_problems

Group = tuple[str, str, str]
"""Agent, tool, and type of resource."""
MIN_CALLS = 3
"""How many calls a suggestion needs by default."""
TASK = "task"
LAUNCH_ATTRIBUTES = ("started", "expires", "owner")
"""Attributes of the principal that depend on the launch, not on what is done: no condition bounds them."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One suggested rule, from the calls in `basis`: an exception to each of `gates`, or a permit if there are none."""

    id: str
    group: Group
    gates: tuple[str, ...]
    conditions: tuple[Condition, ...]
    basis: tuple[RecordedDecision, ...]

    def exception(self) -> str:
        """The condition to add to a gate: the text between the braces of an `unless`."""
        agent, tool, type = self.group
        scope = (
            f"principal in {entity_text('Agent', agent)}",
            f"action == {entity_text('Action', tool)}",
            f"resource is {type}",
        )
        return "\n".join(_condition_lines([*(Condition(text, "") for text in scope), *self.conditions]))

    def permit(self) -> str:
        agent, tool, type = self.group
        scope = (
            f"principal in {entity_text('Agent', agent)}, action == {entity_text('Action', tool)}, resource is {type}"
        )
        body = "\n".join(_condition_lines(self.conditions))
        return f'@id("{self.id}")\npermit ({scope})\nwhen {{\n{body}\n}};\n'


@dataclass(slots=True)
class Suggestions:
    """`skipped` gives the reason for each group without a suggestion."""

    suggested: list[Suggestion] = field(default_factory=list)
    skipped: dict[Group, str] = field(default_factory=dict)

    def withdraw(self, suggestion: Suggestion, reason: str) -> None:
        self.suggested.remove(suggestion)
        self.skipped[suggestion.group] = reason


def _condition_lines(conditions: Iterable[Condition]) -> Iterator[str]:
    """The conditions joined by `&&`, one a line, each under its comment; `true` is a comment without a condition."""
    conditions = list(conditions)
    last = max((index for index, condition in enumerate(conditions) if condition.text != "true"), default=-1)
    for index, condition in enumerate(conditions):
        if condition.comment:
            yield f"  // {condition.comment}"
        if condition.text != "true":
            yield f"  {condition.text}{' &&' if index != last else ''}"


def group_of(receipt: Json) -> Group:
    resource = receipt.get("resource") or {"type": "Tool"}
    return receipt["agent"], receipt["tool"], resource["type"]


def suggest(
    decisions: Iterable[RecordedDecision],
    version: PolicyVersion,
    *,
    refused: Mapping[Group, str],
    min_calls: int = MIN_CALLS,
    free: frozenset[str] = frozenset(),
) -> Suggestions:
    """Suggest one rule for each group of calls that ran because an approver or observe mode let them through.

    `refused` gives the reason for groups in which an approver denied a call; a group needs `min_calls` calls; arguments
    in `free` are left unbounded.
    """
    suggestions, groups = Suggestions(), defaultdict[Group, list[RecordedDecision]](list)
    for decision in decisions:
        if _is_basis(decision):
            groups[group_of(decision.receipt)].append(decision)
    for number, (group, basis) in enumerate(sorted(groups.items(), key=lambda item: item[0]), 1):
        try:
            if group in refused:
                raise Unbounded(refused[group])
            if len(basis) < min_calls:
                raise Unbounded(f"too few calls ({len(basis)}, at least {min_calls} needed; see --least)")
            suggestions.suggested.append(_suggest_for_group(f"suggested-{number}", group, basis, version, free))
        except Unbounded as error:
            suggestions.skipped[group] = str(error)
    return suggestions


def _is_basis(decision: RecordedDecision) -> bool:
    """Whether the call ran, and only because an approver or observe mode let it through."""
    receipt = decision.receipt
    if receipt["kind"] != "intent" or decision.material is None:
        return False
    return bool(receipt.get("would", receipt)["outcome"] != Outcome.ALLOW)


def _suggest_for_group(
    id: str, group: Group, basis: list[RecordedDecision], version: PolicyVersion, free: frozenset[str]
) -> Suggestion:
    """Raises: Unbounded with the reason if nothing can be suggested."""
    outcomes = [decision.receipt.get("would", decision.receipt) for decision in basis]
    gates = {gate for outcome in outcomes for gate in outcome.get("policies", ())}
    if forbids := sorted(gate for gate in gates if not version.rules.gates.get(gate)):
        raise Unbounded(f"`{forbids[0]}` forbids it, and is not a gate that an approver could open")
    if gates and not all(outcome.get("policies") for outcome in outcomes):
        raise Unbounded("some calls were held by a gate and others had no permit: review them separately")
    conditions = tuple(_conditions(group, basis, version, free))
    return Suggestion(id, group, tuple(sorted(gates)), conditions, tuple(basis))


def _conditions(
    group: Group, basis: list[RecordedDecision], version: PolicyVersion, free: frozenset[str]
) -> Iterator[Condition]:
    """What all calls of the basis have in common, attribute by attribute, following the types in the schema."""
    _, tool, type = group
    contexts = [decision.material["request"]["context"] for decision in basis if decision.material]
    attributes = version.schema[""]["actions"][tool]["appliesTo"]["context"]["attributes"]
    if hidden := sorted({path for context in contexts for path in context.get("input_inexact", ())}):
        raise Unbounded(f"`{hidden[0]}` has a value in some calls that no policy can compare exactly")
    yield Condition(
        "true", f"from {len(basis)} calls, {basis[0].receipt['time'][:10]} to {basis[-1].receipt['time'][:10]}"
    )
    for name in sorted(attributes):
        values = [context[name] for context in contexts if name in context]
        if len(values) < len(contexts):
            yield Condition("true", f"context.{name}: not bounded, because it is not stored for every call")
        elif name == TASK:
            yield from _task_conditions(values)
        elif name == "input":
            yield from record_conditions("context.input", values, attributes[name], free)
        elif name == "change":
            yield from _change_conditions(values, attributes[name], free)
        else:
            records = [{name: value} for value in values]
            yield from record_conditions("context", records, {"attributes": {name: attributes[name]}})
    entity_types = version.schema[""]["entityTypes"]
    for variable, entity_type in (
        ("principal", entity_types["AgentInstance"]),
        ("resource", entity_types.get(type, {})),
    ):
        bounded = dict(entity_type.get("shape", {}).get("attributes", {}))
        if variable == "principal":
            bounded = {name: kind for name, kind in bounded.items() if name not in LAUNCH_ATTRIBUTES}
        records = [attributes_of(decision, variable) for decision in basis]
        yield from record_conditions(variable, records, {"attributes": bounded})


def _change_conditions(values: list[Json], kind: Json, free: frozenset[str]) -> Iterator[Condition]:
    """Conditions on `context.change`, of this schema type."""
    changes = [{**value, "fields": [name for name in value["fields"] if name not in free]} for value in values]
    delta = kind["attributes"]["delta"]["attributes"]
    bounds = {**kind["attributes"], "fields": {"type": "Set"}}
    bounds["delta"] = {"type": "Record", "attributes": {name: type for name, type in delta.items() if name not in free}}
    if free:
        yield Condition("true", f"context.change.fields: not bounded, because {', '.join(sorted(free))} is free")
        bounds.pop("fields")
    yield from record_conditions("context.change", changes, {"attributes": bounds})


def _task_conditions(values: list[Json]) -> Iterator[Condition]:
    for name in ("ticket", "reason"):
        if all(name in value for value in values):
            yield Condition(f"context.task has {name}", f"each call had a {name}")


def attributes_of(decision: RecordedDecision, variable: str) -> Json:
    """The attributes of the principal or resource of a recorded request."""
    assert decision.material is not None
    uid = decision.material["request"][variable]
    attributes = (entity["attrs"] for entity in decision.material["entities"] if entity["uid"] == uid)
    return dict(next(attributes, {}))


# Policy files and cases


def with_exception(text: str, gate: str, exception: str) -> str:
    """The file's text with one more `unless` on this gate; all else, comments too, stays. Raises: ValueError."""
    start = text.index(f"@id({quoted(gate)})")
    end = _end_of_policy(text, start)
    return f"{text[:end]}\nunless {{\n{exception}\n}}{text[end:]}"


def _end_of_policy(text: str, at: int) -> int:
    """The position of the `;` that ends the policy, skipping strings and comments."""
    while text[at] != ";":
        if text[at] == '"':
            at += 1
            while text[at] != '"':
                at += 2 if text[at] == "\\" else 1
        elif text.startswith("//", at):
            at = text.index("\n", at)
        at += 1
    return at


def case_of(decision: RecordedDecision, request: Json, facts: Json | None) -> Iterator[str]:
    """Lines of a case that expects the call to be allowed, in the form of `policy/authoring/cases.py`."""
    assert decision.material is not None
    receipt, context = decision.receipt, decision.material["request"]["context"]
    groups = [entity["uid"]["id"] for entity in decision.material["entities"] if entity["uid"]["type"] == "Group"]
    yield "[[case]]"
    yield f"name = {json.dumps('as in receipt ' + str(receipt['seq']))}"
    for name in ("tool", "agent", "owner", "on_behalf_of", "ticket", "reason"):
        if receipt.get(name):
            yield f"{name} = {json.dumps(receipt[name], ensure_ascii=False)}"
    yield f"groups = {json.dumps(groups, ensure_ascii=False)}"
    yield f"arguments = {inline(request)}"
    if facts is not None:
        yield f"facts = {inline(facts)}"
    if context.get("rate"):
        yield f"rates = {inline({name: _as_number(count) for name, count in context['rate'].items()})}"
    yield 'outcome = "allow"'
    yield ""


def _as_number(value: Any) -> Any:
    """A rate as a number, where the request holds a Cedar decimal."""
    return float(value["__extn"]["arg"]) if isinstance(value, dict) else value


def inline(value: object) -> str:
    """A TOML inline value; null members are left out, because TOML has no null."""
    if isinstance(value, dict):
        members = ((name, member) for name, member in value.items() if member is not None)
        inner = ", ".join(
            f"{name if is_plain(name) else json.dumps(name)} = {inline(member)}" for name, member in members
        )
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A whole candidate: its files by name, the suggestions in them, and the replay of the ledger under it."""

    texts: dict[str, str]
    suggestions: Suggestions
    replay: ReplayReport


def build_candidate(
    decisions: list[RecordedDecision],
    latest: PolicyVersion,
    find_version: FindVersion,
    *,
    texts: Mapping[str, str],
    routes: Collection[str],
    permits_file: str,
    refused: Mapping[Group, str],
    min_calls: int = MIN_CALLS,
    free: frozenset[str] = frozenset(),
) -> Candidate:
    """Suggest rules, write them into the policy files `texts`, and check them against the recorded decisions.

    `latest` is the policy version whose schema the result must fit; new permits go into `permits_file`. For `refused`,
    `min_calls` and `free` see `suggest`.
    """
    suggestions = suggest(decisions, latest, refused=refused, min_calls=min_calls, free=free)
    writer = _CandidateWriter(texts, routes, latest.schema, permits_file)
    for suggestion in list(suggestions.suggested):
        if problem := writer.problem_with(suggestion):
            suggestions.withdraw(suggestion, problem)
    while True:
        candidate_texts, policies = writer.write(suggestions.suggested)
        report = replay(decisions, find_version, policies)
        too_permissive = _find_too_permissive(report, decisions, suggestions.suggested)
        excessive = [suggestion for suggestion in suggestions.suggested if suggestion.group in too_permissive]
        if not excessive:
            return Candidate(candidate_texts, suggestions, report)
        for suggestion in excessive:
            seq = too_permissive[suggestion.group]
            suggestions.withdraw(suggestion, f"it would also permit receipt {seq}, which was not let through")


@dataclass(frozen=True, slots=True)
class _CandidateWriter:
    """Writes suggestions into copies of the policy files."""

    texts: Mapping[str, str]
    routes: Collection[str]
    schema: Json
    permits_file: str

    def problem_with(self, suggestion: Suggestion) -> str:
        """Why this suggestion alone cannot be written into the files; empty if it can."""
        try:
            self.write([suggestion])
        except (ValueError, PolicyError) as error:
            return f"it does not fit the policies in use: {error}".splitlines()[0]
        return ""

    def write(self, suggestions: list[Suggestion]) -> tuple[dict[str, str], dict[str, Policy]]:
        """The files with these suggestions, and the policies in them. Raises: PolicyError, ValueError."""
        texts = dict(self.texts)
        files = {id: policy.file for id, policy in parse_texts(texts, None)[0].policies.items()}
        for suggestion in suggestions:
            for gate in suggestion.gates:
                if gate not in files:
                    raise PolicyError(f"the gate `{gate}` no longer exists")
                texts[files[gate]] = with_exception(texts[files[gate]], gate, suggestion.exception())
        permits = "\n".join(suggestion.permit() for suggestion in suggestions if not suggestion.gates)
        if permits:
            file = self.permits_file
            texts[file] = f"{texts[file]}\n{permits}" if file in texts else permits
        source, problems = parse_texts(texts, self.routes)
        if problems:
            raise PolicyError(join("; ", problems))
        matching = {id: policy for id, policy in source.policies.items() if not is_outside_schema(policy, self.schema)}
        schema = with_unlisted(self.schema, matching.values())
        if problems := find_validation_problems(matching, ValidationSchema(json.dumps(schema))):
            raise PolicyError(join("\n", problems))
        return texts, dict(source.policies)


def _find_too_permissive(
    report: ReplayReport, decisions: list[RecordedDecision], suggestions: list[Suggestion]
) -> dict[Group, int]:
    """Groups with a request that would newly be let through and is in no basis, each with one such receipt."""
    let_through = {_request_key(decision) for suggestion in suggestions for decision in suggestion.basis}
    requests = {
        decision.receipt["seq"]: _request_key(decision) for decision in decisions if decision.material is not None
    }
    looser = [
        difference.receipt
        for difference in report.differences
        if difference.looser and requests[difference.receipt["seq"]] not in let_through
    ]
    return {group_of(receipt): receipt["seq"] for receipt in [*looser, *report.listed]}


def _request_key(decision: RecordedDecision) -> str:
    """What makes two requests the same to an approver: principal, action, resource and arguments."""
    material: Json = decision.material or {}
    request = material["request"]
    who = decision.receipt["agent"], decision.receipt.get("on_behalf_of")
    return json.dumps([who, request["action"], request["resource"], request["context"]["input"]], sort_keys=True)
