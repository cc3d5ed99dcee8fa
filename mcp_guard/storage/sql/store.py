"""The whole storage contract in standard SQL. An engine adds its connection, its transactions and its dialect."""

from mcp_guard.storage.sql.approvals import ApprovalQueries
from mcp_guard.storage.sql.identities import IdentityQueries
from mcp_guard.storage.sql.keys import KeyQueries
from mcp_guard.storage.sql.notes import NoteQueries
from mcp_guard.storage.sql.payloads import PayloadQueries
from mcp_guard.storage.sql.pins import PinQueries
from mcp_guard.storage.sql.rates import RateQueries
from mcp_guard.storage.sql.receipts import ReceiptQueries


class SqlStore(
    ReceiptQueries,
    PayloadQueries,
    KeyQueries,
    RateQueries,
    NoteQueries,
    ApprovalQueries,
    IdentityQueries,
    PinQueries,
):
    """What engines share."""
