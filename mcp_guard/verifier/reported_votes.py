"""Votes that no key has signed: somebody pressed a button in a service, and the service told the guard who.

Nothing in the ledger proves it to anybody who does not trust the guard and the service, so they are counted apart.
"""

from dataclasses import dataclass

from .report import Report, VerificationFailed
from .signatures import Receipt

MEMBERS = {"slack": ("team", "user", "channel", "message")}
"""What a vote says of the button, by the service."""
SIGNED_ONLY = ("key", "signature", "terms")
"""Members of a vote that only a signature makes true."""


@dataclass
class ReportedVotes:
    """How many there are, and the receipt of the first."""

    votes: int = 0
    first: int | None = None

    def add(self, seq: int) -> None:
        self.votes += 1
        self.first = seq if self.first is None else self.first

    def report(self, report: Report) -> None:
        report.reported_votes, report.first_reported_vote = self.votes, self.first


def check_reported(seq: int, receipt: Receipt) -> None:
    """Raises: VerificationFailed unless every route accepts the service, and the vote says what it has reported."""
    method, reported, approver = receipt["method"], receipt.get("reported"), receipt["approver"]
    names = MEMBERS.get(method)
    if names is None:
        raise VerificationFailed(seq, f"the vote of `{approver}` is by `{method}`, which is not known")
    if not isinstance(reported, dict) or not all(isinstance(reported.get(name), str) for name in names):
        raise VerificationFailed(seq, f"the vote of `{approver}` does not say who pressed a button, and where")
    if any(name in receipt for name in SIGNED_ONLY):
        raise VerificationFailed(seq, f"the vote of `{approver}` is both signed and reported by `{method}`")
    if any(method not in rule.get("accept", ()) for rule in receipt["rules"]):
        raise VerificationFailed(seq, f"the vote of `{approver}` is by `{method}`, which not every route accepts")
