"""Input for the policy commands: recorded decisions and policy versions from the ledger, and the tools listed now.

Only the functions whose name begins with `live_` start the upstreams.
"""

import argparse
from collections.abc import Collection, Iterable
from contextlib import suppress

from mcp_guard.cli import times
from mcp_guard.cli.configured_names import CORRECT_NAMES, describe_unmatched
from mcp_guard.cli.options import whole_number
from mcp_guard.cli.upstreams import list_tools
from mcp_guard.core.anomaly import NAME as UNUSUAL
from mcp_guard.core.describe import DescriptionRules
from mcp_guard.core.errors import ConfigError, LedgerError, PolicyError, UpstreamError
from mcp_guard.core.model import Json, Tool
from mcp_guard.core.receipt import format_time
from mcp_guard.core.tool_pins import Pin
from mcp_guard.core.visible_text import join
from mcp_guard.ledger.place import ledger_place
from mcp_guard.policy.authoring.cases import CaseSettings
from mcp_guard.policy.authoring.past import find_latest
from mcp_guard.policy.engine import PolicyEngine, PolicyEnvironment, load_policies
from mcp_guard.policy_environments import environment_with_pins
from mcp_guard.settings import Settings
from mcp_guard.storage.contract import Store
from mcp_guard.storage.engines import find_engine, open_store


def open_existing(settings: Settings) -> Store | None:
    """The ledger of the configuration; None before the first run. Raises: ConfigError, LedgerError."""
    place = ledger_place(settings)
    return open_store(place, create=False) if find_engine(place).exists() else None


def add_span(parser: argparse.ArgumentParser) -> None:
    """`--since` and `--last`: which decisions."""
    parser.add_argument("--since", metavar="TIME", type=read_time, help=f"start at this time: {times.EXAMPLES}")
    parser.add_argument("--last", metavar="N", type=whole_number(1), help="only the latest N decisions")


def read_time(text: str) -> str:
    """When it begins, as receipts have it. Raises: argparse.ArgumentTypeError."""
    return format_time(times.since(text))


UNCHECKED = (
    "the names of tools and arguments were NOT checked, as the ledger knows no tools yet: "
    "mcp-guard policy validate, or policy lint --live"
)


def known_schema(settings: Settings, live: bool, quiet: bool) -> tuple[Json | None, str]:
    """The schema to check against, and in words where it is from: of the tools that are listed now, if `live`; else of
    those that were listed last, if the ledger knows. Raises: UpstreamError.
    """
    if live:
        return live_schema(settings, quiet), "checked against the tools that are listed now"
    store = open_existing(settings)
    if store is not None and (version := find_latest(store)):
        return version.schema, "checked against the tools that were listed last"
    return None, "checked without a schema; run the guard once, or use --live"


def known_environment(settings: Settings, live: bool, quiet: bool) -> tuple[PolicyEnvironment | None, str]:
    """As `known_schema`: what `policy validate` checks against, with the tools listed now, if `live`, else last."""
    if live:
        return live_world(settings, quiet), "checked against the tools that are listed now"
    store = open_existing(settings)
    version = find_latest(store) if store is not None else None
    last = recorded_environment(settings, (), settings.upstreams.keys())
    tools = list(last.retained)
    if version is not None:
        actions = version.schema[""]["actions"]
        listed = {name for name, action in actions.items() if action and "appliesTo" in action}
        tools = [tool for tool in tools if tool.listed_as in listed]
    elif not tools:
        return None, UNCHECKED
    absent = settings.upstreams.keys() - {tool.server for tool in tools}
    return recorded_environment(settings, tools, absent), "checked against the tools that were listed last"


def live_world(settings: Settings, quiet: bool) -> PolicyEnvironment:
    """What policies are checked against, with the tools listed now. Raises: UpstreamError if an upstream lists none."""
    world = listed_world(settings, quiet)
    if world.absent:
        raise UpstreamError(
            f"{no_tools_from(world)}, so policies on them cannot be checked", see_stderr(settings, world.absent)
        )
    return world


def listed_world(settings: Settings, quiet: bool) -> PolicyEnvironment:
    """The same, with what is known from earlier listings of upstreams that list nothing now."""
    tools, absent = list_tools(settings, quiet)
    return recorded_environment(settings, tools, absent)


def recorded_environment(settings: Settings, tools: Iterable[Tool], absent: Collection[str]) -> PolicyEnvironment:
    """These tools, and those of the ledger that are not among them, if it can be read."""
    pins: list[Pin] = []
    with suppress(LedgerError):
        store = open_existing(settings)
        pins = store.pins() if store is not None else []
    return environment_with_pins(settings, list(tools), absent, pins)


def no_tools_from(world: PolicyEnvironment) -> str:
    return f"no tools from {', '.join(f'`{name}`' for name in sorted(world.absent))}"


def see_stderr(settings: Settings, absent: Iterable[str]) -> str:
    """What to do about upstreams that list nothing. Those with a `url` are no processes."""
    if all(settings.upstreams[name].url for name in absent):
        return "why is printed above; check that an MCP server answers at `url`"
    where = settings.state_dir / "upstreams"
    return f"why is printed above; if it says nothing, start it by hand; its stderr is in {where}"


def live_engine(settings: Settings, quiet: bool) -> tuple[PolicyEngine, dict[str, Tool]]:
    """The engine, and the tools by listed name. Raises: ConfigError, PolicyError, UpstreamError."""
    world = live_world(settings, quiet)
    return load_checked(settings, world), {tool.listed_as: tool for tool in (*world.tools, *world.operations)}


def load_checked(settings: Settings, world: PolicyEnvironment) -> PolicyEngine:
    """The policies, if they fit the tools and no name in the configuration is a misspelt one.

    Raises: ConfigError, PolicyError.
    """
    unmatched = describe_unmatched(settings, (name for name in world.unmatched() if name.is_misspelt))
    try:
        engine = load_policies(settings.policies, world)
    except PolicyError as error:
        raise PolicyError(join("\n", (*unmatched, error.message)), error.hint) from None
    if unmatched:
        raise ConfigError(join("\n", unmatched), CORRECT_NAMES)
    return engine


def settings_of_cases(settings: Settings) -> CaseSettings:
    """What policy cases need of the configuration."""
    weights = {signal.name: signal.weight for signal in settings.signals}
    weights |= {f"{signal.name}_unknown": signal.unknown_weight for signal in settings.signals}
    if settings.drift is not None:
        weights[UNUSUAL] = settings.drift.weight
    return CaseSettings(DescriptionRules(forward_meta=settings.forward_meta), settings.time_zone, weights)


def live_schema(settings: Settings, quiet: bool) -> Json:
    """The schema of the tools that are listed now. Raises: UpstreamError."""
    world = live_world(settings, quiet)
    return world.schema()
