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
from mcp_guard.core.model import Json
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
MAX_BYTES = 32 * 1024 * 1024
"""Of the requests of these decisions, which are in memory at once."""
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
    is_bounded: bool = False
    """Whether earlier decisions were left out because the requests of these are so long."""

    @property
    def is_over(self) -> bool:
        return self.report is not None or bool(self.problem)


@dataclass(frozen=True, slots=True)
class _Past:
    """The latest decisions, oldest first, as their receipts and requests; the texts of their policy versions; and the
    version that was loaded last."""

    decisions: list[tuple[Json, bytes | None]]
    materials: Mapping[str, bytes]
    latest: str
    is_bounded: bool


@dataclass(frozen=True, slots=True)
class PolicyReplays:
    """The replays of one process."""

    settings: Settings
    reader: BackgroundReader
    max_bytes: int = MAX_BYTES
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
                past = await self.reader.read(self._read)
                state.total, state.is_bounded = len(past.decisions), past.is_bounded
                await asyncio.to_thread(self._compare, state, past, texts)
        except GuardError as error:
            state.problem = say("{}", error.full)
        except Exception as error:  # a defect is shown on the page, and ends nothing else
            state.problem = f"the replay failed: {type(error).__name__}"

    def _read(self, store: Store) -> _Past:
        decisions: list[tuple[Json, bytes | None]] = []
        latest, size = "", 0
        for number, row in enumerate(store.receipts_back()):
            if number >= MAX_RECEIPTS or len(decisions) >= MAX_DECISIONS or size >= self.max_bytes:
                break
            if row.kind in DECIDING and b'"purpose"' not in row.body:
                material = store.payloads(row.seq).get("material")
                size += len(row.body) + len(material or b"")
                decisions.append((json.loads(row.body), material))
            elif row.kind == "policy.loaded" and not latest and "shadow" not in (receipt := json.loads(row.body)):
                latest = receipt["policy_version"]
        latest = latest or (decisions[0][0]["policy_version"] if decisions else "")
        names = {str(receipt["policy_version"]) for receipt, _ in decisions} | {latest}
        materials = {name: material for name in names if (material := store.policy(name)) is not None}
        return _Past(decisions[::-1], materials, latest, size >= self.max_bytes)

    def _compare(self, state: Replay, past: _Past, texts: Mapping[str, str]) -> None:
        """In a thread. Raises: PolicyError."""

        @cache
        def find_version(version: str) -> PolicyVersion | None:
            material = past.materials.get(version)
            return None if material is None else read_version(version, material)

        ends = time.monotonic() + MAX_SECONDS

        def counted() -> Iterator[RecordedDecision]:
            for number, (receipt, material) in enumerate(past.decisions):
                state.done = number
                if time.monotonic() > ends:
                    state.is_stopped = True
                    return
                if (decision := read_decision(receipt, {"material": material}, self.settings.time_zone)) is not None:
                    yield decision

        world = find_version(past.latest)
        if world is None:
            raise PolicyError("no policies have been loaded yet", "run the guard once")
        source = parse_policies(texts, tuple(self.settings.routes))
        state.report = replay(counted(), find_version, check_candidate(self.settings.policies, source, world))
