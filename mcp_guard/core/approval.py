"""Approvals: the state table, what an approval is bound to, who may say yes, and when that is enough. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import orjson

from mcp_guard.core import canonical
from mcp_guard.core.approval_subject import ApprovalSubject
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Call, Decision, Json, Micros
from mcp_guard.core.receipt import format_time

STATEMENT_TYPE = "mcp-guard/approval/v1"


class ApprovalState(StrEnum):
    REQUESTED = "requested"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    STALE = "stale"
    CONSUMED = "consumed"
    REVOKED = "revoked"


class ApprovalEvent(StrEnum):
    APPROVE = "approve"
    DENY = "deny"
    EXPIRE = "expire"
    WITHDRAW = "withdraw"
    OUTDATE = "outdate"
    CONSUME = "consume"
    REVOKE = "revoke"


TRANSITIONS: Mapping[tuple[ApprovalState, ApprovalEvent], ApprovalState] = {
    (ApprovalState.REQUESTED, ApprovalEvent.APPROVE): ApprovalState.APPROVED,
    (ApprovalState.REQUESTED, ApprovalEvent.DENY): ApprovalState.DENIED,
    (ApprovalState.REQUESTED, ApprovalEvent.EXPIRE): ApprovalState.EXPIRED,
    (ApprovalState.REQUESTED, ApprovalEvent.WITHDRAW): ApprovalState.WITHDRAWN,
    (ApprovalState.REQUESTED, ApprovalEvent.OUTDATE): ApprovalState.STALE,
    (ApprovalState.APPROVED, ApprovalEvent.CONSUME): ApprovalState.CONSUMED,
    (ApprovalState.APPROVED, ApprovalEvent.EXPIRE): ApprovalState.EXPIRED,
    (ApprovalState.APPROVED, ApprovalEvent.OUTDATE): ApprovalState.STALE,
    (ApprovalState.APPROVED, ApprovalEvent.REVOKE): ApprovalState.REVOKED,
}
OPEN = (ApprovalState.REQUESTED, ApprovalState.APPROVED)


def advance(state: ApprovalState, event: ApprovalEvent) -> ApprovalState:
    """The next state.

    Raises: ApprovalError for every pair that is not in the table.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        hint = "mcp-guard approvals list: what is open"
        raise ApprovalError(f"an approval that is `{state}` cannot take `{event}`", hint) from None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a gated call goes, as configured now. Times are microseconds.

    `escalate_to` names a route whose approvers may decide too, and are told, once a request has waited for
    `escalate_after`. `notify` names notifiers; `text` is what the approver reads about this route.
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


@dataclass(frozen=True, slots=True)
class RouteRule:
    """What one route demands of one request, fixed and receipted when it is made."""

    route: str
    approvers: tuple[str, ...]
    quorum: int
    self_approval: bool = False


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's word on one request, with the evidence that it is theirs (see `VoteStatement`)."""

    approver: str
    verdict: str
    """`approve` or `deny`."""
    rationale: str
    at: Micros
    name: str = ""
    """How the approver is called in the attribution sentence."""
    terms: Json | None = None
    """Of a grant, if the vote gives one."""
    key: str = ""
    signature: Json | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """One request for approval of one exact call, as stored. `subject` is what the approver is shown.

    `request_hash` and `decision_hash` are salted with the `nonce`; `lookup` finds the same request again. Nonce and
    lookup are erased when nothing needs them any more, so that the hashes that stay tell nothing. `outcome` is the
    receipt of what came of the call that used it; it is `answered` once the agent has been given that, or cannot be.
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

    def to_json(self) -> Json:
        return asdict(self) | {"subject": self.subject.to_json()}


@dataclass(frozen=True, slots=True)
class VoteStatement:
    """What an approver signs: their own key over these bytes, or a passkey with their SHA-256 as its challenge."""

    origin: str
    approval: str
    request_hash: str
    decision_hash: str
    verdict: str
    approver: str
    rationale: str
    at: Micros
    terms: Json | None = None

    def text(self) -> bytes:
        """An RFC 8785 document. `ledger/verify.py` rebuilds the same bytes from the receipt."""
        said = {name: getattr(self, name) for name in self.__slots__ if name != "terms" or self.terms}
        return orjson.dumps(said | {"at": format_time(self.at), "type": STATEMENT_TYPE}, option=orjson.OPT_SORT_KEYS)


def salted_hash(nonce: str, data: bytes) -> str:
    """A hash that tells nothing of the data, even if that is one of few, to whoever does not have the nonce."""
    return canonical.digest(nonce.encode() + b"\0" + data)


def binding(call: Call, decision: Decision, nonce: str) -> dict[str, Any]:
    """What one approval stands for, member by member, so that a difference can be named."""
    assert call.tool is not None
    return {
        "instance": call.instance.id,
        "definition": call.tool.definition_hash,
        "tool": call.tool.listed_as,
        "resource": f'{call.resource.type}::"{call.resource.id}"',
        "arguments": salted_hash(nonce, call.canonical),
        "facts": salted_hash(nonce, call.facts.hash.encode()) if call.facts else None,
        "policy_version": decision.policy_version,
        "routes": list(decision.routes),
    }


def decision_hash(bound: Mapping[str, Any], nonce: str) -> str:
    """Hash of a binding; the nonce keeps the hash from telling anything once it is erased."""
    return canonical.digest_json({**bound, "nonce": nonce})


def changed_members(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the members that differ."""
    return tuple(name for name in before if before[name] != after.get(name))


# Who may decide


def make_rule(route: Route) -> RouteRule:
    return RouteRule(route.name, route.approvers, route.quorum, route.unsafe_self_approval)


def escalate_rule(rule: RouteRule, routes: Mapping[str, Route], waited: Micros) -> RouteRule | None:
    """The rule as it is once its route has escalated, or None if that is not due or already so."""
    route = routes.get(rule.route)
    further = routes.get(route.escalate_to) if route is not None and route.escalate_to else None
    if route is None or further is None or waited < route.escalate_after:
        return None
    approvers = (*rule.approvers, *(each for each in further.approvers if each not in rule.approvers))
    return RouteRule(rule.route, approvers, rule.quorum, rule.self_approval) if approvers != rule.approvers else None


def may_decide(rule: RouteRule, approver: str, requesters: Iterable[str | None]) -> bool:
    """Promise P4: nobody decides on what they asked for, unless the route says so by an `unsafe_` switch."""
    return approver in rule.approvers and (rule.self_approval or approver not in requesters)


def describe_rule(rule: RouteRule, requesters: Iterable[str | None]) -> str:
    """Who must approve, in words."""
    requesters = tuple(requesters)
    able = [approver for approver in rule.approvers if may_decide(rule, approver, requesters)]
    if len(able) <= 1:
        return able[0] if able and rule.quorum == 1 else "nobody who may"
    return f"{'any' if rule.quorum == 1 else rule.quorum} of {', '.join(able)}"


def check_vote(rules: Iterable[RouteRule], approver: str, requesters: tuple[str | None, ...]) -> None:
    """Raises: ApprovalError if this person may decide on none of the routes."""
    rules = tuple(rules)
    if any(may_decide(rule, approver, requesters) for rule in rules):
        return
    names = ", ".join(f"`{rule.route}`" for rule in rules)
    if any(approver in rule.approvers for rule in rules):
        raise ApprovalError(
            f"`{approver}` may not approve what they asked for",
            f"another approver of {names} must decide, or the route sets unsafe_self_approval = true",
        )
    known = ", ".join(sorted({each for rule in rules for each in rule.approvers}))
    raise ApprovalError(f"`{approver}` is not an approver of route {names}", f"its approvers: {known}")


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


# Grants: an approval for several like calls, bounded in number and time, binding all that is not named free. Pure.

SECOND = 1_000_000
MAX_GRANT_USES = 100
MAX_GRANT_DURATION = 24 * 3600 * SECOND
UNLIMITED = canonical.Limits(bytes=1 << 30, depth=256)
"""The arguments were held to the operator's limits when they were described."""


@dataclass(frozen=True, slots=True)
class Grant:
    """`binding` is what stays the same from call to call; `free` are the arguments that may differ."""

    id: str
    approval: str
    state: str
    """`active`, `used up` or `revoked`."""
    binding: Json
    free: tuple[str, ...]
    uses: int
    used: int
    expires: Micros
    approvers: tuple[Json, ...]
    salt: str = ""
    """Of the hash of the arguments that are bound; erased when the grant is over."""


def make_terms(uses: int, seconds: int, free: tuple[str, ...]) -> Json:
    """What an approver signs of a grant; its time runs from when it is given. Raises: ApprovalError."""
    if not 1 <= uses <= MAX_GRANT_USES:
        raise ApprovalError(f"a grant is for 1 to {MAX_GRANT_USES} more calls, not {uses}", "--more 5")
    if not 1 <= seconds * SECOND <= MAX_GRANT_DURATION:
        raise ApprovalError(f"a grant lasts up to {MAX_GRANT_DURATION // SECOND} seconds, not {seconds}", "--for 3600")
    return {"uses": uses, "seconds": seconds, "free": sorted(set(free))}


def resource_argument(call: Call) -> str | None:
    """The argument that says which resource is meant."""
    rule = call.tool.rule.resource if call.tool else None
    return rule.id.strip("/").split("/")[0] if rule else None


def bind_grant(
    bound: Mapping[str, Any], arguments: Json, names_resource: str | None, free: tuple[str, ...], salt: str
) -> Json:
    """What a grant binds, of what an approval binds. The resource is free only if the argument that names it is.

    Facts are not bound: they are what such calls change, and the policies look at them anew each time.
    """
    kept = {name: bound[name] for name in ("instance", "definition", "tool", "policy_version", "routes")}
    rest = {name: value for name, value in arguments.items() if name not in free}
    resource = None if names_resource in free else bound["resource"]
    return kept | {"resource": resource, "arguments": salted_hash(salt, canonical.canonicalize(rest, UNLIMITED))}


def covers(grant: Grant, call: Call, decision: Decision, now: Micros) -> bool:
    """Whether this call is one of those that were granted."""
    if grant.state != "active" or grant.used >= grant.uses or now >= grant.expires:
        return False
    bound = binding(call, decision, grant.salt)
    return bind_grant(bound, call.arguments, resource_argument(call), grant.free, grant.salt) == dict(grant.binding)


def check_free_arguments(free: tuple[str, ...], arguments: Mapping[str, Any]) -> None:
    """Raises: ApprovalError for a name that the call does not have: most likely a slip."""
    for name in free:
        if name not in arguments:
            known = ", ".join(arguments) or "none"
            raise ApprovalError(f"the call has no argument `{name}` to leave free", f"its arguments: {known}")
