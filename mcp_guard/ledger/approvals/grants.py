"""Grants in the ledger: given by the last vote of an approval, used by calls, revoked. Each step is receipted in the
same transaction."""

import hashlib
import secrets

from mcp_guard.core.approval import Approval, GrantTerms, Vote
from mcp_guard.core.grants import GivenByAgent, Grant, bind_grant
from mcp_guard.core.model import SECOND, Json
from mcp_guard.core.receipt import Draft
from mcp_guard.core.receipt_limits import truncate
from mcp_guard.core.request_meta import without_trace
from mcp_guard.ledger.approvals.recorded import GIVEN, grant_terms, why_not_given
from mcp_guard.ledger.writer import Transaction
from mcp_guard.ports import Conflict

MAX_RATIONALE_BYTES = 800
"""Bytes of each approver's rationale that an intent repeats."""


def give_grant(tx: Transaction, approval: Approval, terms: GrantTerms, fields: Json) -> None:
    """Record the grant of an approval that was just approved. `fields` are those of every receipt of the approval."""
    subject, salt = approval.subject, secrets.token_hex(16)
    given = GivenByAgent(subject.arguments, without_trace(subject.meta), subject.ticket, subject.reason)
    grant = Grant(
        id="gr_" + hashlib.sha256(f"{approval.id}\0{approval.nonce}".encode()).hexdigest()[:10],
        approval=approval.id,
        state="active",
        binding=bind_grant(subject.binding, given, subject.resource_argument, terms.free, salt),
        free=terms.free,
        uses=terms.uses,
        used=0,
        expires=tx.now + terms.seconds * SECOND,
        approvers=approver_fields(approval),
        salt=salt,
    )
    tx.add(Draft(GIVEN, fields | grant_terms(grant)))
    tx.store.add_grant(grant, approval.instance)


def check_grant(tx: Transaction, id: str) -> Conflict | None:
    """Why this grant cannot be used now, or None. INVARIANT: writes nothing."""
    grant = tx.store.grant(id)
    if grant is None or grant.state != "active" or grant.used >= grant.uses:
        return Conflict(f"grant {id} is {grant.state if grant else 'gone'}")
    if tx.now >= grant.expires:
        return Conflict(f"grant {id} has expired")
    problem = why_not_given(tx, grant)
    return Conflict(problem) if problem else None


def use_grant(tx: Transaction, id: str) -> Json:
    """Record one use; returns the `approval` member of the intent's receipt."""
    grant = tx.store.grant(id)
    assert grant is not None
    use = grant.used + 1
    tx.add(Draft("grant.used", _grant_fields(grant) | {"tool": grant.binding["tool"], "use": use, "uses": grant.uses}))
    tx.store.move_grant(grant, "used up" if use == grant.uses else grant.state, use)
    return {"id": grant.approval, "grant": grant.id, "use": use, "approvers": list(grant.approvers)}


def release_use(tx: Transaction, id: str) -> None:
    """Give back a use whose call was not sent, unless the grant is over for another reason.

    INVARIANT: only in the transaction that has just added this outcome.
    """
    grant = tx.store.grant(id)
    assert grant is not None
    if grant.state == "revoked" or not grant.salt:
        return
    fields = _grant_fields(grant) | {"tool": grant.binding["tool"], "use": grant.used, "uses": grant.uses}
    tx.add(Draft("grant.released", fields | {"note": "its call was not sent"}))
    tx.store.move_grant(grant, "active", grant.used - 1)


def revoke_grant(tx: Transaction, grant: Grant, note: str, by: Json | None = None) -> None:
    """Revoke an active grant. `by` are the receipt fields that name the approver who revokes it."""
    tx.add(Draft("grant.revoked", _grant_fields(grant) | {"note": note} | (by or {})))
    tx.store.move_grant(grant, "revoked", grant.used)


def approver_fields(approval: Approval) -> tuple[Json, ...]:
    """The approvers as the receipt of an intent names them. The receipts of their votes have the whole rationale."""
    return tuple(_approver_fields(approval, vote) for vote in approval.votes if vote.verdict == "approve")


def _approver_fields(approval: Approval, vote: Vote) -> Json:
    rationale = truncate(vote.rationale, MAX_RATIONALE_BYTES)
    fields = {"approver": vote.approver, "name": vote.name or vote.approver, "rationale": rationale}
    fields |= {"method": vote.method} if vote.method else {}
    return fields | {"self_approved": True} if approval.is_requester(vote.approver) else fields


def _grant_fields(grant: Grant) -> Json:
    return {"grant": grant.id, "approval": grant.approval, "instance": grant.binding["instance"]}
