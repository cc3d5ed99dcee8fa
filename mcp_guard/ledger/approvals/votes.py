"""How people decide: a statement is prepared, signed by the approver's own key, checked, and recorded.

The guard's key signs the receipt; the approver's signature in it convinces somebody who does not trust the guard.
"""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mcp_guard.core import approval as grants
from mcp_guard.core import approval as rules
from mcp_guard.core.approval import Approval, ApprovalEvent, ApprovalState, Grant, Route, Vote, VoteStatement, advance
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json
from mcp_guard.core.receipt import Draft, format_time
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.approvals.transitions import receipt_fields, vote_fields
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.storage.approvals import ApproverKey
from mcp_guard.verifier import check_signature

MAX_STATEMENT_AGE = 10 * 60 * 1_000_000
"""Microseconds that may pass between preparing a statement and casting it."""
MAX_RATIONALE_LENGTH = 2000


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """A grant that is to come with an approval: how many more calls, for how many seconds, which arguments free."""

    more: int
    seconds: int
    free: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Approver:
    """An approver as the configuration has them: id, and name as receipts print it."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Votes:
    """Voting on the approvals of one ledger, with the routes and people of the configuration."""

    writer: Writer
    routes: Mapping[str, Route]
    people: Mapping[str, str]

    def prepare(
        self, id: str, approver: str, verdict: str, rationale: str, terms: GrantTerms | None = None
    ) -> tuple[VoteStatement, Approval]:
        """What this person would sign. Raises: ApprovalError if they may not, or it cannot be decided any more."""
        _check_rationale(rationale)

        def op(tx: Transaction) -> tuple[VoteStatement, Approval]:
            approval = self._open(tx, id, approver, verdict)
            made = None
            if terms is not None:
                grants.check_free_arguments(terms.free, approval.subject.arguments)
                made = grants.make_terms(terms.more, terms.seconds, terms.free)
            statement = VoteStatement(
                origin=self.writer.key.origin,
                approval=id,
                request_hash=approval.request_hash,
                decision_hash=approval.decision_hash,
                verdict=verdict,
                approver=approver,
                rationale=rationale,
                at=tx.now,
                terms=made,
            )
            return statement, approval

        return self.writer.run(op)

    def cast(self, statement: VoteStatement, key: str, signature: Json) -> Approval:
        """Record a signed word; the last one needed decides. Raises: ApprovalError, LedgerError."""
        vote = Vote(
            approver=statement.approver,
            verdict=statement.verdict,
            rationale=statement.rationale,
            at=statement.at,
            name=self.people.get(statement.approver, statement.approver),
            terms=statement.terms,
            key=key,
            signature=signature,
        )

        def op(tx: Transaction) -> Approval:
            approval = self._open(tx, statement.approval, vote.approver, vote.verdict)
            self._check_evidence(tx, approval, statement, vote)
            voted = replace(approval, votes=(*approval.votes, vote))
            if vote.verdict == "deny":
                return transitions.move(tx, voted, ApprovalEvent.DENY, vote.rationale, vote_fields(vote))
            missing = rules.missing_routes(voted.rules, voted.votes, voted.subject.requesters)
            if missing:
                return _record_word(tx, voted, vote, missing)
            approved = transitions.move(tx, voted, ApprovalEvent.APPROVE, vote.rationale, vote_fields(vote))
            if vote.terms is not None:
                _give_grant(tx, approved)
            return approved

        return self.writer.run(op)

    def revoke(self, id: str, approver: str, note: str) -> str:
        """Take back an approval that is not used yet, or a grant, at once. Returns what it is now."""
        _check_rationale(note)

        def op(tx: Transaction) -> str:
            self._check_person(approver)
            grant = tx.store.grant(id)
            if grant is None:
                approval = transitions.find_approval(tx, id)[0]
                more = {"approver": approver, "name": self.people[approver]}
                return str(transitions.move(tx, approval, ApprovalEvent.REVOKE, note, more).state)
            if grant.state != "active":
                raise ApprovalError(f"grant {id} is {grant.state}", "mcp-guard approvals list")
            about = {"grant": id, "approval": grant.approval, "instance": grant.binding["instance"], "note": note}
            tx.add(Draft("grant.revoked", about | {"approver": approver, "name": self.people[approver]}))
            tx.store.move_grant(grant, "revoked", grant.used)
            return "revoked"

        return self.writer.run(op)

    def _open(self, tx: Transaction, id: str, approver: str, verdict: str) -> Approval:
        """The request, if this person may decide on it now. Escalates it if its time has come."""
        approval, _ = transitions.find_approval(tx, id)
        advance(approval.state, ApprovalEvent.APPROVE if verdict == "approve" else ApprovalEvent.DENY)
        if tx.now >= approval.expires:
            raise ApprovalError(f"approval {id} has expired", "the agent must make its call again")
        self._check_person(approver)
        approval = transitions.escalate(tx, id, self.routes)
        if any(given.approver == approver for given in approval.votes):
            raise ApprovalError(f"`{approver}` has already decided on {id}", f"mcp-guard approvals show {id}")
        rules.check_vote(approval.rules, approver, approval.subject.requesters)
        return approval

    def _check_person(self, approver: str) -> None:
        if approver not in self.people:
            known = ", ".join(self.people) or "nobody yet"
            raise ApprovalError(f"`{approver}` is not an approver", f"enrolled under [approvers]: {known}")

    def _check_evidence(self, tx: Transaction, approval: Approval, statement: VoteStatement, vote: Vote) -> None:
        """The signature is by a key of this person that is in use, over exactly what is decided now."""
        expected = (approval.request_hash, approval.decision_hash, self.writer.key.origin)
        if (statement.request_hash, statement.decision_hash, statement.origin) != expected:
            raise ApprovalError(f"the statement is not about {approval.id} as it is", "look at it again, then decide")
        if not approval.requested <= statement.at <= tx.now or tx.now - statement.at > MAX_STATEMENT_AGE:
            raise ApprovalError("the statement is not of these last minutes", "decide again")
        key = usable_key(tx.store.approver_keys(), vote.key, vote.approver)
        try:
            check_signature(key.method, key.public, key.details, statement.text(), vote.signature or {})
        except ValueError as error:
            raise ApprovalError(
                f"the signature is not `{vote.approver}`'s: {error}", "sign with the enrolled key"
            ) from None
        differing = [each for each in approval.votes if each.terms != vote.terms and vote.verdict == "approve"]
        if differing:
            raise ApprovalError(
                "the others approved on other terms", "approve with the same --more, --for and --free, or without"
            )


def usable_key(keys: list[ApproverKey], id: str, approver: str) -> ApproverKey:
    """Raises: ApprovalError."""
    found = next((key for key in keys if key.id == id and key.approver == approver and key.removed is None), None)
    if found is None:
        raise ApprovalError(f"`{approver}` has no such key in use", f"mcp-guard approvers add {approver}")
    return found


def _check_rationale(rationale: str) -> None:
    if not rationale.strip():
        raise ApprovalError("a rationale is required", 'say why: --rationale "…"')
    if len(rationale) > MAX_RATIONALE_LENGTH:
        raise ApprovalError(f"a rationale is at most {MAX_RATIONALE_LENGTH} characters", "say it shorter")
    try:
        rationale.encode()
    except UnicodeEncodeError:
        raise ApprovalError("the rationale is not valid text (UTF-8)", "write it anew") from None


def _record_word(tx: Transaction, voted: Approval, vote: Vote, missing: tuple[str, ...]) -> Approval:
    """One approval of several that are needed."""
    _, story = transitions.find_approval(tx, voted.id)
    fields = receipt_fields(voted) | vote_fields(vote) | {"follows": [story[-1]], "missing": list(missing)}
    seq = tx.add(Draft("approval.granted", fields))
    tx.store.move_approval(voted, ApprovalState.REQUESTED, "", [*story, seq])
    return voted


def _give_grant(tx: Transaction, approved: Approval) -> None:
    """The grant that the last vote completes; all votes have the same terms, or it would not have been taken."""
    terms = approved.votes[-1].terms
    assert terms is not None
    subject, free, salt = approved.subject, tuple(terms["free"]), secrets.token_hex(16)
    grant = Grant(
        id="gr_" + hashlib.sha256(f"{approved.id}\0{approved.nonce}".encode()).hexdigest()[:10],
        approval=approved.id,
        state="active",
        binding=grants.bind_grant(subject.binding, subject.arguments, subject.resource_argument, free, salt),
        free=free,
        uses=terms["uses"],
        used=0,
        expires=tx.now + terms["seconds"] * grants.SECOND,
        approvers=tuple(transitions.approver_fields(vote) for vote in approved.votes if vote.verdict == "approve"),
        salt=salt,
    )
    about = receipt_fields(approved) | {"grant": grant.id, "uses": grant.uses, "until": format_time(grant.expires)}
    tx.add(Draft("grant.given", about | {"free": list(free), "binding": grant.binding}))
    tx.store.add_grant(grant, approved.instance)
