"""The numbered steps that bring an origin of an older format to the present one.

There is none yet: databases began with format 5. To add one: raise `VERSION`, and give the step that brings an origin
of the format before to it. Steps run one after the other in a single transaction, with the tables locked.
"""

from collections.abc import Callable, Mapping
from typing import Any

from psycopg import Connection

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.sql.schema import VERSION

Step = Callable[["Connection[Any]"], None]
STEPS: Mapping[int, Step] = {}
"""The step from each older format to the next one."""


def check_format(format: int, name: str) -> None:
    """Raises: LedgerError for an origin of another format than the present one."""
    if format == VERSION:
        return
    if format > VERSION:
        hint = "update mcp-guard on this machine; gateways of one ledger have one version"
    elif format in STEPS:
        hint = "stop every gateway, and run: mcp-guard ledger migrate"
    else:
        hint = "use the version that wrote it, or start a new ledger with another guard.origin"
    what = f"the ledger has format {format}; this version reads {VERSION}"
    raise LedgerError.public(what, hint, where=f"`{name}`")
