"""`make bench-http`: measures a call over HTTP through the guard and through plain proxies on the SDK.

Client → proxy over HTTP → lean stdio upstream, in turns, so that all run under the same weather. The client is lean
too: one connection, no library. Added is what a call takes longer than at the upstream itself. Exits 1 if the guard,
with its receipts synced to disk, adds more than 1.5 times what the SDK's proxy adds that answers alike.
"""

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.bench import SHARED, is_real_disk, write_guard  # noqa: E402
from benchmarks.http_wire import Wire  # noqa: E402

Call = Callable[[], Awaitable[object]]
ARGUMENTS = {"id": "D-1", "amount": 5, "stage": "open", "notes": "x" * 40}
WAIT_SECONDS = 20.0
ADDED_OVER_SDK = 1.5
"""The budget: how many times what a bare SDK proxy adds the guard may add."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(config: Path) -> Iterator[str]:
    """Run the guard; yields the token of a new instance."""
    command = [sys.executable, "-m", "mcp_guard.cli"]
    process = subprocess.Popen([*command, "serve", "--config", str(config)])
    try:
        issued = subprocess.run(
            [*command, "instances", "issue", "--config", str(config)], stdout=subprocess.PIPE, text=True, check=True
        )
        yield issued.stdout.strip()
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


@contextmanager
def sdk(upstream: Path, *options: str) -> Iterator[int]:
    port = free_port()
    words = [sys.executable, str(HERE / "proxy_sdk_http.py"), str(port), *options, "--", sys.executable, str(upstream)]
    process = subprocess.Popen(words)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(WAIT_SECONDS)


@asynccontextmanager
async def calls_over_http(port: int, token: str, name: str, version: str) -> AsyncIterator[Call]:
    """A session with a server; yields a function that makes one call. `version` is the client's protocol revision."""
    wire = Wire(port, token, version)
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            await wire.open()
            break
        except OSError:
            assert time.monotonic() < end, "no server"
            await asyncio.sleep(0.05)  # until the process listens
    await wire.start()

    async def call() -> None:
        status, reply = await wire.post(
            {"id": 1, "method": "tools/call", "params": {"name": name, "arguments": ARGUMENTS}}
        )
        assert status == 200, reply
        assert reply["result"]["isError"] is False, reply

    yield call
    await wire.close()


@asynccontextmanager
async def calls_direct(upstream: Path) -> AsyncIterator[Call]:
    process = await asyncio.create_subprocess_exec(sys.executable, str(upstream), stdin=-1, stdout=-1)
    there, back = process.stdin, process.stdout
    assert there is not None
    assert back is not None
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "update_deal", "arguments": ARGUMENTS},
    }

    async def call() -> None:
        there.write(json.dumps(message).encode() + b"\n")
        assert b"result" in await back.readline()

    yield call
    process.terminate()
    await process.wait()


@asynccontextmanager
async def syncs(folder: Path) -> AsyncIterator[Call]:
    """The time the disk alone takes for the two records of a call, which the guard cannot avoid."""
    file = os.open(folder / "synced", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def call() -> None:
        for _ in range(2):
            os.write(file, b"x" * 1024)
            os.fdatasync(file)

    yield call
    os.close(file)


async def measure(targets: dict[str, Call], rounds: int, calls: int) -> dict[str, list[float]]:
    """Milliseconds per call by target; the first tenth of each turn is warm-up."""
    samples: dict[str, list[float]] = {name: [] for name in targets}
    for _ in range(rounds):
        for name, call in targets.items():
            for number in range(calls + calls // 10):
                started = time.perf_counter()
                await call()
                if number >= calls // 10:
                    samples[name].append((time.perf_counter() - started) * 1000)
    return samples


async def run(folder: Path, upstream: Path, rounds: int, calls: int) -> dict[str, list[float]]:
    port = free_port()
    config = write_guard(folder, upstream)
    config.write_text(f"{config.read_text()}[serve]\nport = {port}\n")
    async with AsyncExitStack() as stack:
        token, old, new = stack.enter_context(serve(config)), "2025-06-18", "2025-11-25"
        streams, documents = stack.enter_context(sdk(upstream)), stack.enter_context(sdk(upstream, "--json"))
        guard = "bench__update_deal"
        opened = {
            "direct (stdio)": calls_direct(upstream),
            "two synced records": syncs(folder),
            "sdk, streams": calls_over_http(streams, "", "update_deal", new),
            "sdk, documents": calls_over_http(documents, "", "update_deal", new),
            "guard, streams": calls_over_http(port, token, guard, new),
            "guard, documents": calls_over_http(port, token, guard, old),
        }
        targets = {name: await stack.enter_async_context(each) for name, each in opened.items()}
        return await measure(targets, rounds, calls)


def report(samples: dict[str, list[float]]) -> bool:
    """Returns: whether the guard adds no more than the budget allows over the SDK proxy that answers alike."""
    p50 = {name: statistics.median(each) for name, each in samples.items()}
    added = {name: each - p50["direct (stdio)"] for name, each in p50.items()}
    print("| Target | p50 ms | p90 | p99 | added ms |\n|---|---|---|---|---|")
    for name, each in samples.items():
        cuts = statistics.quantiles(each, n=100)
        print(f"| {name} | {p50[name]:.2f} | {cuts[89]:.2f} | {cuts[98]:.2f} | {added[name]:.2f} |")
    ratios = {form: added[f"guard, {form}"] / added[f"sdk, {form}"] for form in ("streams", "documents")}
    print()
    for form, ratio in ratios.items():
        verdict = "met" if ratio <= ADDED_OVER_SDK else "MISSED"
        print(f"added p50 over the SDK's, {form}: {ratio:.2f}x (budget {ADDED_OVER_SDK}x): {verdict}")
    return all(ratio <= ADDED_OVER_SDK for ratio in ratios.values())


def main() -> int:
    """Exit codes: 0 measured, 1 the budget was missed, 2 no real disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--where", type=Path, default=HERE.parent / "build", help="a folder on a real disk")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    if not is_real_disk(options.where, "make bench-http"):
        return 2
    folder = Path(tempfile.mkdtemp(prefix="bench-http-", dir=options.where))
    kit = SHARED if (SHARED / "upstream.py").exists() else HERE / "kit"
    try:
        samples = asyncio.run(run(folder, kit / "upstream.py", options.rounds, options.calls))
    finally:
        shutil.rmtree(folder)
    return 0 if report(samples) else 1


if __name__ == "__main__":
    sys.exit(main())
