"""Generalizes recorded requests to conditions that fit them closely: ranges of numbers and sets of strings.

Each condition is Cedar text with a comment on the values it was derived from. An attribute that no condition can bound
raises `Unbounded`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from mcp_guard.core.model import Json
from mcp_guard.policy.cedar_text import is_plain, quoted

MAX_VALUES = 20
"""With more distinct values than this, an attribute is not bounded by a set."""

LESS_IS_SAFER = ("context.rate.", "context.risk.score", "principal.depth")
"""Attributes bounded from above only: a lower value is never riskier."""


class Unbounded(Exception):
    """Nothing is suggested; the message is the reason, for example the attribute that no condition bounds."""


@dataclass(frozen=True, slots=True)
class Condition:
    text: str
    comment: str


def record_conditions(
    base: str, values: Sequence[Mapping[str, Any]], kind: Json, free: frozenset[str] = frozenset()
) -> Iterator[Condition]:
    """Conditions that all of these records meet, for each attribute of their schema type `kind`.

    Attributes in `free` are not bounded. Raises: Unbounded.
    """
    for name, inner in sorted(kind.get("attributes", {}).items()):
        given = [value[name] for value in values if name in value]
        at = f"{base}.{name}" if is_plain(name) else f"{base}[{quoted(name)}]"
        has = f"{base} has {name if is_plain(name) else quoted(name)}"
        if name in free:
            yield Condition("true", f"{at}: left free")
        elif not given:
            if not inner.get("required", True):
                yield Condition(f"!({has})", f"{at}: never given")
        else:
            yield from _attribute(at, has, given, inner, len(values))


def _attribute(at: str, has: str, given: list[Any], kind: Json, of: int) -> Iterator[Condition]:
    optional = not kind.get("required", True)
    if kind.get("type") == "Record":
        inner = [condition for condition in record_conditions(at, given, kind) if condition.text != "true"]
    else:
        condition = bound(at, given)
        inner = [condition] if condition else []
    for condition in inner:
        text = condition.text
        if optional and len(given) == of:
            text = f"{has} && {text}"
        elif optional:
            text = f"(if {has} then {text} else true)"
        sometimes = "" if len(given) == of else f" (given in {len(given)} of {of})"
        yield Condition(text, condition.comment + sometimes)


def bound(at: str, values: list[Any]) -> Condition | None:
    """A condition that all of these values meet; None if every value of the type does. Raises: Unbounded."""
    first = values[0]
    if isinstance(first, bool):
        return (
            None
            if len(set(values)) == 2
            else Condition(at if first else f"!{at}", f"{at}: always {str(first).lower()}")
        )
    if isinstance(first, int):
        low, high = min(values), max(values)
        if at.startswith(LESS_IS_SAFER):
            return Condition(f"{at} <= {high}", f"{at}: up to {high}")
        text = f"{at} == {low}" if low == high else f"{at} >= {low} && {at} <= {high}"
        return Condition(text, f"{at}: from {low} to {high}")
    if isinstance(first, str):
        return _texts(at, sorted(set(values)))
    if isinstance(first, list):
        return _sets(at, values)
    if isinstance(first, dict) and first.get("__extn", {}).get("fn") == "decimal":
        low, high = (pick(values, key=_decimal)["__extn"]["arg"] for pick in (min, max))
        text = f'{at}.greaterThanOrEqual(decimal("{low}")) && {at}.lessThanOrEqual(decimal("{high}"))'
        return Condition(text, f"{at}: from {low} to {high}")
    raise Unbounded(f"`{at}` has a type that no condition can bound")


def _decimal(value: Json) -> Decimal:
    return Decimal(value["__extn"]["arg"])


def _texts(at: str, values: list[str]) -> Condition:
    if len(values) > MAX_VALUES:
        raise Unbounded(f"`{at}` had {len(values)} different values")
    literals = ", ".join(quoted(value) for value in values)
    text = f"{at} == {literals}" if len(values) == 1 else f"[{literals}].contains({at})"
    return Condition(text, f"{at}: {len(values)} value{'s' if len(values) > 1 else ''} seen")


def _sets(at: str, values: list[list[Any]]) -> Condition:
    items = [item for value in values for item in value]
    every = sorted({quoted(item) if isinstance(item, str) else json.dumps(item) for item in items})
    if any(isinstance(item, dict | list) for item in items):
        raise Unbounded(f"`{at}` has a type that no condition can bound")
    if len(every) > MAX_VALUES:
        raise Unbounded(f"`{at}` had {len(every)} different members")
    if not every:
        return Condition(f"{at}.isEmpty()", f"{at}: always empty")
    return Condition(f"[{', '.join(every)}].containsAll({at})", f"{at}: of {len(every)} members seen")
