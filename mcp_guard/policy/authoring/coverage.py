"""Counts which policies are reached by cases and by decisions in the ledger."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mcp_guard.policy.authoring.cases import CaseResult
from mcp_guard.policy.authoring.recorded import RecordedDecision
from mcp_guard.policy.authoring.replay import FindVersion
from mcp_guard.policy.ruleset import evaluate
from mcp_guard.policy.source import Policy


@dataclass(slots=True)
class PolicyCoverage:
    """How often one policy determined a case or a recorded decision, and how often its scope matched one (`about`)."""

    cases: int = 0
    decisions: int = 0
    about: int = 0


class Coverage:
    """The coverage of each policy of a set."""

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        self.policies = {id: PolicyCoverage() for id in policies}
        self._policies = policies

    def add_cases(self, results: Iterable[CaseResult]) -> None:
        for result in results:
            for id in result.decision.policies if result.decision else ():
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
            for id in evaluate(request.request, policy_slice.full, request.entities).determining:
                self.policies[id].decisions += 1
