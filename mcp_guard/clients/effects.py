"""Proposes `effect = "read"` for the tools that their servers call read-only, as text of the guard's configuration.

A hint (`annotations.readOnlyHint`, MCP 2025-06-18 "Tool annotations") is a claim of the server, which nothing enforces.
So it changes nothing by itself: an operator reads the names and confirms them.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mcp_guard.clients.toml_sections import TomlBlock, append_blocks, read_toml, table, toml_string
from mcp_guard.core.model import Effect, Json, Tool
from mcp_guard.core.names import last_word


@dataclass(frozen=True, slots=True)
class ToolEffect:
    """A tool with its effect, why it has it, and the effect to confirm, if the server's hints propose one.

    `reaches_out`: its server calls it read-only, but its arguments go to a place that the agent chooses, and may carry
    data there. So no effect is proposed: a read may run without approval.
    """

    tool: str
    server: str
    effect: Effect
    because: str
    proposed: Effect | None = None
    reaches_out: bool = False


DESTINATIONS = frozenset(
    ("domain", "endpoint", "host", "hostname", "href", "link", "links", "uri", "uris", "url", "urls", "webhook")
)
"""Arguments whose name ends with one of these words name a place outside."""
URI_FORMATS = ("uri", "iri", "uri-reference", "iri-reference", "hostname", "idn-hostname")


def hints_of(definition: Json) -> Json:
    annotations = definition.get("annotations")
    return annotations if isinstance(annotations, dict) else {}


def effect_of(tool: Tool) -> ToolEffect:
    hints = hints_of(tool.definition)
    is_destructive, reads = hints.get("destructiveHint") is True, hints.get("readOnlyHint") is True
    if tool.rule.effect is not None:
        return ToolEffect(tool.listed_as, tool.server, tool.effect, "the configuration")
    if is_destructive:
        return ToolEffect(tool.listed_as, tool.server, tool.effect, "its server's destructiveHint")
    if reads and reaches_out(tool.definition):
        return ToolEffect(tool.listed_as, tool.server, tool.effect, "the default", reaches_out=True)
    if reads:
        return ToolEffect(tool.listed_as, tool.server, tool.effect, "the default", Effect.READ)
    return ToolEffect(tool.listed_as, tool.server, tool.effect, "the default")


def reaches_out(definition: Json) -> bool:
    """Whether its server says so (`openWorldHint`), or an argument of the tool names a destination."""
    if hints_of(definition).get("openWorldHint") is True:
        return True
    schema = definition.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return isinstance(properties, dict) and any(_is_destination(*argument) for argument in properties.items())


def _is_destination(name: str, schema: object) -> bool:
    items = schema.get("items") if isinstance(schema, dict) else None
    formats = [part.get("format") for part in (schema, items) if isinstance(part, dict)]
    return last_word(name) in DESTINATIONS or any(format in URI_FORMATS for format in formats)


def read_effects(tools: Iterable[Tool]) -> list[ToolEffect]:
    """The effects of these tools, ordered by name."""
    return sorted(map(effect_of, tools), key=lambda row: row.tool)


@dataclass(frozen=True, slots=True)
class EffectPlan:
    """The configuration with the confirmed effects; `blocks` are the sections that were added, by server.

    `by_hand` are tools whose section exists in a form that cannot be extended here.
    """

    text: str
    blocks: tuple[tuple[str, TomlBlock], ...]
    by_hand: tuple[str, ...]


def plan_effects(text: str, proposals: Sequence[ToolEffect]) -> EffectPlan:
    """Write the proposed effects into this configuration: into a tool's section, or in a new one at the end."""
    sections = table(read_toml(text), "tools")
    by_server: dict[str, list[ToolEffect]] = defaultdict(list)
    by_hand = []
    for row in (row for row in proposals if row.proposed is not None):
        if row.tool not in sections:
            by_server[row.server].append(row)
            continue
        line = f'effect = "{row.proposed}"'
        header = re.compile(rf"^\[\s*tools\s*\.\s*{re.escape(toml_string(row.tool))}\s*\][^\n]*\n", re.MULTILINE)
        extended, count = header.subn(lambda match, line=line: f"{match[0]}{line}\n", text)  # type: ignore[misc]
        if count == 1 and table(read_toml(extended), "tools").keys() == sections.keys():
            text = extended
        else:
            by_hand.append(row.tool)
    servers = sorted(by_server)
    after, blocks = append_blocks(text, [_block(server, by_server[server]) for server in servers])
    return EffectPlan(after, tuple(zip(servers, blocks, strict=True)), tuple(by_hand))


def _block(server: str, rows: Sequence[ToolEffect]) -> TomlBlock:
    """Nothing else refers to these sections, so that `unwrap` may always remove them."""
    lines = ["", f"# `{server}` calls these tools read-only (readOnlyHint), and an operator has confirmed it."]
    for row in rows:
        lines += [f"[tools.{toml_string(row.tool)}]", f'effect = "{row.proposed}"']
    return TomlBlock("\n".join([*lines, ""]), "")
