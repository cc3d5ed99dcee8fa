"""The steps of one approval: each goes through the table in `core/approval.py`, is a compare-and-set, and is receipted
in the same transaction. The same functions serve the guard that waits and the processes in which people decide."""

from collections.abc import Mapping
from dataclasses import asdict, replace

import orjson

from mcp_guard.core import approval as rules
from mcp_guard.core.approval import Approval, ApprovalEvent, ApprovalState, Grant, Route, Vote, advance
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json
from mcp_guard.core.receipt import Draft, format_time
from mcp_guard.core.receipt_limits import truncate
from mcp_guard.ledger.writer import Transaction
from mcp_guard.ports import Conflict

RECEIPT_OF = {
    ApprovalState.APPROVED: "approval.granted",
    ApprovalState.DENIED: "approval.denied",
    ApprovalState.EXPIRED: "approval.expired",
    ApprovalState.WITHDRAWN: "approval.withdrawn",
    ApprovalState.STALE: "approval.stale",
    ApprovalState.CONSUMED: "approval.consumed",
    ApprovalState.REVOKED: "approval.revoked",
}
MAX_RATIONALE_BYTES = 800
"""Bytes of each approver's rationale that an intent repeats."""


def receipt_fields(approval: Approval) -> Json:
    """What every receipt of one approval says of it."""
    subject = approval.subject
    return {
        "agent": subject.agent,
        "owner": subject.owner,
        "instance": subject.instance,
        "on_behalf_of": subject.on_behalf_of,
        "call": subject.call,
        "ticket": subject.ticket,
        "upstream": subject.upstream,
        "tool": subject.tool,
        "resource": asdict(subject.resource) if subject.resource else None,
        "approval": approval.id,
        "request_hash": approval.request_hash,
        "decision_hash": approval.decision_hash,
        "routes": list(approval.routes),
    }


def vote_fields(vote: Vote) -> Json:
    """A vote as receipted: everything that its signature is over, and the signature."""
    said = {"approver": vote.approver, "name": vote.name or vote.approver, "verdict": vote.verdict}
    return said | {
        "rationale": vote.rationale,
        "at": format_time(vote.at),
        "terms": vote.terms,
        "key": vote.key,
        "signature": vote.signature,
    }


def rule_fields(approval: Approval) -> list[Json]:
    """What each route demands, so that a verifier can count for itself."""
    return [
        {
            "route": rule.route,
            "quorum": rule.quorum,
            "approvers": [who for who in rule.approvers if rules.may_decide(rule, who, approval.subject.requesters)],
        }
        for rule in approval.rules
    ]


def add(tx: Transaction, asked: Approval, kept: Approval, decided: int, routes: Mapping[str, Route]) -> None:
    """Put a new request into the ledger, and owe its notifications. `kept` is what stays of it once it is settled."""
    fields = receipt_fields(asked) | {"follows": [decided], "expires": format_time(asked.expires)}
    fields["rules"] = rule_fields(asked)
    fields["redacted"] = kept.subject.redacted
    seq = tx.add(Draft("approval.requested", fields, {"subject": orjson.dumps(kept.subject.to_json())}))
    tx.store.add_approval(asked, [decided, seq])
    notify(tx, asked, "requested", [routes[name] for name in asked.routes])


def notify(tx: Transaction, approval: Approval, event: str, routes: list[Route]) -> None:
    """Owe a message to each notifier of these routes, once."""
    for notifier in dict.fromkeys(name for route in routes for name in route.notify):
        tx.store.add_delivery(approval.id, notifier, event, tx.now)


def find_approval(tx: Transaction, id: str) -> tuple[Approval, list[int]]:
    """Raises: ApprovalError."""
    found = tx.store.approval(id)
    if found is None:
        raise ApprovalError(f"no approval `{id}`", "mcp-guard approvals list --all")
    return found


def move(
    tx: Transaction, approval: Approval, event: ApprovalEvent, note: str = "", more: Json | None = None
) -> Approval:
    """Take one step of the state table, with its receipt. Raises: ApprovalError if the table does not allow it."""
    current, story = find_approval(tx, approval.id)
    moved = replace(approval, state=advance(current.state, event), note=note)
    fields = {**receipt_fields(approval), "note": note, "follows": [story[-1]], **(more or {})}
    seq = tx.add(Draft(RECEIPT_OF[moved.state], fields))
    tx.store.move_approval(replace(approval, state=current.state), moved.state, note, [*story, seq])
    if moved.state not in rules.OPEN:
        _forget_exact(tx, moved, story[1])
    return moved


def _forget_exact(tx: Transaction, settled: Approval, requested: int) -> None:
    """Erase what only an open request needs. A denial is still found until the request would have expired, a reply that
    was not given until it is."""
    if not settled.subject.has_exact_arguments:
        kept = tx.store.payloads(requested).get("subject")
        shown = kept or orjson.dumps(settled.subject.without_payloads().to_json())
        tx.store.replace_subject(settled.id, shown.decode())
    if settled.state is not ApprovalState.DENIED:
        tx.store.forget_nonce(settled.id, lookup=settled.state is not ApprovalState.CONSUMED)


def settle(tx: Transaction, approval: Approval, event: ApprovalEvent, note: str) -> Approval:
    """Take the step if the approval still can; otherwise somebody else was first, and it is returned as it is."""
    found = tx.store.approval(approval.id)
    current = found[0] if found else approval
    return move(tx, current, event, note) if (current.state, event) in rules.TRANSITIONS else current


def escalate(tx: Transaction, id: str, routes: Mapping[str, Route]) -> Approval:
    """Let the routes whose time has come escalate: their further approvers may decide too, and are told."""
    approval, story = find_approval(tx, id)
    wider = {rule.route: rules.escalate_rule(rule, routes, tx.now - approval.requested) for rule in approval.rules}
    if approval.state is not ApprovalState.REQUESTED or not any(wider.values()):
        return approval
    now = replace(approval, rules=tuple(wider[rule.route] or rule for rule in approval.rules))
    told = [routes[str(routes[name].escalate_to)] for name, rule in wider.items() if rule is not None]
    to = [route.name for route in told]
    fields = receipt_fields(now) | {"follows": [story[-1]], "rules": rule_fields(now), "escalated_to": to}
    seq = tx.add(Draft("approval.escalated", fields))
    tx.store.move_approval(now, approval.state, approval.note, [*story, seq])
    notify(tx, now, "escalated", told)
    return now


def not_consumable(tx: Transaction, held: Approval | Grant) -> Conflict | None:
    """Why this cannot be used now. INVARIANT: writes nothing."""
    if isinstance(held, Grant):
        current = tx.store.grant(held.id)
        if current is None or current.state != "active" or current.used >= current.uses:
            return Conflict(f"grant {held.id} is {current.state if current else 'gone'}")
        return Conflict(f"grant {held.id} has expired") if tx.now >= current.expires else None
    found = tx.store.approval(held.id)
    if found is None or found[0].state is not ApprovalState.APPROVED:
        return Conflict(f"approval {held.id} is {found[0].state if found else 'gone'} by now; it lets one call happen")
    if tx.now >= found[0].expires:
        return Conflict(f"approval {held.id} has expired")
    return None


def consume(tx: Transaction, held: Approval | Grant) -> Json:
    """Use it up; returns what the intent's receipt says of it."""
    if isinstance(held, Grant):
        return _use(tx, held.id)
    approvers = [approver_fields(vote) for vote in held.votes if vote.verdict == "approve"]
    move(tx, held, ApprovalEvent.CONSUME, more={"approvers": approvers})
    return {"id": held.id, "decision_hash": held.decision_hash, "approvers": approvers}


def _use(tx: Transaction, id: str) -> Json:
    """One use of a grant."""
    grant = tx.store.grant(id)
    assert grant is not None
    used = grant.used + 1
    state = "used up" if used == grant.uses else grant.state
    about = {"grant": grant.id, "approval": grant.approval, "instance": grant.binding["instance"]}
    tx.add(Draft("grant.used", about | {"tool": grant.binding["tool"], "use": used, "uses": grant.uses}))
    tx.store.move_grant(grant, state, used)
    return {"id": grant.approval, "grant": grant.id, "use": used, "approvers": list(grant.approvers)}


def approver_fields(vote: Vote) -> Json:
    """How an intent names who let it happen. Their whole word stands in the receipt in which they gave it."""
    rationale = truncate(vote.rationale, MAX_RATIONALE_BYTES)
    return {"approver": vote.approver, "name": vote.name or vote.approver, "rationale": rationale}
