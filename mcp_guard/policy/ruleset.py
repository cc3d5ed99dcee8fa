"""Evaluates a set of policies under the outcome rule, restricted to the policies whose scope could match the request.

INVARIANT: a slice contains every policy whose scope matches the request. Cedar evaluates a policy's conditions only if
its scope matches, so the policies left out can neither determine the outcome nor fail (docs/decisions/0020).
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import cedarpy
from cedarpy import Entities, PolicySet

from mcp_guard.core.decision import Evaluation, PolicyOutcome, apply_outcome_rule
from mcp_guard.core.model import Json, Outcome
from mcp_guard.policy.blind_spots import BlindSpot, BlindSpots, PolicyReads, read_policy
from mcp_guard.policy.cedar_text import quoted
from mcp_guard.policy.request import View, narrow, view_of
from mcp_guard.policy.source import Policy, as_json

MAX_REDUCED = 16
"""How many sets without the permits that are blind in some call are kept parsed."""
Uid = tuple[str, str]
"""An entity's type and id."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A principal with its ancestors (agent and groups), itself included."""

    uid: Uid
    ancestors: frozenset[Uid]


def read_principal(principal: Mapping[str, str], entities: Iterable[Json]) -> Principal:
    """The principal of a request, with its ancestors among the entities (Cedar's JSON form)."""
    parents = {uid_of(entity["uid"]): [uid_of(parent) for parent in entity["parents"]] for entity in entities}
    ancestors: set[Uid] = set()
    pending = [uid_of(principal)]
    while pending:
        uid = pending.pop()
        if uid not in ancestors:
            ancestors.add(uid)
            pending += parents.get(uid, [])
    return Principal(uid_of(principal), frozenset(ancestors))


def uid_of(entity: Mapping[str, str]) -> Uid:
    return entity["type"], entity["id"]


def action_groups(schema: Json) -> dict[str, frozenset[str]]:
    """Each action of a schema (JSON form) with all groups it belongs to, itself included."""
    actions: Json = schema.get("", {}).get("actions", {})

    def above(name: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
        for parent in (actions.get(name) or {}).get("memberOf") or []:
            if parent["id"] not in seen:
                seen = above(parent["id"], seen | {parent["id"]})
        return seen

    return {name: above(name) | {name} for name in actions}


@dataclass(frozen=True, slots=True)
class Slice:
    """The policies that could match a request, with gates (`full`) and without them (`ungated`)."""

    ids: tuple[str, ...]
    full: PolicySet
    ungated: PolicySet
    view: View | None
    """The part of the context that they read."""
    blind_spots: BlindSpots


class Ruleset:
    """A set of policies. `groups` maps each action to the groups it belongs to, itself included."""

    def __init__(self, policies: Mapping[str, Policy], groups: Mapping[str, frozenset[str]]) -> None:
        self.policies = policies
        self.gates = {id: policy.routes for id, policy in policies.items() if policy.routes}
        self._groups = groups
        scopes = [policy.body["principal"] for policy in policies.values()]
        self._named = frozenset(uid for scope in scopes for uid in _entities_of(scope))
        self._by_action: dict[str, list[str]] = {}
        """Ids of policies by the action that their scope names; under "" those that name none."""
        for id, policy in policies.items():
            for action in _actions_of(policy):
                self._by_action.setdefault(action, []).append(id)
        self._slices: dict[tuple[str, Uid | str, frozenset[Uid]], Slice] = {}
        self._made: dict[tuple[str, ...], Slice] = {}
        """By the policies in it. Many actions and principals have the same."""
        self._parsed: dict[tuple[str, ...], PolicySet] = {}
        self._reads: dict[str, PolicyReads] = {}
        self._reduced: dict[tuple[str, ...], tuple[PolicySet, PolicySet]] = {}

    @property
    def groups(self) -> Mapping[str, frozenset[str]]:
        return self._groups

    def decide(self, request: Json, entities: Entities, principal: Principal) -> PolicyOutcome:
        """The outcome of one request with its whole context. Raises: ValueError from Cedar if it cannot parse it."""
        policy_slice = self.slice(request["action"]["id"], principal)
        narrowed = {**request, "context": narrow(request["context"], policy_slice.view)}
        return self.decide_slice(policy_slice, narrowed, request["context"], entities)

    def decide_slice(self, policy_slice: Slice, request: Json, context: Json, entities: Entities) -> PolicyOutcome:
        """`context` is the whole context; the request may contain the part of it that the policies read.

        A `forbid` that depends on something it cannot see denies. A `permit` that does permits nothing.
        """
        blind: dict[str, BlindSpot] = {}
        for spot in policy_slice.blind_spots.find(context):
            if not spot.is_permit:
                return PolicyOutcome(Outcome.DENY, (spot.policy,), errors=(spot.reason,))
            blind.setdefault(spot.policy, spot)
        full, ungated = self._parse_without(policy_slice, blind) if blind else (policy_slice.full, policy_slice.ungated)
        outcome = apply_outcome_rule(
            evaluate(request, full, entities), lambda: evaluate(request, ungated, entities), self.gates
        )
        is_denied = outcome.outcome is Outcome.DENY and not outcome.errors
        if blind and is_denied and all(id in self.gates for id in outcome.policies):  # the call lacks a permit
            return PolicyOutcome(Outcome.DENY, tuple(blind), errors=tuple(spot.reason for spot in blind.values()))
        return outcome

    def _parse_without(self, policy_slice: Slice, ids: Collection[str]) -> tuple[PolicySet, PolicySet]:
        """The policies of a slice without these, with gates and without them. An agent's calls determine which."""
        all_ids = tuple(id for id in policy_slice.ids if id not in ids)
        if all_ids not in self._reduced:
            if len(self._reduced) >= MAX_REDUCED:
                self._reduced.clear()
            full = {id: self.policies[id] for id in all_ids}
            ungated = {id: policy for id, policy in full.items() if id not in self.gates}
            self._reduced[all_ids] = (
                PolicySet.from_json_str(as_json(full)), PolicySet.from_json_str(as_json(ungated))
            )  # fmt: skip
        return self._reduced[all_ids]

    def could_be_permitted(
        self,
        action: str,
        principal: Principal,
        resource: Uid | None,
        entities: Entities,
        without: Collection[str] = (),
    ) -> bool:
        """Whether some request could be allowed or held.

        `without` are policies that apply to no such request. Raises: ValueError from Cedar if it cannot parse the
        request.
        """
        result = self._evaluate_partially(action, principal, resource, entities, without)
        undecided = result.decision is cedarpy.Decision.NoDecision and bool(result.residuals)
        return result.allowed or undecided

    def find_forbidding(
        self, action: str, principal: Principal, resource: Uid | None, entities: Entities
    ) -> tuple[str, ...]:
        """The policies that forbid every request, if any does. Raises: as `could_be_permitted`."""
        result = self._evaluate_partially(action, principal, resource, entities, ())
        ids = sorted(result.diagnostics.reasons) if result.decision is cedarpy.Decision.Deny else ()
        return tuple(id for id in ids if self.policies[id].body["effect"] == "forbid")

    def _evaluate_partially(
        self, action: str, principal: Principal, resource: Uid | None, entities: Entities, without: Collection[str]
    ) -> cedarpy.PartialAuthzResult:
        """Without gates, and with an unknown context."""
        policy_slice = self.slice(action, principal)
        ungated = self._parse_without(policy_slice, without)[1] if without else policy_slice.ungated
        request = {
            "principal": entity_text(*principal.uid),
            "action": entity_text("Action", action),
            "resource": entity_text(*resource) if resource else None,
            "context": None,
        }
        return cedarpy.is_authorized_partial(request, ungated, entities)

    def slice(self, action: str, principal: Principal) -> Slice:
        """The policies whose scope could match this action and principal, parsed once."""
        key = action, *self.scope_key(principal)
        if key not in self._slices:
            candidates = self.policies_for(action)
            self._slices[key] = self._make(
                id for id in candidates if _matches_principal(self.policies[id].body["principal"], principal)
            )
        return self._slices[key]

    def scope_key(self, principal: Principal) -> tuple[Uid | str, frozenset[Uid]]:
        """Equal for principals that no scope tells apart."""
        return principal.uid if principal.uid in self._named else principal.uid[0], principal.ancestors & self._named

    def policies_for(self, action: str) -> set[str]:
        """Ids of the policies whose scope could match this action, for any principal."""
        within = self._groups.get(action, frozenset({action}))
        return {id for named in ("", *within) for id in self._by_action.get(named, ())}

    def whole(self) -> Slice:
        """All policies, for any request. Deciding with a slice must give the same result."""
        return self._make(self.policies)

    def _make(self, ids: Iterable[str]) -> Slice:
        all_ids = tuple(sorted(ids))
        if all_ids not in self._made:
            ungated = tuple(id for id in all_ids if id not in self.gates)
            view = view_of(self.policies[id] for id in all_ids)
            self._made[all_ids] = Slice(
                all_ids, self._parse(all_ids), self._parse(ungated), view, self._find_blind_spots(all_ids)
            )
        return self._made[all_ids]

    def _find_blind_spots(self, ids: tuple[str, ...]) -> BlindSpots:
        for id in ids:
            if id not in self._reads:
                self._reads[id] = read_policy(self.policies[id])
        return BlindSpots([self._reads[id] for id in ids])

    def _parse(self, ids: tuple[str, ...]) -> PolicySet:
        if ids not in self._parsed:
            self._parsed[ids] = PolicySet.from_json_str(as_json({id: self.policies[id] for id in ids}))
        return self._parsed[ids]


def entity_text(type: str, id: str) -> str:
    """An entity in Cedar's own syntax."""
    return f"{type}::{quoted(id)}"


PERMIT_ALL = Policy(
    "(all)",
    "",
    {"effect": "permit", **{part: {"op": "All"} for part in ("principal", "action", "resource")}, "conditions": []},
)


def always_in_force(rules: Ruleset) -> Ruleset:
    """The rules of observe mode: permit everything except what a `forbid` marked `@enforce("always")` forbids."""
    marked = {id: policy for id, policy in rules.policies.items() if policy.always}
    return Ruleset({**marked, PERMIT_ALL.id: PERMIT_ALL}, rules.groups)


def _entities_of(scope: Json) -> list[Uid]:
    """The entities that a scope names."""
    named = [*scope.get("entities", []), scope.get("entity"), scope.get("in", {}).get("entity")]
    return [uid_of(entity) for entity in named if entity]


def _actions_of(policy: Policy) -> list[str]:
    """The actions that the policy's scope names; [""] if it names none."""
    scope = policy.body["action"]
    return [id for _, id in _entities_of(scope)] if scope["op"] in ("==", "in") else [""]


def _matches_principal(scope: Json, principal: Principal) -> bool:
    named = _entities_of(scope)
    match scope["op"]:
        case "==":
            return principal.uid in named
        case "in":
            return any(uid in principal.ancestors for uid in named)
        case "is":
            inside = not named or any(uid in principal.ancestors for uid in named)
            return bool(scope["entity_type"] == principal.uid[0] and inside)
    return True


def evaluate(request: Json, policies: PolicySet, entities: Entities) -> Evaluation:
    """One evaluation, without the schema: policies were validated against it when loaded, and requests are built to
    match it (docs/decisions/0009; a property test checks that they do).
    """
    result = cedarpy.is_authorized(request, policies, entities)
    diagnostics = result.diagnostics
    errors = tuple(sorted(diagnostics.errors))
    if result.decision is cedarpy.Decision.NoDecision:
        return Evaluation(False, (), errors or ("the policies gave no decision",))
    return Evaluation(result.allowed, tuple(sorted(diagnostics.reasons)), errors)
