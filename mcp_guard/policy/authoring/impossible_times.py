"""Finds comparisons of the hour or minute of a call that hold always or never. Pure.

Cedar's validator knows that an hour is a number, and not which.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mcp_guard.core.model import Json
from mcp_guard.policy.cedar_text import Path, expression, path_of
from mcp_guard.policy.reads import expressions_in
from mcp_guard.policy.source import Policy
from mcp_guard.policy.time_of_call import RANGES

OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TimeComparison:
    """A comparison of an hour or minute with a number; `values` are those for which it holds."""

    path: Path
    text: str
    values: frozenset[int]

    @property
    def range(self) -> range:
        return RANGES[self.path[-1]]

    @property
    def depends(self) -> bool:
        """Whether it holds at some times and not at others."""
        return 0 < len(self.values) < len(self.range)


def find_impossible_times(policy: Policy) -> Iterator[tuple[str, str]]:
    """What always or never holds whenever the call is decided, and how to correct it."""
    reported = set[tuple[str, Path]]()
    for node in expressions_in(policy):
        comparison = _read_comparison(node)
        if comparison is not None and not comparison.depends:
            limits = f"{comparison.range[0]} to {comparison.range[-1]}"
            yield _describe(comparison.text, bool(comparison.values)), f"compare it with a number from {limits}"
        for joint, other in (("&&", "||"), ("||", "&&")):
            for path, comparisons in _joined(node, joint).items():
                values = [comparison.values for comparison in comparisons]
                held = frozenset.intersection(*values) if joint == "&&" else frozenset[int]().union(*values)
                if len(held) in (0, len(comparisons[0].range)) and (joint, path) not in reported:
                    reported.add((joint, path))
                    text = f" {joint} ".join(comparison.text for comparison in comparisons)
                    yield _describe(text, bool(held)), f"join them with `{other}`, or correct a number"


def _describe(text: str, holds: bool) -> str:
    return f"`{text}` {'always' if holds else 'never'} holds"


def _joined(node: Json, joint: str) -> dict[Path, list[TimeComparison]]:
    """The comparisons of each time that a chain of `&&` or `||` joins, if there are several that depend on it."""
    by_path: dict[Path, list[TimeComparison]] = {}
    for part in _operands(node, joint) if joint in node else ():
        if (comparison := _read_comparison(part)) is not None and comparison.depends:
            by_path.setdefault(comparison.path, []).append(comparison)
    return {path: comparisons for path, comparisons in by_path.items() if len(comparisons) > 1}


def _operands(node: Json, joint: str) -> list[Json]:
    if joint not in node:
        return [node]
    return [*_operands(node[joint]["left"], joint), *_operands(node[joint]["right"], joint)]


def _read_comparison(node: Json) -> TimeComparison | None:
    for name, holds in OPERATORS.items():
        if isinstance(inner := node.get(name), dict):
            for time, other, is_swapped in (("left", "right", False), ("right", "left", True)):
                path, number = path_of(inner[time]), inner[other].get("Value")
                if path and path[:2] == ("context", "time") and path[-1] in RANGES and type(number) is int:
                    values = (at for at in RANGES[path[-1]] if (holds(number, at) if is_swapped else holds(at, number)))
                    return TimeComparison(path, expression(node), frozenset(values))
    return None
