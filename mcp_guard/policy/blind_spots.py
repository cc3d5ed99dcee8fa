"""Finds calls that carry a value on which a policy depends but which it cannot see. Such a call is denied. Pure.

Policies see an argument only if the tool's schema gives it a type (`shapes`), a null not at all, and a difference only
between two numbers. What they do not see is named in the context (`input_unknown`, `input_null`, `change.fields`), so
looking there is enough, also when a recorded decision is evaluated again. (docs/decisions/0042)
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mcp_guard.core.model import Json
from mcp_guard.policy.cedar_text import Path, literals
from mcp_guard.policy.reads import LISTED_IN, Hidden, Reads, could_loosen, reads_of
from mcp_guard.policy.schema import attribute, folded
from mcp_guard.policy.shapes import TAGS, Kind, Shape
from mcp_guard.policy.source import Policy

INPUT, DELTA = ("context", "input"), ("context", "change", "delta")
FIELDS = ("context", "change", "fields")
_TAGS = frozenset(TAGS.values())
Names = Sequence[str]


class BlindSpot(NamedTuple):
    """A policy that depends on a value it could not see, and the reason in words."""

    policy: str
    reason: str


@dataclass(frozen=True, slots=True)
class InputRead:
    """One path within `context.input` that a policy reads; `deep` unless it only tests for presence."""

    policy: str
    path: Path
    deep: bool
    loosened_by: frozenset[Hidden]
    told_unknown: frozenset[str] = frozenset()
    told_null: frozenset[str] = frozenset()
    """Arguments (pointers) whose being unknown or null the policy itself mentions."""


@dataclass(frozen=True, slots=True)
class PolicyReads:
    """What one policy reads of the arguments, and the names of those whose unknown change would loosen it."""

    policy: str
    input: tuple[InputRead, ...]
    deltas: tuple[str, ...]
    """Attributes of `context.change.delta`; "" stands for all of them."""


def read_policy(policy: Policy) -> PolicyReads:
    """The reads of one policy that may have blind spots. Takes time: do it once for each policy."""
    inputs, deltas = [], []
    reads = reads_of(policy)
    told_unknown = _mentioned(policy, reads, Hidden.UNKNOWN) if policy.body["effect"] == "permit" else frozenset[str]()
    told_null = _mentioned(policy, reads, Hidden.NULL)
    for path, deep in reads.items():
        if path[: len(INPUT)] == INPUT or path == INPUT[:1]:
            loosened_by = frozenset(hidden for hidden in Hidden if could_loosen(policy, path, hidden))
            inputs.append(InputRead(policy.id, path[len(INPUT) :], deep, loosened_by, told_unknown, told_null))
        if path == FIELDS and deep:
            inputs += [InputRead(policy.id, (name,), False, frozenset()) for name in sorted(_texts(policy)) if name]
        if (path[: len(DELTA)] == DELTA or (deep and DELTA[: len(path)] == path)) and could_loosen(
            policy, path[: len(DELTA) + 1], Hidden.UNKNOWN
        ):
            deltas.append(path[len(DELTA)] if len(path) > len(DELTA) else "")
    return PolicyReads(policy.id, tuple(inputs), tuple(deltas))


def _mentioned(policy: Policy, reads: Reads, hidden: Hidden) -> frozenset[str]:
    """The texts in a policy that looks at the list of hidden arguments: it may name some of them."""
    if LISTED_IN[hidden] not in reads:
        return frozenset()
    return _texts(policy)


def _texts(policy: Policy) -> frozenset[str]:
    bodies = [condition["body"] for condition in policy.body["conditions"]]
    return frozenset(value for body in bodies for value in literals(body) if isinstance(value, str))


class BlindSpots:
    """The blind spots of the policies that apply to one call."""

    def __init__(self, reads: Iterable[PolicyReads]) -> None:
        self._by_name: dict[str, list[InputRead]] = defaultdict(list)
        self._whole: list[InputRead] = []
        self._deltas: dict[str, str] = {}
        for policy_reads in reads:
            self._deltas |= dict.fromkeys(policy_reads.deltas, policy_reads.policy)
            for read in policy_reads.input:
                (self._by_name[folded(read.path[0])] if read.path else self._whole).append(read)
        self._reads_input = bool(self._by_name or self._whole)

    def find(self, context: Json) -> BlindSpot | None:
        """The first policy that depends on something of this call that the context hides from it."""
        if self._reads_input and (context["input_unknown"] or context["input_null"]):
            unknown = self.find_unknown(context["input_unknown"])
            if found := unknown or next(self._nulls(context["input_null"]), None):
                return found
        return next(self._changes(context["change"]), None) if self._deltas else None

    def find_always(self, shape: Shape, changed: Iterable[str]) -> BlindSpot | None:
        """The first policy that is blind in every call of a tool: to an argument or a change that each call has."""
        unknown = self.find_unknown(_always_unknown(shape, ""))
        return unknown or next(self._changes({"fields": changed, "delta": {}}), None)

    def find_unknown(self, pointers: Iterable[str]) -> BlindSpot | None:
        for read, pointer, parts in self._near(pointers):
            depends = f"`{read.policy}` depends on {_named(read.path)}"
            if _covers(parts, read.path, read.deep):
                if Hidden.UNKNOWN in read.loosened_by and pointer not in read.told_unknown:
                    what = f"the tool declares `{pointer}` with no type that policies can read, or not at all"
                    return BlindSpot(read.policy, f"{depends}, but {what}")
            elif _covers([folded(part) for part in parts], tuple(map(folded, read.path)), read.deep):
                what = f"`{pointer}` differs from it only in case, blanks or invisible characters"
                return BlindSpot(read.policy, f"{depends}, and {what}")
        return None

    def _nulls(self, pointers: Iterable[str]) -> Iterator[BlindSpot]:
        for read, pointer, parts in self._near(pointers):
            if pointer not in read.told_null and _hidden_by_null(parts, read.path, read.deep) & read.loosened_by:
                what = f"`{pointer}` is null, which policies take for absent"
                yield BlindSpot(read.policy, f"`{read.policy}` depends on {_named(read.path)}, but {what}")

    def _near(self, pointers: Iterable[str]) -> Iterator[tuple[InputRead, str, list[str]]]:
        """The reads that may concern these arguments."""
        for pointer in pointers:
            parts = _parts(pointer)
            for read in (*self._whole, *self._by_name.get(folded(parts[0]), ())):
                yield read, pointer, parts

    def _changes(self, change: Json) -> Iterator[BlindSpot]:
        for name in change["fields"]:
            id = self._deltas.get(attribute(name)) or self._deltas.get("")
            if id is not None and attribute(name) not in change["delta"]:
                what = f"`{name}` and its present value are not two numbers whose difference is exact"
                yield BlindSpot(id, f"`{id}` depends on the change of `{name}`, but {what}")


def _always_unknown(shape: Shape, above: str) -> Iterator[str]:
    """The arguments that every call must carry and that policies never see."""
    for name in shape.required:
        inner, at = shape.fields.get(name), f"{above}{_escaped(name)}"
        if inner is None or inner.kind is Kind.OPAQUE:
            yield at
        elif inner.kind is Kind.RECORD and not inner.nullable:
            yield from _always_unknown(inner, f"{at}/")


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _parts(pointer: str) -> list[str]:
    """The names in a pointer (without its first slash), as attributes."""
    return [attribute(part.replace("~1", "/").replace("~0", "~")) for part in pointer.split("/")]


def _align(parts: Names, path: Names, in_array: bool = False) -> Iterator[tuple[Names, Names, bool]]:
    """The ways in which a pointer and a read may name the same value: what is left of each, and whether in an array.

    Positions in arrays have no attribute, and the alternatives of a union no name in the arguments.
    """
    if not parts or not path:
        yield parts, path, in_array
        return
    if parts[0] == path[0]:
        yield from _align(parts[1:], path[1:], in_array)
    if parts[0].isdecimal():
        yield from _align(parts[1:], path, True)
    if path[0] in _TAGS:
        yield from _align(parts, path[1:], in_array)


def _covers(parts: Names, path: Names, deep: bool) -> bool:
    """Whether the value at `parts` is part of what a read of `path` sees, or contains it."""
    return any(deep or all(map(str.isdecimal, rest)) for rest, _, _ in _align(parts, path))


def _hidden_by_null(parts: Names, path: Names, deep: bool) -> frozenset[Hidden]:
    """What a null at `parts` hides from a read of `path`."""
    hidden = set()
    for rest, rest_of_path, in_array in _align(parts, path):
        if (in_array and not rest) or (rest and all(map(str.isdecimal, rest))):
            hidden.add(Hidden.ELEMENT)
        elif not rest and not rest_of_path:
            hidden.add(Hidden.NULL)
        elif rest and deep:
            hidden.add(Hidden.UNKNOWN)
    return frozenset(hidden)


def _named(path: Path) -> str:
    return f"`{'.'.join((*INPUT, *path))}`"
