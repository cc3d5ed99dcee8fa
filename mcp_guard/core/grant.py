"""Grants: an approval for several like calls, bounded in number and time, binding all that is not named free. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp_guard.core import approval, canonical
from mcp_guard.core.errors import ApprovalError
from mcp_guard.core.model import Call, Decision, Json, Micros

SECOND = 1_000_000
MOST_USES = 100
LONGEST = 24 * 3600 * SECOND
ANY = canonical.Limits(bytes=1 << 30, depth=256)
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
    if not 1 <= uses <= MOST_USES:
        raise ApprovalError(f"a grant is for 1 to {MOST_USES} more calls, not {uses}", "--more 5")
    if not 1 <= seconds * SECOND <= LONGEST:
        raise ApprovalError(f"a grant lasts up to {LONGEST // SECOND} seconds, not {seconds}", "--for 3600")
    return {"uses": uses, "seconds": seconds, "free": sorted(set(free))}


def resource_argument(call: Call) -> str | None:
    """The argument that says which resource is meant."""
    rule = call.tool.rule.resource if call.tool else None
    return rule.id.strip("/").split("/")[0] if rule else None


def bind(
    bound: Mapping[str, Any], arguments: Json, names_resource: str | None, free: tuple[str, ...], salt: str
) -> Json:
    """What a grant binds, of what an approval binds. The resource is free only if the argument that names it is.

    Facts are not bound: they are what such calls change, and the policies look at them anew each time.
    """
    kept = {name: bound[name] for name in ("instance", "definition", "tool", "policy_version", "routes")}
    rest = {name: value for name, value in arguments.items() if name not in free}
    resource = None if names_resource in free else bound["resource"]
    return kept | {"resource": resource, "arguments": approval.salted(salt, canonical.canonicalize(rest, ANY))}


def covers(grant: Grant, call: Call, decision: Decision, now: Micros) -> bool:
    """Whether this call is one of those that were granted."""
    if grant.state != "active" or grant.used >= grant.uses or now >= grant.expires:
        return False
    bound = approval.binding(call, decision, grant.salt)
    return bind(bound, call.arguments, resource_argument(call), grant.free, grant.salt) == dict(grant.binding)


def check_free(free: tuple[str, ...], arguments: Mapping[str, Any]) -> None:
    """Raises: ApprovalError for a name that the call does not have: most likely a slip."""
    for name in free:
        if name not in arguments:
            known = ", ".join(arguments) or "none"
            raise ApprovalError(f"the call has no argument `{name}` to leave free", f"its arguments: {known}")
