"""Measure one decision as the set of policies grows: sliced by scope, as the guard does, and with all policies.

Each team has a group and may use the tools of its own server with a limit on an argument; one forbid in twenty is about
every write. The budget is that of 1,000 policies: at most 0.5 ms at the median.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.model import Agent, Effect, Instance, Task, Tool, ToolCallRequest, ToolRule
from mcp_guard.core.names import listed_name
from mcp_guard.policy.engine import PolicyEngine, PolicyEnvironment, load_policies
from mcp_guard.policy.request import principal_entities
from mcp_guard.policy.ruleset import read_principal
from mcp_guard.upstream.catalog import definition_hash

SIZES = (10, 100, 1000, 5000)
BUDGET_MS, BUDGET_AT = 0.5, 1000
TOOLS, TEAMS, ROUNDS = 100, 20, 3000
SCHEMA = {"type": "object", "properties": {"id": {"type": "string"}, "amount": {"type": "integer"}}}


def make_tool(number: int) -> Tool:
    name = f"tool_{number}"
    definition = {"name": name, "inputSchema": SCHEMA}
    effect = Effect.READ if number % 4 == 0 else Effect.WRITE
    listed = listed_name("up", name)
    return Tool("up", name, listed, definition, definition_hash(definition), ToolRule(effect=effect), effect)


def make_policies(count: int) -> str:
    return "\n".join(map(make_policy, range(count)))


def make_policy(number: int) -> str:
    head, team = f'@id("p{number}")', f'principal in Group::"team-{number % TEAMS}"'
    if number % 20 == 19:
        asked = f'context.input has id && context.input.id == "{number}"'
        return f'{head} forbid ({team}, action in Action::"write", resource) when {{ {asked} }};'
    asked = f"context.input has amount && context.input.amount < {number}"
    return f'{head} permit ({team}, action == Action::"up__tool_{number % TOOLS}", resource) when {{ {asked} }};'


def measure(decide: Callable[[], object]) -> tuple[float, float]:
    """Median and 99th percentile, in milliseconds."""
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        decide()
        times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def one_call(tools: list[Tool]) -> tuple[Instance, Callable[[PolicyEngine], object]]:
    agent = Agent("agent", "bob", ("team-2",))
    instance = Instance("run_1", agent, None, Task(), 0, 2**53, "", "cred_1")
    arguments = {"id": "7", "amount": 1}
    call = describe(DescriptionRules(), "call_1", instance, ToolCallRequest(tools[2].listed_as, arguments), tools[2])
    call = DescriptionRules().assess(call, None)
    return instance, lambda engine: engine.decide(call, {})


def measure_size(size: int, tools: list[Tool]) -> tuple[float, ...]:
    """Policies, those in the slice, p50 and p99 of a decision, p50 unsliced, time to load and to list all tools."""
    instance, decide = one_call(tools)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.cedar"
        path.write_text(make_policies(size))
        begun = time.perf_counter()
        engine = load_policies(path, PolicyEnvironment(tuple(tools)))
        load = (time.perf_counter() - begun) * 1000
    begun = time.perf_counter()
    for tool in tools:
        engine.may_call(instance, tool)
    listing = (time.perf_counter() - begun) * 1000
    entities = principal_entities(instance)
    part = engine.rules.slice(tools[2].listed_as, read_principal(entities[0]["uid"], entities))
    p50, p99 = measure(lambda: decide(engine))
    whole = engine.rules.whole()
    engine.rules.slice = lambda *_: whole  # type: ignore[method-assign]
    return size, len(part.ids), p50, p99, measure(lambda: decide(engine))[0], load, listing


def main() -> int:
    tools = [make_tool(number) for number in range(TOOLS)]
    print("policies   in the slice   p50 ms   p99 ms   unsliced p50 ms   load ms   list 100 tools ms")
    met = True
    for size in SIZES:
        row = measure_size(size, tools)
        print("{:>8}{:>15}{:>9.3f}{:>9.3f}{:>18.3f}{:>10.0f}{:>20.1f}".format(*row))
        met = met and (size != BUDGET_AT or row[2] <= BUDGET_MS)
    print(f"\n{BUDGET_AT} policies within {BUDGET_MS} ms at the median: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
