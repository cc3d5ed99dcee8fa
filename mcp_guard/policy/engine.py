"""Decides calls with Cedar: policies and schema are parsed and validated once, then evaluated for each call.

Implements `ports.Policies`. A loaded engine never raises: any failure while deciding is a deny with the reason.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path

import cedarpy
import orjson

from mcp_guard.core import canonical
from mcp_guard.core.configured_arguments import UnmatchedArgument, find_unmatched_arguments
from mcp_guard.core.configured_names import ConfiguredName, UnmatchedName, find_unmatched
from mcp_guard.core.decided_methods import ATTRIBUTES
from mcp_guard.core.decision import as_advisory
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import (
    NO_HISTORY,
    SECOND,
    Call,
    Decision,
    Effect,
    Instance,
    Json,
    Micros,
    Outcome,
    RateCounter,
    SequenceRule,
    Tool,
    ToolRule,
)
from mcp_guard.core.names import MANGLING_VERSION
from mcp_guard.core.rates import RateValue
from mcp_guard.core.receipt import format_second
from mcp_guard.core.request_meta import FORWARDED_BY_DEFAULT
from mcp_guard.core.visible_text import join
from mcp_guard.policy.entities import EntityParser, RequestEntities
from mcp_guard.policy.listing import ListingDecisions
from mcp_guard.policy.request import (
    Inexpressible,
    build_context,
    compared_pointers,
    history_context,
    narrow,
    reads_time,
    require_exact,
    resource_entity,
)
from mcp_guard.policy.ruleset import (
    PERMIT_ALL,
    Ruleset,
    action_groups,
    always_in_force,
)
from mcp_guard.policy.schema import PRINCIPAL, TOOL, CatalogSchema, build_schema, with_time
from mcp_guard.policy.shapes import Shape
from mcp_guard.policy.source import (
    SERVER,
    ListedNames,
    Policy,
    PolicyProblem,
    PolicySource,
    actions_in_conditions,
    locate,
    parse_policies,
    read_policies,
)
from mcp_guard.policy.time_of_call import UTC_NAME, time_context
from mcp_guard.policy.validation import (
    ValidationSchema,
    find_misspelt_actions,
    find_validation_problems,
    hint_for,
)
from mcp_guard.policy.withheld import NOTHING_WITHHELD, Withheld, withheld_by_names, withheld_by_policies

ENGINE = f"cedarpy/{getattr(cedarpy, '__version__', '4.12')}"


@dataclass(frozen=True, slots=True)
class PolicyEnvironment:
    """What policies are validated against: the catalog, the configured entity attributes, counters and routes.

    `absent` are upstreams that have listed no tools yet, `quarantined` tools that are listed but not accepted, and
    `retained` accepted definitions of tools that are not listed now. `known` are names of tools that were seen before
    or are configured, `seen` those among them that were seen. `configured` are the names of tools that the
    configuration has rules for. `meta` maps the members of `_meta` that go on to upstreams to their types.
    `time_zone` is the operator's, by its IANA name.
    """

    tools: tuple[Tool, ...]
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    counters: tuple[RateCounter, ...] = ()
    routes: Collection[str] = ()
    absent: Collection[str] = ()
    quarantined: Collection[str] = ()
    meta: Mapping[str, str] = field(default_factory=lambda: FORWARDED_BY_DEFAULT)
    retained: tuple[Tool, ...] = ()
    known: Collection[str] = ()
    time_zone: str = UTC_NAME
    configured: tuple[ConfiguredName, ...] = ()
    seen: Collection[str] = ()
    operations: tuple[Tool, ...] = ()
    """What stands for the methods that are decided beside tool calls (`core.decided_methods`)."""
    sequences: tuple[SequenceRule, ...] = ()

    @property
    def counted(self) -> tuple[RateCounter | SequenceRule, ...]:
        """What is configured about earlier calls."""
        return (*self.counters, *self.sequences)

    @property
    def types(self) -> Mapping[str, Mapping[str, str]]:
        """The attributes of each type of resource, those of the guard's own types included."""
        own = {tool.rule.resource.type for tool in self.operations if tool.rule.resource}
        if not own:
            return self.attributes
        return {**self.attributes, **{type: dict.fromkeys(ATTRIBUTES[type], "string") for type in sorted(own)}}

    def listed(self) -> ListedNames:
        servers = {tool.server for tool in self.tools}
        listed = (*self.tools, *self.operations)
        effects = {str(tool.effect) for tool in listed}
        methods = {tool.name for tool in self.operations}
        if str(Effect.DESTRUCTIVE) in effects:
            effects.add(str(Effect.WRITE))  # a destructive tool is in the group `write` as well
        names = {tool.listed_as for tool in listed}
        retained = {tool.listed_as for tool in self.retained}
        types = {*self.attributes, *ATTRIBUTES}
        used = {tool.rule.resource.type for tool in listed if tool.rule.resource}
        return ListedNames(
            actions=names | effects | methods | {f"{SERVER}{tool.server}" for tool in listed},
            known={*self.known, *self.quarantined, *retained},
            servers=servers | set(self.absent),
            absent=self.absent,
            types={TOOL, *types},
            unused=types - used,
            quarantined=self.quarantined,
            retained=retained,
        )

    def schema(self) -> Json:
        """The schema of these tools, in Cedar's JSON form."""
        tools = (*self.tools, *self.operations)
        return build_schema(tools, self.types, self.counters, meta=self.meta, sequences=self.sequences)[0]

    def schema_for(self, policies: Collection[Policy], *, with_retained: bool = False) -> CatalogSchema:
        """The schema that these policies are validated against; those in force against that of the listed tools."""
        return build_schema(
            (*self.tools, *self.operations, *(self.retained if with_retained else ())),
            self.types,
            self.counters,
            self.listed().unlisted(policies),
            self.meta,
            has_time=with_retained or reads_time(policies),
            sequences=self.sequences,
        )

    def unmatched(self) -> list[UnmatchedName]:
        """The configured names that no tool has."""
        retained = (tool.listed_as for tool in self.retained)
        operations = {tool.listed_as for tool in self.operations}
        return find_unmatched(
            [entry for entry in self.configured if entry.name not in operations],
            {tool.listed_as for tool in self.tools},
            {*self.seen, *retained, *self.quarantined},
        )

    def unmatched_arguments(self) -> list[UnmatchedArgument]:
        """The configured arguments that their tool does not declare, as far as its definition is known."""
        return find_unmatched_arguments((*self.retained, *self.tools), self.counted, self.attributes)

    def without_facts(self) -> frozenset[str]:
        """The tools whose present state is not read."""
        return frozenset(tool.listed_as for tool in (*self.tools, *self.retained) if tool.rule.facts is None)


HASHED_NAMES = {"verb": "deed"}
"""Fields of `ToolRule` under the names that policy versions have always been hashed with."""
NOT_HASHED = frozenset({"notify_fields"})
"""Fields of `ToolRule` that no decision depends on."""
HASHED_IF_SET = frozenset({"parties", "confirm", "also_changes"})
"""Fields that versions of earlier releases did not have."""


def rule_text(rule: ToolRule) -> str:
    """A tool's configuration as it enters the hash of a policy version.

    INVARIANT: the same bytes in every release, or an upgrade would make every pending approval stale.
    """
    left_out = NOT_HASHED | {name for name in HASHED_IF_SET if not getattr(rule, name)}
    names = [member.name for member in fields(rule) if member.name not in left_out]
    return f"ToolRule({', '.join(f'{HASHED_NAMES.get(name, name)}={getattr(rule, name)!r}' for name in names)})"


@dataclass(frozen=True, slots=True)
class HiddenTool:
    """Why a tool is not listed: in words, and by the policies that forbid every call of it, if any does."""

    policies: tuple[str, ...]
    reason: str


NO_OBJECT = "it has no input schema of an object, or the policies in force do not know it yet"


class PolicyEngine:
    """One loaded set of policies. Created by `load_policies` and `load_confined` only."""

    def __init__(
        self,
        source: PolicySource,
        active: Mapping[str, Policy],
        environment: PolicyEnvironment,
        schema: CatalogSchema,
        problems: Sequence[PolicyProblem] = (),
        withheld: Mapping[str, Withheld] = NOTHING_WITHHELD,
    ) -> None:
        self.reads_time = reads_time(active.values())
        self._environment = environment
        self._time_zone = environment.time_zone
        self._shapes = schema.shapes
        self.counters = environment.counters
        self.sequences = environment.sequences
        self.source = source
        self.problems = tuple(problems)
        self.unmatched = tuple(environment.unmatched())
        """The names of tools in the configuration that no tool has."""
        self.unmatched_arguments = tuple(
            find_unmatched_arguments(environment.tools, environment.counted, environment.attributes)
        )
        """The arguments in the configuration that their tool does not declare, of the tools that are listed."""
        self.withheld = withheld
        self.dormant = tuple(sorted(source.policies.keys() - active.keys()))
        """The policies that are not in force: nothing that is listed now can match them, or they have a problem."""
        self.attributes = environment.types
        self._meta = environment.meta
        self._rules = Ruleset(active, action_groups(schema.json))
        self._always = always_in_force(self._rules)
        named = set().union(*map(actions_in_conditions, active.values()))
        self._entities = EntityParser(schema.json[""]["entityTypes"], self._rules.groups, named)
        parts = self._entities, self._shapes, self.attributes
        self._listing, self._always_listing = (ListingDecisions(rules, *parts) for rules in (self._rules, self._always))
        self.version = canonical.digest(self._write_material(schema.json))

    def schema(self) -> Json:
        """The schema in Cedar's JSON form. It is made again each time: deciding needs only parts of it."""
        return self._environment.schema_for(self._rules.policies.values()).json

    def material(self) -> bytes:
        """All that the decisions depend on, as the ledger keeps it. The version is its hash."""
        return self._write_material(self.schema())

    def _write_material(self, schema: Json) -> bytes:
        tools = (*self._environment.tools, *self._environment.operations)
        rules = {tool.listed_as: rule_text(tool.rule) for tool in tools}
        return orjson.dumps(
            {"policies": dict(self.source.texts), "schema": schema, "rules": rules, "engine": ENGINE,
             "mangling": MANGLING_VERSION, "dormant": self.dormant,
             **({"withheld": sorted(self.withheld)} if self.withheld else {}),
             **({"sequences": sorted(map(astuple, self.sequences))} if self.sequences else {}),
             **({"time_zone": self._time_zone} if self.reads_time else {})}, option=orjson.OPT_SORT_KEYS
        )  # fmt: skip

    @property
    def rules(self) -> Ruleset:
        return self._rules

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """How policies see the arguments of each tool."""
        return self._shapes

    @property
    def may_hold(self) -> bool:
        return bool(self._rules.gates)

    @property
    def may_hide_observed(self) -> bool:
        """Whether some policy applies in observe mode too."""
        return len(self._always.policies) > 1 or any(withheld.always for withheld in self.withheld.values())

    def reads_time_of(self, tool: str) -> bool:
        """Whether some policy that may apply to calls of this tool reads `context.time`."""
        return self.reads_time and reads_time(self._rules.policies[id] for id in self._rules.policies_for(tool))

    # Deciding

    def decide(self, call: Call, counts: Mapping[str, RateValue], now: Micros | None = None) -> Decision:
        """The decision at the time `now`. Without one, policies that read `context.time` deny."""
        try:
            return self._decide(self._rules, call, counts, now)
        except Exception as error:  # promise P2: any failure while deciding denies
            return self._deny(error, counts)

    def observe(self, call: Call, counts: Mapping[str, RateValue], now: Micros | None = None) -> Decision:
        """The decision in observe mode: only policies marked `@enforce("always")` apply; `would` is the full decision.

        A call that cannot be expressed in Cedar is denied only if a policy marked so could match it.
        """
        decision = self.decide(call, counts, now)
        would = as_advisory(decision)
        if decision.outcome is not Outcome.ALLOW and self._is_decidable(call.name, observing=True):
            try:
                if self._always.slice(call.name, self._entities.of_principal(call.instance).principal).ids == (
                    PERMIT_ALL.id,
                ):
                    decision = Decision(
                        Outcome.ALLOW,
                        self.version,
                        counts=counts,
                        material=decision.material,
                        decided_at=decision.decided_at,
                        time_zone=decision.time_zone,
                    )
                else:
                    decision = self._decide(self._always, call, counts, now)
            except Exception as error:  # promise P2, here too
                decision = self._deny(error, counts)
        return decision._replace(would=would)

    def _is_decidable(self, tool: str, observing: bool) -> bool:
        withheld = self.withheld.get(tool)
        return tool in self._shapes and (withheld is None or (observing and not withheld.always))

    def _deny(self, error: Exception, counts: Mapping[str, RateValue]) -> Decision:
        reason = str(error) or type(error).__name__
        return Decision(Outcome.DENY, self.version, reasons=(reason,), errors=(reason,), counts=counts)

    def _decide(self, rules: Ruleset, call: Call, counts: Mapping[str, RateValue], now: Micros | None) -> Decision:
        shape = self._shapes.get(call.name)
        if call.name in self.withheld and rules is self._rules:
            raise Inexpressible(self.withheld[call.name].reason)
        if shape is None:
            raise Inexpressible(NO_OBJECT)
        attributes = () if call.resource.type == TOOL else self.attributes[call.resource.type]
        context = build_context(call, shape, counts, self._meta, attributes)
        if self.reads_time:
            if now is None:
                raise Inexpressible("policies read `context.time`, and the time of the call is not known")
            context["time"] = time_context(now, self._time_zone)
        request_entities = self._request_entities(call)
        policy_slice = rules.slice(call.name, request_entities.principal)
        view = policy_slice.view
        if context["input_inexact"]:
            compared = compared_pointers(call, self.sequences, view)
            require_exact(call, context["input_inexact"], self.counters, compared)
        if self.sequences:
            context["sequence"] = {rule.name: counts[rule.name] for rule in self.sequences}
        if call.history is not NO_HISTORY or view is None or "history" in view:
            context["history"] = history_context(call.history)
        request = {
            "principal": {"type": PRINCIPAL, "id": call.instance.id},
            "action": {"type": "Action", "id": call.name},
            "resource": {"type": call.resource.type, "id": call.resource.id},
            "context": orjson.dumps(narrow(context, view)).decode(),
        }
        ruling = rules.decide_slice(policy_slice, request, context, request_entities.entities)
        policies = tuple(id for id in sorted(ruling.policies) if id != PERMIT_ALL.id)
        material = {**request, "context": context}
        return Decision(
            outcome=ruling.outcome,
            policy_version=self.version,
            policies=policies,
            reasons=self._reasons(call, ruling.outcome, policies, ruling.errors),
            routes=ruling.routes,
            errors=ruling.errors,
            counts=counts,
            material=orjson.dumps({"request": material, "entities": request_entities.described}),
            decided_at=format_second(now // SECOND) if self.reads_time and now is not None else "",
            time_zone=self._time_zone if self.reads_time else "",
        )

    def _request_entities(self, call: Call) -> RequestEntities:
        known = self._entities.of_call(call.instance, call.name)
        if call.resource.type == TOOL:
            return known
        return self._entities.with_resource(known, resource_entity(call, self.attributes[call.resource.type]))

    def _reasons(
        self, call: Call, outcome: Outcome, policies: tuple[str, ...], errors: tuple[str, ...]
    ) -> tuple[str, ...]:
        if errors:
            return tuple(f"a policy could not be evaluated: {error}" for error in errors)
        if outcome is Outcome.DENY and not policies:
            return (f"no policy permits `{call.name}` for agent `{call.instance.agent.name}` with these arguments",)
        by_id = self._rules.policies
        return tuple(by_id[id].reason for id in policies if by_id[id].reason)

    # Listing

    def may_call(self, instance: Instance, tool: Tool, observing: bool = False) -> bool:
        if not self._is_decidable(tool.listed_as, observing):
            return False
        return self._listing_of(observing).could_be_permitted(instance, tool)

    def may_reach(self, instance: Instance, tool: Tool, targets: Sequence[Json], observing: bool = False) -> bool:
        """As `ports.Policies.may_reach`."""
        if not self._is_decidable(tool.listed_as, observing):
            return False
        return self._listing_of(observing).could_reach(instance, tool, targets)

    def _listing_of(self, observing: bool) -> ListingDecisions:
        return self._always_listing if observing else self._listing

    def why_hidden(self, instance: Instance, tool: Tool, observing: bool = False) -> HiddenTool | None:
        """Why the tool is not listed for this instance; None if it is."""
        if self.may_call(instance, tool, observing):
            return None
        if not self._is_decidable(tool.listed_as, observing):
            withheld = self.withheld.get(tool.listed_as)
            return HiddenTool((), withheld.reason if withheld else NO_OBJECT)
        rules = self._always if observing else self._rules
        listing = self._listing_of(observing)
        try:
            if (spot := listing.find_blind_forbid(instance, tool)) is not None:
                return HiddenTool((spot.policy,), f"no call of it can be decided: {spot.reason}")
            ids = listing.find_forbidding(instance, tool)
        except Exception as error:  # as in `may_call`: what cannot be evaluated is not listed
            return HiddenTool((), f"it cannot be evaluated: {error}")
        if not ids:
            return HiddenTool((), f"no policy permits it for agent `{instance.agent.name}`")
        reasons = "; ".join(dict.fromkeys(rules.policies[id].reason for id in ids if rules.policies[id].reason))
        names = ", ".join(f"`{id}`" for id in ids)
        forbid = "forbids" if len(ids) == 1 else "forbid"
        return HiddenTool(ids, f"policy {names} {forbid} every call of it{f': {reasons}' if reasons else ''}")

    def why_withheld(self, instance: Instance, tool: Tool, observing: bool = False) -> str | None:
        """Why the tool is withheld, in words for the agent; None if the instance could not call it anyway."""
        withheld = self.withheld.get(tool.listed_as)
        if withheld is None or self._is_decidable(tool.listed_as, observing) or tool.listed_as not in self._shapes:
            return None
        if not self._listing_of(observing).could_be_permitted(instance, tool):
            return None
        return f"{withheld.short or withheld.reason}; the operator can find out more: mcp-guard doctor"


def load_policies(path: Path, environment: PolicyEnvironment, texts: Mapping[str, str] | None = None) -> PolicyEngine:
    """Read, check and parse the policies of a folder or file, or these `texts` in place of its files.

    Raises: PolicyError naming every problem.
    """
    source = read_policies(path, environment.routes) if texts is None else parse_policies(texts, environment.routes)
    engine = _load(path, source, environment)
    if engine.problems:
        raise PolicyError(join("\n", engine.problems), hint_for(engine.problems))
    return engine


def load_confined(path: Path, source: PolicySource, environment: PolicyEnvironment) -> PolicyEngine:
    """Policies that may not fit the tools that are listed now. A problem of one policy is confined to its own scope.

    A permit with a problem permits nothing. The tools that a `forbid` or gate with a problem may be about are withheld.
    Raises: PolicyError for a problem of the whole set.
    """
    return _load(path, source, environment)


def _load(path: Path, source: PolicySource, environment: PolicyEnvironment) -> PolicyEngine:
    """The policies without problems, with the problems of the others."""
    listed = environment.listed()
    active = {id: policy for id, policy in source.policies.items() if not listed.is_dormant(policy)}
    problems = list(find_misspelt_actions(source.policies.values(), listed))
    try:
        unclear = withheld_by_names(environment.unmatched())
        schema = environment.schema_for(active.values())
        engine = PolicyEngine(source, active, environment, schema, withheld=unclear)
        if environment.retained:  # a policy is not wrong because its tool is not listed at present
            schema = environment.schema_for(source.policies.values(), with_retained=True)
        against = ValidationSchema(schema.json, environment.without_facts(), listed, schema.shapes)
        spelled = {id: policy for id, policy in active.items() if id not in {problem.policy for problem in problems}}
        invalid = find_validation_problems(spelled, against, path.name) if spelled else []
        if invalid and not engine.reads_time:  # a misspelt `time` may be meant
            against = replace(against, schema=with_time(against.schema))
            invalid = find_validation_problems(spelled, against, path.name)
        problems += invalid
        if not problems:
            return engine
        problems = locate(problems, source.texts)
        broken = {problem.policy for problem in problems}
        if not broken <= source.policies.keys():  # of the set, and of none of its policies
            raise PolicyError(join("\n", problems), hint_for(problems))
        valid = {id: policy for id, policy in active.items() if id not in broken}
        withheld = withheld_by_policies(source, problems, listed, against)
        withheld |= {tool: why for tool, why in unclear.items() if why.always or tool not in withheld}
        return PolicyEngine(source, valid, environment, environment.schema_for(valid.values()), problems, withheld)
    except ValueError as error:
        raise PolicyError(f"{path}: {error}", "check [tools] in the configuration, and the policies") from None
