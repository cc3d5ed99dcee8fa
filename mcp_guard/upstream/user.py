"""The user on whose behalf a session calls upstreams with `as = "user"`.

Each session belongs to one instance, and so to one user, and has connections and tokens of its own: what is obtained
for one user is never used for another.
"""

from dataclasses import dataclass, field

from mcp_guard.core.model import Instance


@dataclass(frozen=True, slots=True)
class UpstreamUser:
    """Who it is: `name` as `issuer` calls them, or as the launcher does (empty)."""

    name: str
    issuer: str = ""
    token: str = field(default="", repr=False)
    """What the caller proved that with, which can be exchanged; empty if nothing of the issuer's."""


def user_of(instance: Instance) -> UpstreamUser | None:
    """The user of this instance; None if it acts for nobody. Only a token that the issuer gave the caller itself is
    theirs: a delegated instance has one of the guard's."""
    if not instance.on_behalf_of:
        return None
    is_own = bool(instance.user_issuer) and not instance.parents
    return UpstreamUser(instance.on_behalf_of, instance.user_issuer, instance.credential if is_own else "")
