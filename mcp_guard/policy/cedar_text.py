"""Converts Cedar's JSON form to text, and finds the attributes and literals in expressions.

Used for explanations, lint and suggestions, not for deciding.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mcp_guard.core.model import Json

PRECEDENCE = {"||": 1, "&&": 2, "==": 3, "!=": 3, "<": 3, "<=": 3, ">": 3, ">=": 3, "in": 3, "+": 4, "-": 4, "*": 5}
"""Precedence of Cedar's binary operators; https://docs.cedarpolicy.com/policies/syntax-grammar.html."""
RELATION, UNARY, ATOM = 3, 6, 7
METHODS = frozenset({"contains", "containsAll", "containsAny", "getTag", "hasTag"})
CONSTRUCTORS = frozenset({"decimal", "ip", "datetime", "duration"})
Path = tuple[str, ...]
"""A variable and the attributes read from it: `("context", "input", "amount")`."""


def quoted(text: str) -> str:
    """A string as Cedar writes it: unlike in JSON, control characters are `\\u{8}`."""
    return '"' + "".join(_ESCAPES.get(c, c if c.isprintable() else f"\\u{{{ord(c):x}}}") for c in text) + '"'


_ESCAPES = {'"': '\\"', "\\": "\\\\"}


def expression(body: Json) -> str:
    """An expression as Cedar text, with the fewest parentheses."""
    return _text(body)[0]


def _text(body: Json) -> tuple[str, int]:
    """The text and its precedence."""
    ((op, inner),) = body.items()
    if op in PRECEDENCE:
        binds = PRECEDENCE[op]
        left = _within(inner["left"], binds if binds != RELATION else binds + 1)  # relations do not chain
        return f"{left} {op} {_within(inner['right'], binds + 1)}", binds
    if op in FORMS:
        return FORMS[op](inner)
    if op in METHODS:
        return f"{_within(inner['left'], ATOM)}.{op}({expression(inner['right'])})", ATOM
    if op in CONSTRUCTORS:
        return f"{op}({', '.join(map(expression, inner))})", ATOM
    return f"{_within(inner[0], ATOM)}.{op}({', '.join(map(expression, inner[1:]))})", ATOM  # of an extension type


def _is(inner: Json) -> tuple[str, int]:
    inside = f" in {_within(inner['in'], RELATION + 1)}" if "in" in inner else ""
    return f"{_within(inner['left'], RELATION + 1)} is {inner['entity_type']}{inside}", RELATION


def _has(inner: Json) -> tuple[str, int]:
    name = inner["attr"] if is_plain(inner["attr"]) else quoted(inner["attr"])
    return f"{_within(inner['left'], RELATION + 1)} has {name}", RELATION


def _like(inner: Json) -> tuple[str, int]:
    return f'{_within(inner["left"], RELATION + 1)} like "{_pattern(inner["pattern"])}"', RELATION


def _if(inner: Json) -> tuple[str, int]:
    return "if {} then {} else {}".format(*(expression(inner[name]) for name in ("if", "then", "else"))), 0


def _record(inner: Json) -> tuple[str, int]:
    return "{" + ", ".join(f"{quoted(name)}: {expression(value)}" for name, value in inner.items()) + "}", ATOM


FORMS: Mapping[str, Callable[[Any], tuple[str, int]]] = {
    "Var": lambda inner: (inner, ATOM),
    "Value": lambda inner: (_value(inner), ATOM),
    "!": lambda inner: (f"!{_within(inner['arg'], ATOM)}", UNARY),
    "neg": lambda inner: (f"-{_within(inner['arg'], ATOM)}", UNARY),
    ".": lambda inner: (f"{_within(inner['left'], ATOM)}{_attribute(inner['attr'])}", ATOM),
    "has": _has,
    "is": _is,
    "like": _like,
    "if-then-else": _if,
    "Set": lambda inner: (f"[{', '.join(map(expression, inner))}]", ATOM),
    "Record": _record,
    "isEmpty": lambda inner: (f"{_within(inner['arg'], ATOM)}.isEmpty()", ATOM),
}


def _within(body: Json, least: int) -> str:
    text, binds = _text(body)
    return text if binds >= least else f"({text})"


def _value(value: Any) -> str:
    if isinstance(value, dict) and "__entity" in value:
        entity = value["__entity"]
        return f"{entity['type']}::{quoted(entity['id'])}"
    return quoted(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


RESERVED = frozenset({"true", "false", "if", "then", "else", "in", "like", "has", "is", "__cedar"})
"""Reserved words, which must be quoted as attribute names (Cedar's grammar, "Identifiers")."""


def is_plain(name: str) -> bool:
    """Whether an attribute of this name can be written without quotes."""
    return name.isidentifier() and name.isascii() and name not in RESERVED


def _attribute(name: str) -> str:
    return f".{name}" if is_plain(name) else f"[{quoted(name)}]"


def _pattern(parts: list[Any]) -> str:
    return "".join("*" if part == "Wildcard" else quoted(part["Literal"])[1:-1].replace("*", "\\*") for part in parts)


def conjuncts(body: Json) -> list[Json]:
    """The operands of a chain of `&&`; the condition itself if it is none."""
    if "&&" not in body:
        return [body]
    return [*conjuncts(body["&&"]["left"]), *conjuncts(body["&&"]["right"])]


def conjunction(parts: list[Json]) -> Json:
    """The parts joined by `&&`; `true` if there are none."""
    if not parts:
        return {"Value": True}
    joined = parts[0]
    for part in parts[1:]:
        joined = {"&&": {"left": joined, "right": part}}
    return joined


def scope(body: Json) -> str:
    """A policy's scope as text: `principal in Group::"x", action, resource`."""
    return ", ".join(_scope_part(name, body[name]) for name in ("principal", "action", "resource"))


def _scope_part(name: str, part: Json) -> str:
    entities = [_value({"__entity": entity}) for entity in part.get("entities", [])]
    one = _value({"__entity": part["entity"]}) if "entity" in part else f"[{', '.join(entities)}]"
    match part["op"]:
        case "All":
            return name
        case "is":
            inside = f" in {_value({'__entity': part['in']['entity']})}" if "in" in part else ""
            return f"{name} is {part['entity_type']}{inside}"
        case op:
            return f"{name} {op} {one}"


def walk(body: Any) -> Iterator[Json]:
    """Every sub-expression, the expression itself first."""
    if isinstance(body, dict):
        yield body
        for inner in body.values():
            yield from walk(inner)
    elif isinstance(body, list):
        for inner in body:
            yield from walk(inner)


def path_of(body: Json) -> Path | None:
    """The path that an attribute access or `has` reads; None for any other expression."""
    if "Var" in body:
        return (body["Var"],)
    access = body.get(".") or body.get("has")
    if not isinstance(access, dict):
        return None
    base = path_of(access["left"])
    return (*base, access["attr"]) if base else None


def paths(body: Json) -> list[Path]:
    """The paths that an expression reads, each once; for `a.b.c` only the full path."""
    read = [path for part in walk(body) if (path := path_of(part)) and len(path) > 1]
    return [path for path in dict.fromkeys(read) if not any(path == other[: len(path)] != other for other in read)]


def literals(body: Json) -> list[Any]:
    """The literals in an expression: for a pattern its shortest match, decimals and times as requests have them."""
    values: list[Any] = []
    for part in walk(body):
        if name := next((name for name in ("decimal", "datetime") if name in part), ""):
            if "Value" in part[name][0]:
                values.append({"__extn": {"fn": name, "arg": part[name][0]["Value"]}})
        elif "like" in part:
            values.append("".join(item["Literal"] for item in part["like"]["pattern"] if item != "Wildcard"))
        elif "Value" in part and not isinstance(part["Value"], dict):
            values.append(part["Value"])
    return values
