"""Checks that a ledger file has the tables of the ledger, and nothing else."""

import sqlite3

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.storage.sql.schema import TABLES


def check_schema(db: sqlite3.Connection, path: object) -> None:
    """Check that the file has exactly the tables and indexes above: no view, trigger or other column computes what is
    read from them. Raises: LedgerError."""
    expected = {text for statement in TABLES.split(";") if (text := statement.strip()).startswith("CREATE")}
    stored = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    if different := sorted(str(sql) for sql in stored ^ expected):
        name = " ".join(different[0].split()[:3])
        raise LedgerError(
            f"`{path}` is not a ledger as mcp-guard makes it: `{name}` is missing or another one",
            "use the original file, or find out who changed it",
            LedgerFault.NOT_A_LEDGER,
        )
