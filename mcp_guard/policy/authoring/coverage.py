"""Which policies anything reaches: a case, a decision of the ledger, or nothing. Pure but for what it is given."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mcp_guard.policy.authoring.cases import CaseResult
from mcp_guard.policy.authoring.recorded import RecordedDecision
from mcp_guard.policy.authoring.replay import FindVersion
from mcp_guard.policy.ruleset import evaluate
from mcp_guard.policy.source import Policy


@dataclass(slots=True)
class PolicyCoverage:
    """How often one policy determined something, and how often a decision of the ledger was about it at all."""

    cases: int = 0
    decisions: int = 0
    about: int = 0


class Coverage:
    """Counts for each policy, added up."""

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        self.policies = {id: PolicyCoverage() for id in policies}
        self._texts = policies

    def add_cases(self, results: Iterable[CaseResult]) -> None:
        for result in results:
            for id in result.decision.policies if result.decision else ():
                self.policies[id].cases += 1

    def add_decisions(self, decisions: Iterable[RecordedDecision], versions: FindVersion) -> None:
        """Decisions are run again under these policies, so that old receipts speak of them as they are now."""
        for past in decisions:
            version = versions(past.receipt["policy_version"])
            if past.material is None or version is None:
                continue
            candidate = version.under(self._texts)
            posed = candidate.build_request(past.material)
            part = candidate.rules.slice(posed.request["action"]["id"], posed.principal)
            for id in part.ids:
                self.policies[id].about += 1
            for id in evaluate(posed.request, part.full, posed.entities).determining:
                self.policies[id].decisions += 1
