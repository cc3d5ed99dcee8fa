"""Suggests policies from decisions of the past: narrow rules that cover what people always approved.

Calls are grouped by tool, agent and resource type. A gate that was always approved gets an exception (`unless`),
because no permit can override it; a call that observe mode let through without any permit gets a permit of its own. A
group in which an approver denied a call, or with a call that a plain `forbid` denies, is never the basis of a
suggestion, nor is a call that failed.

What the calls do not answer is left open as a question, and nothing is suggested for the group meanwhile: whether an
argument that is free text may be any text, whether a tool only reads, as its server says, and whether a destructive one
may run without approval.

`build_candidate` writes the suggestions into the policy files, validates them, and replays the ledger under the result.
INVARIANT: no replayed decision is more permissive under the candidate, except for requests that an approver or observe
mode let through. A suggestion that would go further is withdrawn and reported as skipped.
"""

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from mcp_guard.core.decided_methods import READ, SUBSCRIBE
from mcp_guard.core.decision import PolicyOutcome
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Effect, Json, Outcome
from mcp_guard.core.request_meta import FORWARDED_BY_DEFAULT
from mcp_guard.core.visible_text import join
from mcp_guard.policy.authoring.formatting import format_policies
from mcp_guard.policy.authoring.generalize import (
    FreeText,
    PolicyCondition,
    Unbounded,
    bounded_parts,
    origin_conditions,
    record_conditions,
    refuse_own,
    within,
)
from mcp_guard.policy.authoring.recorded import PolicyVersion, RecordedDecision
from mcp_guard.policy.authoring.replay import FindVersion, ReplayReport, replay
from mcp_guard.policy.cedar_text import quoted
from mcp_guard.policy.ruleset import entity_text
from mcp_guard.policy.schema import TOOL
from mcp_guard.policy.source import Policy, is_outside_schema, parse_texts, with_unlisted
from mcp_guard.policy.validation import ValidationSchema, find_validation_problems

Group = tuple[str, str, str]
"""Agent, tool, and type of resource."""
MIN_CALLS = 3
"""How many calls a suggestion needs by default."""
DESTRUCTIVE = "may it run without approval? it is destructive: what it overwrites or deletes is lost"
RISK = "risk.score: at most the highest of these calls; mcp-guard show SEQ lists what raised it"
UNLESS = "unless\n{\n"
"""How an exception begins as Cedar formats it."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One suggested rule, from the calls in `basis`: an exception to each of `gates`, or a permit if there are none."""

    id: str
    group: Group
    gates: tuple[str, ...]
    conditions: tuple[PolicyCondition, ...]
    basis: tuple[RecordedDecision, ...]
    opens_paths: bool = False
    """Whether it lets a tool that does more than read take paths that were not seen."""

    def origin(self) -> str:
        """What the suggestion is based on, for a comment."""
        first, last = (self.basis[at].receipt["time"][:10] for at in (0, -1))
        calls = f"{len(self.basis)} call{'s' if len(self.basis) > 1 else ''}"
        return f"from {calls} of {self.group[1]} by {self.group[0]}, {first}{f' to {last}' if first != last else ''}"

    def exception(self) -> str:
        """The condition to add to a gate: the text between the braces of an `unless`."""
        agent, tool, type = self.group
        scope = [f"principal in {entity_text('Agent', agent)}", f"action == {entity_text('Action', tool)}"]
        scope += [] if type == TOOL else [f"resource is {type}"]
        comments = [PolicyCondition("true", self.origin()), PolicyCondition("true", RISK)]
        conditions = [*comments, *map(PolicyCondition, scope), *self.conditions]
        lines = "\n".join(_condition_lines(conditions))
        policy = _formatted(f"forbid (principal, action, resource)\n{UNLESS}{lines}\n}};\n")
        return policy.partition(UNLESS)[2].removesuffix("\n};\n")

    def permit(self) -> str:
        agent, tool, type = self.group
        scope = f"  principal in {entity_text('Agent', agent)},\n  action == {entity_text('Action', tool)},\n"
        scope += "  resource\n" if type == TOOL else f"  resource is {type}\n"
        body = "\n".join(_condition_lines(self.conditions))
        return _formatted(
            f"// {self.origin()}\n// {RISK}\n@id({quoted(self.id)})\npermit (\n{scope})\nwhen\n{{\n{body}\n}};\n"
        )


@dataclass(frozen=True, slots=True)
class Question:
    """What a person has to answer before a group can get a suggestion, and the next step if the answer is yes."""

    group: Group
    calls: int
    text: str
    if_so: str


@dataclass(slots=True)
class Suggestions:
    """`questions` are those left open; `skipped` gives the reason for each other group without a suggestion.

    `failed` counts calls that are no basis because they did not succeed.
    """

    suggested: list[Suggestion] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    skipped: dict[Group, str] = field(default_factory=dict)
    failed: int = 0

    def withdraw(self, suggestion: Suggestion, reason: str) -> None:
        self.suggested.remove(suggestion)
        self.skipped[suggestion.group] = reason


def _formatted(text: str) -> str:
    """As `mcp-guard policy fmt` writes it."""
    return format_policies(text) or text


def _condition_lines(conditions: Iterable[PolicyCondition]) -> Iterator[str]:
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


NO_FAILURES: Mapping[int, str] = {}


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known besides the decisions.

    `refused` gives the reason for groups in which an approver denied a call, `failed` how calls ended that did not
    succeed, by the receipt of their intent. `free` are arguments that are left unrestricted: `message`, or
    `git__git_commit.message`. `listed` are arguments whose values the schema of a tool lists, `read_only` tools that
    are not configured and that their servers call read-only. `labels` tells whether results are labelled
    (`context.history`). `own` are the guard's own files and folders, which no rule may open. `destructive` are the
    destructive tools for which rules are wanted.
    """

    refused: Mapping[Group, str]
    failed: Mapping[int, str] = field(default_factory=lambda: NO_FAILURES)
    min_calls: int = MIN_CALLS
    free: Collection[str] = ()
    listed: Mapping[str, Collection[str]] = field(default_factory=dict)
    read_only: Collection[str] = ()
    labels: bool = False
    own: Collection[str] = ()
    destructive: Collection[str] = ()

    def free_in(self, tool: str) -> frozenset[str]:
        return frozenset(name.removeprefix(f"{tool}.") for name in self.free)


@dataclass(frozen=True, slots=True)
class UncoveredCall:
    """A call that ran although the policies as they are now do not allow it, and what they say of it."""

    decision: RecordedDecision
    outcome: PolicyOutcome


def suggest(
    decisions: Iterable[RecordedDecision], now: PolicyVersion, known: Knowledge, taken: Collection[str] = ()
) -> Suggestions:
    """Suggest one rule for each group of calls that ran because an approver or observe mode let them through.

    `now` are the policies as they are, which need not be those that decided then. `taken` are ids of policies.
    """
    suggestions, ids = Suggestions(), set(taken)
    groups = _group_open_calls(decisions, now, known, suggestions)
    for group, calls in sorted(groups.items(), key=lambda item: (item[0][1], item[0])):
        agent, tool, _ = group
        try:
            if group in known.refused:
                raise Unbounded(known.refused[group])
            if tool in known.read_only:
                text = "does it only read, as its server says?"
                suggestions.questions.append(Question(group, len(calls), text, "mcp-guard tools effects"))
                continue
            if is_member(now, tool, Effect.DESTRUCTIVE) and tool not in known.destructive:
                command = f"mcp-guard policy suggest --destructive {shlex.quote(tool)}"
                suggestions.questions.append(Question(group, len(calls), DESTRUCTIVE, command))
                continue
            if len(calls) < known.min_calls:
                raise Unbounded(f"too few calls ({len(calls)}, at least {known.min_calls} needed; see --least)")
            id = _free_id(f"{agent}-{tool}", ids)
            suggestions.suggested.append(_suggest_for_group(id, group, calls, now, known))
            ids.add(id)
        except FreeText as error:
            suggestions.questions.append(_ask_about_text(group, len(calls), error, tool in known.destructive))
        except Unbounded as error:
            suggestions.skipped[group] = str(error)
    return suggestions


def _group_open_calls(
    decisions: Iterable[RecordedDecision], now: PolicyVersion, known: Knowledge, suggestions: Suggestions
) -> Mapping[Group, list[UncoveredCall]]:
    """The calls that a rule may be based on; those that it may not be are noted in `suggestions`."""
    groups = defaultdict[Group, list[UncoveredCall]](list)
    for decision in filter(ran, decisions):
        group = group_of(decision.receipt)
        if "appliesTo" not in (now.schema[""]["actions"].get(decision.receipt["tool"]) or {}):
            suggestions.skipped[group] = "it is not listed any more"
        elif call := _still_open(decision, now):
            if decision.receipt["seq"] in known.failed:
                suggestions.failed += 1
            else:
                groups[group].append(call)
    return groups


def is_member(version: PolicyVersion, tool: str, effect: Effect) -> bool:
    return {"id": effect} in version.schema[""]["actions"][tool].get("memberOf", ())


def _ask_about_text(group: Group, calls: int, text: FreeText, may_destroy: bool = False) -> Question:
    name = text.path.removeprefix("context.input").removeprefix(".")
    top = re.match(r'(?:resource)?\.?(?:\["(.*?)"\]|([^.\[]+))', name)
    argument = (top[1] or top[2]) if top else name
    also = f" --destructive {shlex.quote(group[1])}" if may_destroy else ""
    freed = ",".join(f"{group[1]}.{name}" for name in (argument, *text.also))
    command = f"mcp-guard policy suggest{also} --free {shlex.quote(freed)}"
    return Question(group, calls, text.question(name), command)


def _free_id(wanted: str, taken: Collection[str]) -> str:
    number, id = 1, wanted
    while id in taken:
        number += 1
        id = f"{wanted}-{number}"
    return id


def ran(decision: RecordedDecision) -> bool:
    """Whether the call was made, and only because an approver or observe mode let it through."""
    receipt = decision.receipt
    if receipt["kind"] != "intent" or decision.material is None:
        return False
    return bool(receipt.get("would", receipt)["outcome"] != Outcome.ALLOW)


def _still_open(decision: RecordedDecision, now: PolicyVersion) -> UncoveredCall | None:
    """The call, unless the policies and effects as they are now allow it anyway."""
    assert decision.material is not None
    try:
        outcome = now.decide(now.build_request(decision.material))
    except ValueError:  # the tool takes other arguments now
        return None
    return None if outcome.outcome is Outcome.ALLOW else UncoveredCall(decision, outcome)


def _suggest_for_group(
    id: str, group: Group, calls: list[UncoveredCall], now: PolicyVersion, known: Knowledge
) -> Suggestion:
    """Raises: Unbounded with the reason if nothing can be suggested."""
    if errors := [error for call in calls for error in call.outcome.errors]:
        raise Unbounded(f"some calls cannot be decided: {errors[0]}")
    gates = {gate for call in calls for gate in call.outcome.policies}
    if forbids := sorted(gate for gate in gates if not now.rules.gates.get(gate)):
        raise Unbounded(f"`{forbids[0]}` forbids it, and is not a gate that an approver could open")
    if gates and not all(call.outcome.policies for call in calls):
        raise Unbounded("some calls were held by a gate and others had no permit: review them separately")
    basis = tuple(call.decision for call in calls)
    materials = [decision.material for decision in basis if decision.material]
    origins = origin_conditions(materials, [now.rules.policies[gate] for gate in gates])
    conditions = (*_conditions(group, basis, now, known), *origins)
    inputs = [material["request"]["context"]["input"] for material in materials]
    refuse_own(known.own, inputs, conditions)
    opens_paths = not is_member(now, group[1], Effect.READ) and any(condition.opens_paths for condition in conditions)
    return Suggestion(id, group, tuple(sorted(gates)), conditions, basis, opens_paths)


BEFORE = ("rate", "risk", "sequence")
"""Members of the context that say what came before, and how risky that makes the call."""


def _conditions(
    group: Group, basis: Sequence[RecordedDecision], version: PolicyVersion, known: Knowledge
) -> Iterator[PolicyCondition]:
    """What all calls of the basis have in common, as far as a policy should depend on it."""
    _, tool, type = group
    free = known.free_in(tool)
    contexts = [decision.material["request"]["context"] for decision in basis if decision.material]
    attributes = version.schema[""]["actions"][tool]["appliesTo"]["context"]["attributes"]
    if hidden := sorted({path for context in contexts for path in context.get("input_inexact", ())}):
        raise Unbounded(f"`{hidden[0]}` has a value in some calls that no policy can compare exactly")
    inputs = [context["input"] for context in contexts]
    entities = version.schema[""]["entityTypes"]
    kind = entities.get(type, {}).get("shape", {"attributes": {}})
    resources = [attributes_of(decision, "resource") for decision in basis]
    if tool.endswith((READ, SUBSCRIBE)):
        kind = bounded_parts(inputs, resources, kind, free)
    yield from record_conditions("context.input", inputs, attributes["input"], free, known.listed.get(tool, ()))
    unknown = sorted({name for context in contexts for name in context["input_unknown"]})
    if unseen := {name.partition("/")[0] for name in unknown} - free:
        raise FreeText(f"context.input.{min(unseen)}", len(contexts))
    yield within("context.input_unknown", unknown)
    if type != TOOL:
        yield from _change_conditions([context["change"] for context in contexts], attributes["change"], free)
        if not any(context.get("facts_missing") for context in contexts):
            yield PolicyCondition("context.facts_missing.isEmpty()")
    yield from _task_conditions([context["task"] for context in contexts])
    counters = [{**context, "risk": {"score": context["risk"]["score"]}} for context in contexts]
    kinds = {name: {**attributes[name]} for name in BEFORE if name in attributes}
    kinds["risk"]["attributes"] = {"score": kinds["risk"]["attributes"]["score"]}
    yield from record_conditions("context", counters, {"attributes": kinds})
    if known.labels:
        seen = [context.get("history", {}) for context in contexts]
        yield from (PolicyCondition(f"!context.history.{flag}") for flag in FLAGS if not any(h.get(flag) for h in seen))
    members = attributes.get("meta", {"attributes": {}})["attributes"]
    meta = {"attributes": {name: kind for name, kind in members.items() if name not in FORWARDED_BY_DEFAULT}}
    yield from record_conditions("context.meta", [context.get("meta", {}) for context in contexts], meta, free)
    user = {"on_behalf_of": entities["AgentInstance"]["shape"]["attributes"]["on_behalf_of"]}
    principals = [attributes_of(decision, "principal") for decision in basis]
    yield from record_conditions("principal", principals, {"attributes": user}, (), user)
    yield from record_conditions("resource", resources, kind, free)


FLAGS = ("untrusted_seen", "sensitive_seen", "orders_seen")


def _change_conditions(values: list[Json], kind: Json, free: frozenset[str]) -> Iterator[PolicyCondition]:
    """Conditions on `context.change`, of this schema type: which arguments would change, and numbers by how much."""
    if free:
        names = ", ".join(sorted(free))
        yield PolicyCondition("true", f"which fields change is not restricted, because {names} is not")
    else:
        yield within("context.change.fields", sorted({name for value in values for name in value["fields"]}))
    delta = kind["attributes"]["delta"]["attributes"]
    given = {name: type for name, type in delta.items() if any(name in value["delta"] for value in values)}
    bounds = {"attributes": {name: type for name, type in given.items() if name not in free}}
    yield from record_conditions("context.change.delta", [value["delta"] for value in values], bounds)


def _task_conditions(values: list[Json]) -> Iterator[PolicyCondition]:
    for name in ("ticket", "reason"):
        if all(name in value for value in values):
            yield PolicyCondition(f"context.task has {name}")


def attributes_of(decision: RecordedDecision, variable: str) -> Json:
    """The attributes of the principal or resource of a recorded request."""
    assert decision.material is not None
    uid = decision.material["request"][variable]
    attributes = (entity["attrs"] for entity in decision.material["entities"] if entity["uid"] == uid)
    return dict(next(attributes, {}))


# Policy files


def with_exception(text: str, gate: str, exception: str) -> str:
    """The file's text with one more `unless` on this gate; all else, comments too, stays. Raises: ValueError."""
    start = text.index(f"@id({quoted(gate)})")
    end = _end_of_policy(text, start)
    return f"{text[:end]}\nunless\n{{\n{exception}\n}}{text[end:]}"


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
    known: Knowledge,
) -> Candidate:
    """Suggest rules, write them into the policy files `texts`, and check them against the recorded decisions.

    `latest` is the policy version whose schema the result must fit; new permits go into `permits_file`.
    """
    in_use = parse_texts(texts, None)[0].policies
    suggestions = suggest(decisions, latest.under(in_use), known, in_use.keys())

    @cache
    def find_current(version: str) -> PolicyVersion | None:
        """What would be decided without the suggestions. Each version is parsed once, not once for each decision."""
        return found.under(in_use) if (found := find_version(version)) else None

    writer = _CandidateWriter(texts, routes, latest.schema, permits_file)
    for suggestion in list(suggestions.suggested) if writer.problem_with(suggestions.suggested) else ():
        if problem := writer.problem_with([suggestion]):
            suggestions.withdraw(suggestion, problem)
    while True:
        candidate_texts, policies = writer.write(suggestions.suggested)
        report = replay(decisions, find_current, policies)
        too_permissive = _find_too_permissive(report, decisions)
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

    def problem_with(self, suggestions: list[Suggestion]) -> str:
        """Why these suggestions cannot be written into the files; empty if they can."""
        try:
            self.write(suggestions)
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
        if permits := "\n".join(suggestion.permit() for suggestion in suggestions if not suggestion.gates):
            file = self.permits_file
            texts[file] = f"{texts[file]}\n{permits}" if file in texts else permits
        source, problems = parse_texts(texts, self.routes)
        if problems:
            raise PolicyError(join("; ", problems))
        matching = {id: policy for id, policy in source.policies.items() if not is_outside_schema(policy, self.schema)}
        schema = with_unlisted(self.schema, matching.values())
        if problems := find_validation_problems(matching, ValidationSchema(schema)):
            raise PolicyError(join("\n", problems))
        return texts, dict(source.policies)


def _find_too_permissive(report: ReplayReport, decisions: list[RecordedDecision]) -> dict[Group, int]:
    """Groups with a request that would newly be let through and never was, each with one such receipt."""
    let_through = {_request_key(decision) for decision in decisions if ran(decision)}
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
