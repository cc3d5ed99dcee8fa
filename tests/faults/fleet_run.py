"""Every fault of a fleet at every step of a call, any number of times: `make fleet-faults RUNS=1000`. Then eight client
processes race at three gateways for APPROVALS approvals. Prints a table, and how to repeat a failure.

A seed gives the same steps, faults and calls; what the machine makes of them differs from run to run.
"""

import argparse
import asyncio
import itertools
import multiprocessing
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.fleet import Fleet, open_fleet
from tests.faults.fleet_faults import FAULTS, NOT_REACHED, STEPS, Step, run
from tests.faults.fleet_race import race

RUNS_PER_FLEET = 12
PAIRS = tuple(itertools.product(STEPS, FAULTS))


@dataclass
class Result:
    """What one fleet saw: by step and fault, what clients were told and how calls ended. `problem` is the first broken
    promise."""

    seed: int
    cells: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    ran: int = 0
    receipts: int = 0
    problem: str = ""


def plan(seed: int, runs: int) -> list[tuple[Step, str]]:
    """Every fault at every step before any is repeated, over fleets with successive seeds."""
    first = (seed - 1) * RUNS_PER_FLEET
    order = random.Random(0).sample(PAIRS, len(PAIRS))
    return [order[number % len(order)] for number in range(first, first + runs)]


async def faults_in(fleet: Fleet, result: Result, runs: list[tuple[Step, str]]) -> None:
    for step, fault in runs:
        try:
            said = await run(fleet, step, fault)
        except Exception as broken:
            notes = "\n".join(gateway.stderr.read_text()[-600:] for gateway in fleet.gateways)
            raise AssertionError(f"{fault} at `{step.name}`: {broken!r}\n{notes}") from broken
        result.cells[step.name, fault, said] += 1
    result.ran, result.receipts = fleet.upstream.ran.total(), len(fleet.known)


def live(seed: int, runs: int) -> Result:
    """Open one fleet and let so many faults happen, until a promise is broken."""

    async def in_fleet() -> None:
        async with open_fleet(seed) as fleet:
            await faults_in(fleet, result, plan(seed, runs))

    result = Result(seed)
    try:
        asyncio.run(in_fleet())
    except Exception as broken:
        result.problem = f"{broken}" if isinstance(broken, AssertionError) else repr(broken)
    return result


async def race_for(approvals: int) -> int:
    async with open_fleet(1) as fleet:
        return await race(fleet, approvals)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fleet-faults", description="Faults of a fleet, and promise P13.")
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="faults, each at one step of a call")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the first fleet; the next ones follow")
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="fleets at the same time")
    parser.add_argument("--approvals", type=int, default=0, metavar="N", help="how many are raced for")
    options = parser.parse_args()
    began, done = time.monotonic(), list[Result]()
    fleets = -(-options.runs // RUNS_PER_FLEET)
    sizes = [min(RUNS_PER_FLEET, options.runs - RUNS_PER_FLEET * number) for number in range(fleets)]
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(live, options.seed + number, size) for number, size in enumerate(sizes)]
        for future in as_completed(futures):
            result = future.result()
            done.append(result)
            if result.problem:
                print(f"seed {result.seed}: {result.problem}", flush=True)
                print(f"repeat it with: make fleet-faults RUNS={RUNS_PER_FLEET} SEED={result.seed}", flush=True)
            runs, failed = sum(each.cells.total() for each in done), sum(bool(each.problem) for each in done)
            progress = f"{runs} of {options.runs} faults, {failed} failures, {time.monotonic() - began:.0f} s"
            print(progress, file=sys.stderr, flush=True)
    print_table(done, time.monotonic() - began)
    if options.approvals:
        began = time.monotonic()
        calls = asyncio.run(race_for(options.approvals))
        print(
            f"{calls} calls of 8 processes at 3 gateways for {options.approvals} approvals: each was used once, and "
            f"each call ran once; {time.monotonic() - began:.0f} s"
        )
    return 1 if any(each.problem for each in done) else 0


def print_table(done: list[Result], seconds: float) -> None:
    cells = sum((each.cells for each in done), Counter[tuple[str, str, str]]())
    print(f"| What the client was told, and the outcome | {' | '.join(FAULTS)} |\n|---|{'---|' * len(FAULTS)}")
    for step in STEPS:
        row = [
            ", ".join(
                f"{count} {said}" for (at, by, said), count in cells.most_common() if (at, by) == (step.name, fault)
            )
            for fault in FAULTS
        ]
        print(f"| {step.name} | {' | '.join(row)} |")
    missed = sum(count for (_, _, said), count in cells.items() if said == NOT_REACHED)
    ran, receipts = sum(each.ran for each in done), sum(each.receipts for each in done)
    print(
        f"{cells.total()} faults in {len(done)} fleets, {missed} of them before the call stood at its step; "
        f"{ran} calls ran with their look-ups, {receipts} receipts; {seconds:.0f} s; "
        f"{sum(bool(each.problem) for each in done)} failures"
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))
    sys.exit(main())
