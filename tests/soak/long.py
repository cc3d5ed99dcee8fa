"""Many calls for one guard, on stdio and over HTTP: memory, descriptors, threads, children and tasks stay flat.

Calls are allowed, denied, held and approved, and now and then the upstream is killed between them. Samples are taken
while nothing is under way. What the second quarter of the calls needed is the base, because by then every cache is as
full as it gets; the last quarter must not need more.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.http_wire import Wire
from mcp_guard.storage.presence import UPSTREAMS
from tests.faults.guard_process import Ask, GuardProcess, Json
from tests.faults.two_guards import CONFIG, POLICIES, UPSTREAM, Decider
from tests.live.http_guard import Served, free_port, serving
from tests.live.test_session import children, eventually
from tests.proof_size import sized

AT_ONCE = 16
SAMPLES = sized(40, 20)
GROWTH_MIB = 4.0
"""How much more the last quarter may need than the second on average: over 50,000 calls, 84 bytes a call."""
RESTARTS = SAMPLES // 4
"""How often the upstream is killed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """`anonymous` is the part of `mib` that is not file-backed; `tasks` are asyncio's, 0 if unavailable."""

    calls: int
    mib: float
    anonymous: float
    descriptors: int
    threads: int
    children: int
    tasks: int


def take(pid: int, calls: int, tasks: int) -> Sample:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    mib, anonymous = (int(status[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Sample(calls, mib, anonymous, descriptors, int(status["Threads"]), len(children(pid)), tasks)


def growth(samples: list[Sample]) -> list[str]:
    """What the last quarter uses beyond the second."""
    quarter = len(samples) // 4
    base, last = samples[quarter : 2 * quarter], samples[-quarter:]

    def mean(some: list[Sample]) -> float:
        return sum(sample.mib for sample in some) / len(some)

    grown = [] if mean(last) <= mean(base) + GROWTH_MIB else [f"MiB: {mean(last):.1f} after {mean(base):.1f}"]
    for name in ("descriptors", "threads", "children", "tasks"):
        before, after = (
            min(getattr(sample, name) for sample in some) for some in (base, last)
        )  # one may still be closing
        grown += [f"{name}: {after} after {before}"] if after > before else []
    return grown


@dataclass
class Load:
    """The calls made and their results. One in a thousand calls is held, one in twenty is denied."""

    luck: random.Random
    asked: int = 0
    replies: "Counter[str]" = field(default_factory=Counter)

    def next(self) -> Ask:
        self.asked += 1
        name = str(self.asked)
        if self.asked % 1000 == 100:  # the first one early, while caches still fill
            return Ask(self.asked, "update", {"id": f"held {name}", "amount": 2})
        return Ask(self.asked, "note", {"text": f"no {name}" if self.luck.random() < 0.05 else name})

    def note(self, ask: Ask, reply: Json) -> None:
        text = json.dumps(reply)
        if "result" in reply and not reply["result"].get("isError"):
            self.replies["held and done" if ask.tool == "update" else "done"] += 1
        elif "not this one" in text or "denied by Alice" in text:
            self.replies["denied"] += 1
        else:
            assert "upstream `up`" in text, text[:500]
            self.replies["upstream gone"] += 1


def configure(folder: Path, more: str = "") -> Path:
    """The setup of `make faults` with one guard and a rate with a short window."""
    (folder / "policies.cedar").write_text(POLICIES)
    args = [str(UPSTREAM), str(folder / "0.ran"), str(folder / "0.lock")]
    config = folder / "0.toml"
    text = CONFIG.format(command=json.dumps(sys.executable), args=json.dumps(args)) + more
    config.write_text(text.replace("window_seconds = 3600", "window_seconds = 10"))
    return config


def on_stdio(folder: Path, calls: int) -> tuple[list[Sample], Load]:
    guard, load, samples = (
        GuardProcess(configure(folder), folder / "stderr", {}, new_interpreter=True),
        Load(random.Random(1)),
        [],
    )
    guard.start()
    assert guard.is_ready()
    decider = Decider(guard.config)
    decider.start()
    try:
        for number in range(SAMPLES):
            while load.asked < (number + 1) * calls // SAMPLES:
                guard.send([load.next() for _ in range(AT_ONCE)])
                assert guard.settle(), guard.stderr.read_text()[-2000:]
                for id, ask in guard.asked.items():
                    load.note(ask, guard.replies.pop(id))
                guard.asked.clear()
            samples.append(take(guard.pid, load.asked, 0))
            restart(folder, guard.pid, number)
    finally:
        decider.over.set()
        decider.join()
        guard.kill()
    assert decider.trouble is None, decider.trouble
    return samples, load


def restart(folder: Path, pid: int, number: int) -> None:
    """Kill one of its upstreams this many times, waiting until the replacement takes calls."""
    if number % (SAMPLES // RESTARTS) == 1:
        before, killed = children(pid), time.time()
        os.kill(before[0], signal.SIGKILL)

        def is_replaced() -> bool:
            rows = [row for file in folder.rglob(f"*{UPSTREAMS}") for row in json.loads(file.read_bytes())]
            return any(row["since"] > killed for row in rows) and all(row["is_up"] for row in rows)

        eventually(is_replaced)


def over_http(folder: Path, calls: int) -> tuple[list[Sample], Load]:
    port = free_port()
    config = configure(folder, serving(port))
    load, samples, decider = Load(random.Random(1)), list[Sample](), Decider(config)
    with Served(config, port, new_interpreter=True) as served:
        token = served.issue()[1]

        async def run() -> None:
            wires = [Wire(port, token) for _ in range(AT_ONCE)]
            for wire in wires:
                await wire.open()
                await wire.start()
            for number in range(SAMPLES):
                until = (number + 1) * calls // SAMPLES
                async with asyncio.TaskGroup() as tasks:
                    for wire in wires:
                        tasks.create_task(keep_calling(wire, load, until))
                samples.append(take(served.process.pid, load.asked, served.health()["tasks"]))
                restart(folder, served.process.pid, number)
            for wire in wires:
                assert await wire.delete() == 204
                await wire.close()

        decider.start()
        try:
            asyncio.run(run())
        finally:
            decider.over.set()
            decider.join()
    assert decider.trouble is None, decider.trouble
    return samples, load


async def keep_calling(wire: Wire, load: Load, until: int) -> None:
    while load.asked < until:
        ask = load.next()
        _, reply = await wire.post(ask.message())
        assert reply.get("id") == ask.id, reply
        load.note(ask, reply)


TRANSPORTS: dict[str, Callable[[Path, int], tuple[list[Sample], Load]]] = {"stdio": on_stdio, "http": over_http}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description="Many calls for one guard.")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--transport", choices=TRANSPORTS, action="append")
    options = parser.parse_args()
    failed = False
    for transport in options.transport or TRANSPORTS:
        with tempfile.TemporaryDirectory(prefix="soak-") as made:
            began = time.monotonic()
            samples, load = TRANSPORTS[transport](Path(made), options.calls)
            seconds = time.monotonic() - began
        print(f"{transport}: {load.asked} calls in {seconds:.0f} s: {dict(load.replies)}")
        print(
            f"{'calls':>8} {'MiB':>6} {'anonymous':>9} {'descriptors':>11} {'threads':>7} {'children':>8} {'tasks':>5}"
        )
        for sample in samples[3 :: max(1, SAMPLES // 10)]:
            print(
                f"{sample.calls:8} {sample.mib:6.1f} {sample.anonymous:9.1f} {sample.descriptors:11} "
                f"{sample.threads:7} {sample.children:8} {sample.tasks:5}"
            )
        grown = growth(samples)
        failed |= bool(grown)
        print("\n".join(grown) or "nothing grows", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
