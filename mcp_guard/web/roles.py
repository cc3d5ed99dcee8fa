"""What people may do on the pages. A person may have several roles; each page names those that it is for."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from mcp_guard.core.people import Identity
from mcp_guard.settings import Settings


class Role(StrEnum):
    """`USER` signs in to upstreams that are called as them, and sees nothing else. `VIEWER` reads everything but
    payloads. `APPROVER` reads and decides the requests of their routes. `AUDITOR` reads everything with payloads.
    `OPERATOR` also changes what a viewer reads."""

    USER = "user"
    VIEWER = "viewer"
    APPROVER = "approver"
    AUDITOR = "auditor"
    OPERATOR = "operator"


EVERYONE = frozenset(Role)
READERS = frozenset({Role.VIEWER, Role.AUDITOR, Role.OPERATOR})
"""Who may read what has no payloads."""
PAYLOAD_READERS = frozenset({Role.APPROVER, Role.AUDITOR})
"""Who may read requests for approval, with their payloads; approvers those of their routes."""
OF_APPROVERS = frozenset({Role.APPROVER, Role.VIEWER})
"""What every approver is, whatever else the configuration makes of them."""


def roles_of_approver(approver: str, settings: Settings) -> frozenset[Role]:
    """Empty for somebody who is no approver."""
    if approver not in settings.approvers:
        return frozenset()
    named = settings.web.roles if settings.web else {}
    return OF_APPROVERS | {Role(role) for role, people in named.items() if approver in people}


def roles_by_claims(claims: Mapping[str, Any], settings: Settings) -> frozenset[Role]:
    """The roles of somebody of whom the identity provider says this."""
    provider = settings.web.provider if settings.web else None
    return frozenset(map(Role, provider.roles(claims))) if provider else frozenset()


def approver_of(identity: Identity, settings: Settings) -> str:
    """The approver whose identity this is; empty if it is nobody's."""
    return settings.people.approvers.get(identity, "")
