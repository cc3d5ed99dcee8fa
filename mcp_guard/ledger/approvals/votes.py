"""How people decide: a statement is prepared, signed by the approver's own key, checked, and recorded.

The guard's key signs the receipt; the approver's signature in it convinces somebody who does not trust the guard.
"""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mcp_guard.core import approval as grants
from mcp_guard.core import approval as rules
from mcp_guard.core.approval import Approval, Event, Grant, Route, State, Statement, Vote, advance
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Json
from mcp_guard.core.receipt import Draft, format_time
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.approvals.transitions import receipt_fields, vote_fields
from mcp_guard.ledger.writer import Step, Writer
from mcp_guard.storage.approvals import ApproverKey
from mcp_guard.verifier import check_signature

FRESH = 10 * 60 * 1_000_000
"""Microseconds that may pass between preparing a statement and casting it."""
MOST_RATIONALE = 2000


@dataclass(frozen=True, slots=True)
class Terms:
    """A grant that is to come with an approval: how many more calls, for how many seconds, which arguments free."""

    more: int
    seconds: int
    free: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Person:
    """An approver as the configuration has them: id, and name as receipts print it."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Ballots:
    """Voting on the approvals of one ledger, with the routes and people of the configuration."""

    writer: Writer
    routes: Mapping[str, Route]
    people: Mapping[str, str]

    def prepare(
        self, id: str, approver: str, verdict: str, rationale: str, terms: Terms | None = None
    ) -> tuple[Statement, Approval]:
        """What this person would sign. Raises: ApprovalError if they may not, or it cannot be decided any more."""
        _check_rationale(rationale)

        def op(step: Step) -> tuple[Statement, Approval]:
            approval = self._open(step, id, approver, verdict)
            made = None
            if terms is not None:
                grants.check_free(terms.free, approval.subject["arguments"])
                made = grants.make_terms(terms.more, terms.seconds, terms.free)
            statement = Statement(
                origin=self.writer.key.origin,
                approval=id,
                request_hash=approval.request_hash,
                decision_hash=approval.decision_hash,
                verdict=verdict,
                approver=approver,
                rationale=rationale,
                at=step.now,
                terms=made,
            )
            return statement, approval

        return self.writer.run(op)

    def cast(self, statement: Statement, key: str, signature: Json) -> Approval:
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

        def op(step: Step) -> Approval:
            approval = self._open(step, statement.approval, vote.approver, vote.verdict)
            self._check_evidence(step, approval, statement, vote)
            voted = replace(approval, votes=(*approval.votes, vote))
            if vote.verdict == "deny":
                return transitions.move(step, voted, Event.DENY, vote.rationale, vote_fields(vote))
            missing = rules.missing_routes(voted.rules, voted.votes, voted.askers)
            if missing:
                return _record_word(step, voted, vote, missing)
            approved = transitions.move(step, voted, Event.APPROVE, vote.rationale, vote_fields(vote))
            if vote.terms is not None:
                _give_grant(step, approved)
            return approved

        return self.writer.run(op)

    def revoke(self, id: str, approver: str, note: str) -> str:
        """Take back an approval that is not used yet, or a grant, at once. Returns what it is now."""
        _check_rationale(note)

        def op(step: Step) -> str:
            self._check_person(approver)
            grant = step.store.grant(id)
            if grant is None:
                approval = transitions.find(step, id)[0]
                more = {"approver": approver, "name": self.people[approver]}
                return str(transitions.move(step, approval, Event.REVOKE, note, more).state)
            if grant.state != "active":
                raise ApprovalError(f"grant {id} is {grant.state}", "mcp-guard approvals list")
            about = {"grant": id, "approval": grant.approval, "instance": grant.binding["instance"], "note": note}
            step.add(Draft("grant.revoked", about | {"approver": approver, "name": self.people[approver]}))
            step.store.move_grant(grant, "revoked", grant.used)
            return "revoked"

        return self.writer.run(op)

    def _open(self, step: Step, id: str, approver: str, verdict: str) -> Approval:
        """The request, if this person may decide on it now. Escalates it if its time has come."""
        approval, _ = transitions.find(step, id)
        advance(approval.state, Event.APPROVE if verdict == "approve" else Event.DENY)
        if step.now >= approval.expires:
            raise ApprovalError(f"approval {id} has expired", "the agent must make its call again")
        self._check_person(approver)
        approval = transitions.escalate(step, id, self.routes)
        if any(given.approver == approver for given in approval.votes):
            raise ApprovalError(f"`{approver}` has already decided on {id}", f"mcp-guard approvals show {id}")
        rules.check_vote(approval.rules, approver, approval.askers)
        return approval

    def _check_person(self, approver: str) -> None:
        if approver not in self.people:
            known = ", ".join(self.people) or "nobody yet"
            raise ApprovalError(f"`{approver}` is not an approver", f"enrolled under [approvers]: {known}")

    def _check_evidence(self, step: Step, approval: Approval, statement: Statement, vote: Vote) -> None:
        """The signature is by a key of this person that is in use, over exactly what is decided now."""
        expected = (approval.request_hash, approval.decision_hash, self.writer.key.origin)
        if (statement.request_hash, statement.decision_hash, statement.origin) != expected:
            raise ApprovalError(f"the statement is not about {approval.id} as it is", "look at it again, then decide")
        if not approval.requested <= statement.at <= step.now or step.now - statement.at > FRESH:
            raise ApprovalError("the statement is not of these last minutes", "decide again")
        key = usable_key(step.store.approver_keys(), vote.key, vote.approver)
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
    if len(rationale) > MOST_RATIONALE:
        raise ApprovalError(f"a rationale is at most {MOST_RATIONALE} characters", "say it shorter")
    try:
        rationale.encode()
    except UnicodeEncodeError:
        raise ApprovalError("the rationale is not valid text (UTF-8)", "write it anew") from None


def _record_word(step: Step, voted: Approval, vote: Vote, missing: tuple[str, ...]) -> Approval:
    """One approval of several that are needed."""
    _, story = transitions.find(step, voted.id)
    fields = receipt_fields(voted) | vote_fields(vote) | {"follows": [story[-1]], "missing": list(missing)}
    seq = step.add(Draft("approval.granted", fields))
    step.store.move_approval(voted, State.REQUESTED, "", [*story, seq])
    return voted


def _give_grant(step: Step, approved: Approval) -> None:
    """The grant that the last vote completes; all votes have the same terms, or it would not have been taken."""
    terms = approved.votes[-1].terms
    assert terms is not None
    subject, free, salt = approved.subject, tuple(terms["free"]), secrets.token_hex(16)
    grant = Grant(
        id="gr_" + hashlib.sha256(f"{approved.id}\0{approved.nonce}".encode()).hexdigest()[:10],
        approval=approved.id,
        state="active",
        binding=grants.bind(subject["binding"], subject["arguments"], subject["resource_argument"], free, salt),
        free=free,
        uses=terms["uses"],
        used=0,
        expires=step.now + terms["seconds"] * grants.SECOND,
        approvers=tuple(transitions.approver_fields(vote) for vote in approved.votes if vote.verdict == "approve"),
        salt=salt,
    )
    about = receipt_fields(approved) | {"grant": grant.id, "uses": grant.uses, "until": format_time(grant.expires)}
    step.add(Draft("grant.given", about | {"free": list(free), "binding": grant.binding}))
    step.store.add_grant(grant, approved.instance)
