"""Deciding with Cedar: policies and schema parsed once, validated before they are used, evaluated per call.

Implements `ports.Policies`. Nothing here raises once loaded: whatever goes wrong while deciding is a deny that says so.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cedarpy
import orjson
from cedarpy import Entities, PolicySet, Schema

from mcp_guard.core import canonical
from mcp_guard.core.decision import Verdict, rule
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import NO_PAST, Call, Counter, Decision, Effect, Instance, Json, Outcome, Tool
from mcp_guard.core.names import MANGLING_VERSION
from mcp_guard.core.rates import Value
from mcp_guard.policy.request import build_context, history, principal_entities, resource_entity
from mcp_guard.policy.schema import PRINCIPAL, TOOL, build_schema
from mcp_guard.policy.source import Policy, Source, Unlisted, as_json, is_dormant, read_policies

ENGINE = f"cedarpy/{getattr(cedarpy, '__version__', '4.12')}"


@dataclass(frozen=True, slots=True)
class World:
    """What policies are validated against: the catalog, the configured entity attributes, counters and routes.

    `absent` are upstreams that have listed no tools yet.
    """

    tools: tuple[Tool, ...]
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    counters: tuple[Counter, ...] = ()
    routes: Collection[str] = ()
    absent: Collection[str] = ()

    def unlisted(self) -> Unlisted:
        effects = {str(effect) for effect in Effect} - {str(tool.effect) for tool in self.tools}
        used = {tool.rule.resource.type for tool in self.tools if tool.rule.resource}
        if any(tool.effect is Effect.DESTRUCTIVE for tool in self.tools):
            effects.discard(Effect.WRITE)  # its members are members of this too
        groups = effects | {f"server:{server}" for server in self.absent}
        return Unlisted(self.absent, groups, self.attributes.keys() - used, not self.tools)


class PolicyEngine:
    """One loaded set of policies. Made by `load_policies` only."""

    def __init__(self, source: Source, active: Mapping[str, Policy], world: World) -> None:
        schema, self._shapes = build_schema(world.tools, world.attributes, world.counters)
        gates = {id: policy.routes for id, policy in active.items() if policy.routes}
        self.counters = world.counters
        self.dormant = tuple(sorted(source.policies.keys() - active.keys()))
        self._attributes = world.attributes
        self._asks_history = any("history" in text for text in source.texts.values())
        self._policies = active
        self._gates = gates
        self.schema_text = json.dumps(schema)
        self._schema = Schema.from_json_str(self.schema_text)
        self._full = PolicySet.from_json_str(as_json(active))
        self._ungated = PolicySet.from_json_str(as_json({id: p for id, p in active.items() if id not in gates}))
        self._principals: dict[str, tuple[Entities, list[Json]]] = {}
        self._listed: dict[tuple[str, str], bool] = {}
        rules = {tool.listed_as: repr(tool.rule) for tool in world.tools}
        self.material = orjson.dumps(
            {"policies": dict(source.texts), "schema": schema, "rules": rules, "engine": ENGINE,
             "mangling": MANGLING_VERSION, "dormant": self.dormant}, option=orjson.OPT_SORT_KEYS
        )  # fmt: skip
        self.version = canonical.digest(self.material)

    @property
    def gated(self) -> bool:
        return bool(self._gates)

    # Deciding

    def decide(self, call: Call, counts: Mapping[str, Value]) -> Decision:
        try:
            return self._decide(call, counts)
        except Exception as error:  # promise P2: whatever goes wrong while deciding denies
            return self._deny(str(error) or type(error).__name__, counts)

    def _deny(self, reason: str, counts: Mapping[str, Value]) -> Decision:
        return Decision(Outcome.DENY, self.version, reasons=(reason,), errors=(reason,), counts=counts)

    def _decide(self, call: Call, counts: Mapping[str, Value]) -> Decision:
        shape = self._shapes.get(call.name)
        if shape is None:
            return self._deny("this tool has no input schema that a call could be checked against", counts)
        said = build_context(call, shape, counts)
        if self._asks_history:
            said["history"] = history(call.past)
        context = orjson.dumps(said).decode()
        entities, described = self._entities(call)
        request = {
            "principal": {"type": PRINCIPAL, "id": call.instance.id},
            "action": {"type": "Action", "id": call.name},
            "resource": {"type": call.resource.type, "id": call.resource.id},
            "context": context,
        }
        ruling = rule(
            _evaluate(request, self._full, entities),
            lambda: _evaluate(request, self._ungated, entities),
            self._gates,
        )
        if call.past is not NO_PAST:
            said["history"] = history(call.past)  # other policies may ask for it when the decision is run again
        material = {**request, "context": said}
        return Decision(
            outcome=ruling.outcome,
            policy_version=self.version,
            policies=tuple(sorted(ruling.policies)),
            reasons=self._reasons(call, ruling.outcome, ruling.policies, ruling.errors),
            routes=ruling.routes,
            errors=ruling.errors,
            counts=counts,
            material=orjson.dumps({"request": material, "entities": described}),
        )

    def _entities(self, call: Call) -> tuple[Entities, list[Json]]:
        """Parsed entities for the engine, and the same in JSON for the record."""
        known = self._principal(call.instance)
        if call.resource.type == TOOL:
            return known
        resource = resource_entity(call, self._attributes[call.resource.type])
        parsed = known[0].with_added_json_str(orjson.dumps([resource]).decode(), self._schema)
        return parsed, [*known[1], resource]

    def _principal(self, instance: Instance) -> tuple[Entities, list[Json]]:
        known = self._principals.get(instance.id)
        if known is None:
            described = principal_entities(instance)
            known = Entities.from_json_str(json.dumps(described), self._schema), described
            self._principals[instance.id] = known
        return known

    def _reasons(
        self, call: Call, outcome: Outcome, policies: tuple[str, ...], errors: tuple[str, ...]
    ) -> tuple[str, ...]:
        if errors:
            return tuple(f"a policy could not be evaluated: {error}" for error in errors)
        if outcome is Outcome.DENY and not policies:
            return (f"no policy permits `{call.name}` for agent `{call.instance.agent.name}` with these arguments",)
        return tuple(self._policies[id].reason for id in sorted(policies) if self._policies[id].reason)

    # Listing

    def may_call(self, instance: Instance, tool: Tool) -> bool:
        key = instance.id, tool.listed_as
        if key not in self._listed:
            try:
                self._listed[key] = tool.listed_as in self._shapes and self._could_be_let(instance, tool)
            except (ValueError, TypeError, KeyError):
                self._listed[key] = False
        return self._listed[key]

    def _could_be_let(self, instance: Instance, tool: Tool) -> bool:
        """Partial evaluation without the gates: whatever could be allowed or held is not denied by it."""
        request = {
            "principal": entity_text(PRINCIPAL, instance.id),
            "action": entity_text("Action", tool.listed_as),
            "resource": None if tool.rule.resource else entity_text(TOOL, tool.listed_as),
            "context": None,
        }
        result = cedarpy.is_authorized_partial(request, self._ungated, self._principal(instance)[0])
        undecided = result.decision is cedarpy.Decision.NoDecision and bool(result.residuals)
        return result.allowed or undecided


def _evaluate(request: Json, policies: PolicySet, entities: Entities) -> Verdict:
    """One evaluation, without the schema: policies were validated against it when they were loaded, and the request is
    built to fit it (docs/decisions/0009; a property test holds the two together).
    """
    result = cedarpy.is_authorized(request, policies, entities)
    diagnostics = result.diagnostics
    if result.decision is cedarpy.Decision.NoDecision:
        return Verdict(False, (), tuple(diagnostics.errors) or ("the policies gave no decision",))
    return Verdict(result.allowed, tuple(diagnostics.reasons), tuple(diagnostics.errors))


def entity_text(type: str, id: str) -> str:
    """An entity in Cedar's own syntax."""
    return f"{type}::{json.dumps(id)}"


def load_policies(path: Path, world: World) -> PolicyEngine:
    """Read, check and parse the policies of a folder or file.

    Raises: PolicyError naming every problem.
    """
    source = read_policies(path, world.routes)
    unlisted = world.unlisted()
    active = {id: policy for id, policy in source.policies.items() if not is_dormant(policy, unlisted)}
    try:
        engine = PolicyEngine(source, active, world)
        if active:
            _validate(active, engine.schema_text, path)
    except ValueError as error:
        raise PolicyError(f"{path}: {error}", "check the tools' config and the policies") from None
    return engine


_POSITION = re.compile(r"^for policy `[^`]*`, ")
"""How Cedar names a policy that was given to it without its id."""


def _validate(active: Mapping[str, Policy], schema: str, path: Path) -> None:
    result = cedarpy.validate_policies(cedarpy.policies_from_json_str(as_json(active)), schema)
    if result.validation_passed:
        return
    names = result.id_annotations_by_policy_id
    lines = []
    for error in result.errors:
        id = names.get(error.policy_id, error.policy_id)
        file = active[id].file if id in active else path.name
        lines.append(f"{file}: {id}: {_POSITION.sub('', error.error)}")
    raise PolicyError(
        "\n".join(lines), "actions are the tools as they are listed; attributes are those of [resources] in the config"
    )
