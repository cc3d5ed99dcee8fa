"""Translates expressions of Cedar's JSON form into terms: the value, and whether evaluating it fails.

Follows Cedar's evaluator (https://docs.cedarpolicy.com/policies/syntax-operators.html): `&&`, `||` and `if` skip what
they do not need, integers have 64 bits, and reading an absent attribute fails. An expression without an exact
counterpart stands for any value and any failure: proofs stay sound, and some are not found; `inexact` says why.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from cvc5 import Kind

from mcp_guard.core.model import Json
from mcp_guard.policy.cedar_text import expression
from mcp_guard.policy.proofs.terms import Term, Unencodable
from mcp_guard.policy.proofs.times import UNITS, read_literal
from mcp_guard.policy.proofs.unknown_request import DAY, UnknownRequest
from mcp_guard.policy.proofs.values import EXTENSIONS, EntityValue, Record, RecordMember, Scalar, SetValue, Value
from mcp_guard.policy.schema import PRINCIPAL

COMPARISONS = {
    "<": Kind.LT, "<=": Kind.LEQ, ">": Kind.GT, ">=": Kind.GEQ, "lessThan": Kind.LT, "lessThanOrEqual": Kind.LEQ,
    "greaterThan": Kind.GT, "greaterThanOrEqual": Kind.GEQ,
}  # fmt: skip
ARITHMETIC = {"+": Kind.ADD, "-": Kind.SUB, "*": Kind.MULT}
SET_OPERATORS = ("contains", "containsAll", "containsAny")


class AlwaysFails(Exception):
    """Evaluating an expression fails for every request: it reads an attribute that its type does not have."""


class Result(NamedTuple):
    """The value of an expression, if evaluating it does not fail."""

    value: Value
    fails: Term


class Condition(NamedTuple):
    """Whether a condition holds, and whether evaluating it fails; never both."""

    holds: Term
    fails: Term


class Expressions:
    """Translates the expressions of policies for one request. `groups` are those of each action, itself included."""

    def __init__(self, request: UnknownRequest, groups: Mapping[str, frozenset[str]]) -> None:
        self._request = request
        self._terms, self._operators = request.terms, request.operators
        self._groups = groups
        self._forms: Mapping[str, Callable[[Any], Result]] = {
            "Value": self._literal,
            "Var": self._variable,
            ".": self._get,
            "has": self._has,
            "hasTag": self._has_tag,
            "getTag": self._get_tag,
            "&&": self._and,
            "||": self._or,
            "!": self._not,
            "neg": self._negative,
            "if-then-else": self._if,
            "==": self._equal,
            "!=": self._unequal,
            "like": self._like,
            "is": self._is,
            "in": self._in,
            "isEmpty": self._is_empty,
            "Set": self._set,
            "Record": self._record,
        }
        self._methods: Mapping[str, Callable[..., Result]] = {
            "offset": self._offset,
            "durationSince": self._duration_since,
            "toDate": self._to_date,
            "toTime": self._to_time,
            **{f"to{name}": partial(self._in_units, unit) for name, unit in UNITS.items()},
        }
        self.inexact: dict[str, str] = {}
        """The reasons why expressions were not translated, by the expression."""

    def condition(self, node: Json) -> Condition:
        """A condition, exactly if that is possible."""
        try:
            value, fails = self._evaluate(node)
            holds = self._scalar(value, "Bool")
        except AlwaysFails:
            return Condition(self._terms.false, self._terms.true)
        except Unencodable as error:
            return self._anything(node, str(error))
        return Condition(self._terms.all(holds, self._terms.negate(fails)), fails)

    def _anything(self, node: Json, why: str) -> Condition:
        """The same unknowns wherever the expression occurs: its value is the same for the same request."""
        self.inexact[expression(node)] = why
        text, boolean = json.dumps(node, sort_keys=True), self._terms.sorts["Bool"]
        fails = self._terms.unknown(f"fails {text}", boolean)
        return Condition(self._terms.all(self._terms.unknown(text, boolean), self._terms.negate(fails)), fails)

    def matches_scope(self, part: Json, variable: str) -> Term:
        """Whether the principal, action or resource is in this part of a policy's scope."""
        value, op = self._request.variable(variable), part["op"]
        assert isinstance(value, EntityValue)
        entities = [self._literal_entity(entity) for entity in part.get("entities", [part.get("entity")]) if entity]
        match op:
            case "All":
                return self._terms.true
            case "==":
                return self._operators.equal(value, entities[0])
            case "in":
                return self._terms.any(*(self._is_in(value, entity) for entity in entities))
        inside = [self._is_in(value, self._literal_entity(part["in"]["entity"]))] if "in" in part else []
        return self._terms.all(self._terms.boolean(value.type == part["entity_type"]), *inside)

    # Expressions

    def _evaluate(self, node: Json) -> Result:
        """Raises: Unencodable, AlwaysFails."""
        ((op, inner),) = node.items()
        if op in self._forms:
            return self._forms[op](inner)
        if op in COMPARISONS:
            return self._compared(COMPARISONS[op], *self._operands(inner))
        if op in ARITHMETIC:
            return self._computed(ARITHMETIC[op], *self._operands(inner))
        if op in SET_OPERATORS:
            return self._in_set(op, *self._operands(inner))
        if op in EXTENSIONS:
            return self._constructed(op, inner)
        if op in self._methods:
            return self._methods[op](*(self._evaluate(operand) for operand in inner))
        raise Unencodable(f"`{op}` has no counterpart in the solver")

    def _operands(self, inner: Any) -> list[Result]:
        operands = inner if isinstance(inner, list) else [inner["left"], inner["right"]]
        return [self._evaluate(operand) for operand in operands]

    def _scalar(self, value: Value, *types: str) -> Term:
        if not isinstance(value, Scalar) or value.type not in types:
            raise Unencodable("an operand has another type than its operator takes")
        return value.term

    def _boolean(self, term: Term, *results: Result) -> Result:
        return Result(Scalar("Bool", term), self._terms.any(*(result.fails for result in results)))

    def _checked(self, type: str, term: Term, *results: Result) -> Result:
        """A number, or a failure if it does not fit into 64 bits."""
        fails = (result.fails for result in results)
        return Result(Scalar(type, term), self._terms.any(*fails, self._operators.overflows(term)))

    def _literal_entity(self, entity: Json) -> EntityValue:
        return EntityValue(entity["type"], self._terms.text(entity["id"]), entity["id"])

    def _literal(self, value: Any) -> Result:
        none = self._terms.false
        match value:
            case bool():
                return Result(Scalar("Bool", self._terms.boolean(value)), none)
            case int():
                return Result(Scalar("Long", self._terms.number(value)), none)
            case str():
                return Result(Scalar("String", self._terms.text(value)), none)
            case {"__entity": entity}:
                return Result(self._literal_entity(entity), none)
            case {"__extn": {"fn": str(type), "arg": str(text)}}:
                return Result(Scalar(type, self._terms.number(read_literal(type, text))), none)
        raise Unencodable("a literal of this kind has no counterpart in the solver")

    def _constructed(self, type: str, inner: Any) -> Result:
        if not isinstance(text := inner[0].get("Value"), str):
            raise Unencodable(f"`{type}` of something that is no literal has no counterpart in the solver")
        return Result(Scalar(type, self._terms.number(read_literal(type, text))), self._terms.false)

    def _and(self, inner: Any) -> Result:
        return self._skipping(inner, self._terms.all, lambda left: left)

    def _or(self, inner: Any) -> Result:
        return self._skipping(inner, self._terms.any, self._terms.negate)

    def _skipping(self, inner: Any, join: Callable[..., Term], goes_on: Callable[[Term], Term]) -> Result:
        """`&&` or `||`. A part that cannot be translated is any condition, so that the other keeps its meaning."""
        left, right = (self.condition(inner[side]) for side in ("left", "right"))
        fails = self._terms.any(
            left.fails, self._terms.all(goes_on(left.holds), self._terms.negate(left.fails), right.fails)
        )
        return Result(Scalar("Bool", join(left.holds, right.holds)), fails)

    def _not(self, inner: Any) -> Result:
        part = self.condition(inner["arg"])
        return Result(Scalar("Bool", self._terms.negate(part.holds)), part.fails)

    def _if(self, inner: Any) -> Result:
        condition = self.condition(inner["if"])
        then, otherwise = self._branch(inner["then"]), self._branch(inner["else"])
        if then is None or otherwise is None:
            if (only := then or otherwise) is None:
                raise AlwaysFails
            goes_wrong = condition.holds if then is None else self._terms.negate(condition.holds)
            return Result(only.value, self._terms.any(condition.fails, goes_wrong, only.fails))
        fails = self._terms.any(condition.fails, self._terms.choose(condition.holds, then.fails, otherwise.fails))
        return Result(self._operators.choose(condition.holds, then.value, otherwise.value), fails)

    def _branch(self, node: Json) -> Result | None:
        try:
            return self._evaluate(node)
        except AlwaysFails:
            return None

    def _variable(self, inner: Any) -> Result:
        return Result(self._request.variable(inner), self._terms.false)

    def _member(self, left: Result, name: str) -> RecordMember | None:
        """Raises: Unencodable for an attribute of an entity other than the request's."""
        match left.value:
            case Record():
                return left.value.member(name)
            case EntityValue() if left.value == self._request.principal:
                return self._request.entity_member("principal", name)
            case EntityValue() if left.value == self._request.resource:
                return self._request.entity_member("resource", name)
        raise Unencodable("only the attributes of the request's own principal and resource are known")

    def _get(self, inner: Any) -> Result:
        left = self._evaluate(inner["left"])
        member = self._member(left, inner["attr"])
        if member is None:
            raise AlwaysFails
        return Result(member.value, self._terms.any(left.fails, self._terms.negate(member.present)))

    def _has(self, inner: Any) -> Result:
        left = self._evaluate(inner["left"])
        member = self._member(left, inner["attr"])
        return self._boolean(self._terms.false if member is None else member.present, left)

    def _tag(self, inner: Any) -> tuple[Result, RecordMember | None]:
        left, key = self._evaluate(inner["left"]), inner["right"].get("Value")
        if left.value != self._request.resource or not isinstance(key, str):
            raise Unencodable("only the tags of the request's own resource with a literal name are known")
        return left, self._request.tag(key) if self._request.has_tags() else None

    def _has_tag(self, inner: Any) -> Result:
        left, tag = self._tag(inner)
        return self._boolean(self._terms.false if tag is None else tag.present, left)

    def _get_tag(self, inner: Any) -> Result:
        left, tag = self._tag(inner)
        if tag is None:
            raise Unencodable("the resource has no tags")
        return Result(tag.value, self._terms.any(left.fails, self._terms.negate(tag.present)))

    def _equal(self, inner: Any) -> Result:
        left, right = self._operands(inner)
        return self._boolean(self._operators.equal(left.value, right.value), left, right)

    def _unequal(self, inner: Any) -> Result:
        left, right = self._operands(inner)
        return self._boolean(self._terms.negate(self._operators.equal(left.value, right.value)), left, right)

    def _compared(self, kind: Kind, left: Result, right: Result) -> Result:
        types = ("Long", *EXTENSIONS)
        term = self._terms.make(kind, self._scalar(left.value, *types), self._scalar(right.value, *types))
        return self._boolean(term, left, right)

    def _computed(self, kind: Kind, left: Result, right: Result) -> Result:
        term = self._terms.make(kind, self._scalar(left.value, "Long"), self._scalar(right.value, "Long"))
        return self._checked("Long", term, left, right)

    def _negative(self, inner: Any) -> Result:
        operand = self._evaluate(inner["arg"])
        return self._checked("Long", self._terms.make(Kind.NEG, self._scalar(operand.value, "Long")), operand)

    def _like(self, inner: Any) -> Result:
        left = self._evaluate(inner["left"])
        parts = (None if part == "Wildcard" else part["Literal"] for part in inner["pattern"])
        pattern: list[str | None] = []
        for is_wild, run in groupby(parts, key=lambda part: part is None):
            pattern.append(None if is_wild else "".join(part or "" for part in run))
        return self._boolean(self._terms.fits(self._scalar(left.value, "String"), pattern), left)

    def _set(self, inner: Any) -> Result:
        items = [self._evaluate(item) for item in inner]
        whole = self._operators.literal_set(item.value for item in items)
        return Result(whole, self._terms.any(*(item.fails for item in items)))

    def _record(self, inner: Any) -> Result:
        members = {name: self._evaluate(value) for name, value in inner.items()}
        known = {name: RecordMember(self._terms.true, result.value) for name, result in members.items()}
        return Result(Record(frozenset(known), known.get), self._terms.any(*(each.fails for each in members.values())))

    def _in_set(self, op: str, left: Result, right: Result) -> Result:
        if not isinstance(left.value, SetValue):
            raise Unencodable(f"`{op}` of something that is no set")
        if op == "contains":
            return self._boolean(self._operators.contains(left.value, right.value), left, right)
        if not isinstance(right.value, SetValue):
            raise Unencodable(f"`{op}` of something that is no set")
        compare = self._operators.contains_all if op == "containsAll" else self._operators.contains_any
        return self._boolean(compare(left.value, right.value), left, right)

    def _is_empty(self, inner: Any) -> Result:
        operand = self._evaluate(inner["arg"])
        if not isinstance(operand.value, SetValue):
            raise Unencodable("`isEmpty` of something that is no set")
        return self._boolean(self._operators.is_empty(operand.value), operand)

    # Entities

    def _is(self, inner: Any) -> Result:
        left = self._evaluate(inner["left"])
        if not isinstance(left.value, EntityValue):
            raise Unencodable("`is` of something that is no entity")
        matches = left.value.type == inner["entity_type"]
        if not matches or "in" not in inner:
            return self._boolean(self._terms.boolean(matches), left)
        return self._inside(left, self._evaluate(inner["in"]))

    def _in(self, inner: Any) -> Result:
        return self._inside(*self._operands(inner))

    def _inside(self, left: Result, right: Result) -> Result:
        whole = right.value
        groups = (whole.items or ()) if isinstance(whole, SetValue) else (whole,)
        if not isinstance(left.value, EntityValue):
            raise Unencodable("`in` of something that is no entity")
        parts = []
        for group in groups:
            if not isinstance(group, EntityValue):
                raise Unencodable("`in` something that is no entity")
            parts.append(self._is_in(left.value, group))
        return self._boolean(self._terms.any(*parts), left, right)

    def _is_in(self, one: EntityValue, group: EntityValue) -> Term:
        """Whether an entity is another one or below it: the request knows its principal, its agent and its action."""
        terms, request = self._terms, self._request
        if one.type == group.type == "Action":
            if one.name is None or group.name is None:
                raise Unencodable("an action that a conditional chooses is in unknown groups")
            return terms.boolean(group.name in self._groups.get(one.name, {one.name}))
        same = self._operators.equal(one, group)
        agent_is_in = {
            "Agent": terms.equal(request.agent.id, group.id),
            "Group": self._operators.contains(request.groups, Scalar("String", group.id)),
        }.get(group.type, terms.false)
        if one.type == PRINCIPAL:
            return terms.any(same, terms.all(terms.equal(one.id, request.principal.id), agent_is_in))
        if one.type == "Agent" and group.type == "Group":
            return terms.all(terms.equal(one.id, request.agent.id), agent_is_in)
        return same

    # Times

    def _offset(self, at: Result, by: Result) -> Result:
        term = self._terms.make(Kind.ADD, self._scalar(at.value, "datetime"), self._scalar(by.value, "duration"))
        return self._checked("datetime", term, at, by)

    def _duration_since(self, at: Result, since: Result) -> Result:
        term = self._terms.make(Kind.SUB, self._scalar(at.value, "datetime"), self._scalar(since.value, "datetime"))
        return self._checked("duration", term, at, since)

    def _to_date(self, at: Result) -> Result:
        value = self._scalar(at.value, "datetime")
        rest = self._terms.make(Kind.INTS_MODULUS, value, self._terms.number(DAY))
        return self._checked("datetime", self._terms.make(Kind.SUB, value, rest), at)

    def _to_time(self, at: Result) -> Result:
        value = self._terms.make(Kind.INTS_MODULUS, self._scalar(at.value, "datetime"), self._terms.number(DAY))
        return Result(Scalar("duration", value), at.fails)

    def _in_units(self, unit: int, operand: Result) -> Result:
        """Cedar rounds towards zero."""
        terms, value = self._terms, self._scalar(operand.value, "duration")
        per = terms.number(unit)
        downward = terms.make(Kind.INTS_DIVISION, value, per)
        upward = terms.make(Kind.NEG, terms.make(Kind.INTS_DIVISION, terms.make(Kind.NEG, value), per))
        negative = terms.make(Kind.LT, value, terms.number(0))
        return Result(Scalar("Long", terms.choose(negative, upward, downward)), operand.fails)
