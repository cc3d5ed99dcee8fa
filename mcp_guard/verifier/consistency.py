"""Consistency between receipts: calls, approvals, grants and approvers' keys, each followed from its first receipt."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from .approver_keys import TrustedKeys
from .cut_texts import begins_alike, cut_like
from .drills import MISSED, check_drill, check_opening
from .enrolled_keys import EnrolledKeys, check_recent
from .format_4 import Format4Checker
from .grant_terms import CLAIMS, bound_part, kept_claims
from .granting import follow_vote, is_satisfied
from .operations import OperationChecker
from .receipts import REQUEST
from .report import VerificationFailed
from .reported_votes import ReportedVotes, check_reported
from .self_approval import SelfApprovals, is_alone
from .sign_in import check_sign_in
from .signatures import ABOUT, Receipt, statement

CHECKED = ("intent", "decision", "outcome", "approval.", "grant.", "approver.")
"""How the kinds of receipts begin that are checked against each other."""
VERDICTS = {"approval.granted": "approve", "approval.denied": "deny", MISSED: "approve"}
RELEASES = ("approval.released", "grant.released")


@dataclass
class OpenApproval:
    """A request that has not ended: what its approvers sign of it, what its routes require, and who has approved it."""

    state: str
    """The kind of the receipt that put it in its state."""
    requested: Receipt
    """The receipt of the request."""
    rules: list[Receipt]
    last: int
    """Its latest receipt, which the next one must follow."""
    request: str | None
    """The request itself, if it is stored."""
    votes: list[Receipt] = field(default_factory=list)
    """The receipts of the approving votes."""

    def terms(self) -> Receipt | None:
        """The signed terms of a grant."""
        terms: Receipt | None = self.votes[-1].get("terms") if self.votes else None
        return terms


@dataclass
class OpenGrant:
    """A grant that is not used up: its receipt, the approval that gave it, and its uses."""

    given: Receipt
    approval: OpenApproval
    spent: int = 0
    """Uses that were recorded."""
    taken: int = 0
    """Uses with an intent."""
    is_revoked: bool = False


@dataclass
class OpenIntent:
    """An intent without an outcome."""

    call: str
    consumed: str | None = None
    """What it has consumed, in words."""
    held: OpenApproval | OpenGrant | None = None
    """The same itself, unless it began before the receipts at hand."""


class ConsistencyChecker:
    """Follows each call, approval, grant and approver's key through its receipts. Only open ones are kept in memory."""

    def __init__(self, trusted: TrustedKeys | None = None, is_part: bool = False, first: int = 0) -> None:
        """`trusted` are the approvers' keys given to the verifier; None accepts those that the ledger names.

        With `is_part`, what began before the first receipt is checked as far as the receipts at hand allow.
        """
        self._is_part = is_part
        self._first = first
        self.intents: dict[int, OpenIntent] = {}
        self.approvals: dict[str, OpenApproval] = {}
        self.grants: dict[str, OpenGrant] = {}
        self.keys = EnrolledKeys(trusted, is_part)
        self.operations = OperationChecker(self.keys)
        self.votes = 0
        self.self_approvals = SelfApprovals()
        self.reported = ReportedVotes()
        self.drills = 0
        self._ids: set[bytes] = set()
        """Hashes of the ids of all approvals: a signature must not be used again under its id."""
        self._held: tuple[int, Receipt] | None = None
        """The latest decision that required approval."""
        self._consumed: tuple[int, str] | None = None
        """The approval or use of a grant that the previous receipt consumed; the intent for it must come next."""
        self._not_sent: tuple[int, OpenIntent | None] | None = None
        """The latest outcome `not_sent`, and its intent unless that came before the receipts at hand. Only the receipt
        after it may release what the intent has consumed."""

    def go_on_from(self, before: "ConsistencyChecker | Format4Checker") -> None:
        """Take over what goes on after a migration: keys, calls without outcome, and ids, which are never used again.
        Requests, approvals and grants end with it."""
        self.votes, self.self_approvals = before.votes, before.self_approvals
        self.reported = before.reported
        if isinstance(before, ConsistencyChecker):
            self.drills = before.drills
            self.keys, self.operations = before.keys, before.operations
            self.intents, self._ids = before.intents, before._ids
        else:
            self.keys.go_on_from(before.keys, before.enrolled)
            self.intents = {seq: OpenIntent(call) for seq, call in before.intents.items()}
            self._ids = {_short_hash(id) for id in before.ids}

    def check(self, seq: int, receipt: Receipt) -> None:
        """Raises: VerificationFailed; KeyError, TypeError or ValueError if the receipt lacks members of its kind."""
        kind = receipt["kind"]
        consumed = self._take_consumed(seq, receipt)
        if kind == "intent":
            self._check_intent(seq, receipt, consumed)
        elif kind == "decision":
            if receipt.get("outcome") == "require_approval":
                self._held = seq, receipt
        elif kind == "outcome":
            self._check_outcome(seq, receipt)
        elif kind in RELEASES:
            self._check_release(seq, receipt, kind)
        elif kind.startswith("approval."):
            self._check_approval(seq, receipt, kind)
        elif kind.startswith("grant."):
            self._check_grant(seq, receipt, kind)
        elif kind.startswith("approver."):
            self.keys.check(seq, receipt, kind)
        if "operation" in receipt:
            self.operations.check(seq, receipt)

    def _take_consumed(self, seq: int, receipt: Receipt) -> str | None:
        """What the receipt just before has consumed, which this one must be the intent for."""
        consumed, self._consumed = self._consumed, None
        if consumed is None:
            return None
        if (seq, receipt["kind"], receipt.get("outcome")) != (consumed[0] + 1, "intent", "require_approval"):
            raise VerificationFailed(consumed[0], f"consumes {consumed[1]}, but no intent for it follows")
        return consumed[1]

    def _began_before(self, id: object) -> bool:
        """Whether an approval or grant may have begun before the receipts at hand."""
        return self._is_part and isinstance(id, str) and _short_hash(id) not in self._ids

    def check_part(self, seq: int, receipt: Receipt) -> None:
        """Like `check`, for any item of a part of the ledger. Raises: VerificationFailed."""
        if not receipt["kind"].startswith(CHECKED) and "operation" not in receipt:
            return
        try:
            self.check(seq, receipt)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise VerificationFailed(seq, f"not a valid receipt: {type(error).__name__}: {error}") from None

    def finish(self) -> None:
        """Check that nothing was consumed by the last receipt. Raises: VerificationFailed."""
        if self._consumed is not None:
            raise VerificationFailed(self._consumed[0], f"consumes {self._consumed[1]}, but no intent for it follows")

    def _check_intent(self, seq: int, receipt: Receipt, consumed: str | None) -> None:
        """`consumed` is what the receipt just before has consumed."""
        self.intents[seq] = OpenIntent(receipt["call"])
        if receipt.get("purpose") == "facts":
            if "outcome" in receipt or "approval" in receipt:
                raise VerificationFailed(seq, "one of the guard's own reads, with a decision or an approval")
        elif receipt["outcome"] == "allow":
            if "approval" in receipt:
                raise VerificationFailed(seq, "an intent that names approvers, although no approval was required")
        elif receipt["outcome"] == "require_approval":
            self._check_approved(seq, receipt, consumed)
        else:
            raise VerificationFailed(seq, f"an intent of call `{receipt['call']}`, which its decision does not permit")

    def _check_outcome(self, seq: int, receipt: Receipt) -> None:
        follows = receipt.get("follows", [])
        intent = self.intents.pop(follows[0] if follows else -1, None)
        call = intent.call if intent is not None else None
        if call != receipt["call"] and not (call is None and self._is_part):
            raise VerificationFailed(seq, f"an outcome of call `{receipt['call']}` without an open intent")
        self._not_sent = (seq, intent) if receipt.get("ending") == "not_sent" else None

    def _check_approved(self, seq: int, receipt: Receipt, consumed: str | None) -> None:
        used = receipt.get("approval", {})
        named = f"a use of grant `{used['grant']}`" if "grant" in used else f"approval `{used.get('id')}`"
        if consumed != named and seq > self._first:
            raise VerificationFailed(seq, f"an intent that required approval, but {named} was not consumed for it")
        self.intents[seq].consumed = named
        if self._began_before(used.get("id")):  # the votes are not at hand
            self.self_approvals.add(seq, is_alone(receipt, used["approvers"]))
        if "grant" in used:
            self._check_grant_use(seq, receipt, used)
            return
        approval = self.approvals.pop(used.get("id"), None)
        if approval is None and self._began_before(used.get("id")):
            return
        if approval is None or approval.state != "approval.consumed":
            raise VerificationFailed(seq, "an intent that required approval, but no approval was consumed for it")
        if used["decision_hash"] != approval.requested["decision_hash"]:
            raise VerificationFailed(seq, f"approval `{used['id']}` was granted for another decision")
        _check_same(seq, receipt, approval.requested, ABOUT, f"approval `{used['id']}`")
        if receipt["request"] != approval.requested["commitment"]:
            raise VerificationFailed(seq, f"approval `{used['id']}` is for another request than the intent commits to")
        _check_approvers(seq, used, approval)
        self.intents[seq].held = approval

    def _check_grant_use(self, seq: int, receipt: Receipt, used: Receipt) -> None:
        id = used["grant"]
        grant = self.grants.get(id)
        if grant is None and self._began_before(id):
            return
        if grant is None or grant.spent != used["use"] or grant.spent <= grant.taken:
            raise VerificationFailed(seq, f"a use of grant `{id}` without a receipt of it just before")
        if used.get("id") != grant.given["approval"] or receipt["time"] > grant.given["until"]:
            raise VerificationFailed(seq, f"grant `{id}` is of another approval, or its time is over")
        self._check_terms(seq, receipt, grant)
        _check_approvers(seq, used, grant.approval)
        self.intents[seq].held = grant
        grant.taken = used["use"]
        if grant.taken == grant.given["uses"]:
            del self.grants[id]

    def _check_release(self, seq: int, receipt: Receipt, kind: str) -> None:
        """What a call had consumed is given back only by the outcome, just before, that it was not sent."""
        id = receipt["approval"] if kind == "approval.released" else receipt["grant"]
        named = f"approval `{id}`" if kind == "approval.released" else f"a use of grant `{id}`"
        since, intent = self._not_sent or (-1, None)
        self._not_sent = None
        if since != seq - 1 and seq > self._first:
            raise VerificationFailed(seq, f"releases {named}, but no outcome just before it says that nothing was sent")
        if intent is not None and intent.consumed != named:
            raise VerificationFailed(seq, f"releases {named}, which the call that was not sent had not consumed")
        if intent is None or intent.held is None:
            if not self._began_before(id):
                raise VerificationFailed(seq, f"releases {named}, which was not consumed")
        elif isinstance(intent.held, OpenApproval):
            approval = intent.held
            self._check_step(seq, receipt, approval)
            approval.state, self.approvals[id] = "approval.granted", approval
        else:
            self._check_returned_use(seq, receipt, intent.held)

    def _check_returned_use(self, seq: int, receipt: Receipt, grant: OpenGrant) -> None:
        id = receipt["grant"]
        if grant.is_revoked or receipt["use"] != grant.spent or grant.spent != grant.taken:
            raise VerificationFailed(seq, f"grant `{id}` has ended, or another use of it is released")
        grant.spent -= 1
        grant.taken -= 1
        self.grants[id] = grant

    def _check_terms(self, seq: int, receipt: Receipt, grant: OpenGrant) -> None:
        """Everything is as in the request that was approved, but for what its approvers left free."""
        id, signed = grant.given["grant"], grant.approval.requested
        free = set(grant.given.get("free", ()))
        names = [name for name in ABOUT if name not in ("resource", "claimed") and CLAIMS.get(name) not in free]
        if signed.get("resource_argument") not in free:
            names.append("resource")
        _check_same(seq, receipt, signed, names, f"grant `{id}`")
        if kept_claims(receipt, free) != kept_claims(signed, free):
            raise VerificationFailed(seq, f"grant `{id}` is for another claimed")
        was, is_now = grant.approval.request, receipt.get(REQUEST)
        if was is not None and is_now is not None and bound_part(was, free) != bound_part(is_now, free):
            raise VerificationFailed(seq, f"grant `{id}` does not leave free what differs in this request")

    def _check_approval(self, seq: int, receipt: Receipt, kind: str) -> None:
        id = receipt["approval"]
        if kind == "approval.requested":
            if (key := _short_hash(id)) in self._ids:
                raise VerificationFailed(seq, f"approval `{id}` is requested twice")
            self._ids.add(key)
            self._check_request(seq, receipt)
            return
        approval = self.approvals.get(id)
        check_opening(seq, receipt)
        self.drills += "drill" in receipt
        if approval is None and self._began_before(id):
            if kind in VERDICTS:
                self._check_signer(seq, receipt)
            self._consumed = (seq, f"approval `{id}`") if kind == "approval.consumed" else None
            return
        if approval is None:
            raise VerificationFailed(seq, f"`{kind}` of approval `{id}`, which is unknown or has ended")
        self._check_step(seq, receipt, approval)
        if kind in VERDICTS:
            self._check_vote(seq, receipt, approval)
        self._move(seq, receipt, approval)

    def _check_step(self, seq: int, receipt: Receipt, approval: OpenApproval) -> None:
        """Each receipt of an approval is about the same request, and follows the one before it."""
        id = receipt["approval"]
        if receipt["decision_hash"] != approval.requested["decision_hash"]:
            raise VerificationFailed(seq, f"approval `{id}` was requested for another decision")
        _check_same(seq, receipt, approval.requested, SIGNED_OF_REQUEST, f"approval `{id}`")
        if receipt["follows"] != [approval.last]:
            raise VerificationFailed(
                seq, f"does not follow receipt {approval.last}, the previous one of approval `{id}`"
            )
        approval.last = seq

    def _move(self, seq: int, receipt: Receipt, approval: OpenApproval) -> None:
        """One step of an open request."""
        id, kind = receipt["approval"], receipt["kind"]
        if kind == "approval.escalated":
            if approval.state != "approval.requested" or not only_adds_approvers(approval.rules, receipt["rules"]):
                raise VerificationFailed(seq, f"approval `{id}` is escalated by more than adding approvers")
            approval.rules = receipt["rules"]
        elif kind == "approval.granted":
            follow_vote(seq, receipt, approval, self.self_approvals)
        elif kind == "approval.consumed":
            if approval.state != "approval.granted":
                raise VerificationFailed(seq, f"approval `{id}` is consumed without having been granted")
            if receipt["time"] >= approval.requested["expires"]:
                raise VerificationFailed(seq, f"approval `{id}` is consumed after it had expired")
            _check_approvers(seq, receipt, approval)
            approval.state, self._consumed = kind, (seq, f"approval `{id}`")
        else:
            if "drill" in receipt:
                check_drill(seq, receipt, approval)
            if kind == MISSED and not is_satisfied(approval):
                raise VerificationFailed(
                    seq, f"drill `{id}` is recorded as missed, but its routes require more approvals"
                )
            del self.approvals[id]

    def _check_request(self, seq: int, receipt: Receipt) -> None:
        id, held = receipt["approval"], self._held
        if held is None and self._is_part:
            self.approvals[id] = OpenApproval("approval.requested", receipt, receipt["rules"], seq, None)
            return
        if held is None or (receipt["follows"], receipt["call"]) != ([held[0]], held[1]["call"]):
            raise VerificationFailed(seq, f"approval `{id}` is requested without a decision that requires it")
        decision = held[1]
        names = [name for name in ABOUT if name != "verb"]
        _check_same(seq, receipt, cut_like(decision, receipt, names), names, f"the decision of receipt {held[0]}")
        if receipt["commitment"] != decision["request"]:
            raise VerificationFailed(seq, f"approval `{id}` is for another request than the decision commits to")
        self.approvals[id] = OpenApproval("approval.requested", receipt, receipt["rules"], seq, decision.get(REQUEST))

    def _check_vote(self, seq: int, receipt: Receipt, approval: OpenApproval) -> None:
        """A vote is signed by its approver, about this request as it was then, and was given in time."""
        self._check_signer(seq, receipt)
        self.votes += "method" not in receipt
        approver = receipt["approver"]
        if receipt["rules"] != approval.rules:
            raise VerificationFailed(seq, f"`{approver}` has signed other rules than those of the request")
        if not any(approver in rule["approvers"] for rule in approval.rules):
            raise VerificationFailed(seq, f"`{approver}` is not an approver of any of its routes")
        if not approval.requested["time"] <= receipt["at"] <= receipt["time"] < approval.requested["expires"]:
            raise VerificationFailed(seq, f"the vote of `{approver}` was not given while the request was open")
        check_recent(seq, receipt["at"], receipt["time"], f"the vote of `{approver}`")
        if receipt["verdict"] != VERDICTS[receipt["kind"]]:
            raise VerificationFailed(seq, f"`{approver}` has signed `{receipt['verdict']}`")
        check_sign_in(seq, receipt)
        if receipt["verdict"] == "approve":
            _check_further_vote(seq, receipt, approval)
            approval.votes.append(receipt)

    def _check_signer(self, seq: int, receipt: Receipt) -> None:
        """A vote is signed by its approver. Or a service has reported it, which proves nothing, and is possible only
        where every route accepts it."""
        if "method" in receipt:
            check_reported(seq, receipt)
            self.reported.add(seq)
            return
        self.keys.check_signed(seq, receipt["approver"], receipt, statement(receipt), "the vote")

    def _check_grant(self, seq: int, receipt: Receipt, kind: str) -> None:
        id = receipt["grant"]
        if kind == "grant.given":
            approval = self.approvals.get(receipt["approval"])
            if approval is None and self._began_before(receipt["approval"]):
                return
            if approval is None or approval.state != "approval.granted" or id in self.grants:
                raise VerificationFailed(seq, f"grant `{id}` was given without an approval")
            terms = {"uses": receipt["uses"], "seconds": _duration(receipt), "free": receipt.get("free", [])}
            if terms != approval.terms():
                raise VerificationFailed(seq, f"grant `{id}` differs from the terms that its approvers signed")
            if seq != approval.last + 1:
                raise VerificationFailed(seq, f"grant `{id}` was not given with the last vote")
            _check_same(seq, receipt, approval.requested, SIGNED_OF_REQUEST, f"grant `{id}`")
            self._ids.add(_short_hash(id))
            self.grants[id] = OpenGrant(receipt, approval)
            return
        grant = self.grants.get(id)
        if grant is None and self._began_before(id):
            self._consumed = (seq, f"a use of grant `{id}`") if kind == "grant.used" else None
            return
        if grant is None:
            raise VerificationFailed(seq, f"`{kind}` of grant `{id}`, which is unknown or has ended")
        given = grant.given
        if kind == "grant.revoked":
            del self.grants[id]
            grant.is_revoked = True
        elif receipt["use"] != grant.spent + 1 or receipt["use"] > given["uses"] or receipt["time"] > given["until"]:
            raise VerificationFailed(seq, f"grant `{id}` is used beyond its limits")
        else:
            grant.spent += 1
            self._consumed = seq, f"a use of grant `{id}`"


SIGNED_OF_REQUEST = (*ABOUT, "commitment", "expires", "resource_argument")
"""Members that every receipt of an approval has like the request, because its approvers sign them."""


def _short_hash(id: str) -> bytes:
    return hashlib.sha256(id.encode()).digest()[:12]


def _check_same(seq: int, receipt: Receipt, signed: Receipt, names: Iterable[str], of: str) -> None:
    """Raises: VerificationFailed, naming the members that differ."""
    if differing := [name for name in names if receipt.get(name) != signed.get(name)]:
        raise VerificationFailed(seq, f"{of} is for another {', '.join(differing)}")


def _check_further_vote(seq: int, receipt: Receipt, approval: OpenApproval) -> None:
    if any(vote["approver"] == receipt["approver"] for vote in approval.votes):
        raise VerificationFailed(seq, f"`{receipt['approver']}` votes twice")
    if any(vote.get("terms") != receipt.get("terms") for vote in approval.votes):
        raise VerificationFailed(seq, "its approvers have signed different terms of a grant")


def _check_approvers(seq: int, used: Receipt, approval: OpenApproval) -> None:
    """The approvers that a receipt names are those who voted, with their rationales, which may be cut there."""
    named = used.get("approvers", [])
    fits = len(named) == len(approval.votes) and all(
        by["approver"] == vote["approver"]
        and by["name"] == vote["name"]
        and begins_alike(vote["rationale"], by["rationale"])
        and bool(by.get("self_approved")) == bool(vote.get("self_approved"))
        and by.get("method") == vote.get("method")
        for by, vote in zip(named, approval.votes, strict=True)
    )
    if not fits:
        raise VerificationFailed(seq, "the approvers that it names are not those who have voted")


def only_adds_approvers(before: list[Receipt], after: list[Receipt]) -> bool:
    """Whether rules demand what they demanded before, of the same people or more, and accept no further service."""
    free: Receipt = {"approvers": None, "accept": None}
    return len(before) == len(after) and all(
        {**new, **free} == {**old, **free}
        and set(old["approvers"]) <= set(new["approvers"])
        and set(new.get("accept", ())) <= set(old.get("accept", ()))
        for old, new in zip(before, after, strict=True)
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _duration(grant: Receipt) -> float:
    """Seconds from the grant's receipt to its end."""
    return (_time(grant["until"]) - _time(grant["time"])).total_seconds()
