"""The types of the keys of a policy case, so that a mistake in a case is a message and no wrong answer."""

import re
from collections.abc import Callable, Iterable

from mcp_guard.core.model import CallHistory, Json, Origins, Outcome


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(element, str) for element in value)


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_rates(value: object) -> bool:
    """Sums are exact as text, which TOML has no type for."""
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _are_flags(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(flag, bool) for flag in value.values())


def _is_number(value: object) -> bool:
    if isinstance(value, str):
        return _DECIMAL.fullmatch(value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_history(value: object) -> bool:
    if not isinstance(value, dict) or not value.keys() <= set(CallHistory.__slots__):
        return False
    origins = [value[name] for name in ("provenance", "sinks") if name in value]
    are_origins = all(isinstance(origin, dict) and origin.keys() <= set(Origins.__slots__) for origin in origins)
    return are_origins and all(_is_texts(names) for origin in origins for names in origin.values())


_DECIMAL = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,4})?")
OUTCOMES = tuple(map(str, Outcome))
TEXT: tuple[Callable[[object], bool], str] = (_is_text, 'a text: "…"')
TEXTS: tuple[Callable[[object], bool], str] = (_is_texts, 'a list of texts: ["…"]')
TABLE: tuple[Callable[[object], bool], str] = (_is_table, "a table: { name = value }")
TYPES: dict[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("name", "tool", "agent", "owner", "on_behalf_of", "ticket", "reason", "template"), TEXT),
    **dict.fromkeys(("groups", "policies", "routes"), TEXTS),
    **dict.fromkeys(("arguments", "host", "facts", "meta"), TABLE),
    "rates": (_is_rates, 'a table of numbers: { counter = 3, sum = "120.50" }'),
    "sequences": (_are_flags, "a table of true and false: { looked_first = true }"),
    "history": (_is_history, f"a table with some of: {', '.join(CallHistory.__slots__)}"),
    "outcome": (lambda value: value in OUTCOMES, f"one of: {', '.join(OUTCOMES)}"),
}


def find_type_problems(table: Json) -> Iterable[str]:
    """A line for each key of a case whose value is of another type."""
    for key, value in table.items():
        is_right, words = TYPES.get(key, (lambda _: True, ""))
        if not is_right(value):
            yield f"`{key}` must be {words}"
