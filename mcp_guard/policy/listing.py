"""Which tools an instance could call, and why not the others.

Policies are evaluated with an unknown context, once for all tools and all instances that they cannot tell apart: of a
thousand tools, most are within the scope of the same few policies (docs/decisions/0062).
"""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence

from mcp_guard.core.describe import compute_change
from mcp_guard.core.model import Instance, Json, Tool
from mcp_guard.policy.blind_spots import BlindSpot
from mcp_guard.policy.entities import EntityParser
from mcp_guard.policy.reads import TAGS, expressions_in
from mcp_guard.policy.ruleset import Principal, Ruleset, Slice, Uid
from mcp_guard.policy.schema import TOOL
from mcp_guard.policy.shapes import Shape
from mcp_guard.policy.source import Policy

MAX_PRINCIPALS = 200
"""For how many kinds of principals it is remembered which tools they could call."""


class ListingDecisions:
    """Under one ruleset. `attributes` are those of each resource type."""

    def __init__(
        self,
        rules: Ruleset,
        entities: EntityParser,
        shapes: Mapping[str, Shape],
        attributes: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._rules = rules
        self._entities = entities
        self._shapes = shapes
        self._attributes = attributes
        self._reads_principal = any(map(_reads_principal, rules.policies.values()))
        self._by_principal: dict[Hashable, dict[str, bool]] = {}
        """By what policies can tell apart of principals, and by tool."""
        self._evaluated: dict[Hashable, bool] = {}
        self._tells_apart: dict[tuple[str, ...], bool] = {}

    def could_be_permitted(self, instance: Instance, tool: Tool) -> bool:
        """Whether some call of the tool could be allowed or held. False if that cannot be evaluated (promise P5)."""
        try:
            principal = self._entities.of_principal(instance).principal
        except Exception:
            return False
        kind = principal if self._reads_principal else self._rules.scope_key(principal)
        known = self._by_principal.get(kind)
        if known is None:
            if len(self._by_principal) >= MAX_PRINCIPALS:
                self._by_principal.clear()
                self._evaluated.clear()
            known = self._by_principal[kind] = {}
        if tool.listed_as not in known:
            try:
                known[tool.listed_as] = self._evaluate(instance, principal, kind, tool)
            except Exception:
                known[tool.listed_as] = False
        return known[tool.listed_as]

    def _evaluate(self, instance: Instance, principal: Principal, kind: Hashable, tool: Tool) -> bool:
        """Raises: ValueError from Cedar if it cannot parse the request."""
        policy_slice = self._rules.slice(tool.listed_as, principal)
        blind = list(self.blind_in_every_call(policy_slice, tool))
        if not all(spot.is_permit for spot in blind):
            return False
        permits = frozenset(spot.policy for spot in blind)
        resource = resource_of_every_call(tool)
        apart = tool.listed_as if self._may_tell_apart(policy_slice) else ""
        key = kind, policy_slice.ids, permits, resource is None, apart
        if key not in self._evaluated:
            entities = self._entities.of_call(instance, tool.listed_as).entities
            is_permitted = self._rules.could_be_permitted(tool.listed_as, principal, resource, entities, permits)
            self._evaluated[key] = is_permitted
        return self._evaluated[key]

    def could_reach(self, instance: Instance, tool: Tool, targets: Sequence[Json]) -> bool:
        """Whether some request about one of these entities could be allowed or held. False if that cannot be evaluated.

        Where no policy looks at the action or the resource, all requests of the tool are alike.
        """
        try:
            policy_slice = self._rules.slice(tool.listed_as, self._entities.of_principal(instance).principal)
            looks_at_type = any(self._rules.policies[id].body["resource"]["op"] != "All" for id in policy_slice.ids)
            if not looks_at_type and not self._may_tell_apart(policy_slice):
                return bool(targets) and self.could_be_permitted(instance, tool)
            return any(self._could_reach(instance, tool, target, policy_slice) for target in targets)
        except Exception:
            return False

    def _could_reach(self, instance: Instance, tool: Tool, target: Json, policy_slice: Slice) -> bool:
        """Raises: ValueError from Cedar."""
        blind = list(self.blind_in_every_call(policy_slice, tool, () if "tags" in target else ("template", TAGS)))
        if not all(spot.is_permit for spot in blind):
            return False
        known = self._entities.with_resource(self._entities.of_call(instance, tool.listed_as), target)
        permits = frozenset(spot.policy for spot in blind)
        uid = (target["uid"]["type"], target["uid"]["id"])
        return self._rules.could_be_permitted(tool.listed_as, known.principal, uid, known.entities, permits)

    def _may_tell_apart(self, policy_slice: Slice) -> bool:
        """Whether one of these policies could decide differently on two tools that are in the scope of all of them."""
        if policy_slice.ids not in self._tells_apart:
            policies = (self._rules.policies[id] for id in policy_slice.ids)
            self._tells_apart[policy_slice.ids] = any(map(_looks_at_tool, policies))
        return self._tells_apart[policy_slice.ids]

    def blind_in_every_call(self, policy_slice: Slice, tool: Tool, hidden: Iterable[str] = ()) -> Iterator[BlindSpot]:
        """Which of these policies depend on something that they cannot see in any call of the tool, or with these facts
        hidden."""
        if policy_slice.blind_spots.are_none:
            return iter(())
        shape = self._shapes[tool.listed_as]
        if tool.rule.facts is not None or tool.method is not None:
            return policy_slice.blind_spots.find_always(shape, missing=hidden)
        change = compute_change(dict.fromkeys(shape.required), None, tool.rule.resource)
        missing: Iterable[str] = ()
        if tool.rule.resource:
            missing = self._attributes.get(tool.rule.resource.type, ())
        return policy_slice.blind_spots.find_always(shape, change.fields, missing)

    def find_forbidding(self, instance: Instance, tool: Tool) -> tuple[str, ...]:
        """The policies that forbid every call, if any does. Raises: ValueError from Cedar."""
        known = self._entities.of_call(instance, tool.listed_as)
        return self._rules.find_forbidding(
            tool.listed_as, known.principal, resource_of_every_call(tool), known.entities
        )

    def find_blind_forbid(self, instance: Instance, tool: Tool) -> BlindSpot | None:
        """A `forbid` that depends on something which it cannot see in any call of the tool."""
        policy_slice = self._rules.slice(tool.listed_as, self._entities.of_principal(instance).principal)
        return next((spot for spot in self.blind_in_every_call(policy_slice, tool) if not spot.is_permit), None)


def resource_of_every_call(tool: Tool) -> Uid | None:
    """The resource that all calls of the tool have; None if it depends on the arguments."""
    return None if tool.rule.resource else (TOOL, tool.listed_as)


def _looks_at_tool(policy: Policy) -> bool:
    """Whether it looks at the action or the resource in any way but by the scope of its action."""
    resource = policy.body["resource"]
    is_one = resource["op"] not in ("All", "is") or "in" in resource
    return is_one or _uses(policy, ("action", "resource"))


def _reads_principal(policy: Policy) -> bool:
    """Whether its conditions may be different for two principals that no scope tells apart."""
    return _uses(policy, ("principal",)) or any(
        isinstance(uid := node.get("__entity"), dict) and uid.get("type") != "Action" for node in expressions_in(policy)
    )


def _uses(policy: Policy, variables: Collection[str]) -> bool:
    return any(node.get("Var") in variables for node in expressions_in(policy))
