"""The requests that nobody has decided on, for an inbox that pages through thousands of them.

A look reads their ids, which is cheap, and the rows of those that are new. What a row says only changes when its
request escalates, so some of the others are read again at each look, in turn.
"""

from itertools import islice

from mcp_guard.storage.contract import Store
from mcp_guard.storage.rows import RequestRow

READ_AGAIN = 500


class OpenRequests:
    """Of one ledger."""

    def __init__(self) -> None:
        self._known: dict[str, RequestRow] = {}
        """Those that were read longest ago come first."""

    def read(self, store: Store) -> list[RequestRow]:
        """The oldest first. Some may have expired. Raises: LedgerError."""
        ids, known = store.open_ids(), self._known
        asked = ids.difference(known)
        asked |= set(islice((id for id in known if id in ids), READ_AGAIN))
        kept = {id: row for id, row in known.items() if id in ids and id not in asked}
        self._known = kept | {row.id: row for row in store.open_requests(asked)}
        return sorted(self._known.values(), key=lambda row: (row.requested, row.id))
