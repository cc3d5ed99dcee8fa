"""Finds the tools that are not listed for an agent, and why, for `tools list`, `status` and `doctor`.

The tools are those that were listed last, the policies those in the files now. No server is started.
"""

from collections.abc import Iterable

from mcp_guard.cli.enrolled_agents import enrolled_agents
from mcp_guard.cli.policy.inputs import known_environment
from mcp_guard.core.errors import GuardError, PolicyError
from mcp_guard.core.model import HOUR, Instance, Mode, Task
from mcp_guard.diagnostics.hidden_tools import HiddenFrom
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.policy.engine import PolicyEnvironment, load_confined, load_policies
from mcp_guard.policy.source import read_policies
from mcp_guard.settings import Settings


def find_hidden(settings: Settings, environment: PolicyEnvironment | None = None) -> list[HiddenFrom]:
    """The hidden tools of each agent, ordered by name; none if no policies can be loaded, or no tool is known.

    A ledger that cannot be read is reported by others.
    """
    try:
        environment = environment or known_environment(settings, live=False, quiet=True)[0]
        if environment is None or not environment.tools:
            return []
        source = read_policies(settings.policies, environment.routes)
        engine = load_confined(settings.policies, source, environment)
    except (GuardError, ValueError, LookupError, TypeError):
        return []
    hidden = []
    for instance in instances(settings):
        for tool in environment.tools:
            if (why := engine.why_hidden(instance, tool)) is None:
                continue
            observed = engine.why_hidden(instance, tool, observing=True)
            is_observed = (tool.rule.mode or settings.mode) is Mode.OBSERVE
            best = observed or why
            hidden.append(
                HiddenFrom(
                    tool.listed_as,
                    instance.agent.name,
                    best.reason,
                    best.policies,
                    is_now=observed is not None or not is_observed,
                )
            )
    return sorted(hidden, key=lambda row: (row.tool, row.agent))


def can_load_policies(settings: Settings) -> bool:
    """Whether the files as they are now could be put in force with the tools that were listed last."""
    try:
        environment = known_environment(settings, live=False, quiet=True)[0]
        if environment is None:
            read_policies(settings.policies, settings.routes)
        else:
            load_policies(settings.policies, environment)
    except PolicyError:
        return False
    except (GuardError, ValueError, LookupError, TypeError):  # reported by others
        return True
    return True


def instances(settings: Settings) -> Iterable[Instance]:
    """An instance of each agent, of the configuration or the ledger, as it would be launched now."""
    now = CLOCK.wall()
    for enrolled in enrolled_agents(settings).values():
        yield Instance("run_none", enrolled.agent, enrolled.on_behalf_of, Task(), now, now + HOUR, "", "cred_none")
