"""Tools that are not listed for an agent, in words. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HiddenFrom:
    """A tool that is not listed for an agent. `is_now` says whether it is hidden in the configured mode."""

    tool: str
    agent: str
    reason: str
    policies: tuple[str, ...]
    is_now: bool


def summarize(hidden: Iterable[HiddenFrom], named: int = 5) -> list[str]:
    """A line for each agent and reason: the tools by name, as far as there are few."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in hidden:
        groups.setdefault((row.agent, row.reason), []).append(row.tool)
    return [
        f"{', '.join(tools[:named])}{f' and {len(tools) - named} more' if len(tools) > named else ''}: {reason}"
        + ("" if f"`{agent}`" in reason else f" (agent `{agent}`)")
        for (agent, reason), tools in groups.items()
    ]
