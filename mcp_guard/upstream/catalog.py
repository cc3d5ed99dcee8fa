"""The catalog: every tool of every upstream under the name it is listed by. Pure."""

import hashlib
import json
from collections.abc import Iterable, Mapping

from mcp_guard.core.model import Effect, Json, Tool, ToolRule
from mcp_guard.core.names import join

PINNED = ("name", "title", "description", "annotations", "inputSchema", "outputSchema")
"""The members of a definition that make it what was agreed to (promise P6)."""


def definition_hash(definition: Json) -> str:
    """Hash of the pinned members. Sorted JSON, not RFC 8785: schemas may hold numbers that it has no form for."""
    pinned = {name: definition[name] for name in PINNED if name in definition}
    data = json.dumps(pinned, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(data.encode("utf-8", "surrogatepass")).hexdigest()


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
    listings: Iterable[tuple[str, list[Json]]], rules: Mapping[str, ToolRule]
) -> tuple[dict[str, Tool], list[str]]:
    """The tools by listed name, and what was left out and why."""
    catalog: dict[str, Tool] = {}
    left_out: list[str] = []
    for server, definitions in listings:
        for definition in definitions:
            name = definition.get("name")
            if not isinstance(name, str) or not name:
                left_out.append(f"upstream `{server}` lists a tool without a name")
                continue
            if runs_as_task(definition):
                left_out.append(
                    f"upstream `{server}` lists `{name}`, which runs only as a task; tasks are not passed on"
                )
                continue
            listed_as = join(server, name)
            if listed_as in catalog:
                left_out.append(f"upstream `{server}` lists `{name}` twice")
                continue
            rule = rules.get(listed_as, ToolRule())
            effect = resolve_effect(definition, rule)
            catalog[listed_as] = Tool(server, name, listed_as, definition, definition_hash(definition), rule, effect)
    return catalog, left_out
