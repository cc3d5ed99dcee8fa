"""Approvals: the state table, what an approval is bound to, and when its routes are satisfied. No clock, no storage."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mcp_guard.core import canonical
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Call, Decision, Json, Micros


class State(StrEnum):
    REQUESTED = "requested"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    STALE = "stale"
    CONSUMED = "consumed"
    REVOKED = "revoked"


class Event(StrEnum):
    APPROVE = "approve"
    DENY = "deny"
    EXPIRE = "expire"
    WITHDRAW = "withdraw"
    OUTDATE = "outdate"
    CONSUME = "consume"
    REVOKE = "revoke"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.REQUESTED, Event.APPROVE): State.APPROVED,
    (State.REQUESTED, Event.DENY): State.DENIED,
    (State.REQUESTED, Event.EXPIRE): State.EXPIRED,
    (State.REQUESTED, Event.WITHDRAW): State.WITHDRAWN,
    (State.REQUESTED, Event.OUTDATE): State.STALE,
    (State.APPROVED, Event.CONSUME): State.CONSUMED,
    (State.APPROVED, Event.EXPIRE): State.EXPIRED,
    (State.APPROVED, Event.OUTDATE): State.STALE,
    (State.APPROVED, Event.REVOKE): State.REVOKED,
}


def advance(state: State, event: Event) -> State:
    """The next state.

    Raises: ApprovalError for every pair that is not in the table.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ApprovalError(f"an approval that is `{state}` cannot take `{event}`") from None


@dataclass(frozen=True, slots=True)
class Route:
    """Who may approve, and for how long a request stays open (microseconds)."""

    name: str
    approvers: tuple[str, ...]
    expires: Micros
    unsafe_self_approval: bool = False


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's word on one request."""

    approver: str
    verdict: str
    """`approve` or `deny`."""
    rationale: str
    at: Micros
    name: str = ""
    """How the approver is called in the attribution sentence."""


@dataclass(frozen=True, slots=True)
class Approval:
    """One request for approval of one exact call, as stored. `subject` is what the approver is shown."""

    id: str
    state: State
    instance: str
    request_hash: str
    decision_hash: str
    nonce: str
    routes: tuple[str, ...]
    requested: Micros
    expires: Micros
    subject: Json
    votes: tuple[Vote, ...] = ()
    note: str = ""


def binding(call: Call, decision: Decision) -> dict[str, Any]:
    """What one approval stands for, member by member, so that a difference can be named."""
    assert call.tool is not None
    return {
        "instance": call.instance.id,
        "definition": call.tool.definition_hash,
        "tool": call.tool.listed_as,
        "resource": f'{call.resource.type}::"{call.resource.id}"',
        "arguments": canonical.digest(call.canonical),
        "facts": call.facts.hash if call.facts else None,
        "policy_version": decision.policy_version,
        "routes": list(decision.routes),
    }


def decision_hash(bound: Mapping[str, Any], nonce: str) -> str:
    """Hash of a binding; the nonce keeps the hash from telling anything once it is erased."""
    return canonical.digest_json({**bound, "nonce": nonce})


def what_moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the members that differ."""
    return tuple(name for name in before if before[name] != after.get(name))


def check_vote(route: Route, approver: str, asker: Iterable[str | None]) -> None:
    """Raises: ApprovalError if this person may not decide on this route (promise P4)."""
    if approver not in route.approvers:
        raise ApprovalError(
            f"`{approver}` is not an approver of route `{route.name}`",
            f"approvers of this route: {', '.join(route.approvers)}",
        )
    if not route.unsafe_self_approval and approver in asker:
        raise ApprovalError(
            f"`{approver}` may not approve what they asked for",
            f"another approver of `{route.name}` must decide, or the route sets unsafe_self_approval = true",
        )


def missing_routes(routes: Iterable[Route], votes: Iterable[Vote]) -> tuple[str, ...]:
    """Routes on which nobody has approved yet."""
    approved = {vote.approver for vote in votes if vote.verdict == "approve"}
    return tuple(route.name for route in routes if not approved.intersection(route.approvers))
