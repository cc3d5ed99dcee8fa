"""The guard's decision on one unknown request, as terms: Cedar's evaluation of each policy and the outcome rule.

INVARIANT: whatever some request can make of the policies, some values of the unknowns make of the terms. So what the
terms cannot do, no request can.

Beside Cedar's evaluation, a `forbid` that depends on a value which the call hides denies the call, and such a `permit`
permits nothing (`policy/blind_spots.py`). Whether a policy depends on a hidden argument is an unknown of its own: the
same for policies that read the same in the same way.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson

from mcp_guard.core.canonical import escape_token
from mcp_guard.policy.blind_spots import DELTA, FACTS, HIDDEN, INPUT, PolicyReads, Read, read_policy
from mcp_guard.policy.cedar_text import Path
from mcp_guard.policy.proofs.expressions import Condition, Expressions
from mcp_guard.policy.proofs.terms import Term
from mcp_guard.policy.proofs.unknown_request import INEXACT, UnknownRequest
from mcp_guard.policy.proofs.values import Record, Scalar, SetValue
from mcp_guard.policy.reads import Hidden
from mcp_guard.policy.schema import CHANGED_FIELDS, INPUT_NULL, name_of
from mcp_guard.policy.shapes import TAGS
from mcp_guard.policy.source import Policy

TYPES = frozenset(TAGS.values())
"""The attributes of a value that may have several JSON types."""


class PolicyTerms(NamedTuple):
    """One policy, where its scope can match the request. `blind`: it depends on something that the call hides."""

    policy: Policy
    holds: Term
    fails: Term
    blind: Term


@dataclass(frozen=True, slots=True)
class DecisionTerms:
    """`lets` a call happen, with approval by each route whose term holds in `routes`."""

    lets: Term
    routes: Mapping[str, Term]


WAYS = (
    *((how, listed) for how in (Hidden.UNKNOWN, Hidden.PART) for listed in (HIDDEN, HIDDEN[:1])),
    *((how, (INPUT_NULL,)) for how in (Hidden.ELEMENT, Hidden.NULL, Hidden.UNKNOWN)),
    (Hidden.UNKNOWN, ()),
)
"""In which an argument can be hidden from a policy, with where the context names it (`BlindSpots.find`)."""


class ReadPolicies:
    """What policies read. It takes longer to find out than to ask the solver, so it is kept for all tools."""

    def __init__(self) -> None:
        self._reads: dict[bytes, PolicyReads] = {}
        self._keys: dict[int, str] = {}

    def reads_of(self, policy: Policy) -> PolicyReads:
        text = orjson.dumps(policy.body)
        if text not in self._reads:
            self._reads[text] = read_policy(policy)
        return self._reads[text]

    def key(self, read: Read) -> str:
        """Equal for reads that are blind in the same calls: of the same path, in policies that take its absence alike.

        `read` is one of those that were returned.
        """
        if id(read) not in self._keys:
            hidden = [read.is_loosened(how, listed) for how, listed in WAYS]
            told = sorted((path, sorted(names)) for path, names in read.told.items())
            self._keys[id(read)] = repr((read.path, read.deep, read.never, told, hidden))
        return self._keys[id(read)]


class Decisions:
    """What sets of policies decide about one unknown request. Equal policies are translated once."""

    def __init__(self, request: UnknownRequest, groups: Mapping[str, frozenset[str]], known: ReadPolicies) -> None:
        self.request = request
        self._known = known
        self._terms = request.terms
        self._groups = groups
        self.expressions = Expressions(request, groups)
        self.blindness: set[Term] = set()
        """The unknowns that say whether a policy depends on a hidden argument."""
        self.wishes: list[Term] = []
        """What makes a counterexample one that Cedar confirms: nothing is hidden, or by its own name."""

    def decide(self, policies: Iterable[Policy]) -> DecisionTerms:
        terms, candidates = self._terms, [policy for policy in policies if self._may_match(policy)]
        alternatives = _alternatives(candidates, self._known)
        translated = [self._translate(policy, alternatives) for policy in candidates]
        seen = [(each, terms.all(each.holds, terms.negate(each.blind))) for each in translated]
        fails = terms.any(
            *(terms.all(each.fails, terms.negate(each.blind)) for each in translated),
            *(each.blind for each in translated if each.policy.body["effect"] == "forbid"),
        )
        permitted = terms.any(*(holds for each, holds in seen if each.policy.body["effect"] == "permit"))
        forbids = [(each, holds) for each, holds in seen if each.policy.body["effect"] == "forbid"]
        forbidden = terms.any(*(holds for each, holds in forbids if not each.policy.routes))
        routes = {route for each, _ in forbids for route in each.policy.routes}
        return DecisionTerms(
            terms.all(permitted, terms.negate(forbidden), terms.negate(fails)),
            {
                route: terms.any(*(holds for each, holds in forbids if route in each.policy.routes))
                for route in sorted(routes)
            },
        )

    def holds(self, policy: Policy) -> Term:
        """Whether scope and conditions of a policy hold, whatever the call hides."""
        return self.conditions(policy).holds

    def conditions(self, policy: Policy) -> Condition:
        """Whether a policy applies to the request, and whether evaluating it fails."""
        if not self._may_match(policy):
            return Condition(self._terms.false, self._terms.false)
        terms, in_scope = self._terms, self._principal(policy)
        for read in self._known.reads_of(policy).fields:
            self.request.relate_change(read.names[0])
        holds = terms.all(in_scope, self.expressions.matches_scope(policy.body["resource"], "resource"))
        fails = terms.false
        for condition in policy.body.get("conditions", ()):
            part = self.expressions.condition(condition["body"])
            is_met = part.holds
            if condition["kind"] == "unless":
                is_met = terms.negate(terms.any(part.holds, part.fails))
            fails = terms.any(fails, terms.all(holds, part.fails))
            holds = terms.all(holds, is_met)
        return Condition(holds, fails)

    def _principal(self, policy: Policy) -> Term:
        return self.expressions.matches_scope(policy.body["principal"], "principal")

    def _may_match(self, policy: Policy) -> bool:
        """Whether the action can be in the policy's scope: as the guard chooses the policies to evaluate."""
        return bool(self.expressions.matches_scope(policy.body["action"], "action") == self._terms.true)

    def _translate(self, policy: Policy, alternatives: "Alternatives") -> PolicyTerms:
        blind = self._terms.any(*self._blind_spots(policy, alternatives))
        return PolicyTerms(policy, *self.conditions(policy), self._terms.all(self._principal(policy), blind))

    # Blind spots

    def _blind_spots(self, policy: Policy, alternatives: "Alternatives") -> Iterator[Term]:
        reads = self._known.reads_of(policy)
        for read in (*reads.inputs, *reads.fields):
            yield self._argument_is_hidden(read)
        for read in reads.facts:
            yield from self._fact_is_hidden(read)
        for read in reads.deltas:
            yield self._difference_is_hidden(read)
        for path, others in alternatives.of(policy.id):
            for read in (read for read in reads.inputs if _reads_alternative(read, path)):
                if read.is_loosened(Hidden.UNKNOWN):
                    yield self._unknown_of("type", policy.id, repr((path, others)), self._known.key(read))

    def _argument_is_hidden(self, read: Read) -> Term:
        """An unknown that can only hold if the context names an argument that policies do not see.

        An argument of nearly the same name counts, too, whatever the policy makes of it.
        """
        terms, hidden = self._terms, self._unknown_of("argument", repr(read.names), self._known.key(read))
        listed = (self._set_at(path) for path in (*HIDDEN, INPUT_NULL))
        some = terms.any(*(terms.negate(self.request.operators.is_empty(names)) for names in listed if names))
        tokens = [escape_token(name_of(name)) for name in read.names]
        ways: list[Term] = []
        for end in range(1, len(tokens) + 1):
            ways += self._names_argument(read, "/".join(tokens[:end]), is_whole=end == len(tokens))
        self.request.rules += [terms.implies(way, hidden) for way in ways]
        self.wishes += [terms.negate(hidden), terms.implies(hidden, terms.any(*ways))]
        return terms.all(some, hidden)

    def _names_argument(self, read: Read, pointer: str, *, is_whole: bool) -> Iterator[Term]:
        """Ways in which the context names an argument that the read depends on, or one that it is part of."""
        unknown, inexact, null = (self._set_at(path) for path in (*HIDDEN, INPUT_NULL))
        if inexact and read.is_loosened(Hidden.UNKNOWN, HIDDEN, pointer):
            yield self._contains(inexact, pointer)
        if unknown and read.is_loosened(Hidden.UNKNOWN, HIDDEN[:1], pointer):
            is_inexact = self._contains(inexact, pointer) if inexact else self._terms.false
            yield self._terms.all(self._contains(unknown, pointer), self._terms.negate(is_inexact))
        if null and is_whole and read.is_loosened(Hidden.NULL, (INPUT_NULL,), pointer):
            yield self._contains(null, pointer)

    def _fact_is_hidden(self, read: Read) -> Iterator[Term]:
        for name, hidden, _ in FACTS:
            listed, fact = ("context", name), name_of(read.names[0])
            names = self._set_at(listed)
            if names and read.is_loosened(hidden, (listed,), fact):
                yield self._contains(names, fact)

    def _difference_is_hidden(self, read: Read) -> Term:
        """That an argument changes, or has no exact value, and its difference is not known."""
        terms, changed, inexact = self._terms, self._set_at(CHANGED_FIELDS), self._set_at(INEXACT)
        delta = self.request.at(DELTA)
        if not read.is_loosened(Hidden.UNKNOWN) or changed is None or not isinstance(delta, Record):
            return terms.false
        if not read.names:
            return self._some_difference_is_hidden(read, changed, delta)
        among = terms.false
        if inexact is not None:
            nested = self._unknown_of("inexact", name_of(read.names[0]))
            among = terms.all(terms.negate(self.request.operators.is_empty(inexact)), nested)
        changes = terms.any(self._contains(changed, name_of(read.names[0])), among)
        return terms.all(self._is_absent(delta, read.names[0]), changes)

    def _some_difference_is_hidden(self, read: Read, changed: SetValue, delta: Record) -> Term:
        """An unknown that holds if an argument changes that has no difference, for a read of all differences."""
        terms, hidden = self._terms, self._unknown_of("difference", "", self._known.key(read))
        arguments = self.request.at(INPUT)
        names = delta.names | (arguments.names if isinstance(arguments, Record) else frozenset())
        ways = [
            terms.all(self._is_absent(delta, name), self._contains(changed, name_of(name))) for name in sorted(names)
        ]
        self.request.rules += [terms.implies(way, hidden) for way in ways]
        self.wishes += [terms.negate(hidden), terms.implies(hidden, terms.any(*ways))]
        return hidden

    def _is_absent(self, record: Record, name: str) -> Term:
        member = record.member(name)
        return self._terms.true if member is None else self._terms.negate(member.present)

    def _unknown_of(self, *parts: str) -> Term:
        unknown = self._terms.unknown("hidden " + " ".join(parts), self._terms.sorts["Bool"])
        self.blindness.add(unknown)
        return unknown

    def _set_at(self, path: Path) -> SetValue | None:
        value = self.request.at(path)
        return value if isinstance(value, SetValue) else None

    def _contains(self, names: SetValue, name: str) -> Term:
        return self.request.operators.contains(names, Scalar("String", self._terms.text(name)))


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Which JSON types of the same argument policies look at: one that looks at none of a call's is blind to it.

    `readers` has, by the path of the argument, the id of each policy that reads one with its principals and the type.
    """

    readers: Mapping[Path, frozenset[tuple[str, str, str]]] = field(default_factory=dict)

    def of(self, policy: str) -> Iterator[tuple[Path, list[tuple[str, str, str]]]]:
        """For the arguments of which this policy reads a type: the path, and all readers, on whom it depends which of
        them counts as blind."""
        for path, readers in self.readers.items():
            if any(id == policy for id, _, _ in readers):
                yield path, sorted(readers)


def _alternatives(policies: Iterable[Policy], known: ReadPolicies) -> Alternatives:
    readers: dict[Path, set[tuple[str, str, str]]] = {}
    for policy in policies:
        reads = known.reads_of(policy)
        for read in (*reads.inputs, *reads.fields):
            for at, name in enumerate(read.names):
                if at and name in TYPES:
                    readers.setdefault(read.names[:at], set()).add((policy.id, repr(policy.body["principal"]), name))
    return Alternatives({path: frozenset(found) for path, found in readers.items()})


def _reads_alternative(read: Read, path: Path) -> bool:
    return read.names[: len(path)] == path and len(read.names) > len(path) and read.names[len(path)] in TYPES
