"""Checks that a ledger file has the tables of the ledger, and nothing else."""

import sqlite3
from collections.abc import Set

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.storage.sql.schema import TABLES, VERSION

OLDEST = 4
"""The oldest format that `migrations.py` can bring to this one."""


def statements() -> list[str]:
    """The statements that make the tables and indexes, one by one, as SQLite keeps their text."""
    return [text for statement in TABLES.split(";") if (text := statement.strip()).startswith("CREATE")]


def check_schema(db: sqlite3.Connection, path: object) -> None:
    """Check that the file has exactly the tables and indexes above: no view, trigger or other column computes what is
    read from them. Raises: LedgerError."""
    check_statements(db, path, set(statements()))


def check_statements(db: sqlite3.Connection, path: object, expected: Set[str]) -> None:
    """The same for the tables and indexes that these statements make. Raises: LedgerError."""
    stored = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    if different := sorted(str(sql) for sql in stored ^ expected):
        name = " ".join(different[0].split()[:3])
        raise LedgerError(
            f"`{path}` is not a ledger as mcp-guard makes it: `{name}` is missing or another one",
            "use the original file, or find out who changed it",
            LedgerFault.NOT_A_LEDGER,
        )


def wrong_format(path: object, format: int) -> LedgerError:
    """Why a ledger of another format cannot be used, and what to do."""
    if format > VERSION:
        hint = "update mcp-guard"
    elif format >= OLDEST:
        hint = f"stop every guard and inbox, and run: mcp-guard ledger migrate --ledger {path}"
    else:
        hint = "use the version that wrote it, or start a new ledger in another state_dir"
    return LedgerError.public(f"the ledger has format {format}; this version reads {VERSION}", hint)
