"""The narrowest policies that let what was always approved, or observed: per agent, tool and type of resource.

A gate that people always open gets an exception (`unless`), because no permit opens it; what observe mode let and no
policy permits gets a permit. A call that was denied by a person, or by a forbid, is never the basis of a suggestion.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp_guard.core.model import Json, Outcome
from mcp_guard.policy.past import Past, Version
from mcp_guard.policy.ruleset import entity_text
from mcp_guard.policy.seen import Condition, Unbounded, record_conditions
from mcp_guard.policy.words import is_plain, quoted

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
    basis: tuple[Past, ...]

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


def suggest(decisions: Iterable[Past], version: Version, terms: Terms) -> Suggestions:
    made, found = Suggestions(), defaultdict[Group, list[Past]](list)
    for past in decisions:
        if _is_basis(past):
            found[group_of(past.receipt)].append(past)
    for number, (group, basis) in enumerate(sorted(found.items(), key=lambda each: each[0]), 1):
        try:
            made.made.append(_one(f"suggested-{number}", group, basis, version, terms))
        except Unbounded as why:
            made.left[group] = str(why)
    return made


def _is_basis(past: Past) -> bool:
    """Calls that ran, and only because a person or observe mode let them."""
    receipt = past.receipt
    if receipt["kind"] != "intent" or past.material is None:
        return False
    return bool(receipt.get("would", receipt)["outcome"] != Outcome.ALLOW)


def _one(id: str, group: Group, basis: list[Past], version: Version, terms: Terms) -> Suggestion:
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


def _conditions(group: Group, basis: list[Past], version: Version, free: frozenset[str]) -> Iterator[Condition]:
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


def attributes_of(past: Past, variable: str) -> Json:
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


def case_of(past: Past, request: Json, facts: Json | None) -> Iterator[str]:
    """A case that expects what is suggested, in the form of `policy/cases.py`."""
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
