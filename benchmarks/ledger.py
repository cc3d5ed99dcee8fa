"""Measure what a receipt costs as the ledger grows: appending a call's intent and outcome, and proving a receipt.

A ledger of each size is built by the guard's own writer, many receipts a transaction and without syncs; then calls are
recorded in all of them by turns, each step synced as in use, so that all sizes are measured under the same weather.
"""

import argparse
import asyncio
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.model import (
    Agent,
    Call,
    Decision,
    Effect,
    Execution,
    ExecutionStatus,
    Instance,
    Outcome,
    RateCounter,
    Task,
    Tool,
    ToolCallRequest,
    ToolRule,
)
from mcp_guard.core.receipt import intent_draft, outcome_draft
from mcp_guard.core.tool_pins import Pin, PinState
from mcp_guard.ledger.clock import CLOCK
from mcp_guard.ledger.export import LedgerProofs, export
from mcp_guard.ledger.ledger import SqlLedger
from mcp_guard.ledger.open import LedgerSettings, open_writer
from mcp_guard.ledger.place import FILE
from mcp_guard.ledger.writer import Transaction, Writer
from mcp_guard.ports import Intent
from mcp_guard.runtime import new_call_id
from mcp_guard.storage.engines import find_engine
from mcp_guard.storage.sqlite.store import SqliteStore

HERE = Path(__file__).resolve().parent
ORIGIN = "bench.example/ledger"
SIZES = (10_000, 100_000, 1_000_000)
FRAME_BYTES = 24 + 4096
MOST_GROWTH = 1.25
"""How much more a step may cost in the largest ledger than in the smallest."""
COUNTERS = (RateCounter("writes", 10 * 1_000_000, ("instance",), (Effect.WRITE,)),)
TOOL = Tool("crm", "update_deal", "crm__update_deal", {}, "sha256:" + "0" * 64, ToolRule(), Effect.WRITE)
INSTANCE = Instance(
    "run_2026_01_31_19_22Z_7f3k", Agent("bench", "bench"), "dana", Task("INC-4451"), 0, 1 << 60, "", "cred_bench"
)  # fmt: skip
ARGUMENTS = {"deal_id": "789", "amount": 8000, "stage": "negotiation", "note": "as agreed with the customer today"}
DONE = Execution(ExecutionStatus.OK, {"result": {"content": [{"type": "text", "text": "updated deal 789"}]}})


def make_call() -> Call:
    return describe(DescriptionRules(), new_call_id(), INSTANCE, ToolCallRequest("crm__update_deal", ARGUMENTS), TOOL)


MATERIAL = json.dumps({"request": {"context": ARGUMENTS}, "entities": [str(INSTANCE)]}).encode()
"""The size of the Cedar request of a typical call."""
ALLOWED = Decision(
    Outcome.ALLOW, "sha256:" + "1" * 64, ("small-changes",), counts={"writes": 1 << 40}, material=MATERIAL
)  # fmt: skip


def build(folder: Path, size: int, pairs: int = 2000, origin: str = ORIGIN) -> None:
    """A ledger of `size` receipts, an intent and an outcome per call."""
    writer = open_writer(LedgerSettings(folder, origin, unsafe_skip_fsync=True), CLOCK)

    def op(tx: Transaction) -> None:
        for _ in range(min(pairs, (size - writer.store.head().size) // 2)):
            call = make_call()
            tx.add(outcome_draft(call, tx.add(intent_draft(call, ALLOWED)), DONE))

    agreed = Pin(TOOL.server, TOOL.name, TOOL.definition_hash, PinState.PINNED, TOOL.definition, 0)
    writer.run(lambda tx: tx.store.add_pins([agreed]))
    while writer.store.head().size < size:
        writer.run(op)
        if sys.stderr.isatty():
            print(f"\rbuilding: {writer.store.head().size:,} of {size:,}", end="", file=sys.stderr)
    writer.store.close()


@dataclass
class Ledger:
    """The measurements of one ledger, in milliseconds."""

    size: int
    folder: Path
    writer: Writer
    ledger: SqlLedger
    bytes: int = 0
    steps: list[list[float]] = field(default_factory=list)
    proofs: list[float] = field(default_factory=list)

    async def record(self, calls: int) -> None:
        """Record calls sequentially, with two synced transactions each."""
        self.steps.append([])
        for _ in range(calls):
            call = make_call()
            began = time.perf_counter()
            intent = await self.ledger.intend(call, ALLOWED, None)
            assert isinstance(intent, Intent)
            await self.ledger.conclude(intent, DONE)
            self.steps[-1].append((time.perf_counter() - began) * 1000)

    def prove(self, proofs: int) -> None:
        for _ in range(proofs):
            seq = random.randrange(self.size)
            began = time.perf_counter()
            LedgerProofs(self.writer.store).prove(seq, with_payloads=False)
            self.proofs.append((time.perf_counter() - began) * 1000)


def count_pages(ledger: Ledger, calls: int = 200) -> float:
    """Pages written per call, which do not depend on the load of the machine."""
    store = ledger.writer.store
    assert isinstance(store, SqliteStore)
    run = store._run
    run("PRAGMA wal_autocheckpoint = 0")
    run("PRAGMA wal_checkpoint(TRUNCATE)")
    asyncio.run(ledger.record(calls))
    ledger.steps.pop()
    return (ledger.folder / f"{FILE}-wal").stat().st_size / FRAME_BYTES / calls


def open_built(folder: Path, size: int) -> Ledger:
    writer = open_writer(LedgerSettings(folder, ORIGIN), CLOCK)
    taken = (folder / FILE).stat().st_size
    presence = find_engine(folder / FILE).open_presence(folder, "guard_bench", 60)
    return Ledger(size, folder, writer, SqlLedger(writer, presence, counters=COUNTERS), taken)


def measure(ledgers: list[Ledger], rounds: int, calls: int) -> None:
    async def turn(ledger: Ledger) -> None:
        await ledger.record(calls)

    for number in range(rounds):
        for ledger in random.sample(ledgers, len(ledgers)):
            asyncio.run(turn(ledger))
            ledger.prove(calls // 5)
            if number == 0:  # the first round warms up
                ledger.steps.clear()
                ledger.proofs.clear()


def summarize(ledger: Ledger) -> dict[str, float]:
    steps = [each for turn in ledger.steps for each in turn]
    return {
        "receipts": ledger.size,
        "step_p50_ms": statistics.median(steps),
        "step_p90_ms": statistics.quantiles(steps, n=10)[-1],
        "prove_p50_ms": statistics.median(ledger.proofs),
        "bytes_per_receipt": ledger.bytes / ledger.size,
        "pages_per_step": count_pages(ledger),
    }


def growth(first: Ledger, last: Ledger) -> float:
    """The cost of a step in the last ledger relative to the first: the median over rounds, in which both ran under the
    same load."""
    rounds = zip(first.steps, last.steps, strict=True)
    return statistics.median(statistics.median(dear) / statistics.median(cheap) for cheap, dear in rounds)


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def show(rows: list[dict[str, float]]) -> None:
    print(
        "| receipts | step p50 ms | p90 | prove p50 ms | pages written | bytes a receipt |\n|---|---|---|---|---|---|"
    )
    for row in rows:
        times = f"{row['step_p50_ms']:.3f} | {row['step_p90_ms']:.2f} | {row['prove_p50_ms']:.2f}"
        print(f"| {row['receipts']:,} | {times} | {row['pages_per_step']:.2f} | {row['bytes_per_receipt']:,.0f} |")


def main() -> int:
    """Exit codes: 0 flat, 1 too expensive in the largest ledger."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=50, help="calls in each ledger a round")
    parser.add_argument("--export", action="store_true", help="also export the largest")
    parser.add_argument("--where", type=Path, default=HERE.parent / "build", help="a folder on a real disk")
    options = parser.parse_args()
    options.where.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="ledger-", dir=options.where))
    try:
        for size in options.sizes:
            took = timed(partial(build, folder / str(size), size))
            print(f"\rbuilt {size:,} receipts in {took:.0f} s", file=sys.stderr)
        ledgers = [open_built(folder / str(size), size) for size in options.sizes]
        measure(ledgers, options.rounds + 1, options.calls)
        rows = [summarize(ledger) for ledger in ledgers]
        show(rows)
        if options.export:
            last = ledgers[-1]
            took = timed(lambda: export(last.writer.store, last.writer.key.verifier + "\n", folder / "out", False))
            print(f"\nexported {last.size:,} receipts in {took:.0f} s: {last.size / took:,.0f} a second")
    finally:
        shutil.rmtree(folder)
    grown = growth(ledgers[0], ledgers[-1])
    print(f"\na step in the largest costs {grown:.2f}x of one in the smallest (allowed {MOST_GROWTH}x)")
    return 0 if grown <= MOST_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
