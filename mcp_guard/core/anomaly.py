"""How unusual a call is for its agent, with a false-alarm rate that is known in advance. Pure.

A profile counts what the agent's earlier runs did: which tool followed which, which arguments each tool received, and
whether the values of its sinks were new. These counts give each call a strangeness score; the formula is not critical.
The guarantee comes from calibration: one half of the runs builds the profile, the other half is scored with it, and a
call's p-value is the share of scored runs whose *strangest* call was at least as strange (inductive conformal
prediction: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005, §4.1). As long as runs are
exchangeable (this run is of the same kind as the earlier ones), the probability that any call of a run has p <= `rate`
is at most `rate`.
"""

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, log

from mcp_guard.core.canonical import digest
from mcp_guard.core.model import Call, Json, Signal
from mcp_guard.core.provenance.matching import plain
from mcp_guard.core.provenance.passages import texts

NAME = "unusual_for_agent"
START = ""
HALF = 0.5


@dataclass(frozen=True, slots=True)
class DriftRule:
    """The operator's configuration (`[risk.drift]`).

    `rate` is the share of ordinary runs (not calls) that may be flagged falsely; `runs` is how many runs are kept per
    agent.
    """

    rate: float = 0.02
    weight: int = 30
    runs: int = 400

    @property
    def warm_up(self) -> int:
        """The least number of scored runs: with fewer, no p-value could be as small as `rate`."""
        return ceil(1 / self.rate) - 1


@dataclass(frozen=True, slots=True)
class CallFeatures:
    """What the profile keeps of one call: the tool, its argument names, and salted hashes of its sinks' values."""

    tool: str
    names: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()


def call_features(call: Call, salt: str) -> CallFeatures:
    assert call.tool is not None
    sinks = call.tool.rule.sinks
    values = sorted({f"{name}\0{plain(text)}" for name, text in texts(call.arguments, sinks) if name in sinks})
    return CallFeatures(call.name, tuple(sorted(call.arguments)), tuple(_hashed(salt, value) for value in values))


def _hashed(salt: str, value: str) -> str:
    return hashlib.sha256(f"{salt}\0{value}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def write_run(run: Iterable[CallFeatures]) -> list[list[object]]:
    """A run as JSON."""
    return [[call.tool, list(call.names), list(call.sinks)] for call in run]


def read_run(run: Sequence[Json | Sequence[object]]) -> tuple[CallFeatures, ...]:
    return tuple(CallFeatures(str(tool), tuple(names), tuple(sinks)) for tool, names, sinks in run)  # type: ignore[arg-type]


@dataclass(slots=True)
class Profile:
    """Counts over a set of runs.

    `followed` maps a tool (or `START`) to the tools called next; `given` maps a tool to its argument names; `seen`
    holds (tool, sink hash) pairs; `new_sinks` counts sinks that were new when they were used.
    """

    followed: dict[str, Counter[str]] = field(default_factory=dict)
    given: dict[str, Counter[str]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    seen: set[tuple[str, str]] = field(default_factory=set)
    sinks: Counter[str] = field(default_factory=Counter)
    new_sinks: Counter[str] = field(default_factory=Counter)

    def learn(self, run: Iterable[CallFeatures]) -> None:
        before = START
        for call in run:
            self.followed.setdefault(before, Counter())[call.tool] += 1
            self.given.setdefault(call.tool, Counter()).update(call.names)
            self.calls[call.tool] += 1
            for sink in call.sinks:
                self.sinks[call.tool] += 1
                self.new_sinks[call.tool] += (call.tool, sink) not in self.seen
                self.seen.add((call.tool, sink))
            before = call.tool

    def strangeness(self, before: str, call: CallFeatures) -> tuple[float, str]:
        """The surprise of the step, its arguments and its destinations together (in nats), and its main cause."""
        after = self.followed.get(before, Counter())
        step = -log((after[call.tool] + HALF) / (after.total() + HALF * (len(after) + 1)))
        times = self.calls[call.tool]
        new_names = [name for name in call.names if not self.given.get(call.tool, Counter())[name]]
        names = len(new_names) * -log(HALF / (times + 1)) if times else 0.0
        new_sinks = sum((call.tool, sink) not in self.seen for sink in call.sinks)
        share = (self.new_sinks[call.tool] + HALF) / (self.sinks[call.tool] + 1)
        sinks = new_sinks * -log(share) if times else 0.0
        parts = (
            (step, f"`{call.tool}` after {f'`{before}`' if before else 'nothing'}"),
            (names, f"`{call.tool}` with {', '.join(f'`{name}`' for name in new_names)}"),
            (sinks, f"`{call.tool}` to a new destination"),
        )
        return step + names + sinks, max(parts)[1]


@dataclass(frozen=True, slots=True)
class Baseline:
    """An agent's profile and the sorted calibration scores. It does not change during a run."""

    rule: DriftRule
    profile: Profile
    scores: tuple[float, ...] = ()

    @property
    def is_warm(self) -> bool:
        return len(self.scores) >= self.rule.warm_up

    def p_value(self, score: float) -> float:
        as_strange = len(self.scores) - bisect_left(self.scores, score)
        return (as_strange + 1) / (len(self.scores) + 1)

    def signal(self, before: str, call: CallFeatures) -> Signal | None:
        """The signal for a call with p <= rate, else None; always None before the warm-up is complete."""
        if not self.is_warm:
            return None
        score, cause = self.profile.strangeness(before, call)
        p = self.p_value(score)
        if p > self.rule.rate:
            return None
        because = f"unlike {len(self.scores)} earlier runs of this agent (p = {p:.3f}): {cause}"
        return Signal(NAME, self.rule.weight, because)


def learn_baseline(rule: DriftRule, runs: Iterable[tuple[str, Sequence[CallFeatures]]]) -> Baseline:
    """The baseline from runs by instance id. A hash of the id assigns each run to its half, so the split is stable."""
    halves: tuple[list[Sequence[CallFeatures]], list[Sequence[CallFeatures]]] = ([], [])
    for id, run in runs:
        if run:
            halves[int(digest(id.encode())[-1], 16) & 1].append(run)
    profile = Profile()
    for run in halves[0]:
        profile.learn(run)
    return Baseline(rule, profile, tuple(sorted(strangest(profile, run) for run in halves[1])))


def strangest(profile: Profile, run: Sequence[CallFeatures]) -> float:
    """The score of the run's strangest call."""
    previous = (START, *(call.tool for call in run))
    return max(profile.strangeness(before, call)[0] for before, call in zip(previous, run, strict=False))
