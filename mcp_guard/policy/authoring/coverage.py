"""Counts which policies are reached by cases and by decisions in the ledger.

A policy is reached if it determined the decision. If the decision was to hold the call, the permits behind the gate are
reached as well: without them the call would have been denied, and approval would not have been enough.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mcp_guard.core.model import Outcome
from mcp_guard.policy.authoring.cases import CaseResult
from mcp_guard.policy.authoring.recorded import PolicyVersion, RecordedDecision
from mcp_guard.policy.authoring.replay import FindVersion
from mcp_guard.policy.engine import PolicyEngine
from mcp_guard.policy.ruleset import evaluate
from mcp_guard.policy.source import Policy


def reached_by_cases(engine: PolicyEngine, results: Iterable[CaseResult]) -> Iterator[frozenset[str]]:
    """The ids of the policies that each case reaches."""
    ungated = {id: policy for id, policy in engine.rules.policies.items() if not policy.routes}
    without_gates = PolicyVersion("without gates", ungated, engine.schema())
    for result in results:
        decision = result.decision
        ids = frozenset(decision.policies if decision else ())
        if decision and decision.outcome is Outcome.REQUIRE_APPROVAL and decision.material:
            request = without_gates.build_request(json.loads(decision.material))
            ids |= frozenset(without_gates.decide(request).policies)
        yield ids


@dataclass(slots=True)
class PolicyCoverage:
    """How many cases and recorded decisions reached one policy, and how often its scope matched one (`about`)."""

    cases: int = 0
    decisions: int = 0
    about: int = 0


class Coverage:
    """The coverage of each policy of a set."""

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        self.policies = {id: PolicyCoverage() for id in policies}
        self._policies = policies

    def add_cases(self, engine: PolicyEngine, results: Iterable[CaseResult]) -> None:
        for ids in reached_by_cases(engine, results):
            for id in ids:
                self.policies[id].cases += 1

    def add_decisions(self, decisions: Iterable[RecordedDecision], versions: FindVersion) -> None:
        """Replay the decisions under these policies, so that old receipts count for the policies as they are now."""
        for decision in decisions:
            version = versions(decision.receipt["policy_version"])
            if decision.material is None or version is None:
                continue
            candidate = version.under(self._policies)
            request = candidate.build_request(decision.material)
            policy_slice = candidate.rules.slice(request.request["action"]["id"], request.principal)
            for id in policy_slice.ids:
                self.policies[id].about += 1
            reached = set(evaluate(request.request, policy_slice.full, request.entities).determining)
            if reached and reached <= candidate.rules.gates.keys():
                reached.update(evaluate(request.request, policy_slice.ungated, request.entities).determining)
            for id in reached:
                self.policies[id].decisions += 1
