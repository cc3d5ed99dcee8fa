"""Drills: requests that were made to be wrong and are of no call. The receipt that ends one says so, and its decision
hash, which its approvers have signed, commits to it: so no request of a call can be called a drill afterwards.
"""

import hashlib
import json
from typing import Protocol

from .report import VerificationFailed
from .signatures import Receipt

MISSED = "approval.missed"
ENDINGS = (MISSED, "approval.denied", "approval.expired", "approval.withdrawn", "approval.stale")
"""The kinds of receipts that can end one."""
COMMITTED = ("why", "changed", "binding", "salt")
RESULTS = {"missed": "approve", "caught": "deny"}


class DrillRequest(Protocol):
    """What its routes require, and the receipts of the approving votes."""

    rules: list[Receipt]
    votes: list[Receipt]


def check_opening(seq: int, receipt: Receipt) -> None:
    """Raises: VerificationFailed unless the request was a drill from the start, if its end says so."""
    id, drill = receipt["approval"], receipt.get("drill")
    if drill is None:
        if receipt["kind"] == MISSED:
            raise VerificationFailed(seq, f"approval `{id}` is missed, but no drill")
        return
    committed = {"type": "mcp-guard/drill/v1", "approval": id} | {name: drill[name] for name in COMMITTED}
    text = json.dumps(committed, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    if (
        receipt["kind"] not in ENDINGS
        or receipt["decision_hash"] != f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    ):
        raise VerificationFailed(
            seq, f"approval `{id}` is called a drill, but its decision hash does not commit to that"
        )


def check_drill(seq: int, receipt: Receipt, request: DrillRequest) -> None:
    """Raises: VerificationFailed unless the end of a drill names those who voted, on a route that says that it has
    drills."""
    id, drill = receipt["approval"], receipt["drill"]
    if not all(rule.get("drills") for rule in request.rules):
        raise VerificationFailed(seq, f"approval `{id}` is a drill, of which its approvers signed nothing")
    votes = [*request.votes, *([receipt] if receipt["kind"] == "approval.denied" else [])]
    first = {vote["approver"]: vote["verdict"] for vote in reversed(votes)}
    for result, verdict in RESULTS.items():
        if sorted(drill.get(result, [])) != sorted(name for name in first if first[name] == verdict):
            raise VerificationFailed(seq, f"drill `{id}` names others than those who have voted on it")
