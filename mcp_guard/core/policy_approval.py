"""Four eyes on policy: which set of policies may be loaded, what its approvers sign, and when votes suffice. Pure.

A set is identified by the hash of its files' names and texts. A policy version is not enough for that: it also depends
on the tools that are listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import orjson

from mcp_guard.core import canonical
from mcp_guard.core.approval import MAX_STATEMENT_AGE, SIGN_IN_AGAIN, RouteRule, some_of
from mcp_guard.core.errors import ApprovalError, SignInRequired
from mcp_guard.core.model import Json, Micros
from mcp_guard.core.receipt import format_time
from mcp_guard.core.sign_in import SignIn, SignInRule

STATEMENT_TYPE = "mcp-guard/policy-approval/v1"
MAX_RATIONALE_LENGTH = 500
"""In characters: each receipt of a loaded set repeats the votes, and must have room for them."""
PENDING = "mcp-guard policy pending"


class SetReplaced(ApprovalError):
    """Another set was put in force meanwhile than the one that was to be loaded."""


def set_material(texts: Mapping[str, str]) -> bytes:
    """The texts of a set by file name, as the ledger keeps them. The set is identified by the SHA-256 of this."""
    return orjson.dumps({"policies": dict(texts)}, option=orjson.OPT_SORT_KEYS)


def hash_of_set(texts: Mapping[str, str]) -> str:
    return canonical.digest(set_material(texts))


@dataclass(frozen=True, slots=True)
class PolicyVote:
    """One approver's verdict on a proposal, with the evidence that it is theirs. `signed_in` is how the identity
    provider had signed them in, as they have signed it; None if it had not."""

    verdict: str
    """`approve` or `deny`."""
    approver: str
    name: str
    rationale: str
    at: str
    key: str
    signature: Json
    signed_in: Json | None = None

    def to_json(self) -> Json:
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True)
class PolicyProposal:
    """A set that waits for approval, or was approved. `previous` is the set in force when it was proposed; None if
    there was none. The rule is that of the route at that time. `by` is who proposed it: a guard, or a user's account.
    """

    id: str
    policy_set: str
    previous: str | None
    rule: RouteRule
    by: str
    at: Micros
    votes: tuple[PolicyVote, ...] = ()

    @property
    def missing(self) -> int:
        """How many more people must approve."""
        return max(0, self.rule.quorum - len(self.votes))

    def members(self) -> Json:
        """What its receipts say of it, and its approvers sign."""
        members: Json = {"proposal": self.id, "policy_set": self.policy_set, "rule": rule_as_json(self.rule)}
        return members | ({"previous": self.previous} if self.previous else {})

    def to_json(self) -> Json:
        more = {"by": self.by, "at": self.at, "votes": [vote.to_json() for vote in self.votes]}
        return self.members() | more

    @classmethod
    def from_json(cls, document: Json) -> "PolicyProposal":
        rule = document["rule"]
        return cls(
            id=document["proposal"],
            policy_set=document["policy_set"],
            previous=document.get("previous"),
            rule=_read_rule(rule),
            by=document["by"],
            at=document["at"],
            votes=tuple(PolicyVote(**vote) for vote in document["votes"]),
        )


@dataclass(frozen=True, slots=True)
class PolicyApprovalState:
    """What the ledger knows of the sets of one ledger under the rule.

    `in_force` is the set that may be loaded; `approved` is the proposal by which it is, and None for the baseline: the
    set that was in force when the rule began. `denied` is the set that was denied last, unless another was proposed
    since.
    """

    in_force: str | None = None
    approved: PolicyProposal | None = None
    open: PolicyProposal | None = None
    denied: str | None = None

    @property
    def identity(self) -> str:
        """Differs whenever something else may be loaded."""
        return f"{self.in_force} {self.approved.id if self.approved else 'baseline'}"

    def needs_proposal(self, policy_set: str) -> bool:
        return policy_set not in (self.in_force, self.denied, self.open.policy_set if self.open else None)

    def to_json(self) -> Json:
        return {
            "in_force": self.in_force,
            "approved": self.approved.to_json() if self.approved else None,
            "open": self.open.to_json() if self.open else None,
            "denied": self.denied,
        }

    @classmethod
    def from_json(cls, document: Json) -> "PolicyApprovalState":
        approved, open = (
            PolicyProposal.from_json(document[name]) if document[name] else None for name in ("approved", "open")
        )
        return cls(document["in_force"], approved, open, document["denied"])

    def with_vote(self, vote: PolicyVote) -> "PolicyApprovalState":
        """After a vote on the open proposal, which decides it if nobody else is missing."""
        assert self.open is not None
        if vote.verdict == "deny":
            return replace(self, open=None, denied=self.open.policy_set)
        proposal = replace(self.open, votes=(*self.open.votes, vote))
        if proposal.missing:
            return replace(self, open=proposal)
        return PolicyApprovalState(proposal.policy_set, proposal)


@dataclass(frozen=True, slots=True)
class PolicyStatement:
    """What an approver signs about a proposal. `about` are the members of the proposal; `signed_in` is how the identity
    provider has signed the approver in."""

    origin: str
    about: Json
    verdict: str
    approver: str
    name: str
    rationale: str
    at: Micros
    signed_in: SignIn | None = None

    def text(self) -> bytes:
        """An RFC 8785 document. `verifier/policy_approvals.py` rebuilds the same bytes from a receipt."""
        members = self.about | {
            name: getattr(self, name) for name in ("origin", "verdict", "approver", "name", "rationale")
        }
        members |= {"at": format_time(self.at), "type": STATEMENT_TYPE}
        members |= {"signed_in": self.signed_in.to_json()} if self.signed_in else {}
        return orjson.dumps(members, option=orjson.OPT_SORT_KEYS)

    def vote(self, key: str, signature: Json) -> PolicyVote:
        at = format_time(self.at)
        signed_in = self.signed_in.to_json() if self.signed_in else None
        return PolicyVote(self.verdict, self.approver, self.name, self.rationale, at, key, signature, signed_in)


def rule_as_json(rule: RouteRule) -> Json:
    members: Json = {"route": rule.route, "quorum": rule.quorum, "approvers": list(rule.approvers)}
    return members | ({"sign_in": rule.sign_in.to_json()} if rule.sign_in else {})


def _read_rule(rule: Json) -> RouteRule:
    sign_in = None
    if demanded := rule.get("sign_in"):
        sign_in = SignInRule(tuple(demanded.get("acr", ())), demanded.get("mfa", False), demanded.get("seconds", 0))
    return RouteRule(rule["route"], tuple(rule["approvers"]), rule["quorum"], sign_in=sign_in)


def check_vote(proposal: PolicyProposal, approver: str, verdict: str) -> None:
    """Raises: ApprovalError if this person cannot vote on the proposal."""
    if verdict not in ("approve", "deny"):
        raise ApprovalError("`verdict` must be approve or deny", "try again")
    if approver not in proposal.rule.approvers:
        names = ", ".join(proposal.rule.approvers)
        raise ApprovalError(f"`{approver}` is not an approver of route `{proposal.rule.route}`", f"approvers: {names}")
    if verdict == "approve" and any(vote.approver == approver for vote in proposal.votes):
        raise ApprovalError(f"`{approver}` has already approved `{proposal.id}`", "another approver must decide")


def check_sign_in(proposal: PolicyProposal, signed_in: SignIn | None, now: Micros) -> None:
    """Raises: SignInRequired unless an approver who is signed in like this may vote on the proposal."""
    demanded = proposal.rule.sign_in
    if demanded is not None and (problem := demanded.problem(signed_in, now)):
        raise SignInRequired(f"route `{proposal.rule.route}` does not take this vote: {problem}", SIGN_IN_AGAIN)


def check_statement(statement: PolicyStatement, proposal: PolicyProposal, origin: str, now: Micros) -> None:
    """Raises: ApprovalError unless the statement is about this proposal as it is, recent, and by somebody who was
    signed in as its route demands."""
    if statement.origin != origin or statement.about != proposal.members():
        raise ApprovalError("the statement is about something else than this proposal", "look at it again")
    if not 0 <= now - statement.at <= MAX_STATEMENT_AGE:
        raise ApprovalError("the statement has expired: it must be recorded within ten minutes", "try again")
    check_sign_in(proposal, statement.signed_in, statement.at)


def describe_missing(proposal: PolicyProposal) -> str:
    """Who must still approve."""
    voted = {vote.approver for vote in proposal.votes}
    return f"waits for approval by {some_of(proposal.missing, proposal.rule.approvers, voted)}"
