"""The ledger's decisions under other policies: what was, what would be, and whether that is ever more permissive."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from mcp_guard.core.decision import PolicyOutcome, is_more_permissive
from mcp_guard.core.model import Json, Outcome
from mcp_guard.policy.authoring.recorded import CedarRequest, PolicyVersion, RecordedDecision
from mcp_guard.policy.source import Policy

FindVersion = Callable[[str], PolicyVersion | None]
"""A policy version by its hash, or None if its text is not kept."""


@dataclass(frozen=True, slots=True)
class ReplayDifference:
    """One decision that would be another one."""

    receipt: Json
    was: PolicyOutcome
    would: PolicyOutcome
    looser: bool


@dataclass(slots=True)
class ReplayReport:
    """What came of it. `matrix` counts decisions by (was, would be); `left_out` counts those not run again, by why.

    `listed` are receipts of calls refused as unknown whose tool would now be listed for that instance.
    `unlike` are receipts whose own policies, run again, do not give what was recorded.
    """

    matrix: Counter[tuple[Outcome, Outcome]] = field(default_factory=Counter)
    differences: list[ReplayDifference] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    listed: list[Json] = field(default_factory=list)
    unlike: list[Json] = field(default_factory=list)

    @property
    def never_more_permissive(self) -> bool:
        """INVARIANT: true only if no decision that was run again would let more happen, with fewer people's consent."""
        return not self.listed and not any(difference.looser for difference in self.differences)


NOT_ASKED = "refused before any policy was asked"
ERASED = "request erased or redacted"
NO_SHADOW = "decided without a shadow"
NO_TEXT = "policies of then not kept"


def replay(
    decisions: Iterable[RecordedDecision], versions: FindVersion, candidate: Mapping[str, Policy]
) -> ReplayReport:
    """Run each decision again, under the policies that decided it and under the candidate."""
    done, candidates = ReplayReport(), _Candidates(versions, candidate)
    principals: dict[str, list[Json]] = {}
    unlisted: list[RecordedDecision] = []
    for past in decisions:
        if past.material is not None:
            principals.setdefault(past.receipt["instance"], past.material["entities"])
            _again(done, past, versions(past.receipt["policy_version"]), candidates)
        elif past.unlisted:
            unlisted.append(past)
        else:
            done.left_out[ERASED if past.asked else NOT_ASKED] += 1
    for past in unlisted:  # once every principal that was seen is known
        _list_again(done, past, candidates, principals.get(past.receipt["instance"]))
    return done


class _Candidates:
    """The candidate policies in the world of each version."""

    def __init__(self, versions: FindVersion, policies: Mapping[str, Policy]) -> None:
        self._versions = versions
        self._policies = policies
        self._made: dict[str, PolicyVersion] = {}

    def beside(self, version: str) -> PolicyVersion | None:
        base = self._versions(version)
        if version not in self._made and base is not None:
            self._made[version] = base.under(self._policies)
        return self._made.get(version)


def _again(done: ReplayReport, past: RecordedDecision, version: PolicyVersion | None, candidates: _Candidates) -> None:
    assert past.material is not None
    candidate = candidates.beside(past.receipt["policy_version"])
    if version is None or candidate is None:
        done.left_out[NO_TEXT] += 1
        return
    posed: CedarRequest = version.build_request(past.material)
    was, would = version.decide(posed), candidate.decide(posed)
    _compare(done, past.receipt, was, would)
    if not _is_as_recorded(past.receipt, was):
        done.unlike.append(past.receipt)


def _list_again(
    done: ReplayReport, past: RecordedDecision, candidates: _Candidates, principal: list[Json] | None
) -> None:
    """INVARIANT: a principal of whom nothing else is kept is taken for one that every permit could be about."""
    version = candidates.beside(past.receipt["policy_version"])
    if version is None:
        done.left_out[NO_TEXT] += 1
    elif version.could_list(past.receipt["tool"], principal):
        done.listed.append(past.receipt)
    else:
        done.left_out["tool not listed, then or now"] += 1


def compare_shadow(decisions: Iterable[RecordedDecision], versions: FindVersion) -> ReplayReport:
    """What the shadow policies said when they were asked, beside what those in force decided."""
    done = ReplayReport()
    for past in decisions:
        said = past.receipt.get("shadow")
        version = versions(past.receipt["policy_version"])
        if said is None or past.material is None or version is None:
            done.left_out[NO_SHADOW if said is None else ERASED] += 1
            continue
        would = PolicyOutcome(Outcome(said["outcome"]), tuple(said.get("policies", ())), tuple(said.get("routes", ())))
        _compare(done, past.receipt, version.decide(version.build_request(past.material)), would)
    return done


def _compare(done: ReplayReport, receipt: Json, was: PolicyOutcome, would: PolicyOutcome) -> None:
    done.matrix[was.outcome, would.outcome] += 1
    looser = is_more_permissive(would, was)
    if looser or (was.outcome, was.routes) != (would.outcome, would.routes):
        done.differences.append(ReplayDifference(receipt, was, would, looser))


def _is_as_recorded(receipt: Json, was: PolicyOutcome) -> bool:
    """A call may have been refused for more than its policies: people, or rates that moved."""
    recorded = receipt.get("would", receipt)["outcome"]
    return recorded in (was.outcome, Outcome.DENY)
