"""How approvers decide: how much, how fast, and how many drills each caught. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

from mcp_guard.core.approval import SECOND, ApprovalState
from mcp_guard.core.drill_results import RESULTS
from mcp_guard.core.model import Json, Micros


@dataclass(frozen=True, slots=True)
class Voted:
    """A request as far as the statistics need it: when it was made and until when it was open, who could decide on it,
    and by approver, their last verdict and its time."""

    is_drill: bool
    state: str
    requested: Micros
    expires: Micros
    approvers: frozenset[str]
    votes: Mapping[str, tuple[str, Micros]]


@dataclass(slots=True)
class ApproverRecord:
    """One approver's decisions in some time. Drills are counted apart; times to decide, in seconds, are of both."""

    approver: str
    name: str
    approved: int = 0
    denied: int = 0
    caught: int = 0
    missed: int = 0
    waiting: int = 0
    """Open requests of their routes that they have not voted on."""
    seconds: list[float] = field(default_factory=list)

    @property
    def catch_rate(self) -> float | None:
        drills = self.caught + self.missed
        return self.caught / drills if drills else None

    def to_json(self) -> Json:
        return {
            "approver": self.approver,
            "name": self.name,
            "approved": self.approved,
            "denied": self.denied,
            "waiting": self.waiting,
            "median_seconds": round(median(self.seconds), 1) if self.seconds else None,
            "drills": {"caught": self.caught, "missed": self.missed},
            "catch_rate": None if self.catch_rate is None else round(self.catch_rate, 3),
        }


@dataclass(frozen=True, slots=True)
class ApproverStatistics:
    """By approver; and the drills that are over, with those among them that nobody decided on."""

    records: list[ApproverRecord]
    drills: int
    undecided: int

    def to_json(self) -> Json:
        approvers = [record.to_json() for record in self.records]
        return {"approvers": approvers, "drills": {"ended": self.drills, "undecided": self.undecided}}


def count_votes(requests: Iterable[Voted], people: Mapping[str, str], now: Micros) -> ApproverStatistics:
    """The statistics of these people (names by id). An open drill counts as any request."""
    records = {id: ApproverRecord(id, name) for id, name in people.items()}
    drills = undecided = 0
    for request in requests:
        is_open = request.state == ApprovalState.REQUESTED
        is_drill = request.is_drill and not is_open
        drills += is_drill
        undecided += is_drill and not request.votes
        for approver, (verdict, at) in request.votes.items():
            if (record := records.get(approver)) is not None:
                counted = RESULTS[verdict] if is_drill else {"approve": "approved", "deny": "denied"}[verdict]
                setattr(record, counted, getattr(record, counted) + 1)
                record.seconds.append((at - request.requested) / SECOND)
        if is_open and now < request.expires:
            for approver in request.approvers - request.votes.keys():
                if approver in records:
                    records[approver].waiting += 1
    return ApproverStatistics(list(records.values()), drills, undecided)
