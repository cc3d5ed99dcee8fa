"""`make bench-tools`: measures the first listing and the memory with many tools, beside a bare proxy on the SDK.

Each round starts every target afresh, in turns: handshake, `tools/list`, one call. `new` is a guard with an empty
ledger, which pins every tool; `known` has them pinned. The first listing is timed from its request, after the answer to
`initialize`; the processor time is all that the proxy has used by then. Exits 1 if a budget is missed. Linux only.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.bench import SHARED, is_real_disk  # noqa: E402

UPSTREAM = HERE / "upstream_tools.py"
BUDGETS = {100: (250.0, 95.0), 1000: (1200.0, 95.0)}
"""By number of tools: milliseconds of the first listing (median of the rounds), and MiB."""
TARGETS = ("sdk", "new", "known")

CONFIG = """
[guard]
policies = "policies"
[agents.bench]
owner = "bench"
[upstreams.hub]
command = {python}
args = [{upstream}, "{count}"]
"""

POLICIES = """
@id("look") permit (principal, action in [Action::"hub__get_issue", Action::"hub__list_issue"], resource);
@id("write") permit (principal, action in Action::"write", resource);
@id("no-deletes") forbid (principal, action in Action::"destructive", resource);
@id("amounts-below-100k")
forbid (principal, action == Action::"hub__create_issue", resource)
when { context.input has amount && context.input.amount.greaterThan(decimal("100000.0")) };
"""


@dataclass(frozen=True, slots=True)
class Start:
    """One start of one target."""

    list_ms: float
    cpu_ms: float
    mib: float


class Client:
    """Sends one request at a time to a child process."""

    def __init__(self, argv: list[str]) -> None:
        compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=compiled
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._last = 0

    def notify(self, method: str) -> None:
        self._send({"method": method})

    def _send(self, message: dict) -> None:
        self._stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self._stdin.flush()

    def request(self, method: str, params: dict) -> bytes:
        """The line with the answer, before anybody parses it."""
        self._last += 1
        self._send({"id": self._last, "method": method, "params": params})
        for line in self._stdout:
            if b'"method"' not in line[:200] and b'"result"' in line:
                return line
        self._errors.seek(0)
        raise SystemExit(f"`{method}` was not answered:\n{self._errors.read().decode(errors='replace')[-2000:]}")

    def cpu_ms(self) -> float:
        threads = Path(f"/proc/{self._process.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e6

    def mib(self) -> float:
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def close(self) -> None:
        self._stdin.close()
        self._process.wait(30)
        self._errors.close()


def start(argv: list[str], count: int) -> Start:
    client = Client(argv)
    hello = {"name": "bench", "version": "1"}
    client.request("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": hello})
    client.notify("notifications/initialized")
    asked = perf_counter()
    line = client.request("tools/list", {})
    listed, cpu_ms = perf_counter(), client.cpu_ms()
    names = [tool["name"] for tool in json.loads(line)["result"]["tools"]]
    if not count / 2 < len(names) <= count:  # the policies permit writes only
        raise SystemExit(f"{argv} listed {len(names)} of {count} tools")
    name = next(name for name in names if name.endswith("create_issue"))
    if b"done" not in (
        reply := client.request("tools/call", {"name": name, "arguments": {"id": "I-1", "amount": 5.5}})
    ):
        raise SystemExit(f"{argv} answered {reply.decode()}")
    mib = client.mib()
    client.close()
    return Start((listed - asked) * 1000, cpu_ms, mib)


@contextmanager
def guard_folder(where: Path, count: int) -> Iterator[list[str]]:
    """The command line of a guard without a ledger."""
    folder = Path(tempfile.mkdtemp(prefix="tools-", dir=where))
    try:
        (folder / "policies").mkdir()
        (folder / "policies" / "bench.cedar").write_text(POLICIES)
        text = CONFIG.format(python=json.dumps(sys.executable), upstream=json.dumps(str(UPSTREAM)), count=count)
        (folder / "mcp-guard.toml").write_text(text)
        yield [sys.executable, "-m", "mcp_guard.cli", "run", "--config", str(folder / "mcp-guard.toml")]
    finally:
        shutil.rmtree(folder)


def measure(count: int, rounds: int, where: Path) -> dict[str, list[Start]]:
    """The starts of each target. The first round warms up and is not counted."""
    kit = SHARED if (SHARED / "proxy_sdk.py").exists() else HERE / "kit"
    sdk = [sys.executable, str(kit / "proxy_sdk.py"), "--", sys.executable, str(UPSTREAM), str(count)]
    starts: dict[str, list[Start]] = {name: [] for name in TARGETS}
    with guard_folder(where, count) as known:
        for number in range(rounds + 1):
            print(f"\r{count} tools, round {number} of {rounds} ", end="", file=sys.stderr, flush=True)
            with guard_folder(where, count) as new:
                for name, argv in zip(TARGETS, (sdk, new, known), strict=True):
                    sample = start(argv, count)
                    starts[name] += [sample] if number else []
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return starts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1000], metavar="TOOLS")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--where", type=Path, default=HERE.parent / "build", help="a folder on a real disk")
    options = parser.parse_args()
    if not is_real_disk(options.where, "make bench-tools"):
        return 2
    print(f"{'tools':>6}  {'target':<8}{'first listing ms (least)':>26}{'CPU ms (least)':>18}{'MiB':>7}  budgets")
    met = True
    for count in options.counts:
        for name, taken in measure(count, options.rounds, options.where).items():
            listing, cpu = [each.list_ms for each in taken], [each.cpu_ms for each in taken]
            median, mib = statistics.median(listing), max(each.mib for each in taken)
            verdict = ""
            if name != "sdk" and count in BUDGETS:
                max_ms, max_mib = BUDGETS[count]
                is_within = median <= max_ms and mib <= max_mib
                verdict = f"{max_ms:.0f} ms, {max_mib:.0f} MiB: {'met' if is_within else 'MISSED'}"
                met = met and is_within
            columns = f"{median:.0f} ({min(listing):.0f})", f"{statistics.median(cpu):.0f} ({min(cpu):.0f})"
            print(f"{count:>6}  {name:<8}{columns[0]:>26}{columns[1]:>18}{mib:>7.0f}  {verdict}".rstrip())
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
