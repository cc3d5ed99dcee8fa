"""What a failure of the database means to a person, and what they can do."""

import psycopg

from mcp_guard.core.errors import LedgerError, LedgerFault

BY_CLASS = {
    "08": (LedgerFault.CANNOT_OPEN, "the database cannot be reached", "check that it runs, and its address"),
    "28": (LedgerFault.CANNOT_OPEN, "the database refuses the guard's role", "check the role and password of the URL"),
    "3D": (LedgerFault.CANNOT_OPEN, "there is no such database", "create it: createdb NAME"),
    "42": (LedgerFault.READ_ONLY, "the guard's role may not do this", "see docs/howto/run-a-fleet.md for its grants"),
    "25": (LedgerFault.READ_ONLY, "the database is read-only", "connect to the primary, not to a replica"),
    "53": (LedgerFault.DISK_FULL, "the database has no room left", "free disk, memory or connections of the database"),
    "57": (LedgerFault.CANNOT_OPEN, "the database is stopping or starting", "wait until it runs again"),
    "55": (LedgerFault.BUSY, "another process holds the lock of the ledger", "see pg_stat_activity"),
    "58": (LedgerFault.DISK_FAILURE, "the database reports a failure of its system", "see the log of the database"),
    "XX": (LedgerFault.DAMAGED, "the database is damaged", "see the log of the database; restore it from a backup"),
}
"""By class of SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
UNREACHABLE = BY_CLASS["08"]


def explain(error: Exception, name: str) -> LedgerError:
    """The LedgerError for a failure of the database of the ledger `name`."""
    state = getattr(error, "sqlstate", None) or ""
    default = UNREACHABLE if isinstance(error, psycopg.OperationalError) else None
    other = (LedgerFault.OTHER, "the ledger cannot be used", "see the log of the database")
    fault, message, hint = BY_CLASS.get(state[:2]) or default or other
    detail = " ".join(str(error).split())
    return LedgerError(f"{message}: `{name}` ({state or 'no answer'}: {detail})", hint, fault)
