"""When a request for approval is granted: the same in every format of the ledger."""

from typing import Protocol

from .report import VerificationFailed
from .self_approval import SelfApprovals, is_self_approved
from .signatures import Receipt


class OpenRequest(Protocol):
    """A request that has not ended: the kind of the receipt that put it in its state, what its routes require, and the
    receipts of the approving votes."""

    state: str
    rules: list[Receipt]
    votes: list[Receipt]


def is_satisfied(request: OpenRequest) -> bool:
    """Whether each route has its quorum."""
    approved_by = {vote["approver"] for vote in request.votes}
    return all(len(approved_by & set(rule["approvers"])) >= rule["quorum"] for rule in request.rules)


def follow_vote(seq: int, receipt: Receipt, request: OpenRequest, self_approvals: SelfApprovals) -> None:
    """An approving vote, which grants the request unless votes are missing. Raises: VerificationFailed."""
    id = receipt["approval"]
    if request.state != "approval.requested":
        raise VerificationFailed(seq, f"approval `{id}` is granted twice")
    if not receipt.get("missing"):
        request.state = receipt["kind"]
        if not is_satisfied(request):
            problem = f"approval `{id}` is recorded as granted, but its routes require more approvals"
            raise VerificationFailed(seq, problem)
        self_approvals.add(seq, is_self_approved(request.rules, request.votes))
