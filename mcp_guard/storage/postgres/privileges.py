"""What must be there for a gateway, and what its role must be allowed to do with it. docs/howto/run-a-fleet.md has the
same for people."""

from collections.abc import Sequence
from typing import Any

from psycopg import Connection

from mcp_guard.core.errors import LedgerError
from mcp_guard.storage.postgres.dialect import ALL_TABLES, ONE_ROW_FOUND
from mcp_guard.storage.postgres.errors import NO_FUNCTION, NO_TABLES, NOT_PERMITTED

ONLY = {"format": ("SELECT",), "receipt": ("SELECT", "INSERT")}
"""Tables of which not everything is needed."""
ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")
ONE_ROW = "function one_row"


def _lacking(tables: Sequence[str]) -> str:
    """Which privileges the role lacks of those that it needs on these tables, as far as they are there."""
    needed = [(table, privilege) for table in tables for privilege in ONLY.get(table, ALL)]
    return f"""SELECT concat(privilege, ' on ', name) FROM (VALUES {", ".join(map(str, needed))})
AS needed (name, privilege) WHERE NOT has_table_privilege(to_regclass(quote_ident(name))::oid, privilege)"""


LACKING_NAMES = f"""array({_lacking(ALL_TABLES)}
UNION ALL SELECT 'EXECUTE on one_row' WHERE NOT has_function_privilege({ONE_ROW_FOUND}::oid, 'EXECUTE'))"""
MISSING = f"""array(SELECT name FROM unnest(ARRAY{list(ALL_TABLES)}) AS name
WHERE to_regclass(quote_ident(name)) IS NULL
UNION ALL SELECT '{ONE_ROW}' WHERE {ONE_ROW_FOUND} IS NULL)"""
USABLE = f"SELECT {MISSING}, {LACKING_NAMES}"
LACKING_FOR_PAGES = f"""SELECT array({_lacking(["item"])}
UNION ALL SELECT 'CREATE TABLE item' WHERE to_regclass('item') IS NULL
AND has_schema_privilege(current_schema(), 'CREATE') IS NOT TRUE)"""
MOST_NAMED = 4


def check_lacking(name: str, lacking: Sequence[str]) -> None:
    """Raises: LedgerError if the role of the ledger `name` lacks any of these privileges."""
    if lacking:
        fault, message, hint = NOT_PERMITTED
        more = f" and {len(lacking) - MOST_NAMED} more" if len(lacking) > MOST_NAMED else ""
        where = f"`{name}` ({', '.join(lacking[:MOST_NAMED])}{more})"
        raise LedgerError.public(message, hint, fault, where)


def check_usable(name: str, missing: Sequence[str], lacking: Sequence[str]) -> None:
    """Raises: LedgerError if `USABLE` has found that no gateway can use the ledger `name`."""
    if missing:
        fault, message, hint = NO_FUNCTION if missing == [ONE_ROW] else NO_TABLES
        raise LedgerError.public(message, hint, fault, f"`{name}` ({', '.join(missing)})")
    check_lacking(name, lacking)


def check_usable_through(connection: "Connection[Any]", name: str) -> None:
    """Raises: LedgerError, psycopg.Error."""
    row = connection.execute(USABLE.encode()).fetchone()
    assert row is not None
    check_usable(name, *row)
