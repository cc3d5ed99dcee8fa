"""Finds what a policy reads, and whether a value that it cannot see could make it decide too loosely. Pure.

Cedar takes an attribute that is not in the context for absent: `has` is false, and a condition behind it never holds.
That is right only if the call really lacks the value. So for each path the guard asks: if the call has a value there
after all, could the policy have been stricter? (docs/decisions/0042)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from mcp_guard.core.model import Json
from mcp_guard.policy.cedar_text import Path, literals, walk
from mcp_guard.policy.source import Policy

TAGS = "(tags)"
"""In place of an attribute's name: a use of `hasTag` or `getTag`."""

Reads = Mapping[Path, bool]
"""The paths that are read, starting at a variable or an entity type (`Agent::`). False: only tested for presence."""


def expressions_in(policy: Policy) -> Iterator[Json]:
    """Every expression in the policy's conditions, each before those inside it."""
    return walk([condition["body"] for condition in policy.body.get("conditions", ())])


def reads_of(policy: Policy) -> Reads:
    """Every path that the policy's conditions read, whatever form the access has."""
    reads: dict[Path, bool] = {}
    for condition in policy.body.get("conditions", ()):
        _collect(condition["body"], reads, used=True)
    return reads


def _collect(node: Json, reads: dict[Path, bool], *, used: bool) -> None:
    """Add what an expression reads. Unless `used`, its value only leads to an attribute that the caller adds."""
    ((op, inner),) = node.items()
    if op in ("has", "hasTag", "getTag"):
        for path in _paths(inner["left"]):
            reads.setdefault((*path, inner["attr"] if op == "has" else TAGS), False)
    elif op in ("Var", ".") and used:
        reads.update({path: True for path in _paths(node) if len(path) > 1 or path == ("context",)})
    for operand, is_used in _operands_of(op, inner, used):
        _collect(operand, reads, used=is_used)


def _operands_of(op: str, inner: Any, used: bool) -> Iterator[tuple[Json, bool]]:
    """The sub-expressions, and whether the value of each is used as it is."""
    match op:
        case "Value" | "Var" | "Slot":
            pass
        case "." | "has":
            yield inner["left"], False
        case "hasTag" | "getTag":
            yield from ((inner["left"], False), (inner["right"], True))
        case "if-then-else":
            yield from ((inner["if"], True), (inner["then"], used), (inner["else"], used))
        case "Record":
            yield from ((member, used) for member in inner.values())
        case _:
            yield from ((operand, True) for operand in _operands(inner))


def _operands(inner: Any) -> Iterator[Json]:
    """The sub-expressions of an operator."""
    if isinstance(inner, list):
        yield from inner
    elif isinstance(inner, dict):
        yield from (inner[name] for name in ("left", "right", "arg", "in") if isinstance(inner.get(name), dict))


def _paths(node: Json) -> list[Path]:
    """The paths whose value an expression may have, seen through conditionals and records."""
    return [target for target in _targets(node) if isinstance(target, tuple)]


def _targets(node: Json) -> list[Path | Json]:
    """The paths and record literals whose value an expression may have."""
    ((op, inner),) = node.items()
    match op:
        case "Var":
            return [(inner,)]
        case "Value" if isinstance(inner, dict) and "__entity" in inner:
            return [(f"{inner['__entity']['type']}::",)]
        case "Record":
            return [inner]
        case "if-then-else":
            return [*_targets(inner["then"]), *_targets(inner["else"])]
        case ".":
            found: list[Path | Json] = []
            for target in _targets(inner["left"]):
                if isinstance(target, tuple):
                    found.append((*target, inner["attr"]))
                elif inner["attr"] in target:
                    found += _targets(target[inner["attr"]])
            return found
    return []


def names_sought(policy: Policy, path: Path) -> frozenset[str]:
    """The texts that the policy looks for in a set of names, such as `context.change.fields`."""
    names: set[str] = set()
    for node in expressions_in(policy):
        for op in ("contains", "containsAny", "containsAll", "==", "!="):
            if isinstance(inner := node.get(op), dict) and "right" in inner:
                if path in _targets(inner["left"]):
                    names |= texts_in(inner["right"])
                elif op not in ("contains", "containsAll") and path in _targets(inner["right"]):
                    names |= texts_in(inner["left"])
    return frozenset(names)


def texts_compared(policy: Policy, path: Path) -> frozenset[str]:
    """The texts that the policy compares with the value at a path, one by one or as a set that may contain it."""
    texts: set[str] = set()
    for node in expressions_in(policy):
        for op in ("==", "!=", "contains"):
            if isinstance(inner := node.get(op), dict):
                for one, other in (("left", "right"), ("right", "left")):
                    if path in _targets(inner[one]):
                        texts |= texts_in(inner[other])
    return frozenset(texts)


def texts_in(node: Json) -> set[str]:
    """The texts in an expression."""
    return {value for value in literals(node) if isinstance(value, str)}


class Hidden(StrEnum):
    """Why a path has no value in the context although the call has one."""

    UNKNOWN = "unknown"
    """The value can be anything."""
    NULL = "null"
    """It is null: equal to nothing else, and neither greater nor less."""
    ELEMENT = "element"
    """It is null, and one of several values of a set."""
    PART = "part"
    """A set or record is seen without one of its members, which can be anything."""


IN_PART = (Hidden.ELEMENT, Hidden.PART)


def could_loosen(policy: Policy, path: Path, hidden: Hidden, listed: Sequence[Path] = ()) -> bool:
    """Whether the policy decides less strictly because it takes `path` for absent.

    `listed` are the sets in the context that name the hidden value, and so are not empty.

    INVARIANT: False only if a `forbid` that would hold for some value holds without it too, and a `permit` that holds
    without it would hold for every value, whatever the rest of the request is.
    """
    is_forbid = policy.body["effect"] == "forbid"
    conditions = policy.body.get("conditions", ())
    seen = _conjunction(conditions, _Reading(path, hidden, listed, is_seen=True, upper=not is_forbid))
    real = _conjunction(conditions, _Reading(path, hidden, listed, is_seen=False, upper=is_forbid))
    return not (_implies(real, seen) if is_forbid else _implies(seen, real))


Formula = bool | tuple[Any, ...]
"""What is left of a condition: its value, or an operator with its operands, down to what `path` does not affect."""


def _implies(one: Formula, other: Formula) -> bool:
    return one is False or other is True or one == other


def _conjunction(conditions: Iterable[Json], reading: "_Reading") -> Formula:
    formula: Formula = True
    for condition in conditions:
        body = condition["body"] if condition["kind"] == "when" else {"!": {"arg": condition["body"]}}
        formula = _and(formula, reading.simplify(body, reading.upper))
    return formula


class _Reading:
    """Simplifies conditions for a path whose value the context lacks: as the policy sees it, or as it really is.

    With `upper` the result holds whenever the condition could; otherwise it holds only if the condition must.
    """

    def __init__(self, path: Path, hidden: Hidden, listed: Sequence[Path], *, is_seen: bool, upper: bool) -> None:
        self._path = path
        self._listed = listed
        self._hidden = hidden
        self._is_absent = is_seen and hidden not in IN_PART  # a set is seen, without the element
        self.upper = upper

    def simplify(self, node: Json, bound: bool) -> Formula:
        ((op, inner),) = node.items()
        match op:
            case "Value" if isinstance(inner, bool):
                return inner
            case "!":
                return _not(self.simplify(inner["arg"], not bound))
            case "&&":
                return _and(self.simplify(inner["left"], bound), self.simplify(inner["right"], bound))
            case "||":
                return _or(self.simplify(inner["left"], bound), self.simplify(inner["right"], bound))
            case "if-then-else":
                return self._choose(inner, bound)
        known = self._atom(op, inner, node)
        return bound if known is None else known

    def _choose(self, inner: Json, bound: bool) -> Formula:
        upper, lower = self.simplify(inner["if"], True), self.simplify(inner["if"], False)
        then, otherwise = self.simplify(inner["then"], bound), self.simplify(inner["else"], bound)
        if upper is False or lower is True:
            return then if lower is True else otherwise
        if upper == lower:
            return then if then == otherwise else ("?", upper, then, otherwise)
        return _or(then, otherwise) if bound else _and(then, otherwise)

    def _atom(self, op: str, inner: Any, node: Json) -> Formula | None:
        """The value of an expression without Boolean operators, or None if nothing is known of it."""
        if op == "isEmpty" and any(_targets(inner["arg"]) == [listed] for listed in self._listed):
            return False
        reads: dict[Path, bool] = {}
        _collect(node, reads, used=True)
        if not any(self._is_affected(path, deep) for path, deep in reads.items()):
            return ("atom", str(node))
        if op == "has" and len(paths := _targets(inner["left"])) == 1 and isinstance(paths[0], tuple):
            path = (*paths[0], inner["attr"])
            if self._is_absent:
                return False
            return True if path == self._path else False if self._hidden is Hidden.NULL else None
        if self._is_absent:
            return None
        if self._hidden is Hidden.NULL:
            return self._compared_with_null(op, inner)
        if self._hidden is Hidden.ELEMENT and op in ("contains", "containsAny", "containsAll"):
            others: dict[Path, bool] = {}
            _collect(inner["right"], others, used=True)
            if _targets(inner["left"]) == [self._path] and not any(map(self._is_affected, others, others.values())):
                return ("atom", str(node))  # of an element: null is none of the others
        return None

    def _is_affected(self, path: Path, deep: bool) -> bool:
        size = len(self._path)
        return path[:size] == self._path or (deep and self._path[: len(path)] == path)

    def _compared_with_null(self, op: str, inner: Any) -> bool | None:
        """The value of a comparison of null with something that is never null."""
        operands = inner if isinstance(inner, list) else list(_operands(inner))
        affected = [operand for operand in operands if self._is_null(operand)]
        if op == "." and self._is_null({op: inner}):
            return False
        if len(affected) != 1 or any(_touches(operand) for operand in operands if operand is not affected[0]):
            return None
        if op == "!=":
            return True
        if op == "contains":
            return False if operands[1] is affected[0] else None
        return False if op in COMPARISONS else None

    def _is_null(self, node: Json) -> bool:
        targets = _targets(node)
        return len(targets) == 1 and isinstance(targets[0], tuple) and targets[0][: len(self._path)] == self._path


COMPARISONS = frozenset(
    {"==", "<", "<=", ">", ">=", "like", "in", "is", "lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual"}
)


def _touches(node: Json) -> bool:
    """Whether an expression reads anything that could be null as well."""
    reads: dict[Path, bool] = {}
    _collect(node, reads, used=True)
    return any(path[0] in ("context", "resource") for path in reads)


def _not(one: Formula) -> Formula:
    return not one if isinstance(one, bool) else one[1] if one[0] == "!" else ("!", one)


def _and(one: Formula, other: Formula) -> Formula:
    if one is False or other is False:
        return False
    if one is True or one == other:
        return other
    return one if other is True else ("&&", one, other)


def _or(one: Formula, other: Formula) -> Formula:
    return _not(_and(_not(one), _not(other)))
