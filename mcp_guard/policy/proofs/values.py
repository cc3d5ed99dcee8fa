"""Cedar values with unknown parts, and what the operators of Cedar make of them.

Longs, decimals (in ten-thousandths), times and durations (in milliseconds) are integers; that they fit into 64 bits is
part of each operation. Records are taken apart, so that only their members are terms.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from cvc5 import Kind

from mcp_guard.core.model import Json
from mcp_guard.policy.proofs.terms import Term, Terms, Unencodable

LEAST, MOST = -(2**63), 2**63 - 1
"""The range of 64-bit integers."""
EXTENSIONS = ("decimal", "datetime", "duration")


@dataclass(frozen=True, slots=True)
class Scalar:
    """`type` is `Bool`, `Long`, `String`, or an extension type."""

    type: str
    term: Term


@dataclass(frozen=True, slots=True)
class SetValue:
    """`items` are the elements, if it was written as a literal; `term` is None if these are entities."""

    element: str
    term: Term | None
    items: "tuple[Value, ...] | None" = None


@dataclass(frozen=True, slots=True)
class EntityValue:
    """`name` is the id if it is known."""

    type: str
    id: Term
    name: str | None = None


class RecordMember(NamedTuple):
    """A member of a record, which may be absent."""

    present: Term
    value: "Value"


@dataclass(frozen=True, slots=True)
class Record:
    """`member` returns None for a name that the record's type does not have."""

    names: frozenset[str]
    member: Callable[[str], RecordMember | None]


Value: TypeAlias = Scalar | SetValue | EntityValue | Record


def type_name(type: Json) -> str:
    """The name of a scalar type in a schema's JSON form. Raises: Unencodable."""
    name = str(type.get("name") if type["type"] in ("Extension", "EntityOrCommon") else type["type"]).removeprefix(
        "__cedar::"
    )
    name = {"Boolean": "Bool"}.get(name, name)
    if name not in ("Bool", "Long", "String", *EXTENSIONS):
        raise Unencodable(f"values of the type {name} have no counterpart in the solver")
    return name


class Operators:
    """What operators of Cedar give, on values whose types the validator has accepted."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms

    def overflows(self, value: Term) -> Term:
        return self.terms.negate(self.terms.within(value, LEAST, MOST))

    def equal(self, one: Value, other: Value) -> Term:
        terms = self.terms
        match one, other:
            case Scalar(), Scalar() if one.type == other.type:
                return terms.equal(one.term, other.term)
            case EntityValue(), EntityValue() if one.type == other.type:
                return terms.equal(one.id, other.id)
            case SetValue(), SetValue() if one.term is not None and other.term is not None:
                return terms.equal(one.term, other.term) if one.element == other.element else terms.false
            case Record(), Record():
                return terms.all(*(self._equal_members(one, other, name) for name in sorted(one.names | other.names)))
            case SetValue(), SetValue():
                raise Unencodable("sets of entities are not compared")
        return terms.false

    def _equal_members(self, one: Record, other: Record, name: str) -> Term:
        first, second = one.member(name), other.member(name)
        if first is None or second is None:
            return self.terms.negate((first or second or RecordMember(self.terms.false, one)).present)
        both = self.terms.all(first.present, second.present, self.equal(first.value, second.value))
        return self.terms.any(both, self.terms.negate(self.terms.any(first.present, second.present)))

    def choose(self, condition: Term, then: Value, otherwise: Value) -> Value:
        """Raises: Unencodable."""
        terms = self.terms
        if condition in (terms.true, terms.false):
            return then if condition == terms.true else otherwise
        match then, otherwise:
            case Scalar(), Scalar() if then.type == otherwise.type:
                return Scalar(then.type, terms.choose(condition, then.term, otherwise.term))
            case EntityValue(), EntityValue() if then.type == otherwise.type:
                name = then.name if then.name == otherwise.name else None
                return EntityValue(then.type, terms.choose(condition, then.id, otherwise.id), name)
            case SetValue(), SetValue() if then.element == otherwise.element and then.term is not None:
                return SetValue(then.element, terms.choose(condition, then.term, otherwise.term))
            case Record(), Record():
                names = then.names | otherwise.names
                return Record(names, lambda name: self._choose_member(condition, then, otherwise, name))
        raise Unencodable("a conditional chooses between values of different types")

    def _choose_member(self, condition: Term, then: Record, otherwise: Record, name: str) -> RecordMember | None:
        first, second = then.member(name), otherwise.member(name)
        if first is None or second is None:
            only = first or second
            side = condition if first else self.terms.negate(condition)
            return None if only is None else RecordMember(self.terms.all(side, only.present), only.value)
        present = self.terms.choose(condition, first.present, second.present)
        return RecordMember(present, self.choose(condition, first.value, second.value))

    # Sets

    def literal_set(self, items: Iterable[Value]) -> SetValue:
        """Raises: Unencodable."""
        items = tuple(items)
        first = items[0] if items else None
        if isinstance(first, EntityValue):
            return SetValue("Entity", None, items)
        if isinstance(first, Scalar):
            scalars = [item for item in items if isinstance(item, Scalar) and item.type == first.type]
            if len(scalars) == len(items):
                elements = [scalar.term for scalar in scalars]
                return SetValue(first.type, self.terms.set(self.terms.sorts[first.type], elements), items)
        raise Unencodable("a set of this kind has no counterpart in the solver")

    def contains(self, whole: SetValue, element: Value) -> Term:
        if whole.items is not None:
            return self.terms.any(*(self.equal(item, element) for item in whole.items))
        if not isinstance(element, Scalar) or element.type != whole.element:
            return self.terms.false
        return self.terms.make(Kind.SET_MEMBER, element.term, whole.term)

    def contains_all(self, whole: SetValue, part: SetValue) -> Term:
        if part.items is not None:
            return self.terms.all(*(self.contains(whole, item) for item in part.items))
        return self.terms.make(Kind.SET_SUBSET, part.term, self._solver_set(whole))

    def contains_any(self, one: SetValue, other: SetValue) -> Term:
        for known, opposite in ((one, other), (other, one)):
            if known.items is not None:
                return self.terms.any(*(self.contains(opposite, item) for item in known.items))
        common = self.terms.make(Kind.SET_INTER, self._solver_set(one), self._solver_set(other))
        return self.terms.negate(self.terms.make(Kind.SET_IS_EMPTY, common))

    def is_empty(self, whole: SetValue) -> Term:
        if whole.items is not None:
            return self.terms.boolean(not whole.items)
        return self.terms.make(Kind.SET_IS_EMPTY, self._solver_set(whole))

    def _solver_set(self, whole: SetValue) -> Term:
        if whole.term is None:
            raise Unencodable("sets of entities are not compared")
        return whole.term
