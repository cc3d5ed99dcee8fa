"""Approvals by the people whose own request it was, which a route allows by `unsafe_self_approval`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .report import Report
from .signatures import Receipt


@dataclass
class SelfApprovals:
    """How many approvals were completed, how many of them by the requesters alone, and the receipt of the first."""

    approvals: int = 0
    own: int = 0
    first: int | None = None

    def add(self, seq: int, is_own: bool) -> None:
        self.approvals += 1
        if is_own:
            self.own += 1
            self.first = seq if self.first is None else self.first

    def report(self, report: Report) -> None:
        report.approvals, report.self_approvals, report.first_self_approval = self.approvals, self.own, self.first


def is_own(vote: Receipt) -> bool:
    """Whether the guard says so, or the names that the approver has signed do: of the agent's owner and its user."""
    return vote["approver"] in (vote.get("owner"), vote.get("on_behalf_of")) or bool(vote.get("self_approved"))


def is_self_approved(rules: Iterable[Receipt], votes: Iterable[Receipt]) -> bool:
    """Whether nobody but the requesters themselves has approved, on some route."""
    others = {vote["approver"] for vote in votes if not is_own(vote)}
    return any(others.isdisjoint(rule["approvers"]) for rule in rules)


def is_alone(intent: Receipt, approvers: Sequence[Receipt]) -> bool:
    """Whether all approvers that an intent names are requesters, where neither votes nor rules are at hand."""
    return bool(approvers) and all(is_own({**intent, **approver}) for approver in approvers)
