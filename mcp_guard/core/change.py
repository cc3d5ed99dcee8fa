"""What a call would change: its arguments against the present state of the resource."""

from collections.abc import Iterable
from decimal import Decimal

from mcp_guard.core.model import Change, Facts, FactsRule, Json, ResourceRule


def compute_change(
    arguments: Json, facts: Facts | None, resource: ResourceRule | None = None, rule: FactsRule | None = None
) -> Change:
    """Compare each argument with the fact of the same name (or the one that `rule.fields` maps it to).

    Arguments that only identify the resource are left out. INVARIANT: an argument whose present value is not known
    counts as a change, so that a missing fact can never hide one.
    """
    identifying = set(_top_level(rule.arguments.values() if rule else ())) | set(
        _top_level((resource.id,) if resource else ())
    )
    names = rule.fields if rule else {}
    fields: list[str] = []
    delta: dict[str, Decimal] = {}
    for name, wanted in arguments.items():
        if name in identifying:
            continue
        known = facts is not None and names.get(name, name) in facts.values
        present = facts.values[names.get(name, name)] if facts is not None and known else None
        if not known or not _same(present, wanted):
            fields.append(name)
        if known and _is_number(present) and _is_number(wanted):
            delta[name] = abs(Decimal(str(wanted)) - Decimal(str(present)))
    return Change(tuple(sorted(fields)), delta)


def _top_level(pointers: Iterable[str]) -> list[str]:
    return [pointer[1:] for pointer in pointers if pointer.count("/") == 1]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(present: object, wanted: object) -> bool:
    """JSON equality: unlike Python, `true` is not `1`."""
    if _is_number(present) and _is_number(wanted):
        return Decimal(str(present)) == Decimal(str(wanted))
    if isinstance(present, dict) and isinstance(wanted, dict):
        return present.keys() == wanted.keys() and all(_same(present[key], wanted[key]) for key in wanted)
    if isinstance(present, list) and isinstance(wanted, list):
        return len(present) == len(wanted) and all(map(_same, present, wanted))
    return type(present) is type(wanted) and present == wanted
