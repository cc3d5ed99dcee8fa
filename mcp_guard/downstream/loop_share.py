"""Shares the event loop of one guard between its instances: what one of them costs, it has to wait for.

All clients of a guard share one thread. Limits bound what a single message can cost; this bounds what an instance can
cost by sending such messages one after another. Processor time is measured, so nothing has to be known about why a
request is expensive. Ordinary requests are free, and an instance that is alone never waits.
"""

import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

FREE_SECONDS = 0.005
"""Processor time that each request may take without a charge: several times what an ordinary call needs."""
SECONDS_PER_BYTE = 30e-9
"""What a byte of a message counts as: writing it to the ledger takes time of the disk, not of the processor."""
WAIT_FACTOR = 8
"""How many times the rest of it the instance then waits, which leaves it a ninth of the time."""
MAX_WAIT_SECONDS = 5.0
ACTIVE_SECONDS = 10.0
"""Another instance counts as active for so long after its latest request."""


class LoopShare:
    """Who has to wait. Times are those of the `clock`, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        """When the next message of an instance may be read, if that is not at once."""
        self._latest, self._latest_at, self._another_at = "", -ACTIVE_SECONDS, -ACTIVE_SECONDS
        """The instance of the latest request, and when it and any other instance made one."""

    def delay(self, instance: str) -> float:
        """How many seconds the message that this instance has sent must wait; 0 for almost all."""
        now = self._clock()
        if instance != self._latest:
            self._latest, self._another_at = instance, self._latest_at
        self._latest_at = now
        until = self._until.get(instance)
        if until is None:
            return 0
        if until <= now or now - self._another_at > ACTIVE_SECONDS:
            del self._until[instance]
            return 0
        return until - now

    def charge(self, instance: str, seconds: float) -> None:
        """A request of this instance took so much processor time."""
        if seconds > FREE_SECONDS:
            now = self._clock()
            until = max(now, self._until.get(instance, now)) + WAIT_FACTOR * (seconds - FREE_SECONDS)
            self._until[instance] = min(until, now + MAX_WAIT_SECONDS)

    def forget(self, instance: str) -> None:
        """The instance has ended."""
        self._until.pop(instance, None)


@types.coroutine
def metered(work: Coroutine[Any, Any, None], charge: Callable[[float], None]) -> Generator[Any, Any, None]:
    """Run `work`, and charge the processor time of all its steps when it ends, however it ends."""
    spent, step, value = 0.0, work.send, None
    try:
        while True:
            began = time.thread_time()
            try:
                awaited = step(value)
            except StopIteration:
                return
            finally:
                spent += time.thread_time() - began
            try:
                step, value = work.send, (yield awaited)
            except BaseException as error:  # a cancellation, for `work` to handle
                step, value = work.throw, error
    finally:
        charge(spent)
