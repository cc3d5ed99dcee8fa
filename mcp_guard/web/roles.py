"""What people may do on the pages. A person may have several roles; each page names those that it is for."""

from enum import StrEnum


class Role(StrEnum):
    """`VIEWER` reads everything but payloads. `APPROVER` reads and decides the requests of their routes. `AUDITOR`
    reads everything with payloads. `OPERATOR` also changes what a viewer reads."""

    VIEWER = "viewer"
    APPROVER = "approver"
    AUDITOR = "auditor"
    OPERATOR = "operator"


EVERYONE = frozenset(Role)
READERS = frozenset({Role.VIEWER, Role.AUDITOR, Role.OPERATOR})
"""Who may read what has no payloads."""
OF_APPROVERS = frozenset({Role.APPROVER, Role.VIEWER})
"""The roles of an approver whom the configuration gives no others."""
