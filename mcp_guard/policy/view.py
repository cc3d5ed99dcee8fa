"""How much of a request's context a set of policies can look at. Cedar reads the context anew for each call, and takes
longer for that than for deciding; so it is given this much (docs/decisions/0029)."""

from collections.abc import Iterable, Mapping
from typing import Any

from mcp_guard.policy.source import Policy

View = Mapping[str, "View | None"]
"""The attributes that are looked at, each with what is looked at of it; None stands for all of it."""

CONTEXT = {"Var": "context"}


def view_of(policies: Iterable[Policy]) -> View | None:
    """What conditions of these policies name. INVARIANT: what is left out can make no difference to any of them.

    An attribute is left out only where each mention of the record that holds it takes another attribute of it (`.`) or
    asks whether there is one (`has`), in Cedar's JSON form; a record that is used in any other way is there whole.
    """
    seen: dict[str, Any] = {}
    left: list[Any] = [policy.body.get("conditions", []) for policy in policies]
    while left:
        node = left.pop()
        path = _path(node)
        if path == []:
            return None
        if path is not None:
            _note(seen, path)
        elif isinstance(node, dict):
            left += node.values()
        elif isinstance(node, list):
            left += node
    return seen


def narrow(value: Any, view: View | None) -> Any:
    """As much of a value as the view has."""
    if view is None or not isinstance(value, dict):
        return value
    return {name: narrow(value[name], inner) for name, inner in view.items() if name in value}


def _path(node: Any) -> list[str] | None:
    """The attributes that an expression goes through from the context, itself [], or None for any other expression."""
    path: list[str] = []
    while node != CONTEXT:
        step = isinstance(node, dict) and len(node) == 1 and (node.get(".") or node.get("has"))
        if not isinstance(step, dict) or step.keys() != {"left", "attr"}:
            return None
        path.insert(0, step["attr"])
        node = step["left"]
    return path


def _note(seen: dict[str, Any], path: list[str]) -> None:
    *above, last = path
    for name in above:
        inner = seen.setdefault(name, {})
        if inner is None:
            return
        seen = inner
    seen[last] = None
