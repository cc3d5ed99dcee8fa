"""The catalog: every tool of every upstream under the name it is listed by. Pure."""

from collections.abc import Collection, Iterable, Mapping

from mcp_guard.core import tool_pins
from mcp_guard.core.model import Effect, Json, Tool, ToolRule
from mcp_guard.core.names import listed_name
from mcp_guard.core.printable import printable
from mcp_guard.core.tool_pins import definition_hash

__all__ = ["build_catalog", "definition_hash", "make_tool", "resolve_effect"]


def resolve_effect(definition: Json, rule: ToolRule) -> Effect:
    """The operator's word first. An upstream's annotation is a hint, and may only make us more careful."""
    if rule.effect is not None:
        return rule.effect
    annotations = definition.get("annotations")
    if isinstance(annotations, dict) and annotations.get("destructiveHint") is True:
        return Effect.DESTRUCTIVE
    return Effect.WRITE


def runs_as_task(definition: Json) -> bool:
    """Whether it can only be called as a task (2025-11-25), a road that is not guarded (promise P12)."""
    execution = definition.get("execution")
    return isinstance(execution, dict) and execution.get("taskSupport") == "required"


def build_catalog(
    listings: Iterable[tuple[str, list[Json]]],
    rules: Mapping[str, ToolRule],
    unpinned: Mapping[str, Collection[str]] = {},
) -> tuple[dict[str, Tool], list[str]]:
    """The tools by listed name, and what was left out and why; `unpinned` members, by server, are not hashed."""
    catalog: dict[str, Tool] = {}
    left_out: list[str] = []
    for server, definitions in listings:
        if len(definitions) > tool_pins.MAX_TOOLS:
            left_out.append(
                f"upstream `{server}` lists {len(definitions)} tools, over {tool_pins.MAX_TOOLS}: the last ones"
            )
        for definition in definitions[: tool_pins.MAX_TOOLS]:
            name = definition.get("name")
            if not isinstance(name, str) or not name:
                left_out.append(f"upstream `{server}` lists a tool without a name")
                continue
            if runs_as_task(definition):
                left_out.append(
                    f"upstream `{server}` lists `{name}`, which runs only as a task; tasks are not passed on"
                )
                continue
            listed_as = listed_name(server, name)
            if (much := tool_pins.exceeded_limit(definition)) is not None:
                left_out.append(f"upstream `{server}` lists `{printable(name[:80])}`: {much}")
            elif listed_as in catalog:
                left_out.append(f"upstream `{server}` lists `{printable(name[:80])}` twice")
            else:
                catalog[listed_as] = make_tool(server, definition, rules, unpinned.get(server, ()))
    return catalog, left_out


def make_tool(server: str, definition: Json, rules: Mapping[str, ToolRule], unpinned: Collection[str] = ()) -> Tool:
    """The tool that a definition with a name stands for."""
    name = definition["name"]
    listed_as = listed_name(server, name)
    rule = rules.get(listed_as, ToolRule())
    hash, effect = definition_hash(definition, unpinned), resolve_effect(definition, rule)
    return Tool(server, name, listed_as, definition, hash, rule, effect)
