"""Tools that are not listed for an agent, in words. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

MAX_NAMED = 5
"""How many tools of a line are named."""


@dataclass(frozen=True, slots=True)
class HiddenFrom:
    """A tool that is not listed for an agent. `is_now` says whether it is hidden in the configured mode."""

    tool: str
    agent: str
    reason: str
    policies: tuple[str, ...]
    is_now: bool


def summarize(hidden: Iterable[HiddenFrom]) -> list[str]:
    """A line for each agent and reason: the tools by name, as far as there are few."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in hidden:
        groups.setdefault((row.agent, row.reason), []).append(row.tool)
    return [
        f"{_names(tools)}: {reason}" + ("" if f"`{agent}`" in reason else f" (agent `{agent}`)")
        for (agent, reason), tools in groups.items()
    ]


def _names(tools: list[str]) -> str:
    more = len(tools) - MAX_NAMED
    return ", ".join(tools[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
