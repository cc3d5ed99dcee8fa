"""Policy cases: calls with their expected decisions, in a file beside the policies that they test.

A `NAME.cases.toml` file:

    [defaults]                       # optional; any key of a case
    agent = "deal-update-agent"
    owner = "bob"

    [[case]]
    name = "a small change of the amount is allowed"
    tool = "crm__update_deal"
    arguments = { deal_id = "789", amount = 1500 }
    facts = { deal_id = "789", amount = 1000 }       # present state, as the facts tool would return it
    groups = ["crm-agents"]
    on_behalf_of = "dana"
    ticket = "INC-1"                 # and reason
    template = "crm://deals/{id}"    # for resources/read: the listed template that the URI fits; its parts are tags
    meta = { "vendor/tenant" = "t" } # members of `_meta` that [guard] forward_meta lists
    history = { untrusted_seen = true, sinks = { from_untrusted = ["to"] } }  # default: nothing seen
    rates = { writes_per_hour = 3 }  # counters, this call included; default: this call only
    sequences = { looked_first = true }  # whether the step was taken before; default: false
    time = "2026-11-28T23:00:00Z"    # when it is decided; without an offset, in the operator's zone
    signals = ["on_call"]            # of [risk.signals], or unusual_for_agent; with their weights. Default: none
    outcome = "allow"                # allow, deny or require_approval
    policies = ["amount-limit"]      # optional: exactly these are the determining policies
    routes = ["crm-approvers"]       # optional

Cases run against the real engine. No tool is called and nothing is recorded.
"""

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from mcp_guard.core import canonical, exact_json, rates
from mcp_guard.core.decided_methods import LIST_TEMPLATES, read_request
from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.errors import PolicyError, reason_of
from mcp_guard.core.host_tools import DEFINITIONS, HOST, NAMES, UnknownShape, Workspace, arguments_of
from mcp_guard.core.model import (
    Agent,
    Call,
    CallHistory,
    Decision,
    Facts,
    Instance,
    Json,
    Micros,
    Origins,
    Outcome,
    Signal,
    Task,
    Tool,
    ToolCallRequest,
)
from mcp_guard.core.names import SEPARATOR
from mcp_guard.core.nearest import is_misspelling, nearest, suggest_tools
from mcp_guard.core.risk import SIGNALS, sum_signals
from mcp_guard.core.times import micros
from mcp_guard.core.visible_text import join
from mcp_guard.policy.authoring.case_types import find_type_problems
from mcp_guard.policy.engine import PolicyEngine
from mcp_guard.policy.time_of_call import UTC_NAME, find_zone

KEYS = frozenset(
    {"name", "tool", "arguments", "host", "facts", "agent", "owner", "groups", "on_behalf_of", "ticket", "reason",
     "rates", "sequences", "meta", "template", "history", "time", "signals", "outcome", "policies", "routes"}
)  # fmt: skip
NEVER = 2**53
FORMAT = "docs/reference/policies.md#cases explains the format"
ORIGINS = ("provenance", "sinks")


@dataclass(frozen=True, slots=True)
class Case:
    """One call and its expected decision; `table` is the TOML table with the defaults filled in."""

    file: str
    name: str
    table: Json


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The decision on a case (None if it could not be evaluated), and how it differs from the expected one."""

    case: Case
    decision: Decision | None
    differences: tuple[str, ...]


def read_cases(path: Path) -> list[Case]:
    """The cases in one file, or in every `*.cases.toml` of a folder. Raises: PolicyError."""
    files = sorted(path.glob("*.cases.toml")) if path.is_dir() else [path]
    cases = []
    for file in files:
        try:
            data = tomllib.loads(file.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise PolicyError(f"cannot read the cases in `{file}`: {reason_of(error)}", FORMAT) from None
        defaults, entries = data.get("defaults", {}), data.get("case", [])
        if not isinstance(defaults, dict) or not isinstance(entries, list) or not all(map(_is_table, entries)):
            raise PolicyError(f"{file}: cases are tables: [defaults] and [[case]]", FORMAT)
        for number, entry in enumerate(entries, 1):
            table = {**defaults, **entry}
            if isinstance(table.get("time"), datetime):
                table["time"] = table["time"].isoformat()
            name = table.get("name", f"case {number}")
            if unknown := table.keys() - KEYS:
                near = nearest(min(unknown), KEYS)
                hint = f"did you mean `{near}`?" if near else f"keys: {', '.join(sorted(KEYS))}"
                raise PolicyError(f"{file.name}: {name}: unknown key `{min(unknown)}`", hint)
            if missing := {"tool", "outcome"} - table.keys():
                raise PolicyError(
                    f"{file.name}: {name}: `{min(missing)}` is required", "every case needs `tool` and `outcome`"
                )
            if problems := list(find_type_problems(table)):
                raise PolicyError(join("\n", (f"{file.name}: {name}: {problem}" for problem in problems)), FORMAT)
            try:
                cases.append(Case(file.name, name, with_host_arguments(table)))
            except UnknownShape as unknown:
                raise PolicyError(f"{file.name}: {name}: `host`: {unknown}", FORMAT) from None
    return cases


def with_host_arguments(table: Json) -> Json:
    """The case with `arguments` in place of `host`: what a coding agent says of a call, in the folder `WORKSPACE`.

    Raises: UnknownShape.
    """
    if "host" not in table:
        return table
    server, _, name = table["tool"].partition(SEPARATOR)
    if server != HOST or name not in NAMES or "arguments" in table:
        raise UnknownShape(f"it is for a tool `{HOST}{SEPARATOR}…`, in place of `arguments`")
    members = next(definition for definition in DEFINITIONS if definition["name"] == name)["inputSchema"]["properties"]
    said = {key: value for key, value in table["host"].items() if key in members or key == "edits"}
    rest = {key: value for key, value in table["host"].items() if key not in said}
    place = Workspace(WORKSPACE, WORKSPACE)
    arguments = arguments_of(name, said, rest, place, lambda value: exact_json.dumps(value).decode())
    return {**table, "arguments": arguments}


WORKSPACE = "/workspace"


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


@dataclass(frozen=True, slots=True)
class CaseSettings:
    """What the configuration says about cases: the operator's zone, and the weights of signals that cases may raise."""

    rules: DescriptionRules = field(default_factory=DescriptionRules)
    time_zone: str = UTC_NAME
    signals: Mapping[str, int] = field(default_factory=dict)

    def all_signals(self) -> set[str]:
        """The names of the signals that calls may have."""
        return {*self.signals, *(signal.__name__ for signal in SIGNALS)}


def run_cases(
    engine: PolicyEngine, tools: Mapping[str, Tool], cases: Iterable[Case], settings: CaseSettings | None = None
) -> list[CaseResult]:
    """Decide each case; `tools` is the catalog by listed name."""
    return [_run(engine, tools, case, settings or CaseSettings()) for case in cases]


def _run(engine: PolicyEngine, tools: Mapping[str, Tool], case: Case, settings: CaseSettings) -> CaseResult:
    table, rules = case.table, settings.rules
    tool = tools.get(table["tool"])
    if tool is None:
        return CaseResult(case, None, (f"no tool `{table['tool']}` is listed; {suggest_tools(table['tool'], tools)}",))
    if misspelt := list(_misspelt_names(table, tool, engine)):
        return CaseResult(case, None, tuple(misspelt))
    instance = _instance(table)
    request = ToolCallRequest(tool.listed_as, table.get("arguments", {}), table.get("meta"))
    call = describe(rules, "call_case", instance, request, tool)
    if call.problems:
        return CaseResult(case, None, tuple(call.problems))
    facts = _facts(table, tool, call)
    if isinstance(facts, str):
        return CaseResult(case, Decision(Outcome.DENY, engine.version, reasons=(facts,)), _refused(table, facts))
    call = rules.assess(call, facts, _history(table.get("history", {})))
    try:
        now = _time(table, settings.time_zone)
        if now is None and engine.reads_time_of(tool.listed_as):
            raise ValueError("policies read `context.time`: give the case a `time`, or all of them in [defaults]")
        raised = [_signal(name, settings.signals) for name in table.get("signals", ())]
    except ValueError as error:
        return CaseResult(case, None, (str(error),))
    call = call._replace(risk=sum_signals((*call.risk.signals, *raised)))
    decision = _decide(engine, call, table, now or 0)
    return CaseResult(case, decision, tuple(_differences(table, decision)))


def _facts(table: Json, tool: Tool, call: Call) -> Facts | str | None:
    """The present state given in the case; for a request that is no tool call, what it is about or why it is denied."""
    if tool.method is not None:
        return read_request(tool, call.arguments, lambda _, method: _listed(table, method))
    values = table.get("facts")
    return Facts(values, canonical.digest_json(values)) if values is not None else None


def _listed(table: Json, method: str) -> list[Json]:
    """What the server lists in a case: the template that it names, and the prompt with the arguments that it has."""
    if method == LIST_TEMPLATES:
        return [{"uriTemplate": table["template"]}] if "template" in table else []
    arguments = table.get("arguments", {})
    given = arguments.get("arguments", {})
    return [{"name": arguments.get("name"), "arguments": [{"name": name} for name in given]}]


def _refused(table: Json, reason: str) -> tuple[str, ...]:
    return () if table["outcome"] == Outcome.DENY else (f"expected {table['outcome']}, got deny ({reason})",)


def _decide(engine: PolicyEngine, call: Call, table: Json, now: Micros) -> Decision:
    """As `Guard.decide`: a call that a sum cannot count is denied."""
    given_rates, given_sequences = table.get("rates", {}), table.get("sequences", {})
    try:
        counts = {
            increment.counter.name: _rate(increment, given_rates)
            for increment in rates.rate_increments(call, engine.counters)
        }
    except ValueError as uncountable:
        return Decision(Outcome.DENY, engine.version, reasons=(str(uncountable),))
    sequences = {rule.name: given_sequences.get(rule.name, False) for rule in engine.sequences}
    return engine.decide(call, counts | sequences, now)


def _misspelt_names(table: Json, tool: Tool, engine: PolicyEngine) -> Iterator[str]:
    """The rates and sequences of a case that are not configured, and the facts that are nearly those that policies can
    read."""
    for kind, rules in (("rate", engine.counters), ("sequence", engine.sequences)):
        configured = {rule.name for rule in rules}
        for name in sorted(table.get(f"{kind}s", {}).keys() - configured):
            near = nearest(name, configured)
            known = f"did you mean `{near}`?" if near else f"there are: {', '.join(sorted(configured)) or 'none'}"
            yield f"no {kind} `{name}` is configured in [{kind}s]; {known}"
    facts, rule = table.get("facts") or {}, tool.rule
    fields = rule.facts.fields if rule.facts else {}
    readable = {fields.get(argument, argument) for argument in tool.declared()}
    readable |= set(engine.attributes.get(rule.resource.type, ()) if rule.resource else ())
    for name in sorted(facts.keys() - readable):
        near = next((other for other in sorted(readable - facts.keys()) if is_misspelling(name, other)), "")
        if near:
            yield f"no policy can read `{name}` in `facts`; did you mean `{near}`?"


def _history(table: Json) -> CallHistory:
    """The call history given in the case."""
    provenance, sinks = (
        Origins(**{origin: tuple(names) for origin, names in table.get(name, {}).items()}) for name in ORIGINS
    )
    labels = {name: value for name, value in table.items() if name not in (*ORIGINS, "tools")}
    return CallHistory(tuple(table.get("tools", ())), provenance=provenance, sinks=sinks, **labels)


def _time(table: Json, zone: str) -> Micros | None:
    """The time given in the case. Raises: ValueError."""
    given = table.get("time")
    if given is None:
        return None
    try:
        at = datetime.fromisoformat(given)
    except (TypeError, ValueError):
        raise ValueError(f'`time = {given!r}` is not a time such as "2026-11-28T23:00:00Z"') from None
    return micros(at if at.tzinfo else at.replace(tzinfo=find_zone(zone)))


def _signal(name: str, weights: Mapping[str, int]) -> Signal:
    """Raises: ValueError."""
    if name in weights:
        return Signal(name, weights[name], "given in the case")
    if name in {signal.__name__ for signal in SIGNALS}:
        raise ValueError(f"signal `{name}` follows from the call: give the arguments, facts or history that raise it")
    near = difflib.get_close_matches(name, weights, 1)
    known = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(sorted(weights)) or 'none'}"
    raise ValueError(f"no signal `{name}` is configured in [risk.signals]; {known}")


def _rate(increment: rates.RateIncrement, given_rates: Json) -> rates.RateValue:
    """The value given in the case, or what this call alone adds."""
    given = given_rates.get(increment.counter.name)
    if given is None:
        return increment.value(0)
    return int(given) if increment.counter.sum is None else Decimal(str(given))


def _instance(table: Json) -> Instance:
    agent = Agent(table.get("agent", "agent"), table.get("owner", "owner"), tuple(table.get("groups", ())))
    task = Task(table.get("ticket"), table.get("reason"))
    id = f"run_case_{canonical.digest_json(table)[7:19]}"
    return Instance(id, agent, table.get("on_behalf_of"), task, 0, NEVER, "", "cred_case")


def _differences(table: Json, decision: Decision) -> Iterable[str]:
    because = f" ({'; '.join(decision.reasons)})" if decision.reasons else ""
    if decision.outcome != table["outcome"]:
        yield f"expected {table['outcome']}, got {decision.outcome}{because}"
    for name, actual in (("policies", decision.policies), ("routes", decision.routes)):
        if name in table and sorted(table[name]) != sorted(actual):
            yield f"expected {name} {sorted(table[name])}, got {sorted(actual)}{because}"
