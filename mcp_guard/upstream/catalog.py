"""The catalog: every tool of every upstream, by the name that clients see. Pure."""

from collections.abc import Collection, Iterable, Mapping

from mcp_guard.core import tool_pins
from mcp_guard.core.model import Effect, Json, Tool, ToolRule
from mcp_guard.core.names import listed_name
from mcp_guard.core.tool_pins import definition_hash
from mcp_guard.core.visible_text import visible

__all__ = ["build_catalog", "definition_hash", "make_tool", "resolve_effect"]


def resolve_effect(definition: Json, rule: ToolRule) -> Effect:
    """A tool's effect is the `effect` of its `[tools."…"]` section; without one it is a write, or destructive if its
    server says so (`destructiveHint`). No hint of a server makes a tool a read.
    """
    if rule.effect is not None:
        return rule.effect
    annotations = definition.get("annotations")
    if isinstance(annotations, dict) and annotations.get("destructiveHint") is True:
        return Effect.DESTRUCTIVE
    return Effect.WRITE


def runs_as_task(definition: Json) -> bool:
    """Whether it can only be called as a task (2025-11-25), which the guard does not pass on (promise P12)."""
    execution = definition.get("execution")
    return isinstance(execution, dict) and execution.get("taskSupport") == "required"


def build_catalog(
    listings: Iterable[tuple[str, list[Json]]],
    rules: Mapping[str, ToolRule],
    unpinned: Mapping[str, Collection[str]] = {},
) -> tuple[dict[str, Tool], list[str]]:
    """The tools by listed name, and a line for each left out. `unpinned` members, by server, are not hashed."""
    catalog: dict[str, Tool] = {}
    left_out: list[str] = []
    for server, definitions in listings:
        if len(definitions) > tool_pins.MAX_TOOLS:
            left_out.append(
                f"the tools of upstream `{server}` beyond {tool_pins.MAX_TOOLS} (it lists {len(definitions)})"
            )
        for definition in definitions[: tool_pins.MAX_TOOLS]:
            name = definition.get("name")
            if not isinstance(name, str) or not name:
                left_out.append(f"upstream `{server}` lists a tool without a name")
                continue
            if runs_as_task(definition):
                left_out.append(f"upstream `{server}` lists `{name}`, which only runs as a task of 2025-11-25")
                continue
            listed_as = listed_name(server, name)
            if (excess := tool_pins.exceeded_limit(definition)) is not None:
                left_out.append(f"upstream `{server}` lists `{visible(name[:80])}`: {excess}")
            elif listed_as in catalog:
                left_out.append(f"upstream `{server}` lists `{visible(name[:80])}` twice")
            else:
                catalog[listed_as] = make_tool(server, definition, rules, unpinned.get(server, ()))
    return catalog, left_out


def make_tool(server: str, definition: Json, rules: Mapping[str, ToolRule], unpinned: Collection[str] = ()) -> Tool:
    """The tool with this definition, which must have a name."""
    name = definition["name"]
    listed_as = listed_name(server, name)
    rule = rules.get(listed_as, ToolRule())
    hash, effect = definition_hash(definition, unpinned), resolve_effect(definition, rule)
    return Tool(server, name, listed_as, definition, hash, rule, effect)
