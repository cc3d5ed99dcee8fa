"""The narrowest policies that let what was always approved, or observed: per agent, tool and type of resource.

A gate that people always open gets an exception (`unless`), because no permit opens it; what observe mode let and no
policy permits gets a permit. A call that was denied by a person, or by a forbid, is never the basis of a suggestion.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Json, Outcome
from mcp_guard.policy.authoring.generalize import Condition, Unbounded, record_conditions
from mcp_guard.policy.authoring.recorded import PolicyVersion, RecordedDecision
from mcp_guard.policy.authoring.replay import FindVersion, ReplayReport, replay
from mcp_guard.policy.cedar_text import is_plain, quoted
from mcp_guard.policy.ruleset import entity_text
from mcp_guard.policy.source import Policy, is_outside_schema, parse_texts, validate

Group = tuple[str, str, str]
"""Agent, tool, and type of resource."""
TASK = "task"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """`gates` are the policies that get the exception; with none it is a permit of its own."""

    id: str
    group: Group
    gates: tuple[str, ...]
    conditions: tuple[Condition, ...]
    basis: tuple[RecordedDecision, ...]

    def exception(self) -> str:
        """The condition that a gate gets, between the braces of an `unless`."""
        agent, tool, type = self.group
        scope = [f"principal in {entity_text('Agent', agent)}", f"action == {entity_text('Action', tool)}"]
        return "\n".join(
            _commented(
                [*(Condition(text, "") for text in scope), Condition(f"resource is {type}", ""), *self.conditions]
            )
        )

    def permit(self) -> str:
        agent, tool, type = self.group
        scope = (
            f"principal in {entity_text('Agent', agent)}, action == {entity_text('Action', tool)}, resource is {type}"
        )
        body = "\n".join(_commented(self.conditions))
        return f'@id("{self.id}")\npermit ({scope})\nwhen {{\n{body}\n}};\n'


@dataclass(slots=True)
class Suggestions:
    """`left` says of each group why nothing is suggested for it."""

    made: list[Suggestion] = field(default_factory=list)
    left: dict[Group, str] = field(default_factory=dict)


def _commented(conditions: Iterable[Condition]) -> Iterator[str]:
    kept = list(conditions)
    needed = [at for at, each in enumerate(kept) if each.text != "true"]
    for at, each in enumerate(kept):
        if each.comment:
            yield f"  // {each.comment}"
        if each.text != "true":
            yield f"  {each.text}{' &&' if at != needed[-1] else ''}"


def group_of(receipt: Json) -> Group:
    resource = receipt.get("resource") or {"type": "Tool"}
    return receipt["agent"], receipt["tool"], resource["type"]


@dataclass(frozen=True, slots=True)
class Terms:
    """`refused` says of which groups people have denied a call; `least` calls make a basis; `free` are arguments that
    are not to be bounded.
    """

    refused: Mapping[Group, str] = field(default_factory=dict)
    least: int = 3
    free: frozenset[str] = frozenset()


def suggest(decisions: Iterable[RecordedDecision], version: PolicyVersion, terms: Terms) -> Suggestions:
    made, found = Suggestions(), defaultdict[Group, list[RecordedDecision]](list)
    for past in decisions:
        if _is_basis(past):
            found[group_of(past.receipt)].append(past)
    for number, (group, basis) in enumerate(sorted(found.items(), key=lambda each: each[0]), 1):
        try:
            made.made.append(_one(f"suggested-{number}", group, basis, version, terms))
        except Unbounded as why:
            made.left[group] = str(why)
    return made


def _is_basis(past: RecordedDecision) -> bool:
    """Calls that ran, and only because a person or observe mode let them."""
    receipt = past.receipt
    if receipt["kind"] != "intent" or past.material is None:
        return False
    return bool(receipt.get("would", receipt)["outcome"] != Outcome.ALLOW)


def _one(id: str, group: Group, basis: list[RecordedDecision], version: PolicyVersion, terms: Terms) -> Suggestion:
    """Raises: Unbounded, with why nothing is suggested."""
    if group in terms.refused:
        raise Unbounded(terms.refused[group])
    if len(basis) < terms.least:
        raise Unbounded(f"{len(basis)} calls are too few to go by (--least {terms.least})")
    against = [past.receipt.get("would", past.receipt) for past in basis]
    gates = {id for each in against for id in each.get("policies", ())}
    if hard := sorted(id for id in gates if not version.rules.gates.get(id)):
        raise Unbounded(f"`{hard[0]}` forbids it, and no person could have let it")
    if gates and not all(each.get("policies") for each in against):
        raise Unbounded("some calls were held by a gate and some not permitted at all; look at them apart")
    conditions = tuple(_conditions(group, basis, version, terms.free))
    return Suggestion(id, group, tuple(sorted(gates)), conditions, tuple(basis))


def _conditions(
    group: Group, basis: list[RecordedDecision], version: PolicyVersion, free: frozenset[str]
) -> Iterator[Condition]:
    """What holds of every basis, attribute by attribute, from the types of the schema."""
    _, tool, type = group
    contexts = [past.material["request"]["context"] for past in basis if past.material]
    kind = version.schema[""]["actions"][tool]["appliesTo"]["context"]["attributes"]
    yield Condition(
        "true", f"from {len(basis)} calls, {basis[0].receipt['time'][:10]} to {basis[-1].receipt['time'][:10]}"
    )
    for name in sorted(kind):
        values = [context[name] for context in contexts if name in context]
        if len(values) < len(contexts):
            yield Condition("true", f"context.{name}: not bounded, because it is not kept of every call")
        elif name == TASK:
            yield from _task(values)
        else:
            part = {"attributes": {name: kind[name]}}
            yield from _part(part, name, values, free)
    known = version.schema[""]["entityTypes"]
    for variable, shape in (("principal", known["AgentInstance"]), ("resource", known.get(type, {}))):
        attributes = dict(shape.get("shape", {}).get("attributes", {}))
        for changing in ("started", "expires", "owner"):
            if variable == "principal":
                attributes.pop(changing, None)  # of the launch, not of what is done
        records = [attributes_of(past, variable) for past in basis]
        yield from record_conditions(variable, records, {"attributes": attributes})


def _part(kind: Json, name: str, values: list[Json], free: frozenset[str]) -> Iterator[Condition]:
    if name == "input":
        yield from record_conditions("context.input", values, kind["attributes"][name], free)
    elif name == "change":
        changed = [{**value, "fields": [each for each in value["fields"] if each not in free]} for value in values]
        delta = kind["attributes"][name]["attributes"]["delta"]["attributes"]
        bounds = {**kind["attributes"][name]["attributes"], "fields": {"type": "Set"}}
        bounds["delta"] = {"type": "Record", "attributes": {n: t for n, t in delta.items() if n not in free}}
        if free:
            yield Condition("true", f"context.change.fields: not bounded, because {', '.join(sorted(free))} is free")
            bounds.pop("fields")
        yield from record_conditions("context.change", changed, {"attributes": bounds})
    else:
        yield from record_conditions("context", [{name: value} for value in values], kind)


def _task(values: list[Json]) -> Iterator[Condition]:
    for name in ("ticket", "reason"):
        if all(name in value for value in values):
            yield Condition(f"context.task has {name}", f"each call had a {name}")


def attributes_of(past: RecordedDecision, variable: str) -> Json:
    """The attributes of the principal or resource of a request."""
    assert past.material is not None
    uid = past.material["request"][variable]
    found = (entity["attrs"] for entity in past.material["entities"] if entity["uid"] == uid)
    return dict(next(found, {}))


# Into files


def with_exception(text: str, gate: str, exception: str) -> str:
    """The file's text with one more `unless` on this policy; comments and everything else stay. Raises: ValueError."""
    start = text.index(f"@id({quoted(gate)})")
    end = _end_of_policy(text, start)
    return f"{text[:end]}\nunless {{\n{exception}\n}}{text[end:]}"


def _end_of_policy(text: str, at: int) -> int:
    """Where the `;` of the policy stands, past strings and comments."""
    while text[at] != ";":
        if text[at] == '"':
            at += 1
            while text[at] != '"':
                at += 2 if text[at] == "\\" else 1
        elif text.startswith("//", at):
            at = text.index("\n", at)
        at += 1
    return at


def case_of(past: RecordedDecision, request: Json, facts: Json | None) -> Iterator[str]:
    """A case that expects what is suggested, in the form of `policy/authoring/cases.py`."""
    assert past.material is not None
    receipt, context = past.receipt, past.material["request"]["context"]
    groups = [entity["uid"]["id"] for entity in past.material["entities"] if entity["uid"]["type"] == "Group"]
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
        yield f"rates = {inline({name: _plain(count) for name, count in context['rate'].items()})}"
    yield 'outcome = "allow"'
    yield ""


def _plain(value: Any) -> Any:
    """A number, where the request has a decimal."""
    return float(value["__extn"]["arg"]) if isinstance(value, dict) else value


def inline(value: object) -> str:
    """A TOML inline value; members that are null cannot be written, and are left out."""
    if isinstance(value, dict):
        kept = ((name, each) for name, each in value.items() if each is not None)
        inner = ", ".join(f"{name if is_plain(name) else json.dumps(name)} = {inline(each)}" for name, each in kept)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    return json.dumps(value, ensure_ascii=False)


# A whole candidate out of suggestions: written into the policies, validated, and replayed before it is shown.
#
# INVARIANT: no replayed decision is more permissive under the candidate, except for requests that a person or
# observe mode let. A suggestion that would let more is taken back, and said to be.


@dataclass(frozen=True, slots=True)
class Materials:
    """What a candidate is made from: the policy files in use, the routes, the latest version, and all of them."""

    texts: Mapping[str, str]
    routes: Collection[str]
    latest: PolicyVersion
    versions: FindVersion


@dataclass(frozen=True, slots=True)
class Candidate:
    """The files of the candidate, by name; what is suggested in them; and the replay that they stood."""

    texts: dict[str, str]
    suggestions: Suggestions
    replay: ReplayReport


def candidate(past: list[RecordedDecision], materials: Materials, terms: Terms, permits: str) -> Candidate:
    """`permits` names the file that new permits go to."""
    made = suggest(past, materials.latest, terms)
    while True:
        for suggestion in list(made.made):
            if why := _unusable(suggestion, materials):
                _take_back(made, suggestion, why)
        texts, policies = _write(made.made, materials, permits)
        done = replay(past, materials.versions, policies)
        beyond = _beyond(done, past, made.made)
        over = [each for each in made.made if each.group in beyond]
        if not over:
            return Candidate(texts, made, done)
        for suggestion in over:
            _take_back(made, suggestion, f"it would also let receipt {beyond[suggestion.group]}, which nobody let")


def _take_back(made: Suggestions, suggestion: Suggestion, why: str) -> None:
    made.made.remove(suggestion)
    made.left[suggestion.group] = why


def _unusable(suggestion: Suggestion, materials: Materials) -> str:
    """Why it cannot be written into these files, if it cannot: each is tried by itself."""
    try:
        _write([suggestion], materials, "suggested.cedar")
    except (ValueError, PolicyError) as error:
        return f"it does not fit the policies in use: {error}".splitlines()[0]
    return ""


def _write(made: list[Suggestion], materials: Materials, permits: str) -> tuple[dict[str, str], dict[str, Policy]]:
    """The files with these suggestions, and the policies in them. Raises: PolicyError, ValueError."""
    texts = dict(materials.texts)
    files = {id: policy.file for id, policy in parse_texts(texts, None)[0].policies.items()}
    for suggestion in made:
        for gate in suggestion.gates:
            if gate not in files:
                raise PolicyError(f"there is no gate `{gate}` any more")
            texts[files[gate]] = with_exception(texts[files[gate]], gate, suggestion.exception())
    new = "\n".join(suggestion.permit() for suggestion in made if not suggestion.gates)
    if new:
        texts[permits] = f"{texts[permits]}\n{new}" if permits in texts else new
    source, problems = parse_texts(texts, materials.routes)
    if problems:
        raise PolicyError("; ".join(problems))
    known = {
        id: policy for id, policy in source.policies.items() if not is_outside_schema(policy, materials.latest.schema)
    }
    validate(known, json.dumps(materials.latest.schema), Path())
    return texts, dict(source.policies)


def _beyond(done: ReplayReport, past: list[RecordedDecision], made: list[Suggestion]) -> dict[Group, int]:
    """Groups of which more would be let than was let before, with one receipt of it."""
    let = {_request(each) for suggestion in made for each in suggestion.basis}
    asked = {each.receipt["seq"]: _request(each) for each in past if each.material is not None}
    looser = [each.receipt for each in done.differences if each.looser and asked[each.receipt["seq"]] not in let]
    return {group_of(receipt): receipt["seq"] for receipt in [*looser, *done.listed]}


def _request(past: RecordedDecision) -> str:
    """What makes two requests the same for a person who approves: who, what, on what, with which arguments."""
    material: Json = past.material or {}
    request = material["request"]
    who = past.receipt["agent"], past.receipt.get("on_behalf_of")
    return json.dumps([who, request["action"], request["resource"], request["context"]["input"]], sort_keys=True)
