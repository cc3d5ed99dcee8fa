"""Kill guards under load, any number of times: `make faults RUNS=1000`. Then race for calls that may not be sent:
`make faults RACES=1000`. Prints how to repeat a failure.

A seed gives the same load and the same plan of deaths; what the machine makes of the plan differs from run to run.
"""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tests.faults import sent_or_not
from tests.faults.two_guards import Result, live

DEATHS_PER_RUN = 10
"""How many guards die in one pair, at least."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description="Kill guards under load and check promise P9.")
    parser.add_argument("--runs", type=int, default=100, metavar="N", help="how many guards are killed, at least")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="of the first pair of guards; the next ones follow"
    )
    parser.add_argument("--races", type=int, default=0, metavar="N", help="races over HTTP; a tenth as many over stdio")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="pairs of guards at the same time")
    options = parser.parse_args()
    pairs = -(-options.runs // DEATHS_PER_RUN)
    began, done, failed = time.monotonic(), list[Result](), list[Result]()
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(live, options.seed + number, DEATHS_PER_RUN) for number in range(pairs)]
        for future in as_completed(futures):
            result = future.result()
            done.append(result)
            if result.problem:
                failed.append(result)
                print(f"seed {result.seed}: {result.problem}", flush=True)
                print(f"repeat it with: make faults RUNS={DEATHS_PER_RUN} SEED={result.seed}", flush=True)
            deaths = sum(item.deaths.total() - item.idle for item in done)
            print(f"{deaths} of {options.runs} deaths, {len(failed)} failures", file=sys.stderr, flush=True)
    print_sums(done, time.monotonic() - began)
    races = [("http", options.races), ("stdio", options.races // 10)]
    failures = [transport for transport, count in races if count and not run_races(transport, count, options.seed)]
    return 1 if failed or failures else 0


def run_races(transport: str, count: int, seed: int) -> bool:
    """Whether every promise was kept."""
    began = time.monotonic()
    races = sent_or_not.run(transport, count, seed)
    print(f"{count} races over {transport}: {races.ran} calls ran; {time.monotonic() - began:.0f} s")
    print(f"  fates: {dict(races.fates)}; outcomes: {dict(races.endings)}")
    if races.problem:
        print(f"  {races.problem}; repeat it with: make faults RUNS=0 RACES={count} SEED={seed}")
    return not races.problem


def print_sums(done: list[Result], seconds: float) -> None:
    deaths, replies, endings = Counter[str](), Counter[str](), Counter[str]()
    for result in done:
        deaths += result.deaths
        replies += result.replies
        endings += result.endings
    calls, ran, receipts = (sum(getattr(item, name) for item in done) for name in ("calls", "ran", "receipts"))
    idle = sum(item.idle for item in done)
    print(f"{deaths.total() - idle} guards killed under load in {len(done)} pairs, and {idle} idle; {seconds:.0f} s")
    for name, count in deaths.most_common():
        print(f"  {count:6} {name}")
    print(f"{calls} calls asked; {ran} dispatched with their look-ups; {receipts} receipts")
    print(f"replies: {dict(replies)}; outcomes: {dict(endings)}")
    print(f"{sum(bool(each.problem) for each in done)} failures")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))
    sys.exit(main())
