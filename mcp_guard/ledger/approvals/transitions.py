"""The state changes of an approval. Each follows the table in `core/approval.py`, is a compare-and-set, and is
receipted in the same transaction. The guard that holds the call and the processes in which people decide share them.
"""

from collections.abc import Mapping
from dataclasses import replace

import orjson

from mcp_guard.core import approval as rules
from mcp_guard.core.approval import Approval, ApprovalEvent, ApprovalState, Route, RouteRule, Vote, advance
from mcp_guard.core.drill_results import drill_member
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.grants import Grant
from mcp_guard.core.model import Json, Micros
from mcp_guard.core.receipt import Draft, format_time
from mcp_guard.core.replies import AWAIT
from mcp_guard.ledger.approvals import grants, recorded
from mcp_guard.ledger.writer import Transaction
from mcp_guard.ports import Conflict

RECEIPT_KINDS = {
    ApprovalState.APPROVED: recorded.GRANTED,
    ApprovalState.DENIED: "approval.denied",
    ApprovalState.MISSED: "approval.missed",
    ApprovalState.EXPIRED: "approval.expired",
    ApprovalState.WITHDRAWN: "approval.withdrawn",
    ApprovalState.STALE: "approval.stale",
    ApprovalState.CONSUMED: "approval.consumed",
    ApprovalState.REVOKED: "approval.revoked",
}
ENDED = "ended"
"""The event of the message about the end of a request."""


# Receipts


def receipt_fields(approval: Approval) -> Json:
    """The fields that every receipt of one approval has."""
    return {
        **rules.signed_members(approval),
        "call": approval.subject.call,
        "approval": approval.id,
        "request_hash": approval.request_hash,
        "decision_hash": approval.decision_hash,
        "routes": list(approval.routes),
    }


def vote_fields(vote: Vote) -> Json:
    """A vote as receipted: everything that its signature covers, and the signature, or what a service has reported."""
    return {
        "approver": vote.approver,
        "name": vote.name or vote.approver,
        "verdict": vote.verdict,
        "rationale": vote.rationale,
        "at": format_time(vote.at),
        "terms": vote.terms.to_json() if vote.terms else None,
        "signed_in": vote.signed_in.to_json() if vote.signed_in else None,
        "key": vote.key,
        "signature": vote.signature,
        "method": vote.method,
        "reported": vote.reported,
    }


# Requests


def add_request(
    tx: Transaction, approval: Approval, kept: Approval, decision: int, routes: Mapping[str, Route]
) -> None:
    """Record a new request, and queue its notifications.

    `kept` is the request as it may be kept once it is settled; `decision` is the receipt of the decision that asks.
    """
    fields = receipt_fields(approval) | {"follows": [decision], "rules": rules.rules_as_json(approval)}
    fields["redacted"] = kept.subject.redacted
    seq = tx.add(Draft("approval.requested", fields, {"subject": orjson.dumps(kept.subject.to_json())}))
    tx.store.add_approval(approval, [decision, seq])
    queue_notifications(tx, approval, "requested", [routes[name] for name in approval.routes])


def queue_notifications(tx: Transaction, approval: Approval, event: str, routes: list[Route]) -> None:
    """Queue one message for each notifier of these routes, and for those that report it, one about the end."""
    for notifier in dict.fromkeys(name for route in routes for name in route.notify):
        tx.store.add_delivery(approval.id, notifier, event, tx.now)
    if followers := dict.fromkeys(name for route in routes for name in route.follow):
        queued = {delivery.notifier for delivery in tx.store.deliveries(approval.id) if delivery.event == ENDED}
        for notifier in followers.keys() - queued:
            tx.store.add_delivery(approval.id, notifier, ENDED, tx.now, "waiting")


def find_approval(tx: Transaction, id: str) -> tuple[Approval, list[int]]:
    """The approval, and the sequence numbers of its receipts so far. Raises: ApprovalError."""
    row = tx.store.approval(id)
    if row is None:
        raise ApprovalError(f"no approval `{id}`", "mcp-guard approvals list --all")
    return row


def escalate(tx: Transaction, id: str, routes: Mapping[str, Route]) -> Approval:
    """The approval, after any escalation that is due: further approvers may decide too, and are notified.

    Raises: ApprovalError.
    """
    approval, receipts = find_approval(tx, id)
    escalated = _due_escalations(approval, routes, tx.now)
    if not escalated:
        return approval
    approval = with_due_escalation(approval, routes, tx.now)
    targets = [routes[str(routes[name].escalate_to)] for name in escalated]
    fields = receipt_fields(approval) | {"follows": [receipts[-1]], "rules": rules.rules_as_json(approval)}
    seq = tx.add(Draft("approval.escalated", fields | {"escalated_to": [route.name for route in targets]}))
    tx.store.move_approval(approval, approval.state, approval.note, [*receipts, seq])
    queue_notifications(tx, approval, "escalated", targets)
    return approval


def with_due_escalation(approval: Approval, routes: Mapping[str, Route], now: Micros) -> Approval:
    """The approval as `escalate` would return it. INVARIANT: writes nothing."""
    escalated = _due_escalations(approval, routes, now)
    return replace(approval, rules=tuple(escalated.get(rule.route, rule) for rule in approval.rules))


def _due_escalations(approval: Approval, routes: Mapping[str, Route], now: Micros) -> dict[str, RouteRule]:
    """The new rules, by route."""
    if approval.state is not ApprovalState.REQUESTED:
        return {}
    waited, requesters = now - approval.requested, approval.subject.requesters
    due = {rule.route: rules.escalate_rule(rule, routes, waited, requesters) for rule in approval.rules}
    return {route: rule for route, rule in due.items() if rule is not None}


# State changes


def move(
    tx: Transaction, approval: Approval, event: ApprovalEvent, note: str = "", more: Json | None = None
) -> Approval:
    """Take one step of the state table. `more` are further fields of its receipt.

    Raises: ApprovalError if the table does not allow it.
    """
    current, receipts = find_approval(tx, approval.id)
    moved = replace(approval, state=advance(current.state, event, f"mcp-guard approvals show {approval.id}"), note=note)
    fields = {**receipt_fields(approval), "note": note, "follows": [receipts[-1]], **(more or {})}
    if moved.subject.drill is not None:
        fields["drill"] = drill_member(moved)
    kind = recorded.RELEASED if event is ApprovalEvent.RELEASE else RECEIPT_KINDS[moved.state]
    seq = tx.add(Draft(kind, fields))
    tx.store.move_approval(replace(approval, state=current.state), moved.state, note, [*receipts, seq])
    tx.moved_approvals.append(approval.id)
    if moved.state is ApprovalState.DENIED and not approval.subject.drill:
        for counter, key in approval.subject.steps:
            tx.store.add_use(counter, key, tx.now, 1)
    if current.state is ApprovalState.REQUESTED:
        tx.store.end_deliveries(approval.id, tx.now)
    if moved.state not in (*rules.OPEN, ApprovalState.CONSUMED):
        _forget_exact_request(tx, moved, receipts[1])
    return moved


def settle(tx: Transaction, approval: Approval, event: ApprovalEvent, note: str) -> Approval:
    """Take the step if the approval still can; otherwise another process was first, and its state is returned."""
    row = tx.store.approval(approval.id)
    current = row[0] if row else approval
    return move(tx, current, event, note) if (current.state, event) in rules.TRANSITIONS else current


def record_vote(tx: Transaction, approval: Approval, vote: Vote) -> Approval:
    """Record a vote that was checked. A denial decides at once, an approval if it is the last that was missing."""
    voted = approval.with_vote(vote)
    signed = vote_fields(vote) | {"rules": rules.rules_as_json(approval)}
    if vote.verdict == "approve" and approval.is_requester(vote.approver):
        signed["self_approved"] = True
    if vote.verdict == "deny":
        return move(tx, voted, ApprovalEvent.DENY, vote.rationale, signed)
    if missing := voted.missing_routes:
        _, receipts = find_approval(tx, voted.id)
        fields = receipt_fields(voted) | signed | {"follows": [receipts[-1]], "missing": list(missing)}
        seq = tx.add(Draft(recorded.GRANTED, fields))
        tx.store.move_approval(voted, ApprovalState.REQUESTED, "", [*receipts, seq])
        return voted
    if approval.subject.drill is not None:  # INVARIANT: a drill is never approved, and gives no grant
        return move(tx, voted, ApprovalEvent.MISS, vote.rationale, signed)
    approved = move(tx, voted, ApprovalEvent.APPROVE, vote.rationale, signed)
    if vote.terms is not None:
        grants.give_grant(tx, approved, vote.terms, receipt_fields(approved))
    return approved


def not_consumable(tx: Transaction, held: Approval | Grant) -> Conflict | None:
    """Why this cannot be used now, or None. INVARIANT: writes nothing."""
    if isinstance(held, Grant):
        return grants.check_grant(tx, held.id)
    row = tx.store.approval(held.id)
    if row is None or row[0].state is not ApprovalState.APPROVED:
        reason = f"approval {held.id} is {row[0].state if row else 'gone'} already; it permits one call"
        is_used = row is not None and row[0].state is ApprovalState.CONSUMED
        return Conflict(f"{reason}, whose result `{AWAIT}` returns" if is_used else reason)
    if tx.now >= row[0].expires:
        return Conflict(f"approval {held.id} has expired")
    problem = recorded.why_not_granted(tx, *row)
    return Conflict(problem) if problem else None


def consume(tx: Transaction, held: Approval | Grant) -> Json:
    """Use it up, or a grant once; returns the `approval` member of the intent's receipt."""
    if isinstance(held, Grant):
        return grants.use_grant(tx, held.id)
    approvers = list(grants.approver_fields(held))
    move(tx, held, ApprovalEvent.CONSUME, more={"approvers": approvers})
    return {"id": held.id, "decision_hash": held.decision_hash, "approvers": approvers}


def conclude(tx: Transaction, id: str, outcome: int, answered: bool) -> None:
    """The call that consumed this approval has ended with this outcome, and was or may have been sent."""
    approval, receipts = find_approval(tx, id)
    tx.store.note_outcome(id, outcome, answered)
    _forget_exact_request(tx, approval, receipts[1])


def release(tx: Transaction, id: str, why_barred: str | None) -> None:
    """The call that consumed this approval was not sent: it is approved again, if its time and its instance last.

    INVARIANT: only in the transaction that has just added this outcome. `why_barred` says why its instance may not
    call any more.
    """
    approval, _ = find_approval(tx, id)
    approval = move(tx, approval, ApprovalEvent.RELEASE, "its call was not sent")
    if tx.now >= approval.expires:
        move(tx, approval, ApprovalEvent.EXPIRE, "not used in time")
    elif why_barred or not approval.nonce:  # its nonce is erased with the end of its instance
        move(tx, approval, ApprovalEvent.OUTDATE, why_barred or "the instance has ended")


def _forget_exact_request(tx: Transaction, settled: Approval, requested: int) -> None:
    """Erase what only an open request needs. A denial is still found until the request would have expired, and a reply
    that was not delivered until it is.

    `requested` is the receipt of the request, whose payload is the subject as it may be kept.
    """
    if not settled.subject.has_exact_arguments:
        kept = tx.store.payloads(requested).get("subject")
        document = kept or orjson.dumps(settled.subject.without_payloads().to_json())
        tx.store.replace_subject(settled.id, document.decode())
    if settled.state is not ApprovalState.DENIED or settled.subject.drill is not None:
        tx.store.forget_nonce(settled.id, lookup=settled.state is not ApprovalState.CONSUMED)
