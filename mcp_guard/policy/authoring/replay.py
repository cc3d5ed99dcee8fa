"""Replays recorded decisions under other policies, and tells whether these are ever more permissive."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from mcp_guard.core.decision import PolicyOutcome, is_more_permissive
from mcp_guard.core.model import Json, Outcome
from mcp_guard.policy.authoring.recorded import PolicyVersion, RecordedDecision
from mcp_guard.policy.source import Policy

FindVersion = Callable[[str], PolicyVersion | None]
"""Finds a policy version by its hash; None if its text is not stored."""


@dataclass(frozen=True, slots=True)
class ReplayDifference:
    """One decision that would change; `looser` if it would become more permissive."""

    receipt: Json
    was: PolicyOutcome
    would: PolicyOutcome
    looser: bool


@dataclass(slots=True)
class ReplayReport:
    """The result. `matrix` counts decisions by (old outcome, new outcome), `left_out` those not replayed by reason.

    `listed` are receipts of calls refused as unknown whose tool would now be listed for that instance.
    `unlike` are receipts whose own policies, evaluated again, give another outcome than the recorded one.
    """

    matrix: Counter[tuple[Outcome, Outcome]] = field(default_factory=Counter)
    differences: list[ReplayDifference] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    listed: list[Json] = field(default_factory=list)
    unlike: list[Json] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was compared, so that it answers nothing."""
        return not (self.matrix or self.listed or self.left_out[NEVER_LISTED])

    @property
    def never_more_permissive(self) -> bool:
        """INVARIANT: true only if no replayed decision would permit more, or require fewer approvals."""
        return not self.listed and not any(difference.looser for difference in self.differences)


NOT_ASKED = "refused before policies were evaluated"
ERASED = "request erased or redacted"
NO_SHADOW = "decided without shadow policies"
NO_TEXT = "policies of the time not stored"
NEVER_LISTED = "tool listed neither then nor now"


def replay(
    decisions: Iterable[RecordedDecision], versions: FindVersion, candidate: Mapping[str, Policy]
) -> ReplayReport:
    """Evaluate each decision again, under the policies that made it and under the candidate."""
    report, candidates = ReplayReport(), _Candidates(versions, candidate)
    principals: dict[str, list[Json]] = {}
    unlisted: list[RecordedDecision] = []
    for decision in decisions:
        if decision.material is not None:
            principals.setdefault(decision.receipt["instance"], decision.material["entities"])
            _replay_decision(report, decision, versions(decision.receipt["policy_version"]), candidates)
        elif decision.unlisted:
            unlisted.append(decision)
        else:
            report.left_out[ERASED if decision.asked else NOT_ASKED] += 1
    for decision in unlisted:  # once the entities of every recorded principal are known
        _replay_listing(report, decision, candidates, principals.get(decision.receipt["instance"]))
    return report


class _Candidates:
    """The candidate policies under the schema of each version."""

    def __init__(self, versions: FindVersion, policies: Mapping[str, Policy]) -> None:
        self._versions = versions
        self._policies = policies
        self._by_version: dict[str, PolicyVersion] = {}

    def under_schema_of(self, version: str) -> PolicyVersion | None:
        base = self._versions(version)
        if version not in self._by_version and base is not None:
            self._by_version[version] = base.under(self._policies)
        return self._by_version.get(version)


def _replay_decision(
    report: ReplayReport, decision: RecordedDecision, version: PolicyVersion | None, candidates: _Candidates
) -> None:
    assert decision.material is not None
    candidate = candidates.under_schema_of(decision.receipt["policy_version"])
    if version is None or candidate is None:
        report.left_out[NO_TEXT] += 1
        return
    request = version.build_request(decision.material)
    was, would = version.decide(request), candidate.decide(request)
    _compare(report, decision.receipt, was, would)
    if not _is_as_recorded(decision.receipt, was):
        report.unlike.append(decision.receipt)


def _replay_listing(
    report: ReplayReport, decision: RecordedDecision, candidates: _Candidates, principal: list[Json] | None
) -> None:
    """INVARIANT: if nothing else is known of the principal, every permit is assumed to match it."""
    version = candidates.under_schema_of(decision.receipt["policy_version"])
    if version is None:
        report.left_out[NO_TEXT] += 1
    elif version.could_list(decision.receipt["tool"], principal):
        report.listed.append(decision.receipt)
    else:
        report.left_out[NEVER_LISTED] += 1


def compare_shadow(decisions: Iterable[RecordedDecision], versions: FindVersion) -> ReplayReport:
    """Compare the recorded decisions of the shadow policies with those of the policies in force."""
    report = ReplayReport()
    for decision in decisions:
        shadow = decision.receipt.get("shadow")
        version = versions(decision.receipt["policy_version"])
        if shadow is None or decision.material is None or version is None:
            report.left_out[NO_SHADOW if shadow is None else ERASED] += 1
            continue
        would = PolicyOutcome(
            Outcome(shadow["outcome"]), tuple(shadow.get("policies", ())), tuple(shadow.get("routes", ()))
        )
        _compare(report, decision.receipt, version.decide(version.build_request(decision.material)), would)
    return report


def _compare(report: ReplayReport, receipt: Json, was: PolicyOutcome, would: PolicyOutcome) -> None:
    report.matrix[was.outcome, would.outcome] += 1
    looser = is_more_permissive(would, was)
    if looser or (was.outcome, was.routes) != (would.outcome, would.routes):
        report.differences.append(ReplayDifference(receipt, was, would, looser))


def _is_as_recorded(receipt: Json, was: PolicyOutcome) -> bool:
    """Whether the outcomes agree. A recorded deny always does: an approver or a changed rate may have caused it."""
    recorded = receipt.get("would", receipt)["outcome"]
    return recorded in (was.outcome, Outcome.DENY)
