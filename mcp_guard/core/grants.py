"""Grants: approvals for several similar calls. Pure.

A grant is limited in number and time, and everything that its terms do not leave free is bound.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mcp_guard.core import canonical
from mcp_guard.core.approval import GrantTerms, binding, salted_hash
from mcp_guard.core.describe import REASON, TICKET
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import DAY, SECOND, Call, Decision, Json, Micros
from mcp_guard.core.request_meta import without_trace

MAX_GRANT_USES = 100
MAX_GRANT_DURATION = DAY


@dataclass(frozen=True, slots=True)
class Grant:
    """`binding` stays the same from call to call; the arguments in `free` may differ."""

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
    """Salt of the hash of the bound arguments; erased when the grant is over."""


def make_terms(terms: GrantTerms, arguments: Mapping[str, Any]) -> GrantTerms:
    """The terms as an approver signs them, for a call with these arguments, `guard_ticket` and `guard_reason` included.

    Raises: ApprovalError if they exceed the limits, or name an argument that the call does not have.
    """
    for name in terms.free:
        if name not in arguments:
            raise ApprovalError(
                f"the call has no argument `{name}` to leave free", f"its arguments: {', '.join(arguments) or 'none'}"
            )
    if not 1 <= terms.uses <= MAX_GRANT_USES:
        what = f"a grant is for 1 to {MAX_GRANT_USES} more calls, not {terms.uses}"
        raise ApprovalError(what, "for example: --more 5")
    if not 1 <= terms.seconds * SECOND <= MAX_GRANT_DURATION:
        seconds = MAX_GRANT_DURATION // SECOND
        raise ApprovalError(f"a grant lasts up to {seconds} seconds, not {terms.seconds}", "for example: --for 3600")
    return replace(terms, free=tuple(sorted(set(terms.free))))


@dataclass(frozen=True, slots=True)
class GivenByAgent:
    """What the agent chose in a call: the arguments, `_meta` without trace context, and its claims."""

    arguments: Json
    meta: Json
    ticket: str | None
    reason: str | None

    def without(self, free: tuple[str, ...]) -> Json:
        """All of it but the arguments and claims of these names."""
        claims = {TICKET: self.ticket, REASON: self.reason}
        return {
            "arguments": {name: value for name, value in self.arguments.items() if name not in free},
            "claims": {name: value for name, value in claims.items() if value and name not in free},
            "meta": self.meta,
        }


def resource_argument(call: Call) -> str | None:
    """Name of the argument that identifies the resource."""
    rule = call.tool.rule.resource if call.tool else None
    return rule.id.strip("/").split("/")[0] if rule else None


def bind_grant(
    bound: Mapping[str, Any], given: GivenByAgent, names_resource: str | None, free: tuple[str, ...], salt: str
) -> Json:
    """The binding of a grant, from that of its approval. The resource is free only if the argument that names it is.

    Facts are not bound: such calls change them, and the policies look at them again each time.
    """
    members = {name: bound[name] for name in ("instance", "definition", "tool", "policy_version", "routes")}
    resource = None if names_resource in free else bound["resource"]
    hash = salted_hash(salt, canonical.canonicalize(given.without(free), canonical.UNLIMITED, exact=True))
    return members | {"resource": resource, "arguments": hash}


def covers(grant: Grant, call: Call, decision: Decision, now: Micros) -> bool:
    """Whether the grant allows this call now."""
    if grant.state != "active" or grant.used >= grant.uses or now >= grant.expires:
        return False
    bound = binding(call, decision, grant.salt)
    given = GivenByAgent(call.arguments, without_trace(call.meta), call.task.ticket, call.task.reason)
    return bind_grant(bound, given, resource_argument(call), grant.free, grant.salt) == dict(grant.binding)
