"""Reads a ledger file beside the calls. Each connection has a thread of its own for its statements (`aiosqlite`).

What a query makes of their rows is done on the event loop, a page at a time: two threads of Python code would wait for
each other, up to 5 ms each time (docs/decisions/0071).
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiosqlite

from mcp_guard.core.errors import RAISE_THREAD_LIMIT, LedgerError
from mcp_guard.storage.sql.paging import PAGE_ON_LOOP, PagedReads
from mcp_guard.storage.sql.queries import StatementResult
from mcp_guard.storage.sqlite.errors import FAILURES, explain
from mcp_guard.storage.sqlite.file_location import FileLocation
from mcp_guard.storage.sqlite.store import SqliteQueries
from mcp_guard.storage.suspending import wait_for

INTERRUPT_SECONDS = 0.02
"""Between two attempts to interrupt a statement."""
PRAGMAS = ("query_only = ON", "trusted_schema = OFF", "cell_size_check = ON")


class BackgroundStore(PagedReads, SqliteQueries):
    """One connection that only reads, for code that runs in `suspendable`. Implements `storage.contract.Store`."""

    def __init__(self, path: Path, connection: aiosqlite.Connection) -> None:
        super().__init__(path)
        self.page = PAGE_ON_LOOP
        self._connection = connection
        self._write = self._run

    def _run(self, sql: str, values: Sequence[Any] = ()) -> StatementResult:
        rows = list(wait_for(self._connection.execute_fetchall(sql, values)))
        return StatementResult(rows, len(rows))

    def commit(self) -> None:
        self._run("COMMIT")

    def rollback(self) -> None:
        pass

    def empty_log(self) -> bool:
        return False

    def close(self) -> None:
        """A statement that is still running ends at once."""
        wait_for(self._end())

    async def _end(self) -> None:
        last = asyncio.ensure_future(self._connection.execute_fetchall("SELECT 1"))  # behind what is running
        while not last.done():
            await self._connection.interrupt()  # without effect on a statement that has not begun
            await asyncio.wait([last], timeout=INTERRUPT_SECONDS)
        last.exception()  # it may have been interrupted itself
        await self._connection.close()


async def open_background_store(path: Path, address: str, location: FileLocation) -> BackgroundStore:
    """`address` is the path as a URL. Raises: LedgerError if the file cannot be read, or is not where it was."""
    connection = aiosqlite.connect(f"{address}?mode=ro", uri=True, isolation_level=None)
    opening = asyncio.ensure_future(_open(connection))
    try:
        await asyncio.shield(opening)
        location.check()
    except asyncio.CancelledError:
        await asyncio.wait([opening])  # its thread must end before the event loop does
        if opening.exception() is None:
            await connection.close()
        raise
    except FAILURES as error:
        raise explain(error, path) from None
    except BaseException:
        await connection.close()
        raise
    return BackgroundStore(path, connection)


async def _open(connection: aiosqlite.Connection) -> None:
    """Raises: sqlite3.Error, LedgerError."""
    try:
        await connection
    except RuntimeError as error:  # from `Thread.start`
        raise LedgerError(f"the ledger cannot be read beside the calls: {error}", RAISE_THREAD_LIMIT) from None
    try:
        for pragma in PRAGMAS:
            await connection.execute_fetchall(f"PRAGMA {pragma}")
    except BaseException:
        await connection.close()
        raise
