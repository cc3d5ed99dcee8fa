"""The tools that were ever seen, as operators look at them: what is in force of each, and what waits for a decision."""

from dataclasses import dataclass

from mcp_guard.core import definition_checks
from mcp_guard.core.definition_checks import ListedTool
from mcp_guard.core.hidden_characters import DefinitionFinding
from mcp_guard.core.names import listed_name
from mcp_guard.core.tool_pins import Pin, PinState
from mcp_guard.storage.contract import Store


@dataclass(frozen=True, slots=True)
class ToolEntry:
    """One tool: the definition in force, and the latest that is not, if an operator may decide on it."""

    name: str
    pinned: Pin | None
    waiting: Pin | None
    rows: tuple[Pin, ...]

    @property
    def state(self) -> str:
        if self.waiting is None:
            return "pinned" if self.pinned else str(self.rows[-1].state)
        return "changed" if self.pinned else "new"

    @property
    def latest(self) -> Pin:
        return self.waiting or self.pinned or self.rows[-1]


def tool_entries(store: Store) -> dict[str, ToolEntry]:
    """Every tool that was ever seen, by its listed name."""
    rows: dict[str, list[Pin]] = {}
    for row in store.pins():
        rows.setdefault(listed_name(row.upstream, row.tool), []).append(row)
    return {name: _entry(name, rows[name]) for name in sorted(rows)}


def _entry(name: str, rows: list[Pin]) -> ToolEntry:
    pinned = next((row for row in rows if row.state is PinState.PINNED), None)
    waiting = next((row for row in reversed(rows) if row.state is PinState.QUARANTINED), None)
    return ToolEntry(name, pinned, waiting, tuple(rows))


def findings(known: dict[str, ToolEntry]) -> dict[str, tuple[DefinitionFinding, ...]]:
    """What is suspect of each tool's latest definition, beside the others'."""
    latest = {name: entry.latest for name, entry in known.items()}
    return definition_checks.check_tools(
        {name: ListedTool(pin.upstream, pin.tool, pin.definition) for name, pin in latest.items()}
    )
