"""Reads of many rows in pages, where rows come from another place, and a reader may stop early."""

from collections.abc import Iterator

from mcp_guard.storage.rows import ReceiptRow
from mcp_guard.storage.sql.queries import Queries

PAGE = 500
"""Receipts that are read at once, where nothing else waits."""
PAGE_ON_LOOP = 50
"""On an event loop calls are handled between two pages. What a query does with a receipt takes some microseconds."""
BEYOND = 1 << 62


class PagedReads(Queries):
    """In place of the methods of `ReceiptQueries` that read row by row."""

    page: int

    def receipts_after(self, seq: int) -> Iterator[ReceiptRow]:
        while rows := self._run(
            "SELECT * FROM receipt WHERE seq > ? ORDER BY seq LIMIT ?", (seq, self.page)
        ).fetchall():
            yield from (ReceiptRow(*row) for row in rows)
            seq = rows[-1][0]

    def receipts_back(self) -> Iterator[ReceiptRow]:
        query, before = "SELECT * FROM receipt WHERE seq < ? ORDER BY seq DESC LIMIT ?", BEYOND
        while rows := self._run(query, (before, self.page)).fetchall():
            yield from (ReceiptRow(*row) for row in rows)
            before = rows[-1][0]

    def bodies_back(self, kind: str) -> Iterator[bytes]:
        query, before = "SELECT seq, body FROM receipt WHERE kind = ? AND seq < ? ORDER BY seq DESC LIMIT ?", BEYOND
        while rows := self._run(query, (kind, before, self.page)).fetchall():
            yield from (body for _, body in rows)
            before = rows[-1][0]
