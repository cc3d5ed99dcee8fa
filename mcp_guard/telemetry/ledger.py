"""A ledger that tells observers what it has recorded, and how long that took."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mcp_guard.core.approval import Approval
from mcp_guard.core.grants import Grant
from mcp_guard.core.model import Call, Decision, Execution, Instance, Micros, RateCounter
from mcp_guard.core.rates import RateValue
from mcp_guard.ports import Conflict, Intent, Ledger, UpstreamTask, UseSums


class CallObserver(Protocol):
    """Is told of calls, refusals once they are durable. No method raises or waits."""

    def on_refused(self, call: Call, decision: Decision, receipt: int) -> None:
        """The call was not executed. `receipt` is the sequence number of its receipt."""

    def on_concluded(self, call: Call, execution: Execution, receipt: int | None) -> None:
        """The call, or one of the guard's own look-ups, has this outcome. Without a receipt, the ledger could not
        record it, and will later."""

    def on_commit(self, step: str, seconds: float) -> None:
        """It took so long until what this step records was durable: `refuse`, `intend`, `look_up` or `conclude`."""


@dataclass(frozen=True, slots=True)
class ObservedLedger:
    """Implements `ports.Ledger` by another one. `trace_id` gives the trace that a look-up belongs to."""

    ledger: Ledger
    observers: tuple[CallObserver, ...]
    trace_id: Callable[[], str]

    def begin_call(self) -> None:
        self.ledger.begin_call()

    async def catch_up(self) -> None:
        await self.ledger.catch_up()

    def note_cancelled(self) -> None:
        self.ledger.note_cancelled()

    def end_call(self) -> None:
        self.ledger.end_call()

    async def sum_uses(self, call: Call, counters: tuple[RateCounter, ...], now: Micros) -> UseSums:
        return await self.ledger.sum_uses(call, counters, now)

    def count(self, sums: UseSums) -> Mapping[str, RateValue]:
        return self.ledger.count(sums)

    async def why_barred(self, instance: Instance) -> str | None:
        return await self.ledger.why_barred(instance)

    async def count_differences(self, tool: str) -> int:
        return await self.ledger.count_differences(tool)

    async def calls_meanwhile(self, call: Call, since: int) -> Sequence[tuple[int, str]] | None:
        return await self.ledger.calls_meanwhile(call, since)

    async def refuse(self, call: Call, decision: Decision) -> int:
        began = time.perf_counter()
        receipt = await self.ledger.refuse(call, decision)
        self._tell_of_commit("refuse", began)
        for observer in self.observers:
            observer.on_refused(call, decision, receipt)
        return receipt

    async def intend(self, call: Call, decision: Decision, held: Approval | Grant | None) -> Intent | Conflict:
        began = time.perf_counter()
        intent = await self.ledger.intend(call, decision, held)
        self._tell_of_commit("intend", began)
        return intent

    async def look_up(self, call: Call) -> Intent | Conflict:
        began = time.perf_counter()
        intent = await self.ledger.look_up(call._replace(trace=self.trace_id()))
        self._tell_of_commit("look_up", began)
        return intent

    def why_not_dispatched(self, intent: Intent) -> str:
        return self.ledger.why_not_dispatched(intent)

    def conclude(self, intent: Intent, execution: Execution, answered: bool = True) -> Awaitable[int]:
        if execution.task:
            return self.ledger.conclude(intent, execution, answered)
        began = time.perf_counter()
        recorded = asyncio.ensure_future(self.ledger.conclude(intent, execution, answered))
        recorded.add_done_callback(lambda done: self._on_concluded(intent, execution, began, done))
        return recorded

    def _on_concluded(self, intent: Intent, execution: Execution, began: float, done: "asyncio.Future[int]") -> None:
        is_recorded = not done.cancelled() and done.exception() is None
        if is_recorded:
            self._tell_of_commit("conclude", began)
        for observer in self.observers:
            observer.on_concluded(intent.call, execution, done.result() if is_recorded else None)

    async def find_task(self, call: str) -> UpstreamTask | None:
        return await self.ledger.find_task(call)

    async def due_tasks(
        self, servers: Collection[str], asking: Instance, processes: Collection[str]
    ) -> tuple[Sequence[UpstreamTask], bool]:
        return await self.ledger.due_tasks(servers, asking, processes)

    async def end_task(self, task: UpstreamTask, call: Call, execution: Execution, answered: bool) -> int:
        began = time.perf_counter()
        receipt = await self.ledger.end_task(task, call, execution, answered)
        self._tell_of_commit("conclude", began)
        for observer in self.observers:
            observer.on_concluded(call, execution, receipt)
        return receipt

    def _tell_of_commit(self, step: str, began: float) -> None:
        seconds = time.perf_counter() - began
        for observer in self.observers:
            observer.on_commit(step, seconds)
