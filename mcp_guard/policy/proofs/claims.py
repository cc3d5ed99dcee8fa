"""Claims about sets of policies: what would be an exception, for the solver and for one request that Cedar decides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mcp_guard.core.decision import PolicyOutcome, is_more_permissive
from mcp_guard.core.model import Outcome
from mcp_guard.policy.proofs.decisions import Decisions, DecisionTerms
from mcp_guard.policy.proofs.terms import Term, Terms
from mcp_guard.policy.source import Policy

Policies = Mapping[str, Policy]


class Trial(Protocol):
    """One request that the guard's own decision function and Cedar can be asked about."""

    def decide(self, policies: Policies) -> PolicyOutcome: ...

    def matches(self, policy: Policy) -> bool:
        """Whether scope and conditions hold."""
        ...


class Claim(Protocol):
    """`policies` are those that it is about, and `other` those that they are compared with."""

    @property
    def policies(self) -> Policies: ...

    @property
    def other(self) -> Policies | None: ...

    def exception(self, terms: Terms, decisions: Decisions) -> Term:
        """What no request may fulfil if the claim is true."""
        ...

    def is_exception(self, trial: Trial) -> bool: ...


@dataclass(frozen=True, slots=True)
class NeverMorePermissive:
    """No set of approvals lets a call happen under `policies` and not under `other`, unless `apart` matches it."""

    policies: Policies
    other: Policies
    apart: Policy | None = None

    def exception(self, terms: Terms, decisions: Decisions) -> Term:
        new, old = decisions.decide(self.policies.values()), decisions.decide(self.other.values())
        spared = (
            terms.all(needed, terms.negate(new.routes.get(route, terms.false))) for route, needed in old.routes.items()
        )
        apart = decisions.holds(self.apart) if self.apart else terms.false
        more = terms.any(*(terms.all(new.lets, looser) for looser in (terms.negate(old.lets), *spared)))
        return terms.all(more, terms.negate(apart))

    def is_exception(self, trial: Trial) -> bool:
        is_apart = self.apart is not None and trial.matches(self.apart)
        return not is_apart and is_more_permissive(trial.decide(self.policies), trial.decide(self.other))


@dataclass(frozen=True, slots=True)
class Never:
    """No call that `when` matches ever happens, or with `route`, none without approval by that route."""

    policies: Policies
    when: Policy
    route: str | None = None
    other: None = None

    def exception(self, terms: Terms, decisions: Decisions) -> Term:
        when = decisions.holds(self.when)
        if when == terms.false:
            return when
        decision: DecisionTerms = decisions.decide(self.policies.values())
        approved = terms.false if self.route is None else decision.routes.get(self.route, terms.false)
        return terms.all(when, decision.lets, terms.negate(approved))

    def is_exception(self, trial: Trial) -> bool:
        outcome = trial.decide(self.policies)
        return outcome.outcome is not Outcome.DENY and self.route not in outcome.routes and trial.matches(self.when)
