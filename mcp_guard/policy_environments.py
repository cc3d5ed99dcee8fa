"""What the policies of a configuration are validated against: the tools of a session, and those that are known."""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from mcp_guard.core.model import Tool
from mcp_guard.core.names import listed_name
from mcp_guard.core.tool_pins import Pin, PinState
from mcp_guard.settings import Settings
from mcp_guard.upstream.catalog import make_tool

if TYPE_CHECKING:
    from mcp_guard.policy.engine import PolicyEnvironment


def operations_of(settings: Settings) -> tuple[Tool, ...]:
    """What stands for the methods that this configuration decides beside tool calls."""
    if not settings.decide:
        return ()
    from mcp_guard.core.decided_methods import make_operations

    return make_operations(settings.upstreams, settings.decide, settings.tool_rules)


def policy_environment(
    settings: Settings,
    tools: Iterable[Tool],
    absent: Collection[str],
    quarantined: Collection[str] = (),
    retained: Iterable[Tool] = (),
    known: Iterable[str] = (),
) -> "PolicyEnvironment":
    """What the policies of this configuration are validated against, with these tools in the catalog."""
    from mcp_guard.policy.engine import PolicyEnvironment

    tools, retained, known = tuple(tools), tuple(retained), tuple(known)
    if settings.hooks is not None:  # whichever client a session is for, policies may be about these tools
        from mcp_guard.core.host_tools import DEFINITIONS, HOST  # most guards have no hooks

        there = {tool.listed_as for tool in (*tools, *retained)} | {*quarantined}
        hosts = [make_tool(HOST, definition, settings.tool_rules) for definition in DEFINITIONS]
        tools += tuple(tool for tool in hosts if tool.listed_as not in there)
    return PolicyEnvironment(
        tools,
        settings.attributes,
        settings.counters,
        tuple(settings.routes),
        absent,
        quarantined,
        settings.forward_meta,
        retained,
        frozenset((*known, *settings.tool_rules)),
        settings.time_zone,
        settings.configured_names,
        frozenset(known),
        operations_of(settings),
        settings.sequences,
    )


def environment_with_pins(
    settings: Settings, tools: Collection[Tool], absent: Collection[str], pins: Iterable[Pin]
) -> "PolicyEnvironment":
    """These tools, and those of the recorded definitions that are not among them."""
    listed = {tool.listed_as for tool in tools}
    known = [(pin, listed_name(pin.upstream, pin.tool)) for pin in pins]
    retained = [
        make_tool(pin.upstream, pin.definition, settings.tool_rules)
        for pin, name in known
        if pin.state is PinState.PINNED and name not in listed and pin.upstream in settings.upstreams
    ]
    return policy_environment(settings, tools, absent, retained=retained, known=[name for _, name in known])
