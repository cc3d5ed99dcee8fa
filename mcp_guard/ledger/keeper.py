"""Keeps a guard present while it runs, begins again under another id when it was not, and closes the calls of guards
that are dead. Only for ledgers whose guards cannot see each other's processes (`Presence.renew_seconds`).
"""

import asyncio
from collections.abc import Callable

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.receipt import Draft
from mcp_guard.core.visible_text import say
from mcp_guard.identity.instances import random_text
from mcp_guard.ledger.ledger import SqlLedger
from mcp_guard.ledger.recovery import Tell, recover_on_loop

RETRY_SECONDS = 1.0
"""After how long a renewal that failed is tried again."""
RECOVERY_SECONDS = 5.0
"""How often a running guard looks for calls of dead ones."""


def new_guard_id() -> str:
    return f"guard_{random_text(12)}"


class PresenceKeeper:
    """`started` makes the receipt of a guard's start, `tell` reports the intents of calls that are closed, and `note`
    writes a message for the operator.
    """

    def __init__(
        self, ledger: SqlLedger, started: Callable[[str], Draft], tell: Tell, note: Callable[[str], None]
    ) -> None:
        self._ledger = ledger
        self._started = started
        self._tell = tell
        self._note = note
        self._reported: set[str] = set()
        """What has been noted since a renewal succeeded last."""

    async def run(self) -> None:
        """Until cancelled."""
        if (seconds := self._ledger.presence.renew_seconds) is not None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._renew(seconds))
                tasks.create_task(self._recover())

    async def _renew(self, seconds: float) -> None:
        """INVARIANT: nothing else is waited for in between, so that neither slow calls nor a slow writer cost a guard
        its presence."""
        while True:
            try:
                if not await self._ledger.presence.renew():
                    await self._begin_again()
            except LedgerError as error:
                self._report("failure", say("the lease of {} cannot be renewed: {}", self._ledger.guard, str(error)))
                await asyncio.sleep(min(RETRY_SECONDS, seconds))
            else:
                self._reported.clear()
                await asyncio.sleep(seconds)

    async def _begin_again(self) -> None:
        """Go on as another guard: the calls of this one may have been closed by others. Raises: LedgerError."""
        presence, new = self._ledger.presence, new_guard_id()
        lost = presence.guard
        self._report("loss", f"the lease of {lost} ran out: calls are refused until this gateway has another one")
        await presence.take(new)
        await self._ledger.writer.submit(lambda tx: tx.add(self._started(new)))
        presence.adopt()
        self._note(f"this gateway continues as {new}, in place of {lost}")

    def _report(self, kind: str, trouble: str) -> None:
        if kind not in self._reported:
            self._reported.add(kind)
            self._note(trouble)

    async def _recover(self) -> None:
        while True:
            await asyncio.sleep(RECOVERY_SECONDS)
            try:
                await self._ledger.catch_up()
                await recover_on_loop(self._ledger, self._tell)
            except LedgerError:  # the writer reports it
                continue
