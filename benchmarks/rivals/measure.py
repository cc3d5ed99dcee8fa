"""`make bench-rivals`: measures other guards that install from PyPI beside this one, interleaved in one run.

Over stdio the kit's driver measures them beside `durable`, `sdk` and the guard; over HTTP they run in turns beside a
bare proxy on the SDK and the guard, all in front of an upstream over HTTP. Then each is asked to refuse a call, and one
more run under strace counts what it records and syncs for a call. One that does not start, alters a reply or runs
a refused call is reported with what it said. Everything runs in namespaces of its own: nothing reaches the network, and
nothing outlives the run. Exits 1 if the guard or `sdk` failed; a failed rival is a result.
"""

import argparse
import asyncio
import fcntl
import importlib.metadata
import json
import os
import shlex
import shutil
import socket
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench import SHARED, is_real_disk, write_guard  # noqa: E402
from benchmarks.rivals.clients import Client, Failed, HttpClient, StdioClient  # noqa: E402
from benchmarks.rivals.evidence import count_guard_records, count_records  # noqa: E402
from benchmarks.rivals.launch import CLIENT_FILE, RIVALS, free_port  # noqa: E402
from benchmarks.rivals.processes import cpu_us, stop  # noqa: E402

INSIDE = "BENCH_RIVALS_INSIDE"
START_SECONDS = 120.0
EXAMINED_CALLS = 40
SETTLE_SECONDS = 1.0
"""Syncs and records that follow a reply within this time belong to its call."""
SYNCS = ("fsync(", "fdatasync(", "sync_file_range(", "syncfs(")


@dataclass
class Target:
    """Something to measure, over stdio or HTTP."""

    name: str
    version: str
    command: list[str]
    refused: str = "update_deal"
    decides: bool = True
    record: str = ""
    """The rival whose record it is; "guard" for ours, empty for none."""
    folder: Path = Path()
    port: int = 0
    stateless: bool = False
    upstream: list[str] = field(default_factory=list)
    """Over HTTP, the upstream's command: each target has one of its own."""


def guard_version() -> str:
    done = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return f"{importlib.metadata.version('mcp-guard')} {done.stdout.strip()}".strip()


def stdio_targets(folder: Path, kit: Path, only: list[str]) -> list[Target]:
    upstream = kit / "upstream.py"
    argv = [sys.executable, str(upstream)]
    (folder / "guard").mkdir()
    config = write_guard(folder / "guard", upstream)
    guard = str(Path(sys.executable).with_name("mcp-guard"))
    found = [
        Target("durable", "-", [sys.executable, str(kit / "proxy_durable.py"), "--", *argv], decides=False),
        Target(
            "sdk",
            importlib.metadata.version("mcp"),
            [sys.executable, str(kit / "proxy_sdk.py"), "--", *argv],
            decides=False,
        ),
        Target(
            "guard",
            guard_version(),
            [guard, "run", "--config", str(config)],
            record="guard",
            folder=folder / "guard",
        ),
    ]
    for name, rival in RIVALS.items():
        if not rival.over_http and rival.package in only:
            place = folder / name.replace(", ", "-")
            command = [sys.executable, str(HERE / "launch.py"), name, str(place), *argv]
            found.append(Target(name, rival.version(), command, rival.refused, record=name, folder=place))
    return found


def http_targets(folder: Path, only: list[str]) -> list[Target]:
    found = []

    def add(name: str, version: str, words: list[str], **more: Any) -> None:
        above, port = free_port(), free_port()
        place = folder / f"http-{name.replace(', ', '-')}"
        place.mkdir(exist_ok=True)
        url = f"http://127.0.0.1:{above}/mcp"
        upstream = [sys.executable, str(HERE / "upstream_http.py"), str(above)]
        command = [word.format(port=port, url=url, folder=place) for word in words]
        found.append(Target(name, version, command, folder=place, port=port, upstream=upstream, **more))

    sdk = [sys.executable, str(ROOT / "benchmarks/proxy_sdk_http.py"), "{port}"]
    version = importlib.metadata.version("mcp")
    add("sdk, streams", version, [*sdk, "--", "{url}"], decides=False)
    add("sdk, documents", version, [*sdk, "--json", "--", "{url}"], decides=False)
    guard = [str(Path(sys.executable).with_name("mcp-guard")), "serve", "--config", "{folder}/mcp-guard.toml"]
    add("guard", guard_version(), guard, record="guard")
    for name, rival in RIVALS.items():
        if rival.over_http and rival.package in only:
            words = [sys.executable, str(HERE / "launch.py"), name, "{folder}", "{port}", "{url}"]
            more = {"refused": rival.refused, "record": name, "stateless": rival.stateless}
            add(name, rival.version(), words, **more)
    return found


def write_http_guard(target: Target) -> None:
    """The guard's configuration in front of an upstream at a URL; also after a start that left a ledger."""
    url = f"http://127.0.0.1:{target.upstream[-1]}/mcp"
    if not (target.folder / "policies").exists():
        write_guard(target.folder, Path("unused"))
    config = target.folder / "mcp-guard.toml"
    head = config.read_text().partition("[upstreams.bench]")[0]
    config.write_text(f'{head}[upstreams.bench]\nurl = "{url}"\n[serve]\nport = {target.port}\n')


@contextmanager
def running(command: list[str], log: Path, **pipes: Any) -> Iterator[subprocess.Popen]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        process = subprocess.Popen(command, stderr=output, env=environment, **pipes)
    try:
        yield process
    finally:
        stop(process)


async def http_details(target: Target, process: subprocess.Popen) -> dict:
    """What a client needs, when the target listens."""
    end = time.monotonic() + START_SECONDS
    file = target.folder / CLIENT_FILE
    while time.monotonic() < end:
        if process.poll() is not None:
            raise Failed(f"exited with status {process.returncode}")
        with socket.socket() as probe:
            if (target.record in ("", "guard") or file.exists()) and not probe.connect_ex(("127.0.0.1", target.port)):
                break
        await asyncio.sleep(0.1)
    else:
        raise Failed("does not listen")
    if target.record == "guard":
        words = [target.command[0], "instances", "issue", *target.command[2:]]
        issued = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=True)
        return {"token": issued.stdout.strip(), "tool": "bench__update_deal", "headers": {}}
    plain = {"token": "none", "tool": "update_deal", "headers": {}}
    return plain if not target.record else json.loads(file.read_text())


@asynccontextmanager
async def client_of(target: Target, logs: Path, prefix: list[str]) -> AsyncIterator[tuple[Client, subprocess.Popen]]:
    """A session with a new process of the target."""
    log = logs / f"{target.name}{'-http' if target.upstream else ''}.log"
    (target.folder / CLIENT_FILE).unlink(missing_ok=True)
    if not target.upstream:
        with running([*prefix, *target.command], log, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            client = StdioClient(process)
            async with asyncio.timeout(START_SECONDS):
                await client.open()
            yield client, process
        return
    if target.record == "guard":
        write_http_guard(target)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    with running(target.upstream, log, **quiet), running([*prefix, *target.command], log, **quiet) as process:
        over_http = HttpClient(target.port, await http_details(target, process), stateless=target.stateless)
        async with asyncio.timeout(START_SECONDS):
            await over_http.open()
        yield over_http, process


# --- measuring


@dataclass
class Row:
    """One target's results; an empty `failure` means that it was measured."""

    target: Target
    failure: str = ""
    p50_ms: float = 0.0
    added_ms: float = 0.0
    cpu_us: float = 0.0
    calls_per_s: float | None = None
    refuses: bool | None = None
    records: float | None = None
    signatures: float | None = None
    syncs: float | None = None


def explain(error: BaseException, log: Path) -> str:
    tail = log.read_text(errors="replace")[-600:].strip() if log.exists() else ""
    return f"{type(error).__name__}: {error} {tail}".strip()


FAILURES = (
    Failed,
    TimeoutError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    sqlite3.Error,
    ExceptionGroup,
    subprocess.CalledProcessError,
)


def measure_stdio(folder: Path, kit: Path, targets: list[Target], options: argparse.Namespace) -> list[Row]:
    """The kit's driver measures them; see there for what it checks."""
    samples = folder / "stdio.json"
    command = [sys.executable, str(kit / "driver.py"), "--json", str(samples), "--rounds", str(options.rounds)]
    command += ["--calls", str(options.calls), "--warmup", str(options.warmup)]
    for target in targets:
        words = shlex.join(target.command).replace("{", "{{").replace("}", "}}")
        command += ["--targets", f"{target.name}={words}"]
    command += ["--upstream", f"{{python}} {kit / 'upstream.py'}"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False)
    report = json.loads(samples.read_bytes())
    rows = []
    for target in targets:
        if reason := report["failures"].get(target.name):
            rows.append(Row(target, failure=reason))
            continue
        found = report["summaries"][target.name]
        added = found["p50_ms"] - report["summaries"]["direct"]["p50_ms"]
        rows.append(Row(target, "", found["p50_ms"], added, found["cpu_us_per_call"], found["calls_per_s"]))
    return rows


async def measure_http(targets: list[Target], logs: Path, options: argparse.Namespace) -> list[Row]:
    """One after the other in every round, each in a new process; added is over the upstream itself."""
    latencies: dict[str, list[float]] = {"direct": [], **{target.name: [] for target in targets}}
    cpu: dict[str, list[float]] = {name: [] for name in latencies}
    failures: dict[str, str] = {}
    port = free_port()
    direct = Target("direct", "-", [sys.executable, str(HERE / "upstream_http.py"), str(port)], port=port)
    direct.upstream = [sys.executable, "-c", "import signal; signal.pause()"]
    for number in range(options.rounds):
        for target in [direct, *targets]:
            if target.name in failures:
                continue
            print(f"round {number + 1}/{options.rounds} {target.name} over HTTP", file=sys.stderr)
            try:
                async with client_of(target, logs, []) as (client, process):
                    for _ in range(options.warmup):
                        await client.call()
                    before = cpu_us(process.pid)
                    for _ in range(options.calls):
                        started = time.perf_counter()
                        await client.call()
                        latencies[target.name].append((time.perf_counter() - started) * 1000)
                    cpu[target.name].append((cpu_us(process.pid) - before) / options.calls)
            except FAILURES as error:
                failures[target.name] = explain(error, logs / f"{target.name}-http.log")
    p50 = {name: statistics.median(each) for name, each in latencies.items() if each and name not in failures}
    rows = [Row(direct, "", p50["direct"], 0.0, statistics.median(cpu["direct"]))]
    for target in targets:
        if target.name in failures:
            rows.append(Row(target, failures[target.name]))
        else:
            added = p50[target.name] - p50["direct"]
            rows.append(Row(target, "", p50[target.name], added, statistics.median(cpu[target.name])))
    return rows


async def examine(row: Row, logs: Path) -> None:
    """Whether it refuses, and what it records and syncs for a call."""
    target = row.target
    trace = logs / "strace"
    trace.unlink(missing_ok=True)
    calls = ",".join(name.rstrip("(") for name in SYNCS)
    prefix = ["strace", "-f", "--seccomp-bpf", "-qq", "-ttt", "-e", f"trace={calls}", "-o", str(trace)]
    async with client_of(target, logs, prefix) as (client, _):
        row.refuses = await client.is_refused(target.refused)
        if target.decides and not row.refuses:
            raise Failed("ran a call that its policy must refuse")
        await client.call()
        await asyncio.sleep(SETTLE_SECONDS)
        before, started = records_of(target), time.time()
        for _ in range(EXAMINED_CALLS):
            await client.call()
        await asyncio.sleep(SETTLE_SECONDS)
        after, ended = records_of(target), time.time()
    row.records, row.signatures = (
        (second - first) / EXAMINED_CALLS for first, second in zip(before, after, strict=True)
    )
    synced = 0
    for line in trace.read_text().splitlines():
        _, moment, call = line.split(None, 2)
        synced += call.startswith(SYNCS) and started <= float(moment) <= ended
    row.syncs = synced / EXAMINED_CALLS


def records_of(target: Target) -> tuple[int, int]:
    """How many records there are, and how many signatures on them."""
    if not target.record:
        return 0, 0
    if target.record == "guard":
        return count_guard_records(target.folder)
    return count_records(target.record, target.folder)


def show(rows: list[Row]) -> None:
    columns = ["Target", "Version", "p50 ms", "added ms", "CPU µs per call", "calls a second, 16 in flight", "refuses"]
    columns += ["records · signatures per call", "syncs per call"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for row in rows:
        name = f"| {row.target.name} | {row.target.version} |"
        if row.failure and not row.p50_ms:
            print(f"{name} failed, see below | | | | | | |")
            continue
        many = "–" if row.calls_per_s is None else f"{row.calls_per_s:,.0f}"
        refuses = "–" if not row.target.decides or row.refuses is None else "yes" if row.refuses else "**no**"
        recorded = "–" if row.records is None or not row.target.record else f"{row.records:.1f} · {row.signatures:.2f}"
        synced = "–" if row.syncs is None else f"{row.syncs:.2f}"
        figures = [f"{row.p50_ms:.2f}", f"{row.added_ms:.2f}", f"{row.cpu_us:,.0f}", many, refuses, recorded, synced]
        print(f"{name} {' | '.join(figures)} |")
    for row in rows:
        if row.failure:
            print(f"\n{row.target.name}: {row.failure}")


async def run(folder: Path, kit: Path, options: argparse.Namespace) -> list[list[Row]]:
    logs = folder / "logs"
    logs.mkdir()
    tables = []
    if "stdio" in options.over:
        tables.append(measure_stdio(folder, kit, stdio_targets(folder, kit, options.only), options))
    if "http" in options.over:
        tables.append(await measure_http(http_targets(folder, options.only), logs, options))
    for row in (row for rows in tables for row in rows):
        if row.failure or row.target.name == "direct":
            continue
        print(f"what {row.target.name} records", file=sys.stderr)
        try:
            await examine(row, logs)
        except FAILURES as error:
            row.failure = explain(error, logs / f"{row.target.name}{'-http' if row.target.upstream else ''}.log")
    return tables


def isolate() -> None:
    """Start this program again with a loopback of its own as its only network, and processes that end with it."""
    words = ["unshare", "--map-root-user", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
    environment = {**os.environ, INSIDE: "1"}
    done = subprocess.run(
        [*words, sys.executable, str(HERE / "measure.py"), *sys.argv[1:]], env=environment, check=False
    )
    sys.exit(done.returncode)


def raise_loopback() -> None:
    get_flags, set_flags, up = 0x8913, 0x8914, 0x1
    with socket.socket() as control:
        asked = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control, get_flags, asked))[1]
        fcntl.ioctl(control, set_flags, struct.pack("16sH14x", b"lo", flags | up))


def parse_options() -> argparse.Namespace:
    packages = sorted({rival.package for rival in RIVALS.values()})
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--where", type=Path, default=ROOT / "build", help="a folder on a real disk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=100, help="per target, round and phase")
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--only", nargs="*", choices=packages, default=packages, help="these packages")
    parser.add_argument("--over", nargs="*", choices=("stdio", "http"), default=["stdio", "http"])
    return parser.parse_args()


def main() -> int:
    options = parse_options()
    if missing := [tool for tool in ("unshare", "strace") if shutil.which(tool) is None]:
        print(f"not installed: {', '.join(missing)}\nhint: apt-get install util-linux strace, as root")
        return 2
    if not is_real_disk(options.where, "make bench-rivals"):
        return 2
    if INSIDE not in os.environ:
        isolate()
    raise_loopback()
    kit = SHARED if (SHARED / "driver.py").exists() else ROOT / "benchmarks/kit"
    folder = Path(tempfile.mkdtemp(prefix="rivals-", dir=options.where))
    try:
        tables = asyncio.run(run(folder, kit, options))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for rows in tables:
        print()
        show(rows)
    return int(any(row.failure for rows in tables for row in rows if row.target.record in ("", "guard")))


if __name__ == "__main__":
    sys.exit(main())
