"""The outcome rule: how two Cedar evaluations become allow, deny or require_approval.

Let F be all policies and H be F without the gates, that is, the `forbid`s annotated `@require_approval`. Reading the
annotation off a single evaluation would be unsound: it would overlook a hard `forbid` or a failing policy beside the
gate. So F determines whether the call is allowed, and H whether approval would be enough.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mcp_guard.core.model import AdvisoryDecision, Decision, Outcome


class Evaluation(NamedTuple):
    """One Cedar evaluation: allowed or not, the determining policies' ids, and evaluation errors."""

    allowed: bool
    determining: tuple[str, ...]
    errors: tuple[str, ...] = ()


class PolicyOutcome(NamedTuple):
    """The outcome with the policies that determined it."""

    outcome: Outcome
    policies: tuple[str, ...]
    routes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


def apply_outcome_rule(
    full: Evaluation, without_gates: Callable[[], Evaluation], gates: Mapping[str, tuple[str, ...]]
) -> PolicyOutcome:
    """Apply the outcome rule.

    `full` is the evaluation of F; `without_gates` evaluates H and is called only if needed; `gates` maps the id of each
    gate to its routes. INVARIANT: an evaluation error on either side denies.
    """
    if full.errors:
        return PolicyOutcome(Outcome.DENY, full.determining, errors=full.errors)
    if full.allowed:
        return PolicyOutcome(Outcome.ALLOW, full.determining)
    if not full.determining or any(policy not in gates for policy in full.determining):
        hard = tuple(policy for policy in full.determining if policy not in gates)
        return PolicyOutcome(Outcome.DENY, hard)
    ungated = without_gates()
    if ungated.errors or not ungated.allowed:
        return PolicyOutcome(Outcome.DENY, ungated.determining or full.determining, errors=ungated.errors)
    routes = sorted({route for policy in full.determining for route in gates[policy]})
    return PolicyOutcome(Outcome.REQUIRE_APPROVAL, full.determining, tuple(routes))


def as_advisory(decision: Decision) -> AdvisoryDecision:
    """The same decision as one without effect."""
    return AdvisoryDecision(
        decision.outcome,
        decision.policy_version,
        decision.policies,
        decision.reasons or decision.errors,
        decision.routes,
    )


def is_more_permissive(would: PolicyOutcome, was: PolicyOutcome) -> bool:
    """Whether some set of approvals lets the call happen under `would` but not under `was`."""
    if would.outcome is Outcome.DENY or was.outcome is Outcome.ALLOW:
        return False
    if would.outcome is Outcome.ALLOW or was.outcome is Outcome.DENY:
        return True
    return not set(would.routes) >= set(was.routes)
