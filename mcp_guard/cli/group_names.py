"""Finds the groups of agents that no policy names: such a group permits nothing, and may be a misspelt one."""

from collections.abc import Iterable

from mcp_guard.cli.enrolled_agents import enrolled_agents
from mcp_guard.core.errors import PolicyError
from mcp_guard.core.model import Agent
from mcp_guard.core.nearest import nearest
from mcp_guard.diagnostics.snapshot import UnnamedGroup
from mcp_guard.policy.source import entities_in, parse_texts, read_files
from mcp_guard.settings import Settings


def find_unnamed_groups(settings: Settings, agents: Iterable[Agent]) -> list[UnnamedGroup]:
    """None if no policies can be read, which is reported by others, or if they name neither groups nor agents."""
    try:
        policies = parse_texts(read_files(settings.policies), None)[0].policies.values()
    except PolicyError:
        return []
    named = {group for policy in policies for group in entities_in(policy, "Group")}
    if not named and not any(entities_in(policy, "Agent") for policy in policies):
        return []
    return [
        UnnamedGroup(agent.name, group, nearest(group, named))
        for agent in agents
        for group in agent.groups
        if group not in named
    ]


def all_unnamed_groups(settings: Settings) -> list[UnnamedGroup]:
    """The same for every agent of the configuration and of the ledger, if that can be read."""
    agents = sorted(enrolled_agents(settings).items())
    return find_unnamed_groups(settings, (enrolled.agent for _, enrolled in agents))
