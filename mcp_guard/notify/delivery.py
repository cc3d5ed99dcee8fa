"""The courier: carries out what open requests owe to people. Expires and escalates them, and delivers messages.

Deliveries stand in the ledger file from the moment of the request, in its transaction, so none is lost with a process;
any guard or inbox on the ledger carries them. After a crash a message may come twice; it is never left out while its
request is open. Nothing here is waited for by a call.
"""

import asyncio
import importlib
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from mcp_guard.core import approval as rules
from mcp_guard.core.approval import Approval, ApprovalEvent, ApprovalState, Route
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Micros
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.writer import Op, Writer
from mcp_guard.notify import NOTIFIERS
from mcp_guard.notify.message import make_message
from mcp_guard.outbound import Options, Undelivered
from mcp_guard.settings import NotifierSettings
from mcp_guard.storage.approvals import Delivery

SECOND = 1_000_000
ROUND_SECONDS = 1.0
LEASE = 60 * SECOND
"""How long an attempt belongs to the process that makes it: longer than any notifier may take."""
RETRY_SECONDS = (2, 10, 60, 300, 900)
"""Between attempts; a message that fails once more than that has failed."""


@dataclass(frozen=True, slots=True)
class Courier:
    """One process's courier. `inbox` is the address that messages link to."""

    writer: Writer
    routes: Mapping[str, Route]
    notifiers: Mapping[str, NotifierSettings]
    inbox: str
    retry_seconds: tuple[float, ...] = RETRY_SECONDS
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. A message that takes long holds up no other."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                tasks.create_task(self._look())
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), ROUND_SECONDS)

    async def _look(self) -> None:
        with suppress(LedgerError):  # busy or full: calls meet the same and tell it; the next round looks again
            await self.round()

    async def round(self) -> None:
        """Do what is due now."""
        now = self.writer.now()
        for approval in self.writer.read(lambda store: store.approvals([ApprovalState.REQUESTED])):
            if now >= approval.expires:
                self._run(
                    partial(transitions.settle, approval=approval, event=ApprovalEvent.EXPIRE, note="nobody decided")
                )
            elif any(rules.escalate_rule(rule, self.routes, now - approval.requested) for rule in approval.rules):
                self._run(partial(transitions.escalate, id=approval.id, routes=self.routes))
        due = self.writer.read(lambda store: store.due_deliveries(now))
        await asyncio.gather(*(self._deliver(delivery) for delivery in due))

    def _run(self, op: Op[object]) -> None:
        with suppress(LedgerError):  # another process was first, or the ledger is busy: the next round looks again
            self.writer.run(op)

    async def _deliver(self, delivery: Delivery) -> None:
        """Take the delivery, so that no other process does, and make one attempt."""
        waits = self.retry_seconds[min(delivery.attempts, len(self.retry_seconds) - 1)]
        last = delivery.attempts >= len(self.retry_seconds)
        found = self.writer.read(lambda store: store.approval(delivery.approval))
        approval = found[0] if found else None
        if approval is None or approval.state is not ApprovalState.REQUESTED:
            self._settle(delivery, "failed", delivery.note or "decided before it was sent")
            return
        try:
            mine_until = self.writer.now() + LEASE
            self.writer.run(lambda tx: tx.store.move_delivery(delivery, "due", mine_until, "being sent"))
        except LedgerError:
            return  # another process has taken it
        trouble = await _apart(partial(self._send, delivery, approval))
        if trouble is None:
            self._settle(delivery, "delivered", "")
        else:
            self._settle(delivery, "failed" if last else "due", trouble, int(waits * SECOND))

    def _settle(self, delivery: Delivery, state: str, note: str, wait: Micros = 0) -> None:
        self._run(lambda tx: tx.store.settle_delivery(delivery.id, state, tx.now + wait, note))

    def _send(self, delivery: Delivery, approval: Approval) -> str | None:
        """One attempt, off the loop; returns what went wrong."""
        known = self.notifiers.get(delivery.notifier)
        if known is None:
            return f"notifier `{delivery.notifier}` is not in the config any more"
        options = Options(dict(known.options), dict(os.environ), known.here)
        id = f"msg_{approval.id}_{delivery.id}"
        message = make_message(approval, delivery.event, id, self.inbox, self.writer.now())
        try:
            importlib.import_module(NOTIFIERS[known.kind]).send(options, message)
        except Undelivered as trouble:
            return str(trouble)
        except Exception as defect:  # a notifier's defect is its own; it is shown and never touches a call
            return f"the notifier failed: {type(defect).__name__}"
        return None


async def _apart(work: Callable[[], str | None]) -> str | None:
    """Run it in a thread that nobody waits for at the end: one that hangs does not keep the guard from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str | None] = loop.create_future()

    def settle(result: str | None) -> None:
        if not done.done():
            done.set_result(result)

    def run() -> None:
        result = work()
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=run, daemon=True).start()
    return await done
