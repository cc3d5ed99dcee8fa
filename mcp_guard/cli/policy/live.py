"""The policies against the tools that are listed now: the upstreams are started for it, and ended."""

from mcp_guard.cli.listing import list_tools
from mcp_guard.core.errors import UpstreamError
from mcp_guard.core.model import Json, Tool
from mcp_guard.policy.engine import PolicyEngine, World, load_policies
from mcp_guard.policy.schema import build_schema
from mcp_guard.serving import policy_world
from mcp_guard.settings import Settings


def live_world(settings: Settings, quiet: bool) -> World:
    """The catalog of this moment with the rest of the configuration. Raises: UpstreamError if any has no tools."""
    tools, absent = list_tools(settings, quiet)
    if absent:
        names = ", ".join(f"`{name}`" for name in sorted(absent))
        where = settings.state_dir / "upstreams"
        raise UpstreamError(
            f"no tools from {names}, so no policy on them can be checked",
            f"start it by hand: is it installed, and on PATH? Its stderr is in {where}",
        )
    return policy_world(settings, tools, absent)


def live_engine(settings: Settings, quiet: bool) -> tuple[PolicyEngine, dict[str, Tool]]:
    """The engine, and the tools by listed name. Raises: PolicyError, UpstreamError."""
    world = live_world(settings, quiet)
    return load_policies(settings.policies, world), {tool.listed_as: tool for tool in world.tools}


def live_schema(settings: Settings, quiet: bool) -> Json:
    """The schema of the tools that are listed now. Raises: UpstreamError."""
    world = live_world(settings, quiet)
    return build_schema(world.tools, world.attributes, world.counters)[0]
