"""How unusual a call is for its agent, with a false-alarm rate that can be said beforehand. Pure.

A profile counts what the agent's earlier runs did: which tool followed which, which arguments each tool was given, and
whether the values of its sinks were new. From that comes a score of strangeness, for which any formula would do. What
makes it mean something is the comparison: runs are split in two halves, one makes the profile, the other is scored with
it, and a call's p-value is the share of those scored runs whose *strangest* call was at least as strange (inductive
conformal prediction: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005, §4.1). As long as runs are
exchangeable (this one is of the same kind as those), the chance that any call of a run has p <= rate is at most `rate`.
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
    """What the operator configures. `rate` is of runs, not of calls: how many of a hundred ordinary runs may be flagged
    falsely. `runs` is how many are remembered of an agent."""

    rate: float = 0.02
    weight: int = 30
    runs: int = 400

    @property
    def warm_up(self) -> int:
        """Runs that must be there to compare with: with fewer no p-value could be as small as the rate."""
        return ceil(1 / self.rate) - 1


@dataclass(frozen=True, slots=True)
class CallFeatures:
    """What is kept of one call: the tool, the names of its arguments, and its sinks' values as salted hashes."""

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


def write_run(acts: Iterable[CallFeatures]) -> list[list[object]]:
    """A run as JSON."""
    return [[act.tool, list(act.names), list(act.sinks)] for act in acts]


def read_run(said: Sequence[Json | Sequence[object]]) -> tuple[CallFeatures, ...]:
    return tuple(CallFeatures(str(tool), tuple(names), tuple(sinks)) for tool, names, sinks in said)  # type: ignore[arg-type]


@dataclass(slots=True)
class Profile:
    """What some runs did, counted."""

    followed: dict[str, Counter[str]] = field(default_factory=dict)
    given: dict[str, Counter[str]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    seen: set[tuple[str, str]] = field(default_factory=set)
    sinks: Counter[str] = field(default_factory=Counter)
    new_sinks: Counter[str] = field(default_factory=Counter)

    def learn(self, run: Iterable[CallFeatures]) -> None:
        before = START
        for act in run:
            self.followed.setdefault(before, Counter())[act.tool] += 1
            self.given.setdefault(act.tool, Counter()).update(act.names)
            self.calls[act.tool] += 1
            for sink in act.sinks:
                self.sinks[act.tool] += 1
                self.new_sinks[act.tool] += (act.tool, sink) not in self.seen
                self.seen.add((act.tool, sink))
            before = act.tool

    def strangeness(self, before: str, act: CallFeatures) -> tuple[float, str]:
        """In nats: how surprising the step, its arguments and its destinations are together; and what most."""
        after = self.followed.get(before, Counter())
        step = -log((after[act.tool] + HALF) / (after.total() + HALF * (len(after) + 1)))
        times = self.calls[act.tool]
        new = [name for name in act.names if not self.given.get(act.tool, Counter())[name]]
        names = len(new) * -log(HALF / (times + 1)) if times else 0.0
        fresh = sum((act.tool, sink) not in self.seen for sink in act.sinks)
        share = (self.new_sinks[act.tool] + HALF) / (self.sinks[act.tool] + 1)
        sinks = fresh * -log(share) if times else 0.0
        parts = (
            (step, f"`{act.tool}` after {f'`{before}`' if before else 'nothing'}"),
            (names, f"`{act.tool}` with {', '.join(f'`{name}`' for name in new)}"),
            (sinks, f"`{act.tool}` to a destination that is new"),
        )
        return step + names + sinks, max(parts)[1]


@dataclass(frozen=True, slots=True)
class Baseline:
    """An agent's profile and the scores that it is compared with, in order. Never changed while a run goes on."""

    rule: DriftRule
    profile: Profile
    scores: tuple[float, ...] = ()

    @property
    def is_warm(self) -> bool:
        return len(self.scores) >= self.rule.warm_up

    def p_value(self, score: float) -> float:
        as_strange = len(self.scores) - bisect_left(self.scores, score)
        return (as_strange + 1) / (len(self.scores) + 1)

    def signal(self, before: str, act: CallFeatures) -> Signal | None:
        """Raised for a call that is stranger than the rate allows; never before the warm-up is over."""
        if not self.is_warm:
            return None
        score, most = self.profile.strangeness(before, act)
        p = self.p_value(score)
        if p > self.rule.rate:
            return None
        because = f"unlike {len(self.scores)} earlier runs of this agent (p = {p:.3f}): {most}"
        return Signal(NAME, self.rule.weight, because)


def learn_baseline(rule: DriftRule, runs: Iterable[tuple[str, Sequence[CallFeatures]]]) -> Baseline:
    """From runs by their ids. Which half a run is in follows from its id alone, so it stays there."""
    halves: tuple[list[Sequence[CallFeatures]], list[Sequence[CallFeatures]]] = ([], [])
    for id, run in runs:
        if run:
            halves[int(digest(id.encode())[-1], 16) & 1].append(run)
    profile = Profile()
    for run in halves[0]:
        profile.learn(run)
    return Baseline(rule, profile, tuple(sorted(strangest(profile, run) for run in halves[1])))


def strangest(profile: Profile, run: Sequence[CallFeatures]) -> float:
    """The score of a run's strangest call."""
    befores = (START, *(act.tool for act in run))
    return max(profile.strangeness(before, act)[0] for before, act in zip(befores, run, strict=False))
