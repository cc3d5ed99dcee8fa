"""Implements `ports.Signals`: compares each call with the agent's earlier runs, and asks the operator's signals."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from mcp_guard.core.anomaly import (
    START,
    Baseline,
    CallFeatures,
    DriftRule,
    call_features,
    learn_baseline,
    read_run,
    write_run,
)
from mcp_guard.core.model import Call, Instance, Json, Signal
from mcp_guard.signals.external import ExternalSignal

ACTS = 100
"""Calls stored per run; later calls are compared but not learned from."""

RUNS = 1000
"""Runs followed at the same time; if there are more, the oldest are not learned from."""


Runs = Iterable[tuple[str, list[Json]]]
"""An agent's earlier runs by instance id."""


async def no_runs(*_: object) -> Runs:
    return ()


@dataclass(slots=True)
class RiskMonitor:
    """`recall` returns an agent's earlier runs by instance id; it is called once per agent, at its first call at the
    latest. Without a drift rule, calls are neither compared nor stored.
    """

    external: tuple[ExternalSignal, ...] = ()
    drift: DriftRule | None = None
    salt: str = ""
    recall: Callable[[str, int], Awaitable[Runs]] = no_runs
    _baselines: dict[str, Baseline] = field(default_factory=dict)
    _runs: dict[str, list[CallFeatures]] = field(default_factory=dict)

    async def raised(self, call: Call) -> tuple[Signal, ...]:
        """The signals of this call. Never raises."""
        signals = [await self._unusual(call)] if self.drift is not None else []
        external = [signal for signal in self.external if signal.concerns(call)]
        if external:
            signals += await asyncio.gather(*(signal.ask(call) for signal in external))
        return tuple(signal for signal in signals if signal is not None)

    async def _unusual(self, call: Call) -> Signal | None:
        run = self._runs.get(call.instance.id)
        baseline = await self._baseline_of(call.instance)
        return baseline.signal(run[-1].tool if run else START, call_features(call, self.salt))

    async def prepare(self, instance: Instance) -> None:
        """Build the agent's baseline now, so that no call has to wait for it."""
        if self.drift is not None:
            await self._baseline_of(instance)

    async def _baseline_of(self, instance: Instance) -> Baseline:
        assert self.drift is not None
        agent = instance.agent.name
        if agent not in self._baselines:
            runs = ((id, read_run(run)) for id, run in await self.recall(agent, self.drift.runs))
            self._baselines[agent] = learn_baseline(self.drift, runs)
        return self._baselines[agent]

    def note(self, call: Call) -> None:
        """Record a call that ran."""
        if self.drift is not None:
            run = self._runs.setdefault(call.instance.id, [])
            if len(self._runs) > RUNS:
                del self._runs[next(iter(self._runs))]
            if len(run) < ACTS:
                run.append(call_features(call, self.salt))
            else:
                run[-1] = call_features(call, self.salt)

    def end(self, instance: Instance) -> list[list[object]]:
        """The run of an instance that has ended, as JSON for the ledger; empty if there is nothing to learn."""
        return write_run(self._runs.pop(instance.id, ()))
