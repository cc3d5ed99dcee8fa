"""Deciding with Cedar: policies and schema parsed once, validated before they are used, evaluated per call.

Implements `ports.Policies`. Nothing here raises once loaded: whatever goes wrong while deciding is a deny that says so.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import cedarpy
import orjson
from cedarpy import Entities, Schema

from mcp_guard.core import canonical
from mcp_guard.core.decision import opinion
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import NO_PAST, Call, Counter, Decision, Effect, Instance, Json, Outcome, Tool
from mcp_guard.core.names import MANGLING_VERSION
from mcp_guard.core.rates import Value
from mcp_guard.policy.request import Inexpressible, build_context, history, narrow, principal_entities, resource_entity
from mcp_guard.policy.ruleset import PERMIT_ALL, Ruleset, Subject, action_groups, always_in_force, read_subject
from mcp_guard.policy.schema import PRINCIPAL, TOOL, build_schema
from mcp_guard.policy.source import Policy, Source, Unlisted, is_dormant, read_policies, validate

ENGINE = f"cedarpy/{getattr(cedarpy, '__version__', '4.12')}"


@dataclass(frozen=True, slots=True)
class World:
    """What policies are validated against: the catalog, the configured entity attributes, counters and routes.

    `absent` are upstreams that have listed no tools yet, `unagreed` tools that are listed and quarantined.
    """

    tools: tuple[Tool, ...]
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    counters: tuple[Counter, ...] = ()
    routes: Collection[str] = ()
    absent: Collection[str] = ()
    unagreed: Collection[str] = ()

    def unlisted(self) -> Unlisted:
        effects = {str(effect) for effect in Effect} - {str(tool.effect) for tool in self.tools}
        used = {tool.rule.resource.type for tool in self.tools if tool.rule.resource}
        if any(tool.effect is Effect.DESTRUCTIVE for tool in self.tools):
            effects.discard(Effect.WRITE)  # its members are members of this too
        groups = effects | {f"server:{server}" for server in self.absent} | set(self.unagreed)
        return Unlisted(self.absent, groups, self.attributes.keys() - used, not self.tools)


class PolicyEngine:
    """One loaded set of policies. Made by `load_policies` only."""

    def __init__(self, source: Source, active: Mapping[str, Policy], world: World) -> None:
        named = [name for name in world.unagreed if any(f'"{name}"' in text for text in source.texts.values())]
        schema, self._shapes = build_schema(world.tools, world.attributes, world.counters, named)
        self.counters = world.counters
        self.dormant = tuple(sorted(source.policies.keys() - active.keys()))
        self.schema_text = json.dumps(schema)
        self._attributes = world.attributes
        self._rules = Ruleset(active, action_groups(schema))
        self._always = always_in_force(self._rules)
        self._schema = Schema.from_json_str(self.schema_text)
        self._principals: dict[str, Principal] = {}
        self._listed: dict[tuple[str, str, bool], bool] = {}
        rules = {tool.listed_as: repr(tool.rule) for tool in world.tools}
        self.material = orjson.dumps(
            {"policies": dict(source.texts), "schema": schema, "rules": rules, "engine": ENGINE,
             "mangling": MANGLING_VERSION, "dormant": self.dormant}, option=orjson.OPT_SORT_KEYS
        )  # fmt: skip
        self.version = canonical.digest(self.material)

    @property
    def rules(self) -> Ruleset:
        return self._rules

    @property
    def may_hold(self) -> bool:
        return bool(self._rules.gates)

    # Deciding

    def decide(self, call: Call, counts: Mapping[str, Value]) -> Decision:
        try:
            return self._decide(self._rules, call, counts)
        except Exception as error:  # promise P2: whatever goes wrong while deciding denies
            return self._deny(error, counts)

    def observe(self, call: Call, counts: Mapping[str, Value]) -> Decision:
        """The decision in observe mode: only what is always in force holds; what all the policies say is `would`.

        A call that cannot be put to the policies is denied only if one that is always in force is about such calls.
        """
        decision = self.decide(call, counts)
        would = opinion(decision)
        if decision.outcome is not Outcome.ALLOW:
            try:
                if self._always.slice(call.name, self._principal(call.instance).subject).ids == (PERMIT_ALL.id,):
                    decision = Decision(Outcome.ALLOW, self.version, counts=counts, material=decision.material)
                else:
                    decision = self._decide(self._always, call, counts)
            except Exception as error:  # promise P2, here too
                decision = self._deny(error, counts)
        return replace(decision, would=would)

    def _deny(self, error: Exception, counts: Mapping[str, Value]) -> Decision:
        reason = str(error) or type(error).__name__
        return Decision(Outcome.DENY, self.version, reasons=(reason,), errors=(reason,), counts=counts)

    def _decide(self, rules: Ruleset, call: Call, counts: Mapping[str, Value]) -> Decision:
        shape = self._shapes.get(call.name)
        if shape is None:
            raise Inexpressible("this tool has no input schema that a call could be checked against")
        said = build_context(call, shape, counts)
        entities, described, subject = self._entities(call)
        part = rules.slice(call.name, subject)
        if call.past is not NO_PAST or part.view is None or "history" in part.view:
            said["history"] = history(call.past)
        request = {
            "principal": {"type": PRINCIPAL, "id": call.instance.id},
            "action": {"type": "Action", "id": call.name},
            "resource": {"type": call.resource.type, "id": call.resource.id},
            "context": orjson.dumps(narrow(said, part.view)).decode(),
        }
        ruling = rules.rule_by(part, request, entities)
        policies = tuple(id for id in sorted(ruling.policies) if id != PERMIT_ALL.id)
        material = {**request, "context": said}
        return Decision(
            outcome=ruling.outcome,
            policy_version=self.version,
            policies=policies,
            reasons=self._reasons(call, ruling.outcome, policies, ruling.errors),
            routes=ruling.routes,
            errors=ruling.errors,
            counts=counts,
            material=orjson.dumps({"request": material, "entities": described}),
        )

    def _entities(self, call: Call) -> "Principal":
        """Parsed entities for the engine, and the same in JSON for the record."""
        known = self._principal(call.instance)
        if call.resource.type == TOOL:
            return known
        resource = resource_entity(call, self._attributes[call.resource.type])
        parsed = known.entities.with_added_json_str(orjson.dumps([resource]).decode(), self._schema)
        return Principal(parsed, [*known.described, resource], known.subject)

    def _principal(self, instance: Instance) -> "Principal":
        known = self._principals.get(instance.id)
        if known is None:
            described = principal_entities(instance)
            parsed = Entities.from_json_str(json.dumps(described), self._schema)
            known = Principal(parsed, described, read_subject(described[0]["uid"], described))
            self._principals[instance.id] = known
        return known

    def _reasons(
        self, call: Call, outcome: Outcome, policies: tuple[str, ...], errors: tuple[str, ...]
    ) -> tuple[str, ...]:
        if errors:
            return tuple(f"a policy could not be evaluated: {error}" for error in errors)
        if outcome is Outcome.DENY and not policies:
            return (f"no policy permits `{call.name}` for agent `{call.instance.agent.name}` with these arguments",)
        known = self._rules.policies
        return tuple(known[id].reason for id in policies if known[id].reason)

    # Listing

    def may_call(self, instance: Instance, tool: Tool, observing: bool = False) -> bool:
        key = instance.id, tool.listed_as, observing
        if key not in self._listed:
            rules = self._always if observing else self._rules
            try:
                known = observing or tool.listed_as in self._shapes
                self._listed[key] = known and self._could_be_let(rules, instance, tool)
            except Exception:  # promise P5: unknown is not listed
                self._listed[key] = False
        return self._listed[key]

    def _could_be_let(self, rules: Ruleset, instance: Instance, tool: Tool) -> bool:
        principal = self._principal(instance)
        resource = None if tool.rule.resource else (TOOL, tool.listed_as)
        return rules.could_be_let(tool.listed_as, principal.subject, resource, principal.entities)


class Principal(NamedTuple):
    """The entities of a request, parsed and described, and its principal."""

    entities: Entities
    described: list[Json]
    subject: Subject


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
            validate(active, engine.schema_text, path)
    except ValueError as error:
        raise PolicyError(f"{path}: {error}", "check the tools' config and the policies") from None
    return engine
