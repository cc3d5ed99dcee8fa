"""Says which names of tools and arguments in the configuration match nothing, and where they are."""

from collections.abc import Iterable

from mcp_guard.config.positions import find_line, key_lines
from mcp_guard.core.configured_arguments import UnmatchedArgument
from mcp_guard.core.configured_names import UnmatchedName, find_unmatched
from mcp_guard.core.names import listed_name
from mcp_guard.settings import Settings
from mcp_guard.storage.contract import Store

CORRECT_NAMES = "correct the name, or remove it; `mcp-guard tools list --now` lists the tools"


def describe_unmatched(settings: Settings, unmatched: Iterable[UnmatchedName | UnmatchedArgument]) -> list[str]:
    """A line for each name, with the file and the line that it is in."""
    names = list(unmatched)
    lines = key_lines(settings.path.read_text()) if names else {}
    places = ((find_line(lines, name.configured.key), name) for name in names)
    return [f"{settings.path.name}{f':{line}' if line else ''}: {name}" for line, name in places]


def names_seen(store: Store) -> set[str]:
    """The listed names of all tools that the ledger knows."""
    return {listed_name(upstream, tool) for upstream, tool, _, _ in store.pin_states()}


def describe_unseen(settings: Settings, store: Store) -> list[str]:
    """The same for names of which no tool was ever listed, of upstreams that have listed some."""
    return describe_unmatched(settings, find_unmatched(settings.configured_names, (), names_seen(store)))
