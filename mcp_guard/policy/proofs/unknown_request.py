"""One request of which only the action is known: its variables as terms, and what is true of every such request.

A part of the request becomes an unknown when a policy reads it. `rules` collects what the guard ensures of the parts
that were read (`policy/request.py`): a proof holds for all requests that the guard can build, and for some that it
cannot, but never for fewer.

INVARIANT: each member of `context.input` may be absent, also one that the tool's schema requires: it is hidden if the
call leaves it out, or gives it a value that Cedar cannot hold (docs/decisions/0050).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from mcp_guard.core.canonical import MAX_SAFE_INTEGER, escape_token
from mcp_guard.core.model import Json
from mcp_guard.core.times import LAST_SECOND
from mcp_guard.policy.cedar_text import Path
from mcp_guard.policy.proofs.terms import Term, Terms
from mcp_guard.policy.proofs.values import (
    LEAST,
    MOST,
    EntityValue,
    Operators,
    Record,
    RecordMember,
    Scalar,
    SetValue,
    Value,
    type_name,
)
from mcp_guard.policy.schema import CHANGED_FIELDS, INPUT_NULL, PRINCIPAL, TOOL, attribute, name_of
from mcp_guard.policy.shapes import TAGS, Shape, ValueKind
from mcp_guard.policy.time_of_call import RANGES, WEEKDAYS

INPUT = ("context", "input")
FACTS_MISSING, FACTS_NULL = ("context", "facts_missing"), ("context", "facts_null")
UNKNOWN, INEXACT = ("context", "input_unknown"), ("context", "input_inexact")
LEVELS = {"low": (LEAST, 29), "medium": (30, 59), "high": (60, 100)}
"""The scores of each level of risk (`core.risk.sum_signals`)."""
LEVEL, SCORE = ("context", "risk", "level"), ("context", "risk", "score")
TAG = "(tag)"
"""What the paths of tags begin with."""
DAY = 86_400_000
"""In milliseconds, as Cedar counts times."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar or set of the request that some policy reads, with its type in the schema's JSON form."""

    type: Json
    value: Scalar | SetValue


class UnknownRequest:
    """A request for this action. `shape` is that of the tool's arguments, if it is known."""

    def __init__(self, terms: Terms, schema: Json, action: str, shape: Shape | None = None) -> None:
        self.terms, self.action = terms, action
        self.operators = Operators(terms)
        self._types: Json = schema[""]["entityTypes"]
        applies = schema[""]["actions"][action]["appliesTo"]
        self.context_type: Json = applies["context"]
        self._input_type: Json = self.context_type["attributes"]["input"]
        self.resource_type: str = applies["resourceTypes"][0]
        self._shape = shape
        self.rules: list[Term] = []
        self.leaves: dict[Path, Leaf] = {}
        """By path, from the variables `principal`, `resource` and `context`."""
        self.presences: dict[Path, Term] = {}
        """Of the members that may be absent."""
        self.tags: dict[str, RecordMember] = {}
        self._members: dict[Path, RecordMember | None] = {}
        self._required: set[Path] = set()
        text = terms.sorts["String"]
        self.principal = EntityValue(PRINCIPAL, terms.unknown("principal", text))
        self.agent = EntityValue("Agent", terms.unknown("agent", text))
        self.groups = SetValue("String", terms.unknown("groups", terms.set_of(text)))
        id = terms.text(action) if self.resource_type == TOOL else terms.unknown("resource", text)
        self.resource = EntityValue(self.resource_type, id, action if self.resource_type == TOOL else None)

    def variable(self, name: str) -> Value:
        match name:
            case "principal":
                return self.principal
            case "resource":
                return self.resource
            case "action":
                return EntityValue("Action", self.terms.text(self.action), self.action)
        return self._record(("context",), self.context_type)

    def attributes_of(self, variable: str) -> Json:
        """The type of the attributes of `principal` or `resource`: a record."""
        type = PRINCIPAL if variable == "principal" else self.resource_type
        empty: Json = {"type": "Record", "attributes": {}}
        return self._types[type].get("shape", empty) if type in self._types else empty

    def entity_member(self, variable: str, name: str) -> RecordMember | None:
        """An attribute of `principal` or `resource`; None if the type has none of this name."""
        return self._record((variable,), self.attributes_of(variable)).member(name)

    def is_required(self, path: Path) -> bool:
        """Whether the tool's schema requires this argument."""
        return path in self._required

    def has_tags(self) -> bool:
        return "tags" in self._types.get(self.resource_type, {})

    @property
    def tag_type(self) -> Json:
        type: Json = self._types[self.resource_type]["tags"]
        return type

    def tag(self, key: str) -> RecordMember:
        """A tag of the resource. Raises: Unencodable if the key has a character that the solver lacks."""
        if key not in self.tags:
            self.terms.text(key)
            present = self.terms.unknown(f"has tag {key!r}", self.terms.sorts["Bool"])
            self.tags[key] = RecordMember(present, self._value((TAG, key), self.tag_type))
        return self.tags[key]

    def at(self, path: Path) -> Value | None:
        """The value at a path below `context`; None if there is none."""
        value: Value | None = self.variable(path[0])
        for name in path[1:]:
            member = value.member(name) if isinstance(value, Record) else None
            value = member.value if member else None
        return value

    def relate_change(self, name: str) -> None:
        """Add that an argument of this name changes only if the call has one."""
        changed = self._names(CHANGED_FIELDS, name)
        argument = self._record(INPUT, self._input_type).member(attribute(name))
        unknown, null = (self._names(listed, escape_token(name)) for listed in (UNKNOWN, INPUT_NULL))
        known = [argument.present, null] if argument else []
        self.rules.append(self.terms.implies(changed, self.terms.any(unknown, *known)))

    # Members

    def _record(self, path: Path, type: Json) -> Record:
        attributes = type.get("attributes", {})
        return Record(frozenset(attributes), lambda name: self._member((*path, name), attributes.get(name)))

    def _member(self, path: Path, type: Json | None) -> RecordMember | None:
        if type is None:
            return None
        if path not in self._members:
            present = self._presence(path, type)
            member = self._members[path] = RecordMember(present, self._value(path, type))
            self._note_absence(path, type, present)
            if not isinstance(member.value, Record | EntityValue):
                self.rules += self._limits(path, member.value)
        return self._members[path]

    def _presence(self, path: Path, type: Json) -> Term:
        may_be_hidden = path[:2] == INPUT and len(path) > 2 and "required" in type
        if type.get("required", True) and not may_be_hidden:
            return self.terms.true
        present = self.terms.unknown(f"has {_name(path)}", self.terms.sorts["Bool"])
        self.presences[path] = present
        return present

    def _note_absence(self, path: Path, type: Json, present: Term) -> None:
        """Where the context says that a member is absent."""
        absent = self.terms.negate(present)
        if path[:2] == INPUT and type.get("required") is True:
            self._required.add(path)
            pointer = escape_token(name_of(path[2])) if len(path) == 3 else None
            self.rules += [self.terms.implies(absent, self._names(listed, pointer)) for listed in (UNKNOWN, INEXACT)]
        if path[0] == "resource" and path in self.presences and self._has_context("facts_missing"):
            missing, null = (self._names(listed, name_of(path[1])) for listed in (FACTS_MISSING, FACTS_NULL))
            self.rules += [self.terms.equal(absent, self.terms.any(missing, null))]

    def _has_context(self, name: str) -> bool:
        return name in self.context_type["attributes"]

    def _names(self, listed: Path, name: str | None) -> Term:
        """Whether a set of the context contains this name, or any."""
        names = self.at(listed)
        if not isinstance(names, SetValue):
            return self.terms.true  # recorded before the context had it
        if name is None:
            return self.terms.negate(self.operators.is_empty(names))
        return self.operators.contains(names, Scalar("String", self.terms.text(name)))

    def _value(self, path: Path, type: Json) -> Value:
        if type["type"] == "Record":
            return self._record(path, type)
        name = _name(path) if path[0] != "resource" else f"{self.resource_type} {_name(path)}"
        value: Scalar | SetValue
        if type["type"] == "Set":
            element = type_name(type["element"])
            value = SetValue(element, self.terms.unknown(name, self.terms.set_of(self.terms.sorts[element])))
        else:
            scalar = type_name(type)
            value = Scalar(scalar, self.terms.unknown(name, self.terms.sorts[scalar]))
        self.leaves[path] = Leaf(type, value)
        return value

    # What every request satisfies

    def _limits(self, path: Path, value: Scalar | SetValue) -> list[Term]:
        terms = self.terms
        shape = _shape_at(self._shape, path[2:]) if path[:2] == INPUT else None
        limits = []
        if shape is not None and shape.allowed is not None:
            limits.append(self._among(value, shape))
        if isinstance(value, SetValue):
            unknown = self.at(UNKNOWN) if path == INEXACT else None
            return [*limits, self.operators.contains_all(unknown, value)] if isinstance(unknown, SetValue) else limits
        if value.type in ("Long", "decimal"):
            is_exact = value.type == "Long" and (path[:2] == INPUT or path[0] == "resource" or "delta" in path)
            least, most = (
                (-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER) if is_exact else (LEAST + (value.type == "decimal"), MOST)
            )
            if path[:2] == ("context", "rate") or path[:3] == ("context", "change", "delta"):
                least = 0
            if path[-1] in RANGES and path[:2] == ("context", "time"):
                least, most = RANGES[path[-1]][0], RANGES[path[-1]][-1]
            limits.append(terms.within(value.term, least, most))
        if path[:2] == ("context", "time"):
            limits += self._time_limits(path, value)
        if path in (LEVEL, SCORE):
            level, score = self.at(LEVEL), self.at(SCORE)
            limits += self._risk_limits(level, score) if path == SCORE else []
        return limits

    def _among(self, value: Scalar | SetValue, shape: Shape) -> Term:
        """That it is one of the values that the tool's schema lists, or a set of them."""
        allowed = sorted(shape.allowed or (), key=repr)
        fitting = [
            self._literal(item, value.element if isinstance(value, SetValue) else value.type) for item in allowed
        ]
        if isinstance(value, SetValue):
            return self.operators.contains_all(self.operators.literal_set(fitting), value)
        return self.terms.any(*(self.operators.equal(value, item) for item in fitting))

    def _literal(self, item: object, type: str) -> Scalar:
        match item:
            case bool():
                return Scalar("Bool", self.terms.boolean(item))
            case str():
                return Scalar("String", self.terms.text(item))
        assert isinstance(item, int | float)
        return Scalar(type, self.terms.number(int(Decimal(str(item)) * (10_000 if type == "decimal" else 1))))

    def _risk_limits(self, level: Value | None, score: Value | None) -> list[Term]:
        terms = self.terms
        if not isinstance(level, Scalar) or not isinstance(score, Scalar):
            return []
        ways = (
            terms.all(terms.equal(level.term, terms.text(name)), terms.within(score.term, *scores))
            for name, scores in LEVELS.items()
        )
        return [terms.any(*ways)]

    def _time_limits(self, path: Path, value: Scalar) -> list[Term]:
        terms = self.terms
        if path[-1] == "weekday":
            return [terms.any(*(terms.equal(value.term, terms.text(day)) for day in WEEKDAYS))]
        if value.type != "datetime":
            return []
        unit, first, last = (DAY, -1, LAST_SECOND * 1000 // DAY) if path[-1] == "date" else (1000, 0, LAST_SECOND)
        count = terms.unknown(f"units of {_name(path)}", terms.sorts["Long"])
        return [terms.within(count, first, last), terms.multiple(value.term, count, unit)]


def _name(path: Path) -> str:
    """INVARIANT: another one for each path; names of arguments may contain any character."""
    return repr(path)


def _shape_at(shape: Shape | None, names: Path) -> Shape | None:
    """The shape of what policies see at this path of the arguments."""
    for name in names:
        while shape is not None and shape.kind is ValueKind.SET:
            shape = shape.element
        if shape is None:
            return None
        by_attribute: Mapping[str, Shape] = (
            {TAGS[option.kind]: option for option in shape.options}
            if shape.kind is ValueKind.UNION
            else {attribute(own): inner for own, inner in shape.fields.items()}
        )
        shape = by_attribute.get(name)
    while shape is not None and shape.kind is ValueKind.SET:
        shape = shape.element
    return shape
