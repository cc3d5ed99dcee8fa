"""What the role of a gateway must be allowed to do. docs/howto/run-a-fleet.md has the same for people."""

from collections.abc import Sequence
from typing import Any

from psycopg import Connection

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.postgres.dialect import ALL_TABLES
from mcp_guard.storage.postgres.errors import NOT_PERMITTED

ONLY = {"format": ("SELECT",), "receipt": ("SELECT", "INSERT")}
"""Tables of which not everything is needed."""
NEEDED = [
    (table, privilege)
    for table in ALL_TABLES
    for privilege in ONLY.get(table, ("SELECT", "INSERT", "UPDATE", "DELETE"))
]
LACKING_NAMES = f"""array(SELECT concat(privilege, ' on ', name) FROM (VALUES {", ".join(map(str, NEEDED))})
AS needed (name, privilege) WHERE NOT has_table_privilege(to_regclass(quote_ident(name))::oid, privilege))"""
"""Of the tables that are there."""
LACKING = f"SELECT {LACKING_NAMES}"
MOST_NAMED = 4


def check_lacking(name: str, lacking: Sequence[str]) -> None:
    """Raises: LedgerError if the role of the ledger `name` lacks any of these privileges."""
    if lacking:
        fault, message, hint = NOT_PERMITTED
        more = f" and {len(lacking) - MOST_NAMED} more" if len(lacking) > MOST_NAMED else ""
        where = f"`{name}` ({', '.join(lacking[:MOST_NAMED])}{more})"
        raise LedgerError.public(message, hint, fault, where)


def check_privileges(connection: "Connection[Any]", name: str) -> None:
    """Raises: LedgerError, psycopg.Error."""
    row = connection.execute(LACKING.encode()).fetchone()
    assert row is not None
    check_lacking(name, row[0])
