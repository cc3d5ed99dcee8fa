"""`make bench-reads`: measures calls of a guard over HTTP while its history is searched for a person.

The ledger holds a million receipts, and the search reads every one of them on the guard's own event loop, as a page of
its own would (`storage/background.py`). Turns with and without a search follow each other, so that both run under the
same weather. Exits 1 if a search makes the slowest hundredth of the calls slower than the budget allows.
`--search on-loop` and `--search in-thread` show what two other ways of reading cost.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.bench import SHARED, is_real_disk, write_guard  # noqa: E402
from benchmarks.http_calls import WAIT_SECONDS, calls_over_http, free_port  # noqa: E402
from benchmarks.ledger import TOOL, build  # noqa: E402
from mcp_guard.app import serve_http  # noqa: E402
from mcp_guard.config import load  # noqa: E402
from mcp_guard.ledger.place import FILE  # noqa: E402
from mcp_guard.server_log import ServerLog  # noqa: E402
from mcp_guard.storage.background import BackgroundReader  # noqa: E402
from mcp_guard.storage.contract import Store  # noqa: E402
from mcp_guard.storage.engines import find_engine, open_read_only  # noqa: E402

MOST_SLOWER, MORE_MS = 2.0, 10.0
"""The budget: during a search, the slowest hundredth of the calls may take so many times as long as without one, and so
many milliseconds more: a machine that does nothing else has calls of a millisecond."""


def search(store: Store) -> int:
    """How many receipts of the history are about this tool."""
    return sum(json.loads(row.body).get("tool") == TOOL.listed_as for row in store.receipts_back())


def search_at_once(ledger: Path) -> int:
    with open_read_only(ledger) as store:
        return search(store)


async def in_background(reader: BackgroundReader, _: Path) -> int:
    return await reader.read(search)


async def on_loop(_: BackgroundReader, ledger: Path) -> int:
    return search_at_once(ledger)


async def in_thread(_: BackgroundReader, ledger: Path) -> int:
    return await asyncio.to_thread(search_at_once, ledger)


SEARCHES: dict[str, Callable[[BackgroundReader, Path], Awaitable[int]]] = {
    "in-background": in_background,
    "on-loop": on_loop,
    "in-thread": in_thread,
}


class SearchingGuard(ServerLog):
    """The log of a guard on whose event loop a search is made for each line of standard input; how many receipts it has
    found is printed. The first note of the loop starts that."""

    def __init__(self, ledger: Path, way: str) -> None:
        super().__init__()
        self._ledger, self._search = ledger, SEARCHES[way]
        self._task: asyncio.Task[None] | None = None

    def note(self, text: str) -> None:
        super().note(text)
        with suppress(RuntimeError):  # not on the loop yet
            self._task = self._task or asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        reader = find_engine(self._ledger).background_reader()
        try:
            while await lines.readline():
                print(await self._search(reader, self._ledger), flush=True)
        finally:
            await reader.close()


# The client


@contextmanager
def guard(config: Path, way: str) -> Iterator["subprocess.Popen[str]"]:
    words = [sys.executable, str(Path(__file__).resolve()), "--serve", str(config), "--search", way]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


async def measure(
    process: "subprocess.Popen[str]", port: int, token: str, rounds: int, calls: int
) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of each call without and during a search, and the seconds that each search took."""
    quiet: list[float] = []
    busy: list[float] = []
    searches: list[float] = []
    assert process.stdin is not None
    assert process.stdout is not None
    async with calls_over_http(port, token, "bench__update_deal", "2025-11-25") as call:

        async def timed(into: list[float]) -> None:
            began = time.perf_counter()
            await call()
            into.append((time.perf_counter() - began) * 1000)

        for _ in range(calls):  # warms up
            await call()
        for _ in range(rounds):
            for _ in range(calls):
                await timed(quiet)
            began = time.perf_counter()
            process.stdin.write("\n")
            process.stdin.flush()
            answer = asyncio.create_task(asyncio.to_thread(process.stdout.readline))
            while not answer.done():
                await timed(busy)
            searches.append(time.perf_counter() - began)
            assert int(await answer) > 0
    return quiet, busy, searches


def run(folder: Path, way: str, receipts: int, rounds: int, calls: int) -> tuple[list[float], list[float], list[float]]:
    kit = SHARED if (SHARED / "upstream.py").exists() else HERE / "kit"
    port = free_port()
    config = write_guard(folder, kit / "upstream.py")
    config.write_text(f"{config.read_text()}[serve]\nport = {port}\n")
    settings = load(config)
    build(settings.state_dir, receipts, origin=settings.origin)
    with guard(config, way) as process:
        issue = [sys.executable, "-m", "mcp_guard.cli", "instances", "issue", "--config", str(config)]
        issued = subprocess.run(issue, stdout=subprocess.PIPE, text=True, check=True)
        return asyncio.run(measure(process, port, issued.stdout.strip(), rounds, calls))


def report(quiet: list[float], busy: list[float], searches: list[float], receipts: int) -> bool:
    """Returns: whether the budget was met."""
    print(f"a search over {receipts:,} receipts took {statistics.median(searches):.1f} s\n")
    print("| Calls | number | p50 ms | p90 | p99 | slowest |\n|---|---|---|---|---|---|")
    slow = []
    for name, each in (("quiet", quiet), ("during a search", busy)):
        cuts = statistics.quantiles(each, n=100) if len(each) > 1 else each * 99
        slow.append(cuts[98])
        print(f"| {name} | {len(each):,} | {cuts[49]:.2f} | {cuts[89]:.2f} | {cuts[98]:.2f} | {max(each):.2f} |")
    budget = MOST_SLOWER * slow[0] + MORE_MS
    is_met = slow[1] <= budget
    print(f"\np99 during a search: {slow[1]:.1f} ms (budget {budget:.1f} ms): {'met' if is_met else 'MISSED'}")
    return is_met


def main() -> int:
    """Exit codes: 0 measured, 1 the budget was missed, 2 no real disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--where", type=Path, default=HERE.parent / "build", help="a folder on a real disk")
    parser.add_argument("--receipts", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=1000, help="calls without a search a round")
    parser.add_argument("--search", choices=SEARCHES, default="in-background")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        settings = load(options.serve)
        serve_http(settings, SearchingGuard(settings.state_dir / FILE, options.search))
        return 0
    if not is_real_disk(options.where, "make bench-reads"):
        return 2
    folder = Path(tempfile.mkdtemp(prefix="bench-reads-", dir=options.where))
    try:
        measured = run(folder, options.search, options.receipts, options.rounds, options.calls)
    finally:
        shutil.rmtree(folder)
    return 0 if report(*measured, options.receipts) else 1


if __name__ == "__main__":
    sys.exit(main())
