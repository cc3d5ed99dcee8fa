"""`mcp-guard policy new`: create a policy file and its cases from a tool's schema."""

import argparse
from pathlib import Path

from mcp_guard.cli.enrolled_agents import enrolled_agents
from mcp_guard.cli.options import add_json, make_parser
from mcp_guard.cli.output import print_hint, print_result
from mcp_guard.cli.policy.fmt import format_text
from mcp_guard.cli.policy.inputs import live_world, settings_of_cases
from mcp_guard.config import load
from mcp_guard.config.errors import nearest_or
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Decision
from mcp_guard.core.nearest import suggest_tools
from mcp_guard.core.visible_text import join
from mcp_guard.policy.authoring.cases import read_cases, run_cases
from mcp_guard.policy.authoring.formatting import WIDTH
from mcp_guard.policy.authoring.scaffold import scaffold_cases, scaffold_policy
from mcp_guard.policy.engine import PolicyEnvironment, load_policies
from mcp_guard.settings import Settings


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    settings = load(options.config)
    world = live_world(settings, options.json)
    tools = {tool.listed_as: tool for tool in world.tools}
    if options.tool not in tools:
        raise PolicyError(f"no tool `{options.tool}` is listed", suggest_tools(options.tool, tools))
    if options.route is not None and options.route not in settings.routes:
        advice = nearest_or(options.route, settings.routes, "add it to [routes] in the configuration")
        raise PolicyError(f"no route `{options.route}`", advice)
    tool, groups = tools[options.tool], known_groups(settings)
    if options.group is not None and options.group not in groups:
        others = f"groups: {', '.join(groups) or 'none'}; an agent's `groups` add one"
        raise PolicyError(f"no agent is in group `{options.group}`", nearest_or(options.group, groups, others))
    group = options.group or next(iter(groups), "agents")
    route = options.route or next(iter(settings.routes), None)
    folder = settings.policies if settings.policies.is_dir() else settings.policies.parent
    path = options.out or folder / f"{tool.listed_as}.cedar"
    counters = tuple(counter.name for counter in settings.counters)
    sequences = tuple(rule.name for rule in settings.sequences)
    cases = path.with_suffix(".cases.toml")
    for file in (path, cases):
        if file.exists():
            raise PolicyError(f"`{file}` already exists", "name another file: --out FILE")
    path.write_text(format_text(path, scaffold_policy(tool, group, route, counters, sequences), WIDTH))
    cases.write_text(scaffold_cases(tool, group, route))
    cases.write_text(scaffold_cases(tool, group, route, decide_cases(cases, settings, world)))
    files = [str(path), str(cases)]
    print_result(options.json, {"files": files}, join("\n", (f"wrote {name}" for name in files)))
    print_hint("edit them, then: mcp-guard policy test")
    return 0


def decide_cases(cases: Path, settings: Settings, world: PolicyEnvironment) -> list[Decision | None]:
    """The decisions that the policies in the folder of the cases make on them; none if these policies do not load."""
    try:
        engine = load_policies(cases.parent, world)
    except PolicyError:
        return []
    tools = {tool.listed_as: tool for tool in world.tools}
    results = run_cases(engine, tools, read_cases(cases), settings_of_cases(settings))
    return [result.decision for result in results]


def known_groups(settings: Settings) -> list[str]:
    """The groups of the agents in the configuration, then of those in the ledger, without repetition."""
    agents = {**settings.agents, **enrolled_agents(settings)}
    return list(dict.fromkeys(group for enrolled in agents.values() for group in enrolled.agent.groups))


def build_parser() -> argparse.ArgumentParser:
    parser = make_parser("policy new", "Create a policy file and its cases from a tool's schema. Starts the upstreams.")
    parser.add_argument("tool", metavar="TOOL", help="the listed name of the tool, such as crm__update_deal")
    parser.add_argument(
        "--group", metavar="GROUP", help="the group of agents that may use it (default: the first agent's group)"
    )
    parser.add_argument(
        "--route", metavar="ROUTE", help="the approval route (default: the first; reads need no approval)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the policy file (default: TOOL.cedar in the policy folder)"
    )
    add_json(parser)
    return parser
