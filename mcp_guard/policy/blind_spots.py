"""Finds values of a call on which a policy depends but which it cannot see. Pure.

A `forbid` or gate that depends on one denies the call; a `permit` that does permits nothing. Policies see an argument
only if the tool's schema gives it a type (`shapes`) and Cedar holds this call's value exactly, a null not at all, a
fact only if the server's answer has it, and a difference only between two numbers. What they do not see is named in
the context (`input_unknown`, `input_inexact`, `input_null`, `facts_missing`, `facts_null`, `change.fields`), so looking
there is enough, also when a recorded decision is evaluated again. (docs/decisions/0042, 0050)
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mcp_guard.core.canonical import escape_token, unescape_token
from mcp_guard.core.model import Json
from mcp_guard.core.nearest import FOLDED, folded
from mcp_guard.policy.cedar_text import Path
from mcp_guard.policy.reads import TAGS as RESOURCE_TAGS
from mcp_guard.policy.reads import Hidden, could_loosen, names_sought, reads_of, texts_in
from mcp_guard.policy.schema import CHANGED_FIELDS, INPUT_INEXACT, INPUT_NULL, attribute
from mcp_guard.policy.shapes import TAGS, Shape, ValueKind
from mcp_guard.policy.source import Policy

INPUT, DELTA = ("context", "input"), ("context", "change", "delta")
UNKNOWN = ("context", "input_unknown")
"""Where the context names the arguments that policies cannot see."""
HIDDEN = (UNKNOWN, INPUT_INEXACT)
FACTS = (
    ("facts_missing", Hidden.UNKNOWN, "but the present state has no `{}`"),
    ("facts_null", Hidden.NULL, "but `{}` is null in the present state, which policies take for absent"),
)
UNCERTAIN = "but the URI fits several templates of its server, or one that the guard cannot read"
UNTYPED = "but the tool declares `{}` with no type that policies can read, or not at all"
INEXACT = "but `{}` is missing in this call, or its value is not exactly one of the type that the tool declares"
_POSITION = re.compile(r"/[0-9]+(?=/|$)")
_TAGS = frozenset(TAGS.values())
Names = Sequence[str]
Told = Mapping[Path, frozenset[str]]


class BlindSpot(NamedTuple):
    """A policy that depends on a value it could not see, and the reason in words."""

    policy: str
    reason: str
    is_permit: bool


@dataclass(eq=False, slots=True)
class Read:
    """One path that a policy reads; `deep` unless it only tests for presence. `names` is the path within its record."""

    policy: Policy
    path: Path
    names: Path
    deep: bool
    told: Told = field(default_factory=dict)
    """By set in the context: the hidden values (pointers, attributes) that the policy itself looks for there."""
    never: bool = False
    """It reads names only, which are never hidden."""
    _loosened: dict[tuple[Hidden, Sequence[Path]], bool] = field(default_factory=dict)

    def is_loosened(self, hidden: Hidden, listed: Sequence[Path] = (), name: str = "") -> bool:
        """Whether the policy decides less strictly because a value is hidden, which `listed` in the context name.

        Worked out at the first such call.
        """
        if self.never or any(name in self.told.get(path, ()) for path in listed):
            return False
        key = hidden, listed
        if key not in self._loosened:
            self._loosened[key] = could_loosen(self.policy, self.path, hidden, listed)
        return self._loosened[key]

    def blind_spot(self, what: str) -> BlindSpot:
        reason = f"`{self.policy.id}` depends on `{'.'.join(self.path)}`, {what}"
        return BlindSpot(self.policy.id, reason, self.policy.body["effect"] == "permit")


class PolicyReads(NamedTuple):
    """What one policy reads of the arguments and of their changes, and which texts it looks for among changed names."""

    inputs: tuple[Read, ...]
    deltas: tuple[Read, ...]
    fields: tuple[Read, ...]
    facts: tuple[Read, ...]


def read_policy(policy: Policy) -> PolicyReads:
    """The reads of one policy that may have blind spots."""
    reads = reads_of(policy)
    sets: list[Path] = [INPUT_NULL, *(("context", listed) for listed, _, _ in FACTS)]
    if policy.body["effect"] == "permit":
        sets += HIDDEN  # in a forbid, an exception must not hide what it forbids
    told: Told = {listed: names_sought(policy, listed) for listed in sets if listed in reads}
    inputs, deltas, facts = [], [], []
    for path, deep in reads.items():
        if path[: len(INPUT)] == INPUT or path == INPUT[:1]:
            inputs.append(Read(policy, path, path[len(INPUT) :], deep, told))
        if path[: len(DELTA)] == DELTA or (deep and DELTA[: len(path)] == path):
            shown = path[: len(DELTA) + 1]
            deltas.append(Read(policy, shown, shown[len(DELTA) :], deep))
        if path[0] == "resource" and len(path) > 1:
            facts.append(Read(policy, path[:2], path[1:2], deep, told))
    texts = sorted(_texts(policy)) if reads.get(CHANGED_FIELDS) else ()
    fields = (Read(policy, (*INPUT, text), (text,), False, never=True) for text in texts)
    return PolicyReads(tuple(inputs), tuple(deltas), tuple(fields), tuple(facts))


def _texts(policy: Policy) -> set[str]:
    """The texts that a policy compares with anything, such as names of arguments."""
    return set().union(*(texts_in(condition["body"]) for condition in policy.body["conditions"]))


class BlindSpots:
    """The blind spots of the policies that apply to one call."""

    def __init__(self, reads: Iterable[PolicyReads]) -> None:
        self._by_name: dict[str, list[Read]] = defaultdict(list)
        self._whole: list[Read] = []
        self._deltas: dict[str, list[Read]] = defaultdict(list)
        """By name; those that read the deltas as a whole are under ""."""
        self._facts: dict[str, list[Read]] = defaultdict(list)
        for inputs, deltas, fields, facts in reads:
            for read in facts:
                self._facts[read.names[0]].append(read)
            for read in (*inputs, *fields):
                (self._by_name[folded(read.names[0])] if read.names else self._whole).append(read)
            for read in deltas:
                self._deltas[read.names[0] if read.names else ""].append(read)
        self._alternatives: dict[Path, dict[str, Read]] = defaultdict(dict)
        """By path of an argument: the JSON types of it that any policy reads, if it may have several."""
        for read in (read for group in self._by_name.values() for read in group):
            for at, name in enumerate(read.names):
                if at and name in _TAGS:
                    self._alternatives[read.names[:at]].setdefault(name, read)
        self._reads_input = bool(self._by_name or self._whole)
        self.are_none = not (self._reads_input or self._deltas or self._facts)
        """Whether no policy reads anything that a call could hide."""
        self._names_positions = any(map(_names_position, self._reads()))

    def _reads(self) -> Iterator[Read]:
        yield from self._whole
        for reads in self._by_name.values():
            yield from reads

    def find(self, context: Json) -> Iterator[BlindSpot]:
        """The policies that depend on something of this call that the context hides from them, maybe repeatedly."""
        inexact = context.get("input_inexact", ())
        if self._reads_input and (context["input_unknown"] or context["input_null"]):
            yield from self.find_hidden(context["input_unknown"], frozenset(inexact))
            yield from self._nulls(context["input_null"])
        if self._alternatives:
            yield from self._unread(context["input"])
        if self._facts:
            yield from self._missing(context)
        if self._deltas:
            yield from self._changes(context["change"], inexact)

    def find_always(
        self, shape: Shape, changed: Iterable[str] = (), missing: Iterable[str] = ()
    ) -> Iterator[BlindSpot]:
        """The policies that are blind in every call: to an argument, a change or a fact that each call hides.

        A required argument that is left out is hidden as well.
        """
        yield from self._missing({"facts_missing": missing})
        yield from self.find_hidden(_always_unknown(shape, ""), frozenset())
        yield from self._always_unread(shape)
        yield from self._changes({"fields": changed, "delta": {}}, ())

    def find_hidden(self, pointers: Iterable[str], inexact: AbstractSet[str]) -> Iterator[BlindSpot]:
        """Those that depend on one of these arguments, of which some only have no exact value in this call."""
        for read, pointer, parts in self._near(pointers, inexact):
            is_inexact = pointer in inexact
            listed = HIDDEN if is_inexact else (UNKNOWN,)
            if hidden := _hidden_at(parts, read.names, read.deep, is_inexact):
                if any(read.is_loosened(how, listed, pointer) for how in hidden):
                    yield read.blind_spot(INEXACT.format(pointer) if is_inexact else UNTYPED.format(pointer))
            elif _covers([folded(part) for part in parts], tuple(map(folded, read.names)), read.deep):
                yield read.blind_spot(f"and `{pointer}` differs from it only in {FOLDED}")

    def _nulls(self, pointers: Iterable[str]) -> Iterator[BlindSpot]:
        for read, pointer, parts in self._near(pointers):
            if any(
                read.is_loosened(hidden, (INPUT_NULL,), pointer)
                for hidden in _hidden_by_null(parts, read.names, read.deep)
            ):
                yield read.blind_spot(f"but `{pointer}` is null, which policies take for absent")

    def _near(
        self, pointers: Iterable[str], inexact: AbstractSet[str] = frozenset()
    ) -> Iterator[tuple[Read, str, list[str]]]:
        """The reads that may concern these arguments.

        Of the elements at the same place in an array, the first stands for all, unless a policy names one.
        """
        places: set[tuple[str, bool]] = set()
        for pointer in pointers:
            if not self._names_positions:
                place = _POSITION.sub("/0", pointer), pointer in inexact
                if place in places:
                    continue
                places.add(place)
            parts = _parts(pointer)
            for read in (*self._whole, *self._by_name.get(folded(parts[0]), ())):
                yield read, pointer, parts

    def _missing(self, context: Json) -> Iterator[BlindSpot]:
        for listed, hidden, what in FACTS:
            names = context.get(listed, ())
            why = UNCERTAIN if RESOURCE_TAGS in names else what
            for name in names:
                for read in self._facts.get(attribute(name), ()):
                    if read.is_loosened(hidden, (("context", listed),), name):
                        yield read.blind_spot(why.format(name))

    def _unread(self, arguments: Json) -> Iterator[BlindSpot]:
        """Arguments of a JSON type that no policy looks at, although some look at others of the same argument."""
        for path, reads in self._alternatives.items():
            value: Any = arguments
            for name in path:
                value = value.get(name) if isinstance(value, dict) else None
            for tag in sorted(_present(value) - reads.keys()):
                for read in reads.values():
                    if read.is_loosened(Hidden.UNKNOWN):
                        yield read.blind_spot(f"but `{'/'.join(path)}` is of type {tag} in this call")

    def _always_unread(self, shape: Shape) -> Iterator[BlindSpot]:
        """Required arguments of which no policy looks at any type that they may have, as policies do at others."""
        for path, reads in self._alternatives.items():
            at: Shape | None = shape
            for name in path:
                by_attribute = {attribute(own): own for own in at.required} if at and not at.nullable else {}
                at = at.fields.get(by_attribute[name]) if at and name in by_attribute else None
            if (
                at is None
                or at.nullable
                or not at.options
                or any(option.kind is ValueKind.SET for option in at.options)
            ):
                continue  # absent, null and an empty array are no value
            if not any(TAGS[option.kind] in reads for option in at.options):
                blind = [read for read in reads.values() if read.is_loosened(Hidden.UNKNOWN)]
                yield from (read.blind_spot(f"but `{'/'.join(path)}` is never of that type") for read in blind)

    def _changes(self, change: Json, inexact: Iterable[str]) -> Iterator[BlindSpot]:
        hidden = (unescape_token(pointer.partition("/")[0]) for pointer in inexact)
        for name in dict.fromkeys((*change["fields"], *hidden)):
            if attribute(name) not in change["delta"]:
                for read in (*self._deltas.get(attribute(name), ()), *self._deltas.get("", ())):
                    if read.is_loosened(Hidden.UNKNOWN):
                        what = f"but `{name}` and its present value are not two numbers whose difference is exact"
                        yield read.blind_spot(what)


def _names_position(read: Read) -> bool:
    """Whether the policy may distinguish the elements of an array: it looks for paths, or reads a name of digits."""
    return any(map(str.isdecimal, read.names)) or any(read.told.get(path) for path in (*HIDDEN, INPUT_NULL))


def _present(value: Any) -> set[str]:
    """The JSON types of a union's value, or of the elements of an array of unions; none for any other value.

    Both have an attribute for each type: a single value has that of its type only, an array those of all its types.
    """
    if not isinstance(value, dict) or not value.keys() <= _TAGS or not all(map(_is_of_type, value.values(), value)):
        return set()
    return {tag for tag, column in value.items() if (_has_values(column) if len(value) > 1 else column != [])}


def _is_of_type(value: Any, tag: str) -> bool:
    """Whether an attribute of this name may be an alternative of a union; other records have such names too."""
    if isinstance(value, list) or (isinstance(value, dict) and tag in ("array", "object", "number")):
        return True
    return type(value) is {"string": str, "integer": int, "boolean": bool}.get(tag)


def _has_values(column: Any) -> bool:
    return any(map(_has_values, column.values())) if isinstance(column, dict) else column != []


def _always_unknown(shape: Shape, above: str) -> Iterator[str]:
    """The arguments that every call must carry and that policies never see."""
    for name in shape.required:
        inner, at = shape.fields.get(name), f"{above}{escape_token(name)}"
        if inner is None or inner.kind is ValueKind.OPAQUE:
            yield at
        elif inner.kind is ValueKind.RECORD and not inner.nullable:
            yield from _always_unknown(inner, f"{at}/")


def _parts(pointer: str) -> list[str]:
    """The names in a pointer (without its first slash), as attributes."""
    return [attribute(unescape_token(part)) for part in pointer.split("/")]


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


def _hidden_at(parts: Names, path: Names, deep: bool, is_inexact: bool) -> frozenset[Hidden]:
    """What an argument at `parts` that policies do not see hides from a read of `path`; empty if nothing."""
    hidden = set()
    for rest, _, in_array in _align(parts, path):
        is_element = all(map(str.isdecimal, rest)) and (bool(rest) or in_array)
        if is_element and not is_inexact:
            hidden |= {Hidden.UNKNOWN, Hidden.PART}
        elif is_element or (rest and deep):
            hidden.add(Hidden.PART)
        elif not rest:
            hidden.add(Hidden.UNKNOWN)
    return frozenset(hidden)


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
