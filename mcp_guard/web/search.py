"""Searches the ledger for the pages, on an event loop: the index is read and brought up to date in threads."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from mcp_guard.core.errors import LedgerError
from mcp_guard.ledger.receipt_search import ReceiptSearch
from mcp_guard.storage.background import BackgroundReader
from mcp_guard.storage.receipt_index import ReceiptIndex

T = TypeVar("T")
AT_ONCE_SECONDS = 0.1
"""How long a page waits for what was written since the last look."""
STEP_SECONDS, PAUSE_SECONDS = 0.25, 0.02
"""While there is much to add: of each step, and between two of them."""
WATCHED_SECONDS, IDLE_SECONDS = 1.0, 30.0
"""Between two looks for new receipts, while somebody looks at the pages, and while nobody does."""


class LedgerSearch:
    """The search index of the ledger that `reader` reads."""

    def __init__(self, search: ReceiptSearch, reader: BackgroundReader) -> None:
        self._search, self._reader = search, reader
        self._looked_at, self._turn = asyncio.Event(), asyncio.Lock()
        self._indexed: int | None = None
        """The size of the ledger when the index was last complete; None until it was compared with this ledger."""

    async def read(self, query: Callable[[ReceiptIndex], T]) -> T:
        """What a query of the index finds, with the latest receipts if they can be added quickly.

        Raises: LedgerError.
        """
        self._looked_at.set()
        await self._catch_up(AT_ONCE_SECONDS)
        return await self._read(query)

    async def progress(self) -> tuple[int, int]:
        """How many receipts are indexed, and how many there are. Raises: LedgerError."""
        indexed = await self._read(lambda index: index.position().size)
        return indexed, max(indexed, await self._size())

    async def run(self, note: Callable[[str], None]) -> None:
        """Keep the index up to date until this is cancelled."""
        failed = ""
        try:
            while True:
                try:
                    is_complete = await self._catch_up(STEP_SECONDS)
                except LedgerError as error:
                    is_complete = True
                    if failed != error.full:
                        note(f"the search index cannot be brought up to date: {error.full}")
                    failed = error.full
                await (self._wait() if is_complete else asyncio.sleep(PAUSE_SECONDS))
        finally:
            self._search.stop()

    async def _wait(self) -> None:
        """Until the next look is due."""
        self._looked_at.clear()
        await asyncio.sleep(WATCHED_SECONDS)
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                await self._looked_at.wait()
        except TimeoutError:
            return

    async def _read(self, query: Callable[[ReceiptIndex], T]) -> T:
        """One at a time, as the index has it: who waits takes no thread from the other pages."""
        async with self._turn:
            return await asyncio.to_thread(self._search.read, query)

    async def _size(self) -> int:
        return await self._reader.read(lambda store: store.head().size)

    async def _catch_up(self, seconds: float) -> bool:
        size = await self._size()
        if size == self._indexed:
            return True
        is_complete = await asyncio.to_thread(self._search.catch_up, seconds)
        if is_complete:
            self._indexed = size
        return is_complete
