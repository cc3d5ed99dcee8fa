"""Replays of past decisions under other policies, for the pages: in a thread, one at a time, of the latest only.

Each gateway computes what it is asked for, so any of them answers any request.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from mcp_guard.core.errors import GuardError, PolicyError
from mcp_guard.core.visible_text import say
from mcp_guard.policy.authoring.past import check_candidate
from mcp_guard.policy.authoring.recorded import DECIDING, PolicyVersion, RecordedDecision, read_decision, read_version
from mcp_guard.policy.authoring.replay import ReplayReport, replay
from mcp_guard.policy.source import parse_policies
from mcp_guard.settings import Settings
from mcp_guard.storage.background import BackgroundReader
from mcp_guard.storage.contract import Store

MAX_DECISIONS = 1000
"""How many of the latest decisions are replayed."""
MAX_RECEIPTS = 20_000
"""How many of the latest receipts are searched for them."""
MAX_SECONDS = 30
MAX_KEPT = 8
"""Replays that a process keeps: those that it has made, and those that wait for their turn."""


@dataclass(slots=True)
class Replay:
    """One replay: `done` of `total` decisions; then its report, or why there is none."""

    done: int = 0
    total: int = 0
    report: ReplayReport | None = None
    problem: str = ""
    is_stopped: bool = False
    """Whether its time was over before it had replayed all."""

    @property
    def is_over(self) -> bool:
        return self.report is not None or bool(self.problem)


@dataclass(frozen=True, slots=True)
class _Past:
    """The decisions, the texts of their policy versions, and the version that was loaded last."""

    decisions: list[RecordedDecision]
    materials: Mapping[str, bytes]
    latest: str


@dataclass(frozen=True, slots=True)
class PolicyReplays:
    """The replays of one process."""

    settings: Settings
    reader: BackgroundReader
    _kept: dict[tuple[str, int], Replay] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    async def ask(self, policy_set: str, texts: Mapping[str, str]) -> Replay:
        """The replay of this set over the latest decisions, which begins if there is none. Raises: LedgerError."""
        size = await self.reader.read(lambda store: store.head().size)
        for (kept_set, kept_size), kept in self._kept.items():
            if kept_set == policy_set and (not kept.is_over or kept_size == size):
                return kept
        if len(self._kept) >= MAX_KEPT:
            if (oldest := next((key for key, kept in self._kept.items() if kept.is_over), None)) is None:
                return Replay(problem="too many other replays wait for their turn; reload the page in a minute")
            del self._kept[oldest]
        new = self._kept[policy_set, size] = Replay()
        task = asyncio.create_task(self._run(new, dict(texts)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return new

    async def _run(self, state: Replay, texts: Mapping[str, str]) -> None:
        try:
            async with self._turn:
                past, materials, latest = await self.reader.read(self._read)
                state.total = len(past)
                if latest is None or latest not in materials:
                    raise PolicyError("no policies have been loaded yet", "run the guard once")
                await asyncio.to_thread(self._compare, state, _Past(past, materials, latest), texts)
        except GuardError as error:
            state.problem = say("{}", error.message)
        except Exception as error:  # a defect is shown on the page, and ends nothing else
            state.problem = f"the replay failed: {type(error).__name__}"

    def _read(self, store: Store) -> tuple[list[RecordedDecision], dict[str, bytes], str | None]:
        """The latest decisions, oldest first, the texts of their policy versions, and the version loaded last."""
        past: list[RecordedDecision] = []
        latest: str | None = None
        for number, row in enumerate(store.receipts_back()):
            if number >= MAX_RECEIPTS or len(past) >= MAX_DECISIONS:
                break
            if row.kind in DECIDING and b'"purpose"' not in row.body:
                receipt = json.loads(row.body)
                if (decision := read_decision(receipt, store.payloads(row.seq), self.settings.time_zone)) is not None:
                    past.append(decision)
            elif row.kind == "policy.loaded" and latest is None and "shadow" not in (receipt := json.loads(row.body)):
                latest = receipt["policy_version"]
        names = {str(decision.receipt["policy_version"]) for decision in past} | ({latest} if latest else set())
        materials = {name: material for name in names if (material := store.policy(name)) is not None}
        return past[::-1], materials, latest or next(iter(materials), None)

    def _compare(self, state: Replay, past: _Past, texts: Mapping[str, str]) -> None:
        """In a thread. Raises: PolicyError."""

        @cache
        def find_version(version: str) -> PolicyVersion | None:
            material = past.materials.get(version)
            return None if material is None else read_version(version, material)

        ends = time.monotonic() + MAX_SECONDS

        def counted() -> Iterator[RecordedDecision]:
            for number, decision in enumerate(past.decisions):
                state.done = number
                if time.monotonic() > ends:
                    state.is_stopped = True
                    return
                yield decision

        world = find_version(past.latest)
        assert world is not None
        source = parse_policies(texts, tuple(self.settings.routes))
        state.report = replay(counted(), find_version, check_candidate(self.settings.policies, source, world))
