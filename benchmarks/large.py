"""`make bench-large`: calls with arguments and results of 1 MB, and many HTTP sessions in one guard.

The guard and a bare proxy on the official SDK, which decides and records nothing, run at the same time in front of the
same upstream and are called in turns. CPU time is that of the proxy's processes without the upstream, memory their peak
resident set. The sessions use upstreams with `share = true` and without; what counts is the guard without its children.
Exits 1 if a budget is missed.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.bench import is_real_disk, write_guard  # noqa: E402
from benchmarks.http_calls import WAIT_SECONDS, free_port  # noqa: E402
from benchmarks.http_wire import Wire  # noqa: E402
from benchmarks.kit import driver  # noqa: E402

UPSTREAM = HERE / "kit" / "upstream.py"
PAYLOAD_BYTES = 1_000_000
BUDGET_CPU, BUDGET_SESSIONS_MIB = 1.5, 120
SESSIONS_AT_ONCE = 10
ARGUMENTS = {"id": "D-1", "amount": 5, "stage": "open", "notes": "x" * 40}
SECRET = "\n[upstreams.bench.env]\nAPI_KEY = {{ file = {path} }}\n"


@dataclass
class Target:
    """A running proxy and its calls. `samples` are milliseconds of CPU per call, one for each turn."""

    session: driver.Session
    calls: driver.Calls
    processes: list[int]
    samples: list[float] = field(default_factory=list)
    peak_mib: float = 0.0

    async def take(self, count: int) -> None:
        before = cpu_ms(self.processes)
        await self.calls.run(count)
        self.samples.append((cpu_ms(self.processes) - before) / count)
        self.peak_mib = sum(status_mib(pid, "VmHWM") for pid in self.processes)


def status_mib(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def cpu_ms(processes: list[int]) -> float:
    """Their CPU time, by the clock that clock_getcpuclockid(3) names; `/proc` counts in ticks of 10 ms."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in processes) * 1000


@asynccontextmanager
async def running(command: list[str], stderr: int) -> AsyncIterator[Target]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    loop = asyncio.get_running_loop()
    _, session = await loop.subprocess_exec(driver.Session, *command, stderr=stderr, env=environment)
    try:
        client = {"name": "bench", "version": "1"}
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
        await session.request("initialize", hello)
        session.send({"method": "notifications/initialized"})
        _, _, listing = await session.request("tools/list", {})
        name = driver.pick_tool([tool["name"] for tool in listing["tools"]], "update_deal")
        payload = (driver.FILLER * (PAYLOAD_BYTES // len(driver.FILLER) + 1))[:PAYLOAD_BYTES]
        calls = driver.Calls(session, "update_deal", name, payload)
        await calls.run(3)
        proxy = driver.find_proxy(session.transport.get_pid(), [sys.executable, str(UPSTREAM)])
        yield Target(session, calls, [pid for pid, _ in proxy])
    finally:
        await driver.stop(session)


def write_configs(folder: Path) -> dict[str, Path]:
    """The configuration of a guard without secrets, and of one that scrubs what its upstream sends."""
    configs = {}
    for name, more in (("guard", ""), ("guard, a secret", SECRET)):
        inside = folder / name.replace(", ", "-").replace(" ", "-")
        inside.mkdir()
        secret = inside / "secret"
        secret.write_text("k3y-0f-the-upstream-of-this-benchmark")
        secret.chmod(0o600)
        config = configs[name] = write_guard(inside, UPSTREAM)
        config.write_text(config.read_text() + more.format(path=json.dumps(str(secret))))
    return configs


async def measure_calls(folder: Path, rounds: int, calls: int) -> dict[str, Target]:
    guard = str(Path(sys.executable).with_name("mcp-guard"))
    sdk = [sys.executable, str(HERE / "kit" / "proxy_sdk.py"), "--", sys.executable, str(UPSTREAM)]
    commands = {"sdk": sdk} | {
        name: [guard, "run", "--config", str(config)] for name, config in write_configs(folder).items()
    }
    with (folder / "stderr").open("w") as stderr:
        async with AsyncExitStack() as stack:
            targets = {
                name: await stack.enter_async_context(running(command, stderr.fileno()))
                for name, command in commands.items()
            }
            for _ in range(rounds):
                for target in targets.values():
                    await target.take(calls)
            return targets


@contextmanager
def serving(config: Path) -> Iterator[tuple[int, str]]:
    """Run the guard; yields its process id and the token of a new instance."""
    command = [sys.executable, "-m", "mcp_guard.cli"]
    with (config.parent / "stderr").open("w") as stderr:
        process = subprocess.Popen([*command, "serve", "--config", str(config)], stderr=stderr)
        try:
            issue = [*command, "instances", "issue", "--config", str(config)]
            yield process.pid, subprocess.run(issue, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        finally:
            process.terminate()
            process.wait(WAIT_SECONDS)


async def use(wire: Wire) -> None:
    """Open a session and make a call."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            await wire.open()
            break
        except OSError:
            assert time.monotonic() < end, "no server"
            await asyncio.sleep(0.05)
    await wire.start()
    params = {"name": "bench__update_deal", "arguments": ARGUMENTS}
    status, reply = await wire.post({"id": 1, "method": "tools/call", "params": params})
    assert status == 200, reply
    assert reply["result"]["isError"] is False, reply


async def open_sessions(port: int, token: str, count: int) -> None:
    """Open so many sessions, a few at once. They stay open."""
    wires = [Wire(port, token) for _ in range(count)]
    for first in range(0, count, SESSIONS_AT_ONCE):
        await asyncio.gather(*map(use, wires[first : first + SESSIONS_AT_ONCE]))
    for wire in wires:
        await wire.close()


def measure_sessions(folder: Path, sessions: int, is_shared: bool) -> tuple[float, int]:
    """The resident set of a guard with so many sessions, each of which has made a call, and its children."""
    inside = folder / ("shared" if is_shared else "apart")
    inside.mkdir()
    port = free_port()
    config = write_guard(inside, UPSTREAM)
    share = "share = true\n" if is_shared else ""
    limits = f"max_sessions = {2 * sessions}\nmax_sessions_per_instance = {sessions}\n"
    config.write_text(f"{config.read_text()}{share}[serve]\nport = {port}\n{limits}")
    with serving(config) as (pid, token):
        asyncio.run(open_sessions(port, token, sessions))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return status_mib(pid, "VmRSS"), len(children)


def main() -> int:
    """Exit codes: 0 measured, 1 a budget was missed, 2 no real disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--where", type=Path, default=HERE.parent / "build", help="a folder on a real disk")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--only", choices=("calls", "sessions"))
    options = parser.parse_args()
    if not is_real_disk(options.where, "make bench-large"):
        return 2
    folder = Path(tempfile.mkdtemp(prefix="bench-large-", dir=options.where))
    met = True
    try:
        if options.only != "sessions":
            targets = asyncio.run(measure_calls(folder, options.rounds, options.calls))
            met &= report_calls(targets)
        if options.only != "calls":
            print("\n| Sessions | Upstreams | Guard MiB | Children |\n|---|---|---|---|")
            for is_shared in (True, False):
                mib, children = measure_sessions(folder, options.sessions, is_shared)
                met &= mib <= BUDGET_SESSIONS_MIB
                name = "shared" if is_shared else "one each"
                print(f"| {options.sessions} | {name} | {mib:.0f} | {children} |")
            print(f"budget: {BUDGET_SESSIONS_MIB} MiB without the children")
    finally:
        shutil.rmtree(folder)
    print("all budgets met" if met else "a budget was MISSED")
    return 0 if met else 1


def report_calls(targets: dict[str, Target]) -> bool:
    """Print the table. Returns whether the guard is within its budgets, as medians of the ratios of each round."""
    sdk = targets["sdk"]
    print("| 1 MB there and back | CPU ms a call (min) | CPU over sdk | peak MiB |\n|---|---|---|---|")
    for name, target in targets.items():
        ratio = statistics.median(mine / base for mine, base in zip(target.samples, sdk.samples, strict=True))
        middle, least = statistics.median(target.samples), min(target.samples)
        print(f"| {name} | {middle:.1f} ({least:.1f}) | {ratio:.2f} | {target.peak_mib:.0f} |")
    guard = targets["guard"]
    ratio = statistics.median(mine / base for mine, base in zip(guard.samples, sdk.samples, strict=True))
    print(f"budget: {BUDGET_CPU}x the CPU of `sdk`, below its memory")
    return ratio <= BUDGET_CPU and guard.peak_mib < sdk.peak_mib


if __name__ == "__main__":
    sys.exit(main())
