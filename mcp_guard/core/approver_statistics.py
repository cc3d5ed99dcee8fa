"""How approvers decide: how much, how fast, and how many drills each caught. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

from mcp_guard.core.approval import ApprovalState
from mcp_guard.core.approval_card import CountedRequest
from mcp_guard.core.drill_results import RESULTS
from mcp_guard.core.model import SECOND, Json, Micros

COUNTED = ("approved", "denied", "caught", "missed", "waiting")
DECISIONS = {"approve": "approved", "deny": "denied"}


@dataclass(slots=True)
class ApproverRecord:
    """One approver's decisions in some time. Drills are counted apart; `seconds`, the times to decide, are of both."""

    approver: str
    name: str
    counts: Counter[str] = field(default_factory=Counter)
    """What they `approved` and `denied`, the drills that they `caught` and `missed`, and the requests of their routes
    that are `waiting` for them."""
    seconds: list[float] = field(default_factory=list)

    @property
    def drills(self) -> int:
        return self.counts["caught"] + self.counts["missed"]

    @property
    def catch_rate(self) -> float | None:
        return self.counts["caught"] / self.drills if self.drills else None

    @property
    def median_seconds(self) -> float | None:
        return median(self.seconds) if self.seconds else None

    def to_json(self) -> Json:
        rates = {"catch_rate": self.catch_rate, "median_seconds": self.median_seconds}
        return {
            "approver": self.approver,
            "name": self.name,
            **{name: self.counts[name] for name in COUNTED},
            **{name: None if value is None else round(value, 3) for name, value in rates.items()},
        }


@dataclass(frozen=True, slots=True)
class ApproverStatistics:
    """By approver; and how many drills are over, and on how many of them nobody decided."""

    records: list[ApproverRecord]
    drills: int
    undecided: int

    def to_json(self) -> Json:
        drills = {"ended": self.drills, "undecided": self.undecided}
        return {"approvers": [record.to_json() for record in self.records], "drills": drills}


def count_votes(requests: Iterable[CountedRequest], people: Mapping[str, str], now: Micros) -> ApproverStatistics:
    """The statistics of these people (names by id). INVARIANT: an open drill counts as any other request."""
    records = {id: ApproverRecord(id, name) for id, name in people.items()}
    drills = undecided = 0
    for request in requests:
        is_open = request.state == ApprovalState.REQUESTED
        is_drill = request.is_drill and not is_open
        drills += is_drill
        undecided += is_drill and not request.votes
        for approver, (verdict, at) in request.votes.items():
            if (record := records.get(approver)) is not None:
                record.counts[(RESULTS if is_drill else DECISIONS)[verdict]] += 1
                record.seconds.append((at - request.requested) / SECOND)
        if is_open and now < request.expires:
            for approver in request.approvers & records.keys() - request.votes.keys():
                records[approver].counts["waiting"] += 1
    return ApproverStatistics(list(records.values()), drills, undecided)


def time_words(seconds: float | None) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def rate_words(record: ApproverRecord) -> str:
    """`2 of 3 (67 %)`."""
    if record.catch_rate is None:
        return "–"
    return f"{record.counts['caught']} of {record.drills} ({record.catch_rate:.0%})".replace("%", " %")
