"""`make bench-console`: measures the console over a ledger of a million receipts, and calls of a guard meanwhile.

The pages are a process of their own, as in use. First the search index is made, then each page is loaded by turns; then
calls over HTTP are timed in turns: while nobody looks, while somebody loads a page a second, and while
a process that knows nothing of the guard takes as much of the processors: what any program does to calls. Exits 1 if
the median of a page is over the budget, or the slowest hundredth of the calls while somebody looks is slower than the
budget allows.
"""

import argparse
import asyncio
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.background_reads import guard  # noqa: E402
from benchmarks.bench import SHARED, is_real_disk, write_guard  # noqa: E402
from benchmarks.http_calls import WAIT_SECONDS, calls_over_http, free_port  # noqa: E402
from benchmarks.ledger import build  # noqa: E402
from mcp_guard.cli.page_server import NICENESS  # noqa: E402
from mcp_guard.config import load  # noqa: E402

PAGES = {
    "overview, a day": "/overview",
    "overview, 90 days": "/overview?period=90d",
    "ledger": "/ledger",
    "ledger, by agent and outcome": "/ledger?agent=bench&outcome=ok",
    "ledger, by ticket, in the middle": "/ledger?ticket=INC-4451&below=500000",
    "ledger, two filters without a match": "/ledger?outcome=ok&policy=none*",
    "agents": "/agents",
    "upstreams": "/upstreams",
}
PAGE_MS = 300.0
MOST_SLOWER = 1.1
"""The budget of calls while somebody looks: so many times as long as while nobody does."""
TURNS = ("nobody looks", "somebody looks", "as much work elsewhere")
PAUSE_SECONDS = 1.0


def start(*arguments: str) -> "subprocess.Popen[bytes]":
    """This program in another process, until it is ended. Returns once it is at work, so that its start slows no
    call."""
    words = [sys.executable, str(Path(__file__).resolve()), *arguments]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline(), "the process has ended"
    return process


class Viewer:
    """Somebody who has signed in to the pages on loopback."""

    def __init__(self, host: str, headers: dict[str, str]) -> None:
        self._host, self._headers = host, headers

    @classmethod
    def sign_in(cls, config: Path, port: int) -> "Viewer":
        viewer = cls(f"localhost:{port}", {"origin": f"http://localhost:{port}"})
        words = [sys.executable, "-m", "mcp_guard.cli", "approvers", "code", "alice", "--json", "--config", str(config)]
        code = json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)["code"]
        _, answer = viewer._ask("POST", "/sign-in", f"code={code}")
        viewer._headers["authorization"] = f"Bearer {json.loads(answer)['token']}"
        return viewer

    def look(self) -> "subprocess.Popen[bytes]":
        """Load one page after the other until it is ended, in a process of its own, which slows no call's client."""
        return start("--look", json.dumps([self._host, self._headers]))

    def look_on(self) -> None:
        os.nice(19)  # for somebody at another machine
        self.load("/overview")
        print("at work", flush=True)
        while True:
            for path in PAGES.values():
                self.load(path)
                time.sleep(PAUSE_SECONDS)

    def _ask(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        with closing(http.client.HTTPConnection(self._host, timeout=WAIT_SECONDS)) as connection:
            connection.request(method, path, body, self._headers)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()

    def load(self, path: str) -> float:
        """Milliseconds."""
        began = time.perf_counter()
        status, text = self._ask("GET", path)
        assert status == 200, text[:500]
        return (time.perf_counter() - began) * 1000

    def is_indexed(self) -> bool:
        return "so far; the newest come last" not in self._ask("GET", "/ledger")[1]


def processor_seconds(*processes: "subprocess.Popen[Any]") -> float:
    """What they have taken of the processors."""
    fields = [Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split() for process in processes]
    return sum(int(user) + int(system) for *_, user, system in (each[:13] for each in fields)) / os.sysconf(
        "SC_CLK_TCK"
    )


def be_busy(share: float) -> None:
    """Take this share of a processor, in bursts as long as those of the pages, and at their priority."""
    os.nice(NICENESS)
    print("at work", flush=True)
    while True:
        end = time.process_time() + PAUSE_SECONDS * share / (1 - share)
        while time.process_time() < end:
            sum(range(1000))
        time.sleep(PAUSE_SECONDS)


async def time_calls(
    port: int, token: str, viewer: Viewer, pages: "subprocess.Popen[Any]", rounds: int, calls: int
) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of each call by turn, and the share of a processor that the pages and who looks have taken."""
    times: dict[str, list[float]] = {name: [] for name in TURNS}
    quiet, watched, beside = times.values()
    taken = lasted = 0.0
    async with calls_over_http(port, token, "bench__update_deal", "2025-11-25") as call:

        async def turn(into: list[float]) -> None:
            for _ in range(calls):
                began = time.perf_counter()
                await call()
                into.append((time.perf_counter() - began) * 1000)

        await turn([])
        for _ in range(rounds):
            await turn(quiet)
            looking = viewer.look()
            began, before = time.perf_counter(), processor_seconds(pages, looking)
            await turn(watched)
            taken += processor_seconds(pages, looking) - before
            lasted += time.perf_counter() - began
            end(looking)
            busy = start("--busy", str(taken / lasted))
            await turn(beside)
            end(busy)
    return times, taken / lasted


def end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(WAIT_SECONDS)


def run(folder: Path, receipts: int, rounds: int, calls: int) -> bool:
    """Returns: whether the budgets were met."""
    kit = SHARED if (SHARED / "upstream.py").exists() else HERE / "kit"
    port, pages = free_port(), free_port()
    config = write_guard(folder, kit / "upstream.py")
    people = '[approvers.alice]\nname = "Alice"\n' if "[approvers.alice]" not in config.read_text() else ""
    config.write_text(f"{config.read_text()}[serve]\nport = {port}\n{people}[inbox]\nport = {pages}\n")
    settings = load(config)
    build(settings.state_dir, receipts, origin=settings.origin)
    words = [sys.executable, "-m", "mcp_guard.cli", "inbox", "--config", str(config), "--json"]
    with guard(config, "in-background"), subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as inbox:
        try:
            assert inbox.stdout is not None
            inbox.stdout.readline()
            viewer, began = Viewer.sign_in(config, pages), time.perf_counter()
            while not viewer.is_indexed():
                time.sleep(1)
            print(f"{receipts:,} receipts were indexed in {time.perf_counter() - began:.0f} s\n")
            is_met = report_pages({name: [viewer.load(path) for _ in range(15)] for name, path in PAGES.items()})
            issue = [sys.executable, "-m", "mcp_guard.cli", "instances", "issue", "--config", str(config)]
            token = subprocess.run(issue, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
            return report_calls(*asyncio.run(time_calls(port, token, viewer, inbox, rounds, calls))) and is_met
        finally:
            inbox.terminate()


def report_pages(times: dict[str, list[float]]) -> bool:
    print("| Page | median ms | slowest |\n|---|---|---|")
    for name, each in times.items():
        print(f"| {name} | {statistics.median(each):.0f} | {max(each):.0f} |")
    slowest = max(map(statistics.median, times.values()))
    print(
        f"\nslowest median: {slowest:.0f} ms (budget {PAGE_MS:.0f} ms): {'met' if slowest <= PAGE_MS else 'MISSED'}\n"
    )
    return slowest <= PAGE_MS


def report_calls(times: dict[str, list[float]], share: float) -> bool:
    print("| Calls | number | p50 ms | p99 | slowest |\n|---|---|---|---|---|")
    slow = []
    for name, each in times.items():
        cuts = statistics.quantiles(each, n=100)
        slow.append(cuts[98])
        print(f"| {name} | {len(each):,} | {cuts[49]:.2f} | {cuts[98]:.2f} | {max(each):.2f} |")
    quiet, watched, beside = slow
    budget = MOST_SLOWER * quiet
    print(f"\nthe pages and who looks take {share:.0%} of a processor")
    print(f"p99 while somebody looks: {watched / quiet:.2f}× of a quiet one, {watched / beside:.2f}× beside other work")
    print(f"p99: {watched:.1f} ms (budget {budget:.1f} ms): {'met' if watched <= budget else 'MISSED'}")
    return watched <= budget


def main() -> int:
    """Exit codes: 0 measured, 1 a budget was missed, 2 no real disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--where", type=Path, default=HERE.parent / "build", help="a folder on a real disk")
    parser.add_argument("--receipts", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--calls", type=int, default=1000, help="calls a turn")
    parser.add_argument("--look", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--busy", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.busy is not None:
        be_busy(options.busy)
    if options.look is not None:
        Viewer(*options.look).look_on()
    if not is_real_disk(options.where, "make bench-console"):
        return 2
    folder = Path(tempfile.mkdtemp(prefix="bench-console-", dir=options.where))
    try:
        is_met = run(folder, options.receipts, options.rounds, options.calls)
    finally:
        shutil.rmtree(folder)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
