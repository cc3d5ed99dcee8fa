"""How people decide. `prepare` makes the statement that an approver signs with their own key; `record` checks it by the
rules in `core/approval.py` and records the vote, in one transaction. Commands run them at once; pages submit the same
ops.

The guard's key signs the receipt; the approver's signature in it convinces someone who does not trust the guard.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mcp_guard.core import approval as rules
from mcp_guard.core import grants
from mcp_guard.core.approval import Approval, ApprovalEvent, ApprovalState, GrantTerms, Route, Vote, VoteStatement
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json
from mcp_guard.core.sign_in import SignIn
from mcp_guard.core.signed_words import check_words
from mcp_guard.ledger.approvals import recorded, transitions
from mcp_guard.ledger.approvals.approver_keys import usable_key
from mcp_guard.ledger.approvals.grants import revoke_grant
from mcp_guard.ledger.writer import Op, Transaction, Writer
from mcp_guard.verifier import check_signature

MAX_RATIONALE_LENGTH = 2000
"""In characters."""


@dataclass(frozen=True, slots=True)
class Votes:
    """Voting on the approvals of one ledger. `routes` and `people` (name by approver id) are the configuration's."""

    writer: Writer
    routes: Mapping[str, Route]
    people: Mapping[str, str]

    def prepare(
        self, id: str, approver: str, verdict: str, rationale: str, terms: GrantTerms | None = None
    ) -> VoteStatement:
        """The statement for this approver to sign. `verdict` is `approve` or `deny`; with `terms`, the approval gives a
        grant.

        Raises: ApprovalError if they may not vote, or the request cannot be decided any more; LedgerError.
        """
        return self.writer.run(self.prepare_op(id, approver, verdict, rationale, terms))

    def prepare_op(
        self,
        id: str,
        approver: str,
        verdict: str,
        rationale: str,
        terms: GrantTerms | None = None,
        signed_in: SignIn | None = None,
    ) -> Op[VoteStatement]:
        """As `prepare`; `signed_in` is how the identity provider has signed them in, if it has."""
        check_words(rationale, "rationale", MAX_RATIONALE_LENGTH)

        def op(tx: Transaction) -> VoteStatement:
            approval = self._check_vote(tx, id, approver, verdict)
            rules.check_sign_in(approval, approver, signed_in, tx.now)
            agreed = None if terms is None else grants.make_terms(terms, approval.subject.freeable)
            name = self.people[approver]
            vote = Vote(approver, verdict, rationale, tx.now, name, agreed, signed_in=signed_in)
            statement = rules.make_statement(approval, vote, self.writer.key.origin)
            transitions.escalate(tx, id, self.routes)
            return statement

        return op

    def record(self, statement: VoteStatement, key: str, signature: Json) -> Approval:
        """Record a signed vote; returns the approval, which the last vote that was missing decides.

        `key` is the id of the approver's enrolled key. Raises: ApprovalError, LedgerError.
        """
        return self.writer.run(self.record_op(statement, key, signature))

    def record_op(self, statement: VoteStatement, key: str, signature: Json) -> Op[Approval]:
        vote = Vote(
            approver=statement.approver,
            verdict=statement.verdict,
            rationale=statement.rationale,
            at=statement.at,
            name=statement.name,
            terms=statement.terms,
            key=key,
            signature=signature,
            signed_in=statement.signed_in,
        )

        def op(tx: Transaction) -> Approval:
            approval = self._check_vote(tx, statement.approval, vote.approver, vote.verdict)
            rules.check_statement(statement, approval, self.writer.key.origin, tx.now)
            rules.check_sign_in(approval, vote.approver, statement.signed_in, statement.at)
            _check_signature(tx, statement, key, signature)
            return transitions.record_vote(tx, transitions.escalate(tx, approval.id, self.routes), vote)

        return op

    def record_reported_op(self, id: str, approver: str, verdict: str, service: str, reported: Json) -> Op[Approval]:
        """Record a vote that no key has signed: this person pressed a button in a service that every route of the
        request accepts. `reported` is what the service says of it.

        Raises: ApprovalError, LedgerError.
        """

        def op(tx: Transaction) -> Approval:
            approval = self._check_vote(tx, id, approver, verdict)
            rules.check_service(approval, self.routes, service)
            rules.check_sign_in(approval, approver, None, tx.now)
            vote = Vote(
                approver=approver,
                verdict=verdict,
                rationale=f"by a button in {service.capitalize()}",
                at=tx.now,
                name=self.people[approver],
                method=service,
                reported=reported,
            )
            rules.check_terms(approval, vote)
            return transitions.record_vote(tx, transitions.escalate(tx, approval.id, self.routes), vote)

        return op

    def revoke(self, id: str, approver: str, note: str) -> str:
        """Revoke an approval that is not used yet, or a grant, at once, as an approver of its routes. Returns its new
        state.

        Raises: ApprovalError, LedgerError.
        """
        return self.writer.run(self.revoke_op(id, approver, note))

    def revoke_op(self, id: str, approver: str, note: str) -> Op[str]:
        check_words(note, "rationale", MAX_RATIONALE_LENGTH)

        def op(tx: Transaction) -> str:
            self._check_enrolled(approver)
            by = {"approver": approver, "name": self.people[approver]}
            grant = tx.store.grant(id)
            approval, _ = transitions.find_approval(tx, grant.approval if grant else id)
            rules.check_may_revoke(transitions.with_due_escalation(approval, self.routes, tx.now), id, approver)
            if grant is None:
                return str(transitions.move(tx, approval, ApprovalEvent.REVOKE, note, by).state)
            if grant.state != "active":
                raise ApprovalError(f"grant {id} is {grant.state}", "mcp-guard approvals list")
            revoke_grant(tx, grant, note, by)
            return "revoked"

        return op

    def _check_vote(self, tx: Transaction, id: str, approver: str, verdict: str) -> Approval:
        """The request as it is after any escalation that is due. INVARIANT: writes nothing, so that an op can check
        everything before it escalates.

        Raises: ApprovalError if this person cannot vote on it now.
        """
        self._check_enrolled(approver)
        approval, receipts = transitions.find_approval(tx, id)
        if approval.state is ApprovalState.REQUESTED:
            recorded.check_request(tx, approval, receipts)
        approval = transitions.with_due_escalation(approval, self.routes, tx.now)
        row = tx.store.instance(approval.instance)
        has_ended = row is None or row.ended is not None or tx.now >= row.instance.expires
        rules.check_vote(approval, approver, verdict, tx.now, has_ended)
        return approval

    def _check_enrolled(self, approver: str) -> None:
        if approver not in self.people:
            names = ", ".join(self.people) or "nobody yet"
            raise ApprovalError(f"`{approver}` is not an approver", f"enrolled under [approvers]: {names}")


def _check_signature(tx: Transaction, statement: VoteStatement, key_id: str, signature: Json) -> None:
    """Raises: ApprovalError unless it is by a key of this approver that is in use, over exactly this statement."""
    key = usable_key(tx.store.approver_keys(), key_id, statement.approver)
    try:
        check_signature(key.method, key.public, key.details, statement.text(), signature)
    except ValueError as error:
        raise ApprovalError(
            f"the signature is not a valid signature of `{statement.approver}`: {error}", "sign with the enrolled key"
        ) from None
