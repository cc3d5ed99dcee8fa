"""Explains a recorded decision: each policy that determined it, and how Cedar evaluates each of its conditions."""

from collections.abc import Iterator
from dataclasses import dataclass

from cedarpy import PolicySet

from mcp_guard.core.decision import PolicyOutcome
from mcp_guard.core.model import Json, Outcome
from mcp_guard.policy.authoring.counterfactual import Counterfactual, policy_changes, request_changes, shown, value_at
from mcp_guard.policy.authoring.recorded import CedarRequest, PolicyVersion
from mcp_guard.policy.cedar_text import conjuncts, expression, paths, scope
from mcp_guard.policy.ruleset import PERMIT_ALL, evaluate
from mcp_guard.policy.source import Policy, as_json


@dataclass(frozen=True, slots=True)
class ConditionPart:
    """One conjunct of a condition: its text, whether it held (None: evaluation failed), and the values it read.

    `stops` tells whether it keeps the policy from applying: a false conjunct of a `when`, or any of a true `unless`.
    """

    kind: str
    text: str
    held: bool | None
    stops: bool
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PolicyReading:
    """One policy evaluated for one request."""

    policy: Policy
    scope: str
    in_scope: bool
    parts: tuple[ConditionPart, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`readings` covers the determining policies, or if there are none, the permits that could have matched."""

    ruling: PolicyOutcome
    readings: tuple[PolicyReading, ...]
    request: tuple[Counterfactual, ...]
    policies: tuple[Counterfactual, ...]


def explain(version: PolicyVersion, material: Json) -> Explanation:
    """Evaluate the decision again and explain it. Raises: ValueError if the request does not match the schema."""
    request = version.build_request(material)
    ruling = version.decide(request)
    changes = request_changes(version, material, ruling)
    return Explanation(
        ruling,
        tuple(_read(version, id, request, material) for id in _policies_to_explain(version, ruling, material)),
        tuple(changes),
        tuple(policy_changes(version, material, ruling)),
    )


def _policies_to_explain(version: PolicyVersion, ruling: PolicyOutcome, material: Json) -> Iterator[str]:
    if ruling.policies or ruling.errors:
        failed = [id for id in version.rules.policies if any(f"`{id}`" in error for error in ruling.errors)]
        yield from dict.fromkeys([*ruling.policies, *failed])
        return
    for id in sorted(version.rules.policies_for(material["request"]["action"]["id"])):
        if version.rules.policies[id].body["effect"] == "permit":
            yield id


def _read(version: PolicyVersion, id: str, request: CedarRequest, material: Json) -> PolicyReading:
    policy = version.rules.policies[id]
    parts = [part for condition in policy.body["conditions"] for part in _parts(condition, request, material)]
    bare = {**policy.body, "effect": "permit", "conditions": []}
    return PolicyReading(policy, scope(policy.body), _permits(bare, request) is True, tuple(parts))


def _parts(condition: Json, request: CedarRequest, material: Json) -> Iterator[ConditionPart]:
    kind, parts = condition["kind"], conjuncts(condition["body"])
    held = [_holds(part, request) for part in parts]
    for part, holds in zip(parts, held, strict=True):
        stops = holds is not True if kind == "when" else all(held)
        yield ConditionPart(kind, expression(part), holds, stops, tuple(_values_read(part, material)))


def _holds(part: Json, request: CedarRequest) -> bool | None:
    return _permits({**PERMIT_ALL.body, "conditions": [{"kind": "when", "body": part}]}, request)


def _permits(body: Json, request: CedarRequest) -> bool | None:
    probe = PolicySet.from_json_str(as_json({"probe": Policy("probe", "", body)}))
    evaluation = evaluate(request.request, probe, request.entities)
    return None if evaluation.errors else evaluation.allowed


def _values_read(part: Json, material: Json) -> Iterator[str]:
    for path in paths(part):
        yield f"{'.'.join(path)} = {shown(value_at(material, path))}"


# Text


def lines(explanation: Explanation) -> Iterator[str]:
    """The explanation as text."""
    yield from _outcome(explanation)
    for reading in explanation.readings:
        yield ""
        yield from _reading(reading)
    yield ""
    yield from _changes(explanation)


def _outcome(explanation: Explanation) -> Iterator[str]:
    ruling = explanation.ruling
    if ruling.errors:
        yield "denied, because a policy could not be evaluated:"
        yield from (f"  {error}" for error in ruling.errors)
    elif ruling.outcome is Outcome.DENY and not ruling.policies:
        yield "denied, because no policy permits it; these permits could have applied:"
    elif ruling.outcome is Outcome.REQUIRE_APPROVAL:
        yield f"held for {' and '.join(ruling.routes)}, because of a gate; all other policies permit it:"
    else:
        yield f"{'allowed' if ruling.outcome is Outcome.ALLOW else 'denied'}, because of {_and(ruling.policies)}:"


def _and(ids: tuple[str, ...]) -> str:
    return " and ".join(f"`{id}`" for id in ids)


def _reading(reading: PolicyReading) -> Iterator[str]:
    policy = reading.policy
    reason = f": {policy.reason}" if policy.reason else ""
    yield f"{policy.file}: {policy.id} ({'gate' if policy.routes else policy.body['effect']}){reason}"
    yield f"  scope {'matches' if reading.in_scope else 'does not match'}: {reading.scope}"
    for part in reading.parts:
        truth = {True: "true", False: "false", None: "could not be evaluated"}[part.held]
        mark = "! " if part.stops else "  "
        yield f"  {mark}{part.kind} {part.text}: {truth}" + (f"  ({', '.join(part.values)})" if part.values else "")


def _changes(explanation: Explanation) -> Iterator[str]:
    if not explanation.request:
        yield "no change of a single attribute was found that would alter the outcome"
    else:
        first, *rest = explanation.request
        yield f"smallest change of the request: {_change(first)}"
        yield from (f"  or {_change(change)}" for change in rest[:4])
    if explanation.policies:
        yield "changes of the policies:"
        yield from (f"  {_change(change)}" for change in explanation.policies[:5])
    else:
        yield "removing any single condition or policy would not alter the outcome"


def _change(change: Counterfactual) -> str:
    routes = f" ({', '.join(change.ruling.routes)})" if change.ruling.routes else ""
    return f"{change.what} → {change.ruling.outcome}{routes}"
