"""Shares the event loop of one guard between its agents and their instances.

All clients of a guard share one thread. Limits bound what a single message can cost; this bounds what many can:

- *Turns.* In each turn of the event loop one message is taken, or several small ones, so that they share a commit: from
  the agents in turn, and from the instances of an agent in turn. However many messages wait, the next one of somebody
  else comes next.
- *Waiting for what one costs.* Processor time is measured, so nothing has to be known about why a request is expensive.
  While others are active, the instance then waits, and its agent's other instances wait less long.

Ordinary requests are not charged, and a lone sender never waits.
"""

import asyncio
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NamedTuple

from mcp_guard.core.model import Instance

FREE_SECONDS = 0.005
"""Processor time that each request may take without a charge: several times what an ordinary call needs."""
SECONDS_PER_BYTE = 30e-9
"""What a byte of a message counts as: writing it to the ledger takes time of the disk, not of the processor."""
TURN_BYTES = 64 * 1024
"""No further message is taken in a turn of the event loop in which so many bytes were."""
LEAST_BYTES = 4 * 1024
"""What a message counts as at least."""
WAIT_FACTOR = 8
"""How many times the rest of it the instance then waits, which leaves it a ninth of the time."""
AGENT_WAIT_FACTOR = 3
"""The same for its agent, which leaves all its instances together a quarter of the time."""
MAX_WAIT_SECONDS = 5.0
ACTIVE_SECONDS = 10.0
"""Another instance or agent counts as active for so long after its latest request."""


class Sender(NamedTuple):
    """Whose message it is. `instance` is empty while there is none yet."""

    agent: str
    instance: str = ""

    @classmethod
    def of(cls, instance: Instance) -> "Sender":
        return cls(instance.agent.name, instance.id)


Take = Callable[[], bool]
"""Takes a message; returns False if there is none any more."""


class _Waiting(NamedTuple):
    """A message that waits for its turn."""

    take: Take
    size: int


class _Waits:
    """Who has to wait: instances, or agents. Times are those of the `clock`, in seconds."""

    def __init__(self, clock: Callable[[], float], factor: float) -> None:
        self._clock = clock
        self._factor = factor
        self._until: dict[str, float] = {}
        """When the next message may be taken, if that is not at once."""
        self._latest, self._latest_at, self._another_at = "", -ACTIVE_SECONDS, -ACTIVE_SECONDS
        """Who made the latest request, and when they and anybody else made one."""

    def delay(self, name: str) -> float:
        now = self._clock()
        if name != self._latest:
            self._latest, self._another_at = name, self._latest_at
        self._latest_at = now
        until = self._until.get(name)
        if until is None:
            return 0
        if until <= now or now - self._another_at > ACTIVE_SECONDS:
            del self._until[name]
            return 0
        return until - now

    def charge(self, name: str, seconds: float) -> None:
        now = self._clock()
        until = max(now, self._until.get(name, now)) + self._factor * (seconds - FREE_SECONDS)
        self._until[name] = min(until, now + MAX_WAIT_SECONDS)

    def forget(self, name: str) -> None:
        self._until.pop(name, None)


class LoopShare:
    """Whose message is taken next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._instances, self._agents = _Waits(clock, WAIT_FACTOR), _Waits(clock, AGENT_WAIT_FACTOR)
        self._messages: dict[Sender, deque[_Waiting]] = {}
        """What waits, by sender."""
        self._lines: dict[str, deque[Sender]] = {}
        """The senders of each agent that wait for nothing but their turn, the next one first."""
        self._order: deque[str] = deque()
        """Agents that have such a sender, the next one first."""
        self._room = TURN_BYTES
        """How many bytes may still be taken in this turn of the event loop."""
        self._is_scheduled = False
        """Whether there is room again, and messages are taken, in the next turn."""

    def delay(self, sender: Sender) -> float:
        """How many seconds a message must wait for what its sender has cost before; 0 for almost all."""
        return max(self._instances.delay(sender.instance), self._agents.delay(sender.agent))

    def charge(self, sender: Sender, seconds: float) -> None:
        """A request of this sender took so much processor time."""
        if seconds > FREE_SECONDS:
            self._instances.charge(sender.instance, seconds)
            self._agents.charge(sender.agent, seconds)

    def forget(self, instance: str) -> None:
        """The instance has ended. What it cost, its agent still waits for."""
        self._instances.forget(instance)

    async def turn(self, sender: Sender, size: int) -> None:
        """Wait until a message of this sender, of so many bytes, may be handled."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def take() -> bool:
            if turn.done():  # the waiting task was cancelled
                return False
            turn.set_result(None)
            return True

        self.on_turn(sender, take, size)
        await turn

    def on_turn(self, sender: Sender, take: Take, size: int) -> None:
        """Call `take` when it is the sender's turn: at once, if nobody waits. A sender's messages keep their order."""
        delay = self.delay(sender)
        message = _Waiting(take, size)
        if (waiting := self._messages.get(sender)) is not None:
            waiting.append(message)
        elif delay or self._order or self._room <= 0:
            self._messages[sender] = deque([message])
            self._line_up(sender, delay)
        else:
            self._take(message)

    def _line_up(self, sender: Sender, delay: float = 0) -> None:
        if delay:
            asyncio.get_running_loop().call_later(delay, self._line_up, sender)
            return
        if sender.agent not in self._lines:
            self._lines[sender.agent] = deque()
            self._order.append(sender.agent)
        self._lines[sender.agent].append(sender)
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def _take(self, message: _Waiting) -> None:
        size = max(message.size, LEAST_BYTES)
        self._room -= size
        if message.take():
            self._schedule()
        else:
            self._room += size

    def _begin_turn(self) -> None:
        """Take messages while there is room, and go on in the next turn of the event loop."""
        self._is_scheduled, self._room = False, TURN_BYTES
        while self._order and self._room > 0:
            sender = self._next_sender()
            if delay := self.delay(sender):
                self._line_up(sender, delay)
                continue
            waiting = self._messages[sender]
            message = waiting.popleft()
            if waiting:
                self._line_up(sender)
            else:
                del self._messages[sender]
            self._take(message)

    def _next_sender(self) -> Sender:
        agent = self._order.popleft()
        senders = self._lines[agent]
        sender = senders.popleft()
        if senders:
            self._order.append(agent)
        else:
            del self._lines[agent]
        return sender


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
