"""Wakes the calls that wait for an approval, in one place for all of them.

A decision of this process is an event of its writer. One of another process is announced by a database, or noticed by
looking: one timer asks whether another connection has written at all, and only then which approvals are still open.
What a look costs does not depend on the size of the requests, and hardly on their number.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Micros
from mcp_guard.ledger.writer import Writer

POLL_SECONDS = 0.1
TICK_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class _Waiter:
    """A call that waits. `decided` is set when it has to look at its approval again."""

    decided: "asyncio.Future[None]"
    expires: Micros
    on_tick: Callable[[float], None]
    began: float
    next_tick: float = 0.0
    """Seconds after it began, by the event loop's clock."""

    def wake(self) -> None:
        if not self.decided.done():
            self.decided.set_result(None)

    def tick(self, now: float) -> None:
        waited = now - self.began
        if waited >= self.next_tick and not self.decided.done():
            self.next_tick = waited + TICK_SECONDS
            self.on_tick(waited)


class ApprovalWatcher:
    """The calls of this process that wait. The timer runs while there are any."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.is_stopped = False
        """Whether nobody is to wait any more."""
        self._waiters: dict[str, set[_Waiter]] = {}
        """By approval."""
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._next_look = 0.0
        """When, by the event loop's clock."""
        self._seen: int | None = None
        """What other connections had written at the last look."""
        writer.on_approvals_moved = self.wake

    @property
    def count(self) -> int:
        """How many calls wait."""
        return sum(map(len, self._waiters.values()))

    def stop(self) -> None:
        """End every wait, as if its time were over."""
        self.is_stopped = True
        self.wake(self._waiters)

    def wake(self, ids: Iterable[str]) -> None:
        """These approvals have another state: the calls that wait for them go on."""
        for id in ids:
            for waiter in self._waiters.get(id, ()):
                waiter.wake()

    def hear(self, ids: Sequence[str]) -> None:
        """The same, as another process has announced it; without any, some may have been missed."""
        if ids:
            self.wake(ids)
        else:
            self._look_again()

    def _look_again(self) -> None:
        self._seen, self._next_look = None, 0.0

    async def wait(self, id: str, expires: Micros, seconds: float, on_tick: Callable[[float], None]) -> bool:
        """Wait until the approval is no longer `requested`, its time is over, or `stop` is called; at most for
        `seconds`. Returns whether that was so. `on_tick` is called at once, unless it is so already, and about every
        second.

        INVARIANT: whoever waits has registered before it asks the ledger, so that a decision made meanwhile wakes it.
        Raises: LedgerError if the ledger cannot be read.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future(), expires, on_tick, loop.time())
        self._waiters.setdefault(id, set()).add(waiter)
        if self._timer is None:
            self._look_again()  # nobody has looked for a while
            self._timer = loop.call_later(POLL_SECONDS, self._on_timer)
        try:
            if not await self.writer.query(lambda store: store.open_among([id])):
                return True
            waiter.tick(waiter.began)
            async with asyncio.timeout(seconds):
                await waiter.decided
        except TimeoutError:
            return False
        finally:
            self._waiters[id].discard(waiter)
            if not self._waiters[id]:
                del self._waiters[id]
        return True

    def _all(self) -> Iterator[_Waiter]:
        return (waiter for waiters in self._waiters.values() for waiter in waiters)

    def _on_timer(self) -> None:
        """INVARIANT: there is one look at a time, so that what is seen only advances."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(POLL_SECONDS, self._on_timer) if self._waiters else None
        if loop.time() >= self._next_look and (self._looking is None or self._looking.done()):
            self._next_look = loop.time() + self.writer.executor.poll_seconds
            self._looking = loop.create_task(self._look())
        now, elapsed = self.writer.now(), loop.time()
        for waiter in list(self._all()):
            if waiter.expires <= now:
                waiter.wake()
            else:
                waiter.tick(elapsed)

    async def _look(self) -> None:
        try:
            version = await self.writer.query(lambda store: store.version())
            if version != self._seen and self._waiters:
                asked = set(self._waiters)
                open_ones = await self.writer.query(lambda store: store.open_among(asked))
                self._seen = version
                self.wake(asked - open_ones)
        except LedgerError as error:
            for waiter in self._all():
                if not waiter.decided.done():
                    waiter.decided.set_exception(error.within("{}"))
