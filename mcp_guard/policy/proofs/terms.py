"""Terms of the solver: builds them, simplified where they are constant, and asks whether some can hold together.

The only module that imports cvc5. Texts are sequences of Unicode characters up to U+2FFFF, the solver's alphabet
(SMT-LIB, theory of strings).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cvc5
from cvc5 import Kind

Term = Any
"""A term or sort of cvc5, which has no type annotations."""
MAX_CHARACTER = 0x2FFFF


class Unencodable(Exception):
    """An expression has no exact counterpart in the solver, for the reason given."""


class Terms:
    """Builds terms. Equal terms are the same object, so that equal questions are asked once."""

    def __init__(self) -> None:
        self._manager = cvc5.TermManager()
        self._constants: dict[tuple[str, str], Term] = {}
        self.true, self.false = self._manager.mkTrue(), self._manager.mkFalse()
        self.sorts = {
            "Bool": self._manager.getBooleanSort(),
            "String": self._manager.getStringSort(),
            **dict.fromkeys(("Long", "decimal", "datetime", "duration"), self._manager.getIntegerSort()),
        }

    def solver(self, milliseconds: int) -> "cvc5.Solver":
        solver = cvc5.Solver(self._manager)
        for name, value in (("produce-models", "true"), ("produce-unsat-assumptions", "true"), ("incremental", "true")):
            solver.setOption(name, value)
        solver.setOption("tlimit-per", str(milliseconds))
        solver.setLogic("ALL")
        return solver

    def set_of(self, sort: Term) -> Term:
        return self._manager.mkSetSort(sort)

    def unknown(self, name: str, sort: Term) -> Term:
        """The unknown of this name, always the same."""
        key = name, str(sort)
        if key not in self._constants:
            self._constants[key] = self._manager.mkConst(sort, name)
        return self._constants[key]

    def boolean(self, value: bool) -> Term:
        return self.true if value else self.false

    def number(self, value: int) -> Term:
        return self._manager.mkInteger(str(value))

    def text(self, value: str) -> Term:
        """Raises: Unencodable."""
        if any(ord(character) > MAX_CHARACTER for character in value):
            raise Unencodable(f"the solver has no character as high as one in {value!r}")
        return self._manager.mkString("".join(f"\\u{{{ord(character):x}}}" for character in value), True)

    def make(self, kind: Kind, *operands: Term) -> Term:
        return self._manager.mkTerm(kind, *operands)

    def negate(self, one: Term) -> Term:
        if one in (self.true, self.false):
            return self.boolean(one == self.false)
        return one[0] if one.getKind() == Kind.NOT else self.make(Kind.NOT, one)

    def all(self, *parts: Term) -> Term:
        """The conjunction."""
        distinct = dict.fromkeys(part for part in parts if part != self.true)
        if self.false in distinct or self._contradict(distinct):
            return self.false
        return self._joined(Kind.AND, list(distinct), self.true)

    def any(self, *parts: Term) -> Term:
        """The disjunction."""
        distinct = dict.fromkeys(part for part in parts if part != self.false)
        if self.true in distinct or self._contradict(distinct):
            return self.true
        return self._joined(Kind.OR, list(distinct), self.false)

    def _contradict(self, parts: Collection[Term]) -> bool:
        """Whether one of the parts is the negation of another."""
        return any(part.getKind() == Kind.NOT and part[0] in parts for part in parts)

    def _joined(self, kind: Kind, parts: list[Term], none: Term) -> Term:
        if len(parts) < 2:
            return parts[0] if parts else none
        return self.make(kind, *parts)

    def implies(self, one: Term, other: Term) -> Term:
        return self.any(self.negate(one), other)

    def choose(self, condition: Term, then: Term, otherwise: Term) -> Term:
        if condition in (self.true, self.false) or then == otherwise:
            return then if condition == self.true or then == otherwise else otherwise
        return self.make(Kind.ITE, condition, then, otherwise)

    def equal(self, one: Term, other: Term) -> Term:
        if one == other:
            return self.true
        if all(term.isStringValue() or term.isIntegerValue() for term in (one, other)):
            return self.false
        return self.make(Kind.EQUAL, one, other)

    def within(self, value: Term, least: int, most: int) -> Term:
        return self.make(Kind.LEQ, self.number(least), value, self.number(most))

    def multiple(self, value: Term, count: Term, unit: int) -> Term:
        """That a value is so many units."""
        return self.equal(value, self.make(Kind.MULT, count, self.number(unit)))

    def fits(self, value: Term, pattern: Sequence[str | None]) -> Term:
        """Whether a text consists of these parts; None stands for any characters. Raises: Unencodable."""
        match pattern:
            case [] | [str()]:
                return self.equal(value, self.text("".join(part or "" for part in pattern)))
            case [None]:
                return self.true
            case [str(start), None]:
                return self.make(Kind.STRING_PREFIX, self.text(start), value)
            case [None, str(end)]:
                return self.make(Kind.STRING_SUFFIX, self.text(end), value)
            case [None, str(inside), None]:
                return self.make(Kind.STRING_CONTAINS, value, self.text(inside))
        anything = self._manager.mkRegexpAll()
        parts = (anything if part is None else self.make(Kind.STRING_TO_REGEXP, self.text(part)) for part in pattern)
        return self.make(Kind.STRING_IN_REGEXP, value, self.make(Kind.REGEXP_CONCAT, *parts))

    def set(self, sort: Term, elements: Iterable[Term]) -> Term:
        whole = self._manager.mkEmptySet(self.set_of(sort))
        singles = [self.make(Kind.SET_SINGLETON, element) for element in elements]
        for single in singles:
            whole = single if single is singles[0] else self.make(Kind.SET_UNION, whole, single)
        return whole


@dataclass(frozen=True, slots=True)
class SolverModel:
    """Values for all unknowns under which what was asked holds."""

    solver: "cvc5.Solver"

    def value(self, term: Term) -> Any:
        """A bool, int or str, or a set of them."""
        return _python_value(self.solver.getValue(term))


def _python_value(value: Term) -> Any:
    if value.isSetValue():
        return {_python_value(element) for element in value.getSetValue()}
    if value.isBooleanValue():
        return value.getBooleanValue()
    return value.getStringValue() if value.isStringValue() else int(value.toPythonObj())


@dataclass(frozen=True, slots=True)
class SolverAnswer:
    """`holds` is None if the solver found no answer, for the reason in `why`; a model exists if it is true."""

    holds: bool | None
    model: SolverModel | None = None
    why: str = ""


def can_hold(terms: Terms, wanted: Term, preferred: Sequence[Term], milliseconds: int) -> SolverAnswer:
    """Whether this holds for some values, which are as `preferred` says where possible, above all as it says first."""
    solver = terms.solver(milliseconds)
    solver.assertFormula(wanted)
    result = solver.checkSat()
    if not result.isSat():
        return SolverAnswer(False) if result.isUnsat() else SolverAnswer(None, why=_why(result, milliseconds))
    kept = [term for term in preferred if term != terms.true]
    while not (result := solver.checkSatAssuming(*kept) if kept else solver.checkSat()).isSat() and kept:
        if result.isUnsat():
            conflicting = set(solver.getUnsatAssumptions())
            kept.remove([term for term in kept if term in conflicting][-1])
        else:
            kept = kept[: len(kept) // 2]
    return (
        SolverAnswer(True, SolverModel(solver))
        if result.isSat()
        else SolverAnswer(None, why=_why(result, milliseconds))
    )


def _why(result: Term, milliseconds: int) -> str:
    reason = str(result.getUnknownExplanation()).rpartition(".")[2].lower()
    return (
        f"the solver found no answer within {milliseconds / 1000:g} s"
        if reason == "timeout"
        else f"the solver gave up: {reason}"
    )
