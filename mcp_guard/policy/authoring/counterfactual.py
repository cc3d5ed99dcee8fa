"""Finds the smallest change that would alter an outcome: one attribute of the request, or one condition of a policy.

The search is bounded: it changes only attributes that the policies read, to values that the policies mention or their
neighbours, and Cedar evaluates every trial. Values that the guard derives from an attribute (the change from the
arguments, the risk from the change) are not recomputed.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from mcp_guard.core.decision import PolicyOutcome
from mcp_guard.core.model import Json
from mcp_guard.core.receipt import format_second
from mcp_guard.core.times import micros
from mcp_guard.policy.authoring.recorded import PolicyVersion
from mcp_guard.policy.cedar_text import Path, conjunction, conjuncts, expression, literals, paths, walk
from mcp_guard.policy.ruleset import entity_text
from mcp_guard.policy.source import Policy
from mcp_guard.policy.time_of_call import cedar_datetime

STEP = Decimal("0.0001")
ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """One change and its outcome. The lower the `cost`, the smaller the change."""

    what: str
    ruling: PolicyOutcome
    cost: float


def value_at(material: Json, path: Path) -> Any:
    """The value at this path of the request, or `ABSENT`."""
    at: Any = _root(material, path[0])
    for name in path[1:]:
        if not isinstance(at, dict) or name not in at:
            return ABSENT
        at = at[name]
    return at


def shown(value: Any) -> str:
    """A request's value in Cedar syntax."""
    if value is ABSENT:
        return "absent"
    if isinstance(value, dict) and "__extn" in value:
        return str(value["__extn"]["arg"])
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    return expression({"Value": value}) if not isinstance(value, dict) else "{…}"


def request_changes(version: PolicyVersion, material: Json, was: PolicyOutcome) -> list[Counterfactual]:
    """Changes of a single attribute that alter the outcome: the smallest for each attribute and outcome, in order of
    cost.
    """
    action = material["request"]["action"]["id"]
    policies = [version.rules.policies[id] for id in sorted(version.rules.policies_for(action))]
    altering: list[Counterfactual] = []
    for what, cost, changed in (*_attributes(version, material, policies), *_memberships(material, policies)):
        try:
            ruling = version.decide(version.build_request(changed))
        except ValueError:
            continue  # the schema does not allow this request
        if differs(ruling, was):
            altering.append(Counterfactual(what, ruling, cost))
    return _best(altering)


def policy_changes(version: PolicyVersion, material: Json, was: PolicyOutcome) -> list[Counterfactual]:
    """Policies, and single conditions of a policy, whose removal alters the outcome; in order of cost."""
    request = version.build_request(material)
    altering: list[Counterfactual] = []
    policies = version.rules.policies
    for id in sorted(version.rules.policies_for(material["request"]["action"]["id"])):
        rest = {other: policy for other, policy in policies.items() if other != id}
        trials: list[tuple[str, Mapping[str, Policy]]] = [(f"without `{id}`", rest)]
        trials += [(what, {**rest, id: policy}) for what, policy in _loosened(policies[id])]
        for cost, (what, trial) in enumerate(trials):
            ruling = version.under(trial).decide(request)
            if differs(ruling, was):
                altering.append(Counterfactual(what, ruling, cost))
    return sorted(altering, key=lambda change: change.cost)


def differs(ruling: PolicyOutcome, was: PolicyOutcome) -> bool:
    return (ruling.outcome, ruling.routes) != (was.outcome, was.routes)


def _best(changes: list[Counterfactual]) -> list[Counterfactual]:
    best: dict[tuple[str, object], Counterfactual] = {}
    for change in sorted(changes, key=lambda change: change.cost):
        best.setdefault((change.what.split(" ", 1)[0], change.ruling.outcome), change)
    return list(best.values())


def _loosened(policy: Policy) -> Iterator[tuple[str, Policy]]:
    """The policy without one conjunct of one condition, for each of them."""
    conditions = policy.body["conditions"]
    for at, condition in enumerate(conditions):
        parts = conjuncts(condition["body"])
        for dropped, part in enumerate(parts):
            rest = [*parts[:dropped], *parts[dropped + 1 :]]
            less = [{**condition, "body": conjunction(rest)}] if rest else []
            body = {**policy.body, "conditions": [*conditions[:at], *less, *conditions[at + 1 :]]}
            yield f"`{policy.id}` without `{condition['kind']} {expression(part)}`", replace(policy, body=body)


def _attributes(version: PolicyVersion, material: Json, policies: list[Policy]) -> Iterator[tuple[str, float, Json]]:
    """Trials: a description, the cost, and the changed material."""
    bodies = [condition["body"] for policy in policies for condition in policy.body["conditions"]]
    named = [literal for body in bodies for literal in literals(body)]
    here = [value for path in _all_paths(bodies) if isinstance(value := value_at(material, path), str)]
    for path in _all_paths(bodies):
        value, kind = value_at(material, path), type_at(version.schema, material, path)
        near = [literal for body in bodies for literal in _compared(body, path)]
        for new, cost in _others(value, kind, near or named, [*named, *here]):
            yield f"{'.'.join(path)} {_describe_change(value, new)}", cost, _with(material, path, new)
        if value is not ABSENT and kind is not None and kind.get("required") is False:
            yield f"{'.'.join(path)} absent instead of {shown(value)}", 1.5, _with(material, path, ABSENT)


def _describe_change(old: Any, new: Any) -> str:
    return f"{shown(new)} instead of {shown(old)}" if old is not ABSENT else f"present, such as {shown(new)}"


def _all_paths(bodies: list[Json]) -> list[Path]:
    return list(dict.fromkeys(path for body in bodies for path in paths(body)))


def _compared(body: Json, path: Path) -> list[Any]:
    """Literals that the policies compare with this path."""
    return [
        literal
        for node in walk(body)
        if len(node) == 1 and not {"&&", "||", "Value", "Var", "!"} & node.keys() and path in paths(node)
        for literal in literals(node)
    ]


def _others(value: Any, kind: Json | None, near: list[Any], named: list[Any]) -> Iterator[tuple[Any, float]]:
    """Other values for an attribute of this schema type, each with its distance from the present one."""
    type = (kind or {}).get("type")
    if type == "Boolean":
        yield not value if isinstance(value, bool) else True, 1.0
    elif type == "Long":
        known = {literal + step for literal in near if _is_long(literal) for step in (-1, 0, 1)}
        yield from ((new, _distance(value, new)) for new in sorted(known) if new != value)
    elif type == "Extension" and kind is not None and kind["name"] == "datetime":
        times = dict.fromkeys(time for literal in near if _is(literal, "datetime") for time in _near_times(literal))
        yield from ((new, 1.0) for time in times if (new := cedar_datetime(time)) != value)
    elif type == "Extension":
        steps = {_decimal(literal) + step for literal in near if _is_decimal(literal) for step in (-STEP, 0, STEP)}
        old = _decimal(value) if _is_decimal(value) else ABSENT
        yield from ((_as_decimal(new), _distance(old, new)) for new in sorted(steps) if new != old)
    elif type == "Set":
        present = value if isinstance(value, list) else []
        yield from (([*present[:at], *present[at + 1 :]], 1.0) for at in range(len(present)))
        yield from (([*present, new], 1.2) for new in _texts(named) if new not in present)
    elif type == "String":
        yield from ((new, 1.0) for new in _texts(near) if new != value)
        yield from ((new, 1.1) for new in (*_texts(named), "something else") if new != value)


def _texts(values: list[Any]) -> list[str]:
    return list(dict.fromkeys(value for value in values if isinstance(value, str)))


def _is_long(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_decimal(value: Any) -> bool:
    return _is(value, "decimal")


def _is(value: Any, kind: str) -> bool:
    """Whether it is a value of this extension type."""
    return isinstance(value, dict) and value.get("__extn", {}).get("fn") == kind


def _near_times(literal: Json) -> Iterator[str]:
    """The literal, and the day or second before and after it."""
    text = literal["__extn"]["arg"]
    at, is_day = datetime.fromisoformat(text), "T" not in text
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    for step in (-1, 0, 1):
        with suppress(OverflowError):  # before the year 1, or after 9999
            near = at + (timedelta(days=step) if is_day else timedelta(seconds=step))
            yield near.date().isoformat() if is_day else format_second(micros(near) // 1_000_000)


def _decimal(value: Json) -> Decimal:
    return Decimal(value["__extn"]["arg"])


def _as_decimal(value: Decimal) -> Json:
    text = f"{value.normalize():f}"
    return {"__extn": {"fn": "decimal", "arg": text if "." in text else f"{text}.0"}}


def _distance(old: Any, new: Any) -> float:
    """The difference relative to the old value, at most 1; 1.3 if there is no old value."""
    if old is ABSENT:
        return 1.3
    before = Decimal(old)
    return min(1.0, float(abs(Decimal(new) - before) / max(Decimal(1), abs(before))))


def _memberships(material: Json, policies: list[Policy]) -> Iterator[tuple[str, float, Json]]:
    """Trials: the agent in one more or one fewer group."""
    agent = next(entity for entity in material["entities"] if entity["uid"]["type"] == "Agent")
    scopes = [policy.body["principal"] for policy in policies]
    named = [scope.get("in", scope).get("entity") for scope in scopes if "entity" in scope.get("in", scope)]
    groups = list(dict.fromkeys(entity["id"] for entity in named if entity["type"] == "Group"))
    present = [parent["id"] for parent in agent["parents"]]
    for group in groups:
        changed = deepcopy(material)
        inside = next(entity for entity in changed["entities"] if entity["uid"] == agent["uid"])
        uid = {"type": "Group", "id": group}
        if group in present:
            inside["parents"].remove(uid)
            yield f"principal not in {entity_text('Group', group)}", 2.0, changed
        else:
            inside["parents"].append(uid)
            changed["entities"].append({"uid": uid, "attrs": {}, "parents": []})
            yield f"principal in {entity_text('Group', group)}", 2.0, changed


def _root(material: Json, variable: str) -> Json:
    request = material["request"]
    if variable == "context":
        return dict(request["context"])
    for entity in material["entities"]:
        if entity["uid"] == request.get(variable):
            return dict(entity["attrs"])
    return {}


def _with(material: Json, path: Path, value: Any) -> Json:
    """A copy of the material with this value at the path, or without the attribute if it is `ABSENT`."""
    changed = deepcopy(material)
    at: Any = changed["request"]["context"]
    if path[0] != "context":
        uid = changed["request"][path[0]]
        at = next((entity["attrs"] for entity in changed["entities"] if entity["uid"] == uid), {})
    for name in path[1:-1]:
        at = at.setdefault(name, {})
    if value is ABSENT:
        at.pop(path[-1], None)
    else:
        at[path[-1]] = value
    return changed


def type_at(schema: Json, material: Json, path: Path) -> Json | None:
    """The schema type at this path, or None if the schema has none."""
    known, request = schema[""], material["request"]
    if path[0] == "context":
        at = known["actions"].get(request["action"]["id"], {}).get("appliesTo", {}).get("context")
    else:
        at = known["entityTypes"].get(request.get(path[0], {}).get("type"), {}).get("shape")
    for name in path[1:]:
        at = (at or {}).get("attributes", {}).get(name)
    node: Json | None = at
    return node
