"""Delivers notifications about open approval requests and new approver keys, expires and escalates the requests, and
puts drills.

A delivery is written to the ledger file in the same transaction as the request, so none is lost when a process ends;
every guard and inbox on the ledger takes part. After a crash a message may be delivered twice, but while its request is
open it is never skipped. No call waits for anything here.
"""

import asyncio
import importlib
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller

import orjson

from mcp_guard.core import approval as rules
from mcp_guard.core.approval import ApprovalEvent, ApprovalState, Route, RouteRule
from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import MINUTE, SECOND, Micros
from mcp_guard.ledger.approvals import transitions
from mcp_guard.ledger.approvals.approver_keys import ENROLLED
from mcp_guard.ledger.approvals.drill_counts import due_routes
from mcp_guard.ledger.approvals.transitions import ENDED
from mcp_guard.ledger.confirmations import DIFFERED
from mcp_guard.ledger.drills import DrillIds, put_drill
from mcp_guard.ledger.policy_approvals import PROPOSED, read_state
from mcp_guard.ledger.writer import Op, Writer
from mcp_guard.notify import KEEPING, NOTIFIERS
from mcp_guard.notify.kept import RECEIVERS, Kept, NotifierState
from mcp_guard.notify.message import (
    Message,
    make_differed_message,
    make_ended_message,
    make_enrolment_message,
    make_message,
)
from mcp_guard.notify.policy_message import make_proposal_message
from mcp_guard.outbound import DeliveryError, Destination
from mcp_guard.settings import NotifierSettings
from mcp_guard.storage.background import BackgroundReader
from mcp_guard.storage.rows import Delivery

READ_AT_ONCE = 50
SENT_AT_ONCE = 8
"""Messages of one notifier. Each has a thread for as long as the receiver takes to answer."""
POLL_SECONDS = 1.0
LEASE = MINUTE
"""How long an attempt is reserved for the process that makes it: longer than any notifier may take."""
RETRY_SECONDS = (2, 10, 60, 300, 900)
"""Waits between attempts. A message whose attempt after the last wait fails has failed for good."""
DRILL_PAUSE = MINUTE
"""After an attempt to put a drill on a route, before the next one."""


@dataclass(frozen=True, slots=True)
class _Deadlines:
    """When an open request expires, and by which rules it escalates."""

    requested: Micros
    expires: Micros
    rules: tuple[RouteRule, ...]
    requesters: tuple[str | None, ...]

    def is_escalation_due(self, routes: Mapping[str, Route], now: Micros) -> bool:
        waited = now - self.requested
        return any(rules.escalate_rule(rule, routes, waited, self.requesters) for rule in self.rules)


@dataclass(frozen=True, slots=True)
class NotificationDispatcher:
    """One process's share of the deliveries. `inbox` is the address that messages link to."""

    writer: Writer
    reader: BackgroundReader
    routes: Mapping[str, Route]
    notifiers: Mapping[str, NotifierSettings]
    inbox: str
    state: NotifierState | None = None
    """What notifiers keep; None if none of them keeps anything."""
    drills: DrillIds | None = None
    """None if no route has drills."""
    retry_seconds: tuple[float, ...] = RETRY_SECONDS
    _open: dict[str, _Deadlines] = field(default_factory=dict)
    """The open requests, without what they ask for: that can be large, and is read once."""
    _drilled: dict[str, Micros] = field(default_factory=dict)
    """By route, when a drill was put on it, or tried to be."""
    _under_way: set[int] = field(default_factory=set)
    """Ids of the deliveries that are attempted, or wait for their turn."""
    _turns: defaultdict[str, asyncio.Semaphore] = field(
        default_factory=lambda: defaultdict(lambda: asyncio.Semaphore(SENT_AT_ONCE))
    )
    """By notifier, so that one whose receiver hangs does not delay the others."""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Run until cancelled. A slow receiver delays the messages of its own notifier only."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                with suppress(LedgerError):  # it is busy or full: calls report it, and the next poll tries again
                    await self.start_due(tasks)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)

    async def start_due(self, tasks: asyncio.TaskGroup) -> None:
        """Start what is due now, as tasks that never raise. Raises: LedgerError."""
        for delivery in await self._find_due():
            if delivery.id not in self._under_way:
                self._under_way.add(delivery.id)
                tasks.create_task(self._attempt(delivery))

    async def _find_due(self) -> list[Delivery]:
        """Put drills, expire and escalate what is due, then find the messages that are."""
        now = self.writer.now()
        if self.drills is not None:
            await self._put_drills(self.drills, now)
        await self._find_open()
        for id, deadlines in list(self._open.items()):
            if now >= deadlines.expires:
                await self._expire(id)
            elif deadlines.is_escalation_due(self.routes, now):
                await self._write(partial(transitions.escalate, id=id, routes=self.routes))
            else:
                continue
            del self._open[id]  # to be read again if it is still open
        now = self.writer.now()  # what has just ended is due, too
        return await self.reader.read(lambda store: store.due_deliveries(now, READ_AT_ONCE))

    async def _put_drills(self, ids: DrillIds, now: Micros) -> None:
        for name in await self.reader.read(lambda store: due_routes(store, self.routes, now)):
            if now >= self._drilled.get(name, 0) + DRILL_PAUSE:
                self._drilled[name] = now
                await self._write(partial(put_drill, route=self.routes[name], routes=self.routes, ids=ids))

    async def _find_open(self) -> None:
        """Read the deadlines of requests that are new, and forget those that are decided."""
        open_ids = await self.reader.read(lambda store: store.open_ids())
        for id in self._open.keys() - open_ids:
            del self._open[id]
        unknown = list(open_ids - self._open.keys())
        for start in range(0, len(unknown), READ_AT_ONCE):
            some = unknown[start : start + READ_AT_ONCE]
            for approval in await self.reader.read(methodcaller("approvals_among", some)):
                requesters = approval.subject.requesters
                deadlines = _Deadlines(approval.requested, approval.expires, approval.rules, requesters)
                self._open[approval.id] = deadlines

    async def _expire(self, id: str) -> None:
        row = await self.reader.read(lambda store: store.approval(id))
        if row is not None and row[0].state is ApprovalState.REQUESTED:
            note = "nobody decided"
            await self._write(partial(transitions.settle, approval=row[0], event=ApprovalEvent.EXPIRE, note=note))

    async def _write(self, op: Op[object]) -> None:
        with suppress(LedgerError):  # another process was first, or the ledger is busy: the next poll tries again
            await self.writer.submit(op)

    async def _attempt(self, delivery: Delivery) -> None:
        try:
            async with self._turns[delivery.notifier]:
                await self._deliver(delivery)
        except LedgerError:
            pass  # it is busy, or another process has reserved the delivery: a later poll finds what is still due
        except Exception as defect:  # a defect must cost this delivery and no other
            await self._settle(delivery, "due", f"internal error: {type(defect).__name__}", LEASE)
        finally:
            self._under_way.discard(delivery.id)

    async def _deliver(self, delivery: Delivery) -> None:
        """Reserve the delivery, so that no other process makes it, and attempt it once. Raises: LedgerError."""
        wait_seconds = self.retry_seconds[min(delivery.attempts, len(self.retry_seconds) - 1)]
        is_last_attempt = delivery.attempts >= len(self.retry_seconds)
        message = await self._make_message(delivery)
        if message is None:
            note = delivery.note or "decided before the message was sent"
            await self._settle(delivery, await self._final_state(delivery), note)
            return
        if delivery.event == ENDED and not await self._has_begun(delivery):
            return
        reserved_until = self.writer.now() + LEASE
        await self.writer.submit(lambda tx: tx.store.move_delivery(delivery, "due", reserved_until, "being sent"))
        loop = asyncio.get_running_loop()
        problem = await _run_in_daemon_thread(partial(self._send, delivery, message, loop))
        if problem is None:
            await self._settle(delivery, "delivered", "")
        else:
            wait = int(max(wait_seconds, problem.retry_after) * SECOND)
            state = await self._final_state(delivery) if is_last_attempt else "due"
            await self._settle(delivery, state, str(problem), wait)

    async def _final_state(self, delivery: Delivery) -> str:
        """Of a delivery that is not tried again: that some have got it is enough, so that they hear of the end, too.

        Raises: LedgerError.
        """
        items = self.state.items if self.state else None
        received = items and await items.get(RECEIVERS, _message_id(delivery), self.writer.now())
        return "delivered" if received else "failed"

    async def _has_begun(self, delivery: Delivery) -> bool:
        """Whether the notifier has reported the request, so that its end is news. While an attempt to do so is under
        way, the end waits."""
        all_of_request = await self.reader.read(lambda store: store.deliveries(delivery.subject))
        others = [other for other in all_of_request if other.notifier == delivery.notifier and other.event != ENDED]
        if any(other.state == "delivered" for other in others):
            return True
        if any(other.state == "due" for other in others):
            await self._settle(delivery, "due", "", int(self.retry_seconds[0] * SECOND))
        else:
            await self._settle(delivery, "failed", "the request itself was not reported")
        return False

    async def _settle(self, delivery: Delivery, state: str, note: str, wait: Micros = 0) -> None:
        await self._write(lambda tx: tx.store.settle_delivery(delivery.id, state, tx.now + wait, note))

    async def _make_message(self, delivery: Delivery) -> Message | None:
        """The message as it is now; None if there is nothing to say any more."""
        id, now = _message_id(delivery), self.writer.now()
        if delivery.event == ENROLLED:
            enrolment = (await self.reader.read(lambda store: store.enrolments())).get(delivery.subject)
            return make_enrolment_message(enrolment, id, self.inbox, now) if enrolment else None
        if delivery.event == PROPOSED:
            state = await self.reader.read(read_state)
            proposal = state.open if state else None
            is_open = proposal is not None and proposal.id == delivery.subject
            return make_proposal_message(proposal, id, self.inbox, now) if proposal and is_open else None
        row = await self.reader.read(lambda store: store.approval(delivery.subject))
        if row is not None and delivery.event == ENDED:
            is_over = row[0].state is not ApprovalState.REQUESTED
            return make_ended_message(row[0], id, self.inbox, now) if is_over else None
        if row is not None and delivery.event == DIFFERED:
            seq = row[0].outcome
            outcome = None if seq is None else await self.reader.read(methodcaller("receipt", seq))
            return make_differed_message(row[0], orjson.loads(outcome.body), id, self.inbox, now) if outcome else None
        if row is None or row[0].state is not ApprovalState.REQUESTED:
            return None
        return make_message(row[0], delivery.event, id, self.inbox, now)

    def _send(self, delivery: Delivery, message: Message, loop: asyncio.AbstractEventLoop) -> DeliveryError | None:
        """Make one attempt, outside the event loop. Returns the problem, or None after success."""
        notifier = self.notifiers.get(delivery.notifier)
        if notifier is None:
            return DeliveryError(f"notifier `{delivery.notifier}` is no longer in the configuration")
        destination = Destination(notifier.options, os.environ, notifier.base_dir, notifier.network)
        try:
            send = importlib.import_module(NOTIFIERS[notifier.kind]).send
            if notifier.kind in KEEPING:
                now = self.writer.now()
                send(destination, message, Kept(self.state, delivery.notifier, now, loop) if self.state else None)
            else:
                send(destination, message)
        except DeliveryError as error:
            return error
        except Exception as error:  # a defect of a notifier is shown with the delivery, and never affects a call
            return DeliveryError(f"the notifier failed: {type(error).__name__}")
        return None


def _message_id(delivery: Delivery) -> str:
    return f"msg_{delivery.subject}_{delivery.id}"


async def _run_in_daemon_thread(work: Callable[[], DeliveryError | None]) -> DeliveryError | None:
    """Run `work` in a daemon thread, so that a notifier that hangs cannot keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[DeliveryError | None] = loop.create_future()

    def settle(result: DeliveryError | None) -> None:
        if not done.done():
            done.set_result(result)

    def run() -> None:
        result = work()
        with suppress(RuntimeError):  # the loop has been closed in the meantime
            loop.call_soon_threadsafe(settle, result)

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError as error:  # the limit on processes, or on memory
        return DeliveryError(f"the guard cannot send it: {error}")
    return await done
