"""Approvals: the state table, what an approval is bound to, who may vote, and when the votes suffice. Pure."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

import orjson

from mcp_guard.core import canonical
from mcp_guard.core.approval_subject import ApprovalSubject
from mcp_guard.core.drills import Drills
from mcp_guard.core.errors import ApprovalError, SignInRequired
from mcp_guard.core.model import MINUTE, Call, Decision, Json, Micros
from mcp_guard.core.receipt import format_time
from mcp_guard.core.request_meta import without_trace
from mcp_guard.core.sign_in import SignIn, SignInRule

STATEMENT_TYPE = "mcp-guard/approval/v2"
MAX_STATEMENT_AGE = 10 * MINUTE
"""Time that may pass between preparing a statement and recording it."""
SIGN_IN_AGAIN = "open the request on the approval pages, and sign in again with the identity provider"


class ApprovalState(StrEnum):
    REQUESTED = "requested"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    STALE = "stale"
    CONSUMED = "consumed"
    REVOKED = "revoked"
    MISSED = "missed"
    """A drill that was approved. It permits nothing."""


class ApprovalEvent(StrEnum):
    APPROVE = "approve"
    DENY = "deny"
    EXPIRE = "expire"
    WITHDRAW = "withdraw"
    OUTDATE = "outdate"
    CONSUME = "consume"
    RELEASE = "release"
    """The call that consumed it was provably not sent. Only the transaction that records this outcome may release."""
    REVOKE = "revoke"
    MISS = "miss"


TRANSITIONS: Mapping[tuple[ApprovalState, ApprovalEvent], ApprovalState] = {
    (ApprovalState.REQUESTED, ApprovalEvent.APPROVE): ApprovalState.APPROVED,
    (ApprovalState.REQUESTED, ApprovalEvent.DENY): ApprovalState.DENIED,
    (ApprovalState.REQUESTED, ApprovalEvent.MISS): ApprovalState.MISSED,
    (ApprovalState.REQUESTED, ApprovalEvent.EXPIRE): ApprovalState.EXPIRED,
    (ApprovalState.REQUESTED, ApprovalEvent.WITHDRAW): ApprovalState.WITHDRAWN,
    (ApprovalState.REQUESTED, ApprovalEvent.OUTDATE): ApprovalState.STALE,
    (ApprovalState.APPROVED, ApprovalEvent.CONSUME): ApprovalState.CONSUMED,
    (ApprovalState.APPROVED, ApprovalEvent.EXPIRE): ApprovalState.EXPIRED,
    (ApprovalState.APPROVED, ApprovalEvent.OUTDATE): ApprovalState.STALE,
    (ApprovalState.APPROVED, ApprovalEvent.REVOKE): ApprovalState.REVOKED,
    (ApprovalState.CONSUMED, ApprovalEvent.RELEASE): ApprovalState.APPROVED,
}
OPEN = (ApprovalState.REQUESTED, ApprovalState.APPROVED)
VERDICTS = {"approve": ApprovalEvent.APPROVE, "deny": ApprovalEvent.DENY}


def advance(state: ApprovalState, event: ApprovalEvent, hint: str) -> ApprovalState:
    """The next state.

    Raises: ApprovalError for every pair that is not in the table.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ApprovalError(f"cannot {event} an approval that is `{state}`", hint) from None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a held call goes, as configured now. Times are microseconds.

    `escalate_to` names a route whose approvers may decide too, and are notified, once a request has waited for
    `escalate_after`. `notify` names notifiers; `text` is shown to the approver. `sign_in` is what it demands of how its
    approvers are signed in.
    """

    name: str
    approvers: tuple[str, ...]
    expires: Micros
    unsafe_self_approval: bool = False
    quorum: int = 1
    escalate_to: str | None = None
    escalate_after: Micros = 0
    notify: tuple[str, ...] = ()
    text: str = ""
    sign_in: SignInRule | None = None
    follow: tuple[str, ...] = ()
    """The notifiers among `notify` that report the end of a request, too."""
    accept: tuple[str, ...] = ()
    """The services whose buttons decide, without a key: `slack`."""
    drills: Drills | None = None


@dataclass(frozen=True, slots=True)
class RouteRule:
    """What one route demands of one request: fixed when the request is made, and written into its receipt."""

    route: str
    approvers: tuple[str, ...]
    quorum: int
    self_approval: bool = False
    sign_in: SignInRule | None = None
    accept: tuple[str, ...] = ()
    drills: bool = False
    """Whether some requests of the route are drills, which all of its approvers sign."""


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """A grant that an approval gives: how many more calls, for how many seconds, and which arguments may differ.

    The time runs from the moment when the grant is given.
    """

    uses: int
    seconds: int
    free: tuple[str, ...] = ()

    def to_json(self) -> Json:
        return {"uses": self.uses, "seconds": self.seconds, "free": list(self.free)}

    @classmethod
    def from_json(cls, document: Json) -> "GrantTerms":
        return cls(document["uses"], document["seconds"], tuple(document["free"]))


@dataclass(frozen=True, slots=True)
class Vote:
    """One approver's verdict on one request, with the evidence that it is theirs: the signature of a key over a
    `VoteStatement`, or what a service such as Slack has reported, which proves nothing to anybody else."""

    approver: str
    verdict: str
    """`approve` or `deny`."""
    rationale: str
    at: Micros
    name: str = ""
    """The approver's name in the attribution sentence."""
    terms: GrantTerms | None = None
    key: str = ""
    signature: Json | None = None
    signed_in: SignIn | None = None
    """How the identity provider had signed them in, if it had."""
    method: str = ""
    """The service in which they pressed a button (`slack`); empty if a key signed."""
    reported: Json | None = None
    """What the service says: team, user, channel and message."""


@dataclass(frozen=True, slots=True)
class Approval:
    """One request for approval of one exact call, as stored. `subject` is what the approver is shown.

    `request_hash` and `decision_hash` are salted with the `nonce`; the same request is found again by `lookup`. Nonce
    and lookup are erased as soon as nothing needs them, so that the remaining hashes reveal nothing. `outcome` is the
    receipt of the outcome of the call that used the approval; a call that was not sent has not used it. `answered`
    means that the agent has been given that outcome, or can no longer be given it.
    """

    id: str
    state: ApprovalState
    instance: str
    lookup: str
    request_hash: str
    decision_hash: str
    nonce: str
    rules: tuple[RouteRule, ...]
    requested: Micros
    expires: Micros
    subject: ApprovalSubject
    votes: tuple[Vote, ...] = ()
    note: str = ""
    outcome: int | None = None
    answered: bool = False

    @property
    def routes(self) -> tuple[str, ...]:
        return tuple(rule.route for rule in self.rules)

    @property
    def missing_routes(self) -> tuple[str, ...]:
        """Routes on which fewer people have approved than their quorum demands."""
        return missing_routes(self.rules, self.votes, self.subject.requesters)

    def is_requester(self, approver: str) -> bool:
        """Whether this is their own request: they own the agent, or are the user that it acts for, or may be."""
        return approver in self.subject.requesters

    def with_vote(self, vote: Vote) -> "Approval":
        return replace(self, votes=(*self.votes, vote))

    def to_json(self) -> Json:
        """INVARIANT: nothing in it tells a drill from any other request while people can decide."""
        is_open = self.state is ApprovalState.REQUESTED
        return asdict(self) | {"subject": (replace(self.subject, drill=None) if is_open else self.subject).to_json()}


@dataclass(frozen=True, slots=True)
class VoteStatement:
    """What an approver signs: their own key signs these bytes, or a passkey takes their SHA-256 as its challenge.

    `about` says in clear what the approval is for (`signed_members`), and `rules` who must approve. `name` is the
    approver's, for the attribution sentence, and `signed_in` how the identity provider had signed them in, if it had.
    """

    origin: str
    approval: str
    request_hash: str
    decision_hash: str
    verdict: str
    approver: str
    rationale: str
    at: Micros
    terms: GrantTerms | None = None
    name: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[Json, ...] = ()
    signed_in: SignIn | None = None

    def text(self) -> bytes:
        """An RFC 8785 document. `verifier/signatures.py` rebuilds the same bytes from the receipt."""
        own = ("about", "terms", "signed_in")
        members: Json = {name: getattr(self, name) for name in self.__slots__ if name not in own}
        members |= {**self.about, "at": format_time(self.at), "type": STATEMENT_TYPE, "rules": list(self.rules)}
        if self.terms:
            members["terms"] = self.terms.to_json()
        if self.signed_in:
            members["signed_in"] = self.signed_in.to_json()
        return orjson.dumps(members, option=orjson.OPT_SORT_KEYS)


# What is signed


def signed_members(approval: Approval) -> Json:
    """What an approval is for, in clear: the members that its receipts and the intent share, and when it expires."""
    return {**approval.subject.signed, "expires": format_time(approval.expires)}


def rules_as_json(approval: Approval) -> list[Json]:
    """What each route demands, so that a verifier can count the votes itself."""
    requesters = approval.subject.requesters
    return [
        {
            "route": rule.route,
            "quorum": rule.quorum,
            "approvers": [name for name in rule.approvers if may_decide(rule, name, requesters)],
            **({"sign_in": rule.sign_in.to_json()} if rule.sign_in else {}),
        }
        | ({"accept": list(rule.accept)} if rule.accept else {})
        | ({"drills": True} if rule.drills else {})
        for rule in approval.rules
    ]


def make_statement(approval: Approval, vote: Vote, origin: str) -> VoteStatement:
    """The statement of a vote on this request. `origin` names the ledger."""
    return VoteStatement(
        origin=origin,
        approval=approval.id,
        request_hash=approval.request_hash,
        decision_hash=approval.decision_hash,
        verdict=vote.verdict,
        approver=vote.approver,
        rationale=vote.rationale,
        at=vote.at,
        terms=vote.terms,
        name=vote.name or vote.approver,
        about=signed_members(approval),
        rules=tuple(rules_as_json(approval)),
        signed_in=vote.signed_in,
    )


# Binding


def request_salt(nonce: str) -> bytes:
    """The salt of the commitment to a held request, which its receipts share. It does not reveal the nonce."""
    return hashlib.sha256(b"mcp-guard/request-salt/v1\0" + nonce.encode()).digest()[:16]


def salted_hash(nonce: str, data: bytes) -> str:
    """A hash that reveals nothing to anyone without the nonce, even if the data is one of few possible values."""
    return canonical.digest(nonce.encode() + b"\0" + data)


def binding(call: Call, decision: Decision, nonce: str) -> dict[str, Any]:
    """What one approval is valid for, member by member, so that a difference can be named."""
    assert call.tool is not None
    return {
        "instance": call.instance.id,
        "definition": call.tool.definition_hash,
        "tool": call.tool.listed_as,
        "resource": f'{call.resource.type}::"{call.resource.id}"',
        "arguments": salted_hash(nonce, call.canonical),
        "meta": salted_hash(nonce, canonical.canonicalize(meta, exact=True))
        if (meta := without_trace(call.meta))
        else None,
        "ticket": salted_hash(nonce, call.task.ticket.encode()) if call.task.ticket else None,
        "reason": salted_hash(nonce, call.task.reason.encode()) if call.task.reason else None,
        "facts": salted_hash(nonce, call.facts.hash.encode()) if call.facts else None,
        "policy_version": decision.policy_version,
        "routes": list(decision.routes),
    }


def current_binding(approval: Approval, call: Call, decision: Decision) -> dict[str, Any]:
    """The binding of the call now, to compare with the approval's, which also covers fewer routes than it has."""
    if set(decision.routes) <= set(approval.routes):
        decision = decision._replace(routes=approval.routes)
    return binding(call, decision, approval.nonce)


def decision_hash(bound: Mapping[str, Any], nonce: str) -> str:
    """Hash of a binding. Once the nonce is erased, the hash reveals nothing."""
    return canonical.digest_json({**bound, "nonce": nonce})


def changed_members(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the members of a binding that differ."""
    return tuple(name for name in before if before[name] != after.get(name))


# Who may vote, and when the votes suffice


def make_rule(route: Route, is_user_unknown: bool = False) -> RouteRule:
    """The rule of a route for one request. If nothing says who its user is, one of two approvers is not the user."""
    needs_two = is_user_unknown and not route.unsafe_self_approval
    quorum = max(route.quorum, 2) if needs_two else route.quorum
    return RouteRule(
        route.name, route.approvers, quorum, route.unsafe_self_approval, route.sign_in, route.accept, bool(route.drills)
    )


def escalate_rule(
    rule: RouteRule, routes: Mapping[str, Route], waited: Micros, requesters: Iterable[str | None] = ()
) -> RouteRule | None:
    """The rule after its route has escalated, or None if escalation is not due or has already happened.

    A switch that allows self-approval is for the approvers of its own route: who is added decides on their own request
    only if the other route has the switch, too (promise P4). Votes by a service count only if both routes accept it.
    """
    route = routes.get(rule.route)
    next_route = routes.get(route.escalate_to) if route is not None and route.escalate_to else None
    if route is None or next_route is None or waited < route.escalate_after:
        return None
    barred = () if next_route.unsafe_self_approval or not rule.self_approval else tuple(requesters)
    added = (name for name in next_route.approvers if name not in (*rule.approvers, *barred))
    approvers = (*rule.approvers, *added)
    accept = tuple(service for service in rule.accept if service in next_route.accept)
    return replace(rule, approvers=approvers, accept=accept) if approvers != rule.approvers else None


def may_decide(rule: RouteRule, approver: str, requesters: Iterable[str | None]) -> bool:
    """Promise P4: nobody decides on their own request, unless the route allows it by an `unsafe_` switch."""
    return approver in rule.approvers and (rule.self_approval or approver not in requesters)


def accepted_by(rules: Iterable[RouteRule]) -> tuple[str, ...]:
    """The services whose buttons decide on a request: those that all of its routes accept."""
    first, *others = rules
    return tuple(service for service in first.accept if all(service in rule.accept for rule in others))


def check_service(approval: Approval, routes: Mapping[str, Route], service: str) -> None:
    """Raises: ApprovalError unless each route accepted votes by this service when the request was made, and does so
    now."""
    for rule in approval.rules:
        route = routes.get(rule.route)
        if route is None or service not in rule.accept or service not in route.accept:
            hint = f"decide with a key: mcp-guard approvals show {approval.id}"
            raise ApprovalError(f"route `{rule.route}` accepts no votes by {service.capitalize()}", hint)


def describe_rule(rule: RouteRule, requesters: Iterable[str | None]) -> str:
    """Who must approve, in words."""
    requesters = tuple(requesters)
    eligible = [approver for approver in rule.approvers if may_decide(rule, approver, requesters)]
    if len(eligible) < rule.quorum:
        return f"{rule.quorum} needed, only {', '.join(eligible)} eligible" if eligible else "nobody eligible"
    if len(eligible) == 1:
        return eligible[0]
    return f"{'any' if rule.quorum == 1 else rule.quorum} of {', '.join(eligible)}"


def some_of(number: int, approvers: Sequence[str], voted: Collection[str] = ()) -> str:
    """So many of those who have not voted: `2 of alice, bob, carol`, or `alice and bob` if it takes both."""
    names = [name for name in approvers if name not in voted]
    return f"{number} of {', '.join(names)}" if number < len(names) else " and ".join(names)


def missing_routes(
    rules: Iterable[RouteRule], votes: Iterable[Vote], requesters: tuple[str | None, ...]
) -> tuple[str, ...]:
    """Routes on which fewer people have approved than their quorum. One person counts once on each of their routes."""
    approved = {vote.approver for vote in votes if vote.verdict == "approve"}
    return tuple(
        rule.route
        for rule in rules
        if sum(may_decide(rule, approver, requesters) for approver in approved) < rule.quorum
    )


def check_approver(rules: Iterable[RouteRule], approver: str, requesters: tuple[str | None, ...]) -> None:
    """Raises: ApprovalError if this person may decide on none of the routes (promise P4)."""
    rules = tuple(rules)
    if any(may_decide(rule, approver, requesters) for rule in rules):
        return
    names = ", ".join(f"`{rule.route}`" for rule in rules)
    if any(approver in rule.approvers for rule in rules):
        raise ApprovalError(f"`{approver}` may not decide on their own request", f"ask another approver of {names}")
    approvers = ", ".join(sorted({name for rule in rules for name in rule.approvers}))
    raise ApprovalError(f"`{approver}` is not an approver of route {names}", f"approvers of the route: {approvers}")


def check_may_revoke(approval: Approval, id: str, approver: str) -> None:
    """`id` is of this approval, or of a grant that it gave. Raises: ApprovalError."""
    if not any(approver in rule.approvers for rule in approval.rules):
        routes = ", ".join(rule.route for rule in approval.rules)
        raise ApprovalError(f"{id} is revoked by the approvers of its routes ({routes}), and `{approver}` is none")


def check_vote(approval: Approval, approver: str, verdict: str, now: Micros, has_ended: bool) -> None:
    """Raises: ApprovalError if this person cannot vote on the request now. `has_ended`: the instance that asked.

    The request is settled or has expired, they have approved already, or they may not decide on it. Who has approved
    may still deny: perhaps it was not they who used their key.
    """
    show, again = f"mcp-guard approvals show {approval.id}", "the agent must repeat its call"
    if has_ended:
        again = f"instance `{approval.instance}` has ended, so to ask again {again}"
    advance(approval.state, VERDICTS[verdict], f"{again}; {show}" if has_ended else show)
    if now >= approval.expires:
        raise ApprovalError(f"approval {approval.id} has expired", again)
    if verdict == "approve" and any(vote.approver == approver for vote in approval.votes):
        raise ApprovalError(f"`{approver}` has already voted on {approval.id}", show)
    check_approver(approval.rules, approver, approval.subject.requesters)


def check_sign_in(approval: Approval, approver: str, signed_in: SignIn | None, now: Micros) -> None:
    """Raises: SignInRequired unless the approver is signed in as every route demands on which they may decide."""
    for rule in approval.rules:
        demanded = rule.sign_in if may_decide(rule, approver, approval.subject.requesters) else None
        if demanded is not None and (problem := demanded.problem(signed_in, now)):
            raise SignInRequired(f"route `{rule.route}` does not take this vote: {problem}", SIGN_IN_AGAIN)


def check_statement(statement: VoteStatement, approval: Approval, origin: str, now: Micros) -> None:
    """Raises: ApprovalError unless the statement is recent, about exactly this request, and on the terms of the earlier
    votes.
    """
    vote = Vote(statement.approver, statement.verdict, statement.rationale, statement.at, statement.name)
    vote = replace(vote, terms=statement.terms, signed_in=statement.signed_in)
    if statement != make_statement(approval, vote, origin):
        raise ApprovalError(
            f"the statement does not match approval {approval.id}",
            f"mcp-guard approvals show {approval.id}",
        )
    if not approval.requested <= statement.at <= now or now - statement.at > MAX_STATEMENT_AGE:
        raise ApprovalError("the statement has expired", "decide again")
    check_terms(approval, statement)


def check_terms(approval: Approval, voting: Vote | VoteStatement) -> None:
    """Raises: ApprovalError if an approval gives other terms of a grant than the votes before it."""
    if voting.verdict == "approve" and any(vote.terms != voting.terms for vote in approval.votes):
        raise ApprovalError(
            "earlier votes signed other grant terms, or none",
            "see them on the request's page or with `mcp-guard approvals show`, then sign the same, or deny",
        )
