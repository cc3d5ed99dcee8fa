"""What a failure of the database means to a person, and what they can do."""

import re

import psycopg

from mcp_guard.core.errors import LedgerError, LedgerFault

UNREACHABLE = (
    LedgerFault.CANNOT_OPEN,
    "the database cannot be reached",
    "check that it runs, and the address, role, password, database and sslmode of the URL",
)
NO_CONNECTION_LEFT = (
    LedgerFault.CANNOT_OPEN,
    "the database takes no more connections",
    "a gateway needs up to 10, with its pages 16: raise max_connections of the server, or the limit: "
    "ALTER ROLE NAME CONNECTION LIMIT NUMBER",
)
NO_TABLES = (
    LedgerFault.NOT_A_LEDGER,
    "the tables of the ledger cannot be found",
    "they are gone, or the guard's role has no USAGE on their schema: see docs/howto/run-a-fleet.md for its grants",
)
NO_FUNCTION = (
    LedgerFault.NOT_A_LEDGER,
    "a function of the ledger cannot be found",
    "it is gone, or the guard's role has no USAGE on its schema: see docs/howto/run-a-fleet.md for its grants",
)
NOT_PERMITTED = (
    LedgerFault.READ_ONLY,
    "the guard's role may not do this",
    "see docs/howto/run-a-fleet.md for its grants",
)
OVERLOADED = (LedgerFault.BUSY, "the database took too long", "see its load and its log")
BY_STATE = {
    "08": UNREACHABLE,
    "23": (LedgerFault.OTHER, "the database refuses what was written", "see the log of the database"),
    "25006": (LedgerFault.READ_ONLY, "the database is read-only", "connect to the primary, not to a replica"),
    "25P03": OVERLOADED,
    "28": (LedgerFault.CANNOT_OPEN, "the database refuses the guard's role", "check the role and password of the URL"),
    "3D": (LedgerFault.CANNOT_OPEN, "there is no such database", "create it: createdb NAME"),
    "3F": NO_TABLES,
    "40": OVERLOADED,
    "42501": NOT_PERMITTED,
    "42883": NO_FUNCTION,
    "42P01": NO_TABLES,
    "53": (LedgerFault.DISK_FULL, "the database has no room left", "free disk or memory of the database"),
    "53300": NO_CONNECTION_LEFT,
    "55P03": (LedgerFault.BUSY, "another process holds the lock of the ledger", "see pg_stat_activity"),
    "57": (LedgerFault.CANNOT_OPEN, "the database is stopping or starting", "wait until it runs again"),
    "57014": OVERLOADED,
    "58": (LedgerFault.DISK_FAILURE, "the database reports a failure of its system", "see the log of the database"),
    "XX": (LedgerFault.DAMAGED, "the database is damaged", "see the log of the database; restore it from a backup"),
}
"""By SQLSTATE or its class (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
REFUSED = (
    ("too many (connections|clients)|connection slots are reserved", "53300"),
    ('password authentication failed|no pg_hba.conf entry|role ".*" does not exist|not permitted to log in', "28"),
    ('database ".*" does not exist', "3D"),
)
"""What a server says when it refuses a connection, and the SQLSTATE, which the client's library does not keep."""
OTHER = (LedgerFault.OTHER, "the ledger cannot be used", "see the log of the database")


def is_answer(error: psycopg.Error) -> bool:
    """Whether the server has refused a statement, and with it the transaction. Otherwise the connection has failed, and
    what the server has done is not known."""
    return error.sqlstate is not None and error.diag.severity_nonlocalized == "ERROR"


def explain(error: Exception, name: str) -> LedgerError:
    """The LedgerError for a failure of the database of the ledger `name`."""
    state = getattr(error, "sqlstate", None) or ""
    lost = OTHER
    if isinstance(error, psycopg.OperationalError) and not state:
        lost = next((BY_STATE[state] for words, state in REFUSED if re.search(words, str(error))), UNREACHABLE)
    fault, message, hint = BY_STATE.get(state) or BY_STATE.get(state[:2]) or lost
    detail = " ".join(str(error).split())
    where = f"`{name}` ({detail}{f'; SQLSTATE {state}' if state else ''})"
    return LedgerError.public(message, hint, fault, where)
