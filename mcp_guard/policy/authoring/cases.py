"""Policy cases: tables of calls and what must be decided of each, beside the policies they test.

A `NAME.cases.toml` file:

    [defaults]                       # optional; any key of a case
    agent = "deal-update-agent"
    owner = "bob"

    [[case]]
    name = "a small change of the amount is allowed"
    tool = "crm__update_deal"
    arguments = { deal_id = "789", amount = 1500 }
    facts = { deal_id = "789", amount = 1000 }       # present state, as the facts tool would give it
    groups = ["crm-agents"]
    on_behalf_of = "dana"
    ticket = "INC-1"                 # and reason
    history = { untrusted_seen = true, sinks = { from_untrusted = ["to"] } }  # what was seen before; else nothing
    rates = { writes_per_hour = 3 }  # counters, present call included; where not given, the present call alone
    outcome = "allow"                # allow, deny or require_approval
    policies = ["amount-limit"]      # optional: exactly the determining policies
    routes = ["crm-approvers"]       # optional

Cases run against the real engine; nothing is called and nothing is recorded.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from mcp_guard.core import canonical, rates
from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import (
    Agent,
    CallHistory,
    Decision,
    Facts,
    Instance,
    Json,
    Origins,
    Task,
    Tool,
    ToolCallRequest,
)
from mcp_guard.policy.engine import PolicyEngine

KEYS = frozenset(
    {"name", "tool", "arguments", "facts", "agent", "owner", "groups", "on_behalf_of", "ticket", "reason", "rates",
     "history", "outcome", "policies", "routes"}
)  # fmt: skip
NEVER = 2**53
ORIGINS = ("provenance", "sinks")


@dataclass(frozen=True, slots=True)
class Case:
    """One call and what must be decided of it; `said` is the table as written, defaults filled in."""

    file: str
    name: str
    said: Json


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What was decided, and how it differs from what must be (empty: as expected)."""

    case: Case
    decision: Decision | None
    differences: tuple[str, ...]


def read_cases(path: Path) -> list[Case]:
    """The cases of one file, or of every `*.cases.toml` in a folder.

    Raises: PolicyError.
    """
    files = sorted(path.glob("*.cases.toml")) if path.is_dir() else [path]
    cases = []
    for file in files:
        try:
            data = tomllib.loads(file.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise PolicyError(f"{file}: {error}", "mcp_guard/policy/authoring/cases.py explains the form") from None
        defaults = data.get("defaults", {})
        for number, table in enumerate(data.get("case", []), 1):
            said = {**defaults, **table}
            name = said.get("name", f"case {number}")
            if unknown := said.keys() - KEYS:
                hint = f"keys: {', '.join(sorted(KEYS))}"
                raise PolicyError(f"{file.name}: {name}: unknown key `{min(unknown)}`", hint)
            if missing := {"tool", "outcome"} - said.keys():
                raise PolicyError(f"{file.name}: {name}: `{min(missing)}` is required", "see the other cases")
            cases.append(Case(file.name, name, said))
    return cases


def run_cases(
    engine: PolicyEngine, tools: Mapping[str, Tool], cases: Iterable[Case], operator: DescriptionRules | None = None
) -> list[CaseResult]:
    """Decide each case; `tools` is the catalog by listed name."""
    return [_run(engine, tools, case, operator or DescriptionRules()) for case in cases]


def _run(engine: PolicyEngine, tools: Mapping[str, Tool], case: Case, operator: DescriptionRules) -> CaseResult:
    said = case.said
    tool = tools.get(said["tool"])
    if tool is None:
        return CaseResult(case, None, (f"no tool `{said['tool']}` is listed",))
    instance = _instance(said)
    call = describe(operator, "call_case", instance, ToolCallRequest(tool.listed_as, said.get("arguments", {})), tool)
    if call.problems:
        return CaseResult(case, None, tuple(call.problems))
    values = said.get("facts")
    facts = Facts(values, canonical.digest_json(values)) if values is not None else None
    call = operator.assess(call, facts, _past(said.get("history", {})))
    try:
        counts = {
            use.counter.name: _rate(use, said.get("rates", {})) for use in rates.rate_increments(call, engine.counters)
        }
    except ValueError as uncountable:
        return CaseResult(case, None, (str(uncountable),))
    decision = engine.decide(call, counts)
    return CaseResult(case, decision, tuple(_differences(said, decision)))


def _past(said: Json) -> CallHistory:
    """`context.history` as the case gives it."""
    provenance, sinks = (
        Origins(**{origin: tuple(names) for origin, names in said.get(name, {}).items()}) for name in ORIGINS
    )
    labels = {name: value for name, value in said.items() if name not in (*ORIGINS, "tools")}
    return CallHistory(tuple(said.get("tools", ())), provenance=provenance, sinks=sinks, **labels)


def _rate(use: rates.RateIncrement, said: Json) -> rates.RateValue:
    """The value that the case gives, or what the call alone adds."""
    given = said.get(use.counter.name)
    if given is None:
        return use.value(0)
    return int(given) if use.counter.sum is None else Decimal(str(given))


def _instance(said: Json) -> Instance:
    agent = Agent(said.get("agent", "agent"), said.get("owner", "owner"), tuple(said.get("groups", ())))
    task = Task(said.get("ticket"), said.get("reason"))
    id = f"run_case_{canonical.digest_json(said)[7:19]}"
    return Instance(id, agent, said.get("on_behalf_of"), task, 0, NEVER, "", "cred_case")


def _differences(said: Json, decision: Decision) -> Iterable[str]:
    because = f" ({'; '.join(decision.reasons)})" if decision.reasons else ""
    if decision.outcome != said["outcome"]:
        yield f"expected {said['outcome']}, got {decision.outcome}{because}"
    for name, got in (("policies", decision.policies), ("routes", decision.routes)):
        if name in said and sorted(said[name]) != sorted(got):
            yield f"expected {name} {sorted(said[name])}, got {sorted(got)}{because}"
