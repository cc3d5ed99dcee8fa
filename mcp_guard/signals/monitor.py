"""Implements `ports.Signals`: for each call what is unusual for its agent, and what the operator's own signals say."""

import asyncio
from collections.abc import Callable, Iterable
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
"""Calls remembered of one run; what comes later is compared, but not learned from."""

RUNS = 1000
"""Runs followed at once; of more, the oldest are not learned from."""


@dataclass(slots=True)
class RiskMonitor:
    """`recall` gives an agent's earlier runs by id; it is asked once for each agent, at its first call if not before.

    Without a drift rule nothing is compared and nothing is remembered.
    """

    outside: tuple[ExternalSignal, ...] = ()
    drift: DriftRule | None = None
    salt: str = ""
    recall: Callable[[str, int], Iterable[tuple[str, list[Json]]]] = lambda *_: ()
    _usual: dict[str, Baseline] = field(default_factory=dict)
    _runs: dict[str, list[CallFeatures]] = field(default_factory=dict)

    async def raised(self, call: Call) -> tuple[Signal, ...]:
        """The signals of this call. Never raises."""
        found = [self._unusual(call)] if self.drift is not None else []
        asked = [each for each in self.outside if each.concerns(call)]
        if asked:
            found += await asyncio.gather(*(each.ask(call) for each in asked))
        return tuple(signal for signal in found if signal is not None)

    def _unusual(self, call: Call) -> Signal | None:
        run = self._runs.get(call.instance.id)
        return self._of(call.instance).signal(run[-1].tool if run else START, call_features(call, self.salt))

    def prepare(self, instance: Instance) -> None:
        """Learn what is usual for the agent now, so that no call need wait for it."""
        if self.drift is not None:
            self._of(instance)

    def _of(self, instance: Instance) -> Baseline:
        assert self.drift is not None
        agent = instance.agent.name
        if agent not in self._usual:
            runs = ((id, read_run(said)) for id, said in self.recall(agent, self.drift.runs))
            self._usual[agent] = learn_baseline(self.drift, runs)
        return self._usual[agent]

    def note(self, call: Call) -> None:
        """The call ran."""
        if self.drift is not None:
            run = self._runs.setdefault(call.instance.id, [])
            if len(self._runs) > RUNS:
                del self._runs[next(iter(self._runs))]
            if len(run) < ACTS:
                run.append(call_features(call, self.salt))
            else:
                run[-1] = call_features(call, self.salt)

    def end(self, instance: Instance) -> list[list[object]]:
        """The instance has ended: what it did, to be kept with the ledger; empty if nothing is to be learned."""
        return write_run(self._runs.pop(instance.id, ()))
