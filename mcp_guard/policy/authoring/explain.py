"""Why a decision of the past came out as it did, in words: each condition that was asked, and what Cedar says of it."""

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
    """One part of a condition: its text, whether it held (None: it could not be evaluated), and what it looked at.

    `stops` is whether it keeps the policy from being satisfied: a false part of a `when`, all parts of a true `unless`.
    """

    kind: str
    text: str
    held: bool | None
    stops: bool
    seen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PolicyReading:
    """One policy, read against one request."""

    policy: Policy
    scope: str
    in_scope: bool
    parts: tuple[ConditionPart, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`readings` are the determining policies; where none determined, those that might have permitted."""

    ruling: PolicyOutcome
    readings: tuple[PolicyReading, ...]
    request: tuple[Counterfactual, ...]
    policies: tuple[Counterfactual, ...]


def explain(version: PolicyVersion, material: Json) -> Explanation:
    """Run the decision again and say why it is so. Raises: ValueError if the request does not fit the schema."""
    posed = version.build_request(material)
    ruling = version.decide(posed)
    changes = request_changes(version, material, ruling)
    return Explanation(
        ruling,
        tuple(_read(version, id, posed, material) for id in _worth_reading(version, ruling, material)),
        tuple(changes),
        tuple(policy_changes(version, material, ruling)),
    )


def _worth_reading(version: PolicyVersion, ruling: PolicyOutcome, material: Json) -> Iterator[str]:
    if ruling.policies or ruling.errors:
        failed = [id for id in version.rules.policies if any(f"`{id}`" in error for error in ruling.errors)]
        yield from dict.fromkeys([*ruling.policies, *failed])
        return
    for id in sorted(version.rules.policies_for(material["request"]["action"]["id"])):
        if version.rules.policies[id].body["effect"] == "permit":
            yield id


def _read(version: PolicyVersion, id: str, posed: CedarRequest, material: Json) -> PolicyReading:
    policy = version.rules.policies[id]
    parts = [part for condition in policy.body["conditions"] for part in _parts(condition, posed, material)]
    bare = {**policy.body, "effect": "permit", "conditions": []}
    return PolicyReading(policy, scope(policy.body), _permits(bare, posed) is True, tuple(parts))


def _parts(condition: Json, posed: CedarRequest, material: Json) -> Iterator[ConditionPart]:
    kind, parts = condition["kind"], conjuncts(condition["body"])
    held = [_holds(part, posed) for part in parts]
    for part, holds in zip(parts, held, strict=True):
        stops = holds is not True if kind == "when" else all(held)
        yield ConditionPart(kind, expression(part), holds, stops, tuple(_seen(part, material)))


def _holds(part: Json, posed: CedarRequest) -> bool | None:
    return _permits({**PERMIT_ALL.body, "conditions": [{"kind": "when", "body": part}]}, posed)


def _permits(body: Json, posed: CedarRequest) -> bool | None:
    asked = PolicySet.from_json_str(as_json({"asked": Policy("asked", "", body)}))
    verdict = evaluate(posed.request, asked, posed.entities)
    return None if verdict.errors else verdict.allowed


def _seen(part: Json, material: Json) -> Iterator[str]:
    for path in paths(part):
        yield f"{'.'.join(path)} = {shown(value_at(material, path))}"


# In words


def lines(explanation: Explanation) -> Iterator[str]:
    """The explanation for a person."""
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
        yield "denied, because no policy permits it; these are about such calls:"
    elif ruling.outcome is Outcome.REQUIRE_APPROVAL:
        yield f"held for {' and '.join(ruling.routes)}, because gates stand against it and everything else permits it:"
    else:
        yield f"{'allowed' if ruling.outcome is Outcome.ALLOW else 'denied'}, because of {_and(ruling.policies)}:"


def _and(ids: tuple[str, ...]) -> str:
    return " and ".join(f"`{id}`" for id in ids)


def _reading(reading: PolicyReading) -> Iterator[str]:
    policy = reading.policy
    said = f": {policy.reason}" if policy.reason else ""
    yield f"{policy.file}: {policy.id} ({'gate' if policy.routes else policy.body['effect']}){said}"
    yield f"  {'is' if reading.in_scope else 'is not'} about it: {reading.scope}"
    for part in reading.parts:
        truth = {True: "true", False: "false", None: "could not be evaluated"}[part.held]
        mark = "! " if part.stops else "  "
        yield f"  {mark}{part.kind} {part.text}: {truth}" + (f"  ({', '.join(part.seen)})" if part.seen else "")


def _changes(explanation: Explanation) -> Iterator[str]:
    if not explanation.request:
        yield "no change of a single attribute of the request was found that would alter the outcome"
    else:
        first, *rest = explanation.request
        yield f"the smallest change of the request: {_change(first)}"
        yield from (f"  or {_change(change)}" for change in rest[:4])
    if explanation.policies:
        yield "of the policies:"
        yield from (f"  {_change(change)}" for change in explanation.policies[:5])
    else:
        yield "no single condition, and no single policy, makes the difference"


def _change(change: Counterfactual) -> str:
    routes = f" ({', '.join(change.ruling.routes)})" if change.ruling.routes else ""
    return f"{change.what} → {change.ruling.outcome}{routes}"
