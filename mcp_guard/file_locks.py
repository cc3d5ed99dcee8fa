"""Locks on files for event loops. Imports only `mcp_guard.files`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mcp_guard.files import FileLock

FIRST_WAIT, LONGEST_WAIT = 0.005, 0.1
"""Seconds between two looks at a lock that another holds."""


@asynccontextmanager
async def hold_file_lock(path: Path) -> AsyncIterator[None]:
    """A `FileLock` for as long as the block runs.

    Waits without a thread: whoever holds a lock needs threads, and those that waited for it would have them all.
    Raises: OSError.
    """
    wait = FIRST_WAIT
    while True:
        try:
            lock = FileLock(path, wait=False)
            break
        except BlockingIOError:
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
    with lock:
        yield
