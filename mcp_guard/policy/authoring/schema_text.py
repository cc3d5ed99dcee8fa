"""Prints the generated schema in Cedar's own syntax (`.cedarschema`), identically on every run.

Cedar has such a printer in its command-line tool but not in its Python bindings. The syntax is described at
https://docs.cedarpolicy.com/schema/human-readable-schema.html.
"""

import json
from collections.abc import Iterator
from typing import Any

from mcp_guard.core.model import Json
from mcp_guard.policy.cedar_text import is_plain

NAMES = {"Boolean": "Bool", "Long": "Long", "String": "String"}
INDENT = "  "


def canonical_json(schema: Json) -> str:
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def human(schema: Json) -> str:
    """The schema as text: types, then action groups, then one action per tool."""
    lines: list[str] = []
    for namespace, content in sorted(schema.items()):
        inner = list(_namespace(content))
        lines += [f"namespace {namespace} {{", *(INDENT + line for line in inner), "}"] if namespace else inner
    return "\n".join(lines) + "\n"


def _namespace(content: Json) -> Iterator[str]:
    for name, common in sorted(content.get("commonTypes", {}).items()):
        yield f"type {name} = {_type(common, '')};"
    for name, entity in sorted(content["entityTypes"].items()):
        parents = entity.get("memberOfTypes") or []
        inside = f" in [{', '.join(sorted(parents))}]" if parents else ""
        shape = f" = {_type(entity['shape'], '')}" if entity.get("shape", {}).get("attributes") else ""
        yield from f"entity {name}{inside}{shape};".split("\n")
    actions = content["actions"]
    for name in sorted(actions, key=lambda name: ("appliesTo" in actions[name], name)):
        yield from _action(name, actions[name] or {})


def _action(name: str, action: Json) -> Iterator[str]:
    parents = sorted(_quoted(parent["id"]) for parent in action.get("memberOf") or [])
    inside = f" in [{', '.join(parents)}]" if parents else ""
    applies = action.get("appliesTo")
    if applies is None:
        yield f"action {_quoted(name)}{inside};"
        return
    yield f"action {_quoted(name)}{inside} appliesTo {{"
    yield f"{INDENT}principal: [{', '.join(applies['principalTypes'])}],"
    yield f"{INDENT}resource: [{', '.join(applies['resourceTypes'])}],"
    yield from f"{INDENT}context: {_type(applies.get('context', {'type': 'Record', 'attributes': {}}), INDENT)}".split(
        "\n"
    )
    yield "};"


def _type(kind: Json, indent: str) -> str:
    match kind["type"]:
        case "Record":
            return _record(kind.get("attributes", {}), indent)
        case "Set":
            return f"Set<{_type(kind['element'], indent)}>"
        case "Extension" | "Entity" | "EntityOrCommon":
            return str(kind["name"])
        case name:
            return NAMES.get(name, str(name))


def _record(attributes: dict[str, Any], indent: str) -> str:
    if not attributes:
        return "{}"
    deeper = indent + INDENT
    lines = [
        f"{deeper}{_name(name)}{'' if kind.get('required', True) else '?'}: {_type(kind, deeper)},"
        for name, kind in sorted(attributes.items())
    ]
    return "\n".join(["{", *lines, f"{indent}}}"])


def _name(name: str) -> str:
    return name if is_plain(name) else _quoted(name)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
