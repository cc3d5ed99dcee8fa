"""`make bench-fleet`: guarded calls a second of three gateways on one PostgreSQL, beside one on either engine.

Every gateway is a real `mcp-guard serve` with a policy, a lean stdio server that it shares between sessions, and
receipts that are synced to a real disk. The clients are lean too: raw connections that are kept, in a process of their
own. Reported are the latency of one call after another, calls a second with many in flight, round trips to the database
for a call, and where the processor time went. Exits 1 if three gateways answer less than 1,000 calls a second.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import psycopg  # noqa: E402

from benchmarks.bench import CONFIG, POLICY, SHARED, is_real_disk  # noqa: E402
from benchmarks.http_calls import ARGUMENTS, WAIT_SECONDS, free_port  # noqa: E402
from benchmarks.http_wire import Wire  # noqa: E402
from tests.storage.postgres_server import Server  # noqa: E402

GATEWAYS = 3
WARM_UP_SECONDS = 1.0
CALLS_A_SECOND = 1000
"""The budget for all gateways together."""
ROUND_TRIPS = 3
BACKGROUND = 0.2
"""Round trips that a gateway makes besides, such as to renew its lease, spread over the calls in that time."""
VERSION = "2025-06-18"
"""The revision of the clients: replies are documents."""
MORE = """share = true
[ledger]
{database}
[serve]
port = {port}
url = "http://127.0.0.1/mcp"
max_sessions_per_instance = 500
"""
GROWTH_CALLS = 1000
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mcp-guard'"
DATABASE_BYTES = "SELECT pg_database_size(current_database())"
BODY = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "bench__update_deal", "arguments": ARGUMENTS},
    }
).encode()


@dataclass
class Target:
    """Gateways on one ledger, by their ports and processes, and a token that is valid at each of them."""

    name: str
    ports: list[int]
    pids: list[int]
    token: str
    database: int | None = None
    """The first process of the database server."""
    one_ms: list[float] = field(default_factory=list)
    calls_a_second: list[float] = field(default_factory=list)
    cpu_us: dict[str, list[float]] = field(default_factory=dict)
    """Microseconds of processor time for a call, by part."""
    memory_mib: float = 0.0
    """Of a gateway after the calls, without its upstream."""
    bytes_a_call: float | None = None
    """By which the database grows."""
    connections: float | None = None
    """To the database, of each gateway."""
    round_trips: float | None = None


# Gateways


@contextmanager
def gateways(folder: Path, name: str, count: int, server: Server | None) -> Iterator[Target]:
    """Gateways on a new ledger, which answer when this yields."""
    folder = folder / name.replace(" ", "-")
    (folder / "policies").mkdir(parents=True)
    (folder / "policies" / "bench.cedar").write_text(POLICY)
    kit = SHARED if (SHARED / "upstream.py").exists() else HERE / "kit"
    upstream, database = json.dumps(str(kit / "upstream.py")), 'database = { env = "BENCH_DATABASE" }' if server else ""
    ports = [free_port() for _ in range(count)]
    configs = [folder / f"{number}.toml" for number in range(count)]
    for config, port in zip(configs, ports, strict=True):
        text = CONFIG.replace("[guard]", f'[guard]\norigin = "bench.example/{folder.name}"')
        text = text.format(python=json.dumps(sys.executable), upstream=upstream)
        config.write_text(text + MORE.format(port=port, database=database))
    environment = {**os.environ, "BENCH_DATABASE": server.url if server else ""}
    guard = [sys.executable, "-m", "mcp_guard.cli"]
    with ExitStack() as stack:
        processes = []
        for config in configs:
            processes.append(subprocess.Popen([*guard, "serve", "--config", str(config)], env=environment))
            stack.callback(processes[-1].wait, WAIT_SECONDS)
            stack.callback(processes[-1].terminate)
        issue = [*guard, "instances", "issue", "--config", str(configs[0])]
        token = subprocess.run(issue, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout.strip()
        first = server.first_process if server else None
        yield Target(name, ports, [process.pid for process in processes], token, first)


# Clients: a process of their own, so that they do not wait for what measures


async def connect(port: int, token: str) -> Wire:
    """A session; waits until the gateway listens."""
    wire, end = Wire(port, token, VERSION), time.monotonic() + WAIT_SECONDS
    while True:
        try:
            await wire.open()
            break
        except OSError:
            assert time.monotonic() < end, "no gateway"
            await asyncio.sleep(0.05)
    await wire.start()
    return wire


async def call(wire: Wire) -> None:
    status, reply = await wire.post_bytes(BODY)
    assert status == 200, reply
    assert reply["result"]["isError"] is False, reply


async def one_after_another(ports: list[int], token: str, calls: int) -> list[float]:
    """Milliseconds of each call, at one gateway; the first tenth is warm-up."""
    wire, times = await connect(ports[0], token), []
    for _ in range(calls + calls // 10):
        started = time.perf_counter()
        await call(wire)
        times.append((time.perf_counter() - started) * 1000)
    await wire.close()
    return times[calls // 10 :]


async def many_at_once(
    ports: list[int], token: str, in_flight: int, seconds: float, ready: Callable[[], object]
) -> int:
    """How many calls were answered; each of the connections has one in flight. `ready` begins the measurement."""
    wires = [await connect(ports[number % len(ports)], token) for number in range(in_flight)]
    end, answered = time.monotonic() + WARM_UP_SECONDS, 0

    async def run(wire: Wire) -> None:
        nonlocal answered
        while time.monotonic() < end:
            await call(wire)
            answered += 1

    await asyncio.gather(*(run(wire) for wire in wires))
    ready()
    end, answered = time.monotonic() + seconds, 0
    await asyncio.gather(*(run(wire) for wire in wires))
    for wire in wires:
        await wire.close()
    return answered


def clients(
    ports: list[int], token: str, in_flight: int, seconds: float, pipe: "multiprocessing.connection.Connection"
) -> None:
    """The process of the clients. Sends when they are ready, and then how many calls were answered in which time."""
    started = 0.0

    def ready() -> None:
        nonlocal started
        pipe.send("ready")
        pipe.recv()
        started = time.monotonic()

    answered = asyncio.run(many_at_once(ports, token, in_flight, seconds, ready))
    pipe.send((answered, time.monotonic() - started))


# Measuring


def processor_seconds(pid: int | None) -> float:
    """Of a process and those that it has started."""
    total, ticks = 0.0, os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            of, _, rest = stat.read_text().partition(" ")
            fields = rest.rpartition(")")[2].split()
            if pid is not None and pid in (int(of), int(fields[1])):
                total += sum(map(int, fields[11:15])) / ticks  # user and system, and the same of those that have ended
    return total


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def ask(server: Server, sql: str) -> int:
    with psycopg.connect(server.url) as connection:
        row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return int(row[0])


def throughput(target: Target, in_flight: int, seconds: float) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=clients, args=(target.ports, target.token, in_flight, seconds, there))
    process.start()
    there.close()
    assert here.recv() == "ready"

    def spent() -> dict[str, float]:
        gateways = sum(map(processor_seconds, target.pids))
        parts = {"gateways": gateways, "clients": processor_seconds(process.pid)}
        return parts | ({"database": processor_seconds(target.database)} if target.database else {})

    before = spent()
    here.send("go")
    answered, took = here.recv()
    after = spent()
    process.join()
    target.calls_a_second.append(answered / took)
    for part, value in after.items():
        target.cpu_us.setdefault(part, []).append((value - before[part]) / answered * 1e6)


class Forwarder:
    """Between a gateway and the database; counts what the gateway sends, one for each exchange."""

    def __init__(self, port: int) -> None:
        self._to, self.sent = port, 0

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", self._to)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, is_request: bool) -> None:
            while data := await source.read(1 << 20):
                self.sent += is_request
                target.write(data)
            target.close()

        await asyncio.gather(pump(reader, requests, True), pump(answers, writer, False))


async def count_round_trips(folder: Path, server: Server, calls: int) -> float:
    """Of one call after another, with what the gateway does besides in that time."""
    forwarder = Forwarder(server.port)
    port = await forwarder.start()
    behind = _Behind(server.url.replace(f":{server.port}/", f":{port}/"))
    with ExitStack() as stack:
        made = stack.enter_context  # the gateway starts in a thread: this loop forwards for it
        target = await asyncio.to_thread(lambda: made(gateways(folder, "round trips", 1, behind)))  # type: ignore[arg-type]
        wire = await connect(target.ports[0], target.token)
        for _ in range(20):
            await call(wire)
        before = forwarder.sent
        for _ in range(calls):
            await call(wire)
        counted = (forwarder.sent - before) / calls
        await wire.close()
        await asyncio.to_thread(stack.close)
    return counted


@dataclass
class _Behind:
    """A server that is reached through a forwarder."""

    url: str
    first_process: int | None = None


def run(folder: Path, options: argparse.Namespace) -> list[Target]:
    with ExitStack() as stack:
        server = Server(folder)
        stack.callback(server.remove)
        opened = [
            gateways(folder, "one gateway, SQLite", 1, None),
            gateways(folder, "one gateway, PostgreSQL", 1, server),
            gateways(folder, "three gateways, PostgreSQL", GATEWAYS, server),
        ]
        targets = [stack.enter_context(each) for each in opened]
        for target in targets:
            asyncio.run(one_after_another(target.ports, target.token, 20))
        for _ in range(options.rounds):
            for target in targets:
                target.one_ms += asyncio.run(one_after_another(target.ports, target.token, options.calls))
                throughput(target, options.in_flight * len(target.ports), options.seconds)
        for target in targets:
            target.memory_mib = statistics.mean(map(resident_mib, target.pids))
        alone = targets[1]
        alone.connections = ask(server, CONNECTIONS) / (1 + GATEWAYS)
        before = ask(server, DATABASE_BYTES)
        asyncio.run(one_after_another(alone.ports, alone.token, GROWTH_CALLS))
        alone.bytes_a_call = (ask(server, DATABASE_BYTES) - before) / (GROWTH_CALLS + GROWTH_CALLS // 10)
        targets[1].round_trips = asyncio.run(count_round_trips(folder, server, options.calls))
    return targets


def report(targets: list[Target]) -> bool:
    """Returns: whether the budget was met."""
    print("| Target | p50 of one call, ms | p99 | calls a second | CPU µs for a call: gateways | database | clients |")
    print("|---|---|---|---|---|---|---|")
    for target in targets:
        cuts = statistics.quantiles(target.one_ms, n=100)
        cpu = {part: f"{statistics.median(values):,.0f}" for part, values in target.cpu_us.items()}
        print(
            f"| {target.name} | {cuts[49]:.2f} | {cuts[98]:.2f} | {statistics.median(target.calls_a_second):,.0f} "
            f"| {cpu['gateways']} | {cpu.get('database', '–')} | {cpu['clients']} |"
        )
    memory = ", ".join(f"{target.name} {target.memory_mib:.0f} MiB" for target in targets)
    print(f"\nmemory of a gateway, without its upstream: {memory}")
    print(
        f"the database grows by {targets[1].bytes_a_call or 0:,.0f} bytes a call; a gateway has "
        f"{targets[1].connections or 0:.1f} connections"
    )
    reached = statistics.median(targets[-1].calls_a_second)
    trips = targets[1].round_trips or float("inf")
    print(f"\nround trips to the database: {trips:.2f} for a call (budget {ROUND_TRIPS})")
    met = reached >= CALLS_A_SECOND
    verdict = "met" if met else "MISSED"
    print(f"three gateways: {reached:,.0f} calls a second (budget {CALLS_A_SECOND:,}): {verdict}")
    return met and trips <= ROUND_TRIPS + BACKGROUND


def main() -> int:
    """Exit codes: 0 measured, 1 a budget was missed, 2 no real disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--where", type=Path, default=HERE.parent / "build", help="a folder on a real disk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=200, help="one after another, in a round")
    parser.add_argument("--seconds", type=float, default=6.0, help="with many in flight, in a round")
    parser.add_argument("--in-flight", type=int, default=32, help="calls in flight at each gateway")
    parser.add_argument("--json", type=Path, help="write every sample here")
    options = parser.parse_args()
    if not is_real_disk(options.where, "make bench-fleet"):
        return 2
    folder = Path(tempfile.mkdtemp(prefix="bench-fleet-", dir=options.where))
    folder.chmod(0o755)  # the database runs as a user of its own
    try:
        targets = run(folder, options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(target) for target in targets]))
    return 0 if report(targets) else 1


if __name__ == "__main__":
    sys.exit(main())
