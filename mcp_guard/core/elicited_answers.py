"""Checks the answer to an elicitation against the schema that the server sent with its question. Pure.

Source: "Requested Schema" of the elicitation pages of MCP 2025-11-25 and 2026-07-28: a flat object of texts, numbers,
booleans, choices, and lists of choices. What is checked are types, bounds and choices, and no `format`.
"""

from collections.abc import Mapping
from typing import Any

from mcp_guard.core.decided_methods import ELICIT
from mcp_guard.core.model import Json

NAMES = {"integer": "an integer", "number": "a number"}
ACTIONS = ("accept", "decline", "cancel")


def carries_data(method: str, reply: Json) -> bool:
    """Whether a client's answer has anything in it beside yes or no."""
    result = reply["result"]
    if method != ELICIT or not isinstance(result, dict):
        return True
    return bool(result.keys() - {"action", "_meta"}) or result.get("action") not in ACTIONS


def why_unfit(method: str, question: Mapping[str, Any], result: object) -> str:
    """Why this is no answer to the question; empty if it is one."""
    if not isinstance(result, dict):
        return "the answer must be an object"
    if method != ELICIT:
        return (
            "" if isinstance(result.get("role"), str) and "content" in result else "the answer has no role and content"
        )
    if result.get("action") not in ACTIONS:
        return f"`action` must be one of: {', '.join(ACTIONS)}"
    if "content" not in result:
        return ""
    content, schema = result["content"], question.get("requestedSchema")
    if result["action"] != "accept" or question.get("mode") == "url":
        return "only an accepted form has content"
    if not isinstance(content, dict) or not isinstance(schema, dict):
        return "`content` must be an object that fits the schema of the question"
    return _why_content_unfit(schema, content)


def _why_content_unfit(schema: Json, content: Json) -> str:
    properties, required = schema.get("properties"), schema.get("required")
    properties = properties if isinstance(properties, dict) else {}
    for name in required if isinstance(required, list) else ():
        if isinstance(name, str) and name not in content:
            return f"the field `{name[:100]}` is required"
    for name, value in content.items():
        if not isinstance(rule := properties.get(name), dict):
            return f"the question has no field `{name[:100]}`"
        if (wanted := _why_value_unfit(rule, value)) is not None:
            return f"the field `{name[:100]}` must be {wanted}"
    return ""


def _why_value_unfit(rule: Json, value: Any) -> str | None:
    """What the value should be; None if it is that."""
    if (choices := _choices(rule)) is not None:
        return None if value in choices else f"one of: {', '.join(map(str, choices))[:200]}"
    match rule.get("type"):
        case "string":
            fits = isinstance(value, str) and _within(rule, len(value), "minLength", "maxLength")
            return None if fits else "a text of the length that the question allows"
        case "boolean":
            return None if isinstance(value, bool) else "true or false"
        case "integer" | "number" as kind:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            is_number = is_number and (kind == "number" or isinstance(value, int) or value.is_integer())
            fits = is_number and _within(rule, value, "minimum", "maximum")
            return None if fits else f"{NAMES[kind]} within the bounds of the question"
        case "array":
            items = _choices(rule["items"]) if isinstance(rule.get("items"), dict) else None
            fits = isinstance(value, list) and items is not None and all(item in items for item in value)
            fits = fits and _within(rule, len(value), "minItems", "maxItems")
            return None if fits else "a list of the choices of the question"
    return "of a type that forms have"


def _choices(rule: Json) -> list[Any] | None:
    """The values of a choice (`enum`, `oneOf` or `anyOf` of `const`); None for any other field."""
    if isinstance(rule.get("enum"), list):
        return list(rule["enum"])
    options = rule.get("oneOf", rule.get("anyOf"))
    if not isinstance(options, list):
        return None
    return [option.get("const") for option in options if isinstance(option, dict)]


def _within(rule: Json, value: Any, least: str, most: str) -> bool:
    bounds = [rule.get(name) for name in (least, most)]
    low, high = (bound if isinstance(bound, int | float) else None for bound in bounds)
    return (low is None or value >= low) and (high is None or value <= high)
