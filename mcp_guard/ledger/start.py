"""Opens the ledger of a process that serves, as soon as its database can be reached."""

import signal
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from mcp_guard.core.errors import LedgerError, LedgerFault
from mcp_guard.core.visible_text import say
from mcp_guard.ledger.open import LedgerSettings, OpenLedger, open_ledger
from mcp_guard.ports import Clock
from mcp_guard.storage.place import Database, Place

T = TypeVar("T")
RETRY_SECONDS, NOTE_SECONDS = 1.0, 15.0
"""How often a guard tries to reach its database, and how often it says so."""


def open_when_there(
    settings: LedgerSettings, clock: Clock, note: Callable[[str], None], on_wait: Callable[[], None]
) -> OpenLedger | None:
    """The ledger for a guard process that serves: it waits for a database that cannot be reached, and calls `on_wait`
    before each wait. None if the process is told to stop meanwhile. Raises: LedgerError, and what `on_wait` does."""
    return wait_for_database(settings.place, lambda: open_ledger(settings, clock, note), note, on_wait)


def wait_for_database(
    place: Place, open: Callable[[], T], note: Callable[[str], None], on_wait: Callable[[], None] = lambda: None
) -> T | None:
    """What `open` returns, for a process that serves: while the database cannot be reached, it is tried again, and
    `on_wait` is called before each wait. None if the process is told to stop meanwhile. Raises: LedgerError, and what
    `on_wait` does."""
    if not isinstance(place, Database):
        return open()
    stopped = threading.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.signal(number, lambda *_: stopped.set()) for number in signals]
    noted, note_at = "", 0.0
    try:
        while not stopped.is_set():
            try:
                return open()
            except LedgerError as error:
                if error.fault is not LedgerFault.CANNOT_OPEN:
                    raise
                on_wait()
                if error.full != noted or time.monotonic() > note_at:
                    note(say("waiting for the database: {}", str(error)))
                    noted, note_at = error.full, time.monotonic() + NOTE_SECONDS
            stopped.wait(RETRY_SECONDS)
        return None
    finally:
        for number, handler in zip(signals, handlers, strict=True):
            signal.signal(number, handler)
