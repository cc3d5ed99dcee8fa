"""Measure the guard and comparable proxies, interleaved in one run, and compare the result with the budgets.

The kit that takes the samples is `../shared/bench` where that exists, else its copy in `benchmarks/kit`. The guard is
as a user has it: a policy with a condition on the arguments, both receipts signed and synced to a real disk.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared" / "bench"
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")

CONFIG = """
[guard]
policies = "policies"
[agents.bench]
owner = "bench"
[upstreams.bench]
command = {python}
args = [{upstream}]
"""

POLICY = """
@id("amounts-below-100k")
permit (principal, action == Action::"bench__update_deal", resource)
when { context.input.amount.lessThan(decimal("100000.0")) };
"""


def file_system(path: Path) -> str:
    """The type of the file system that holds the path."""
    found = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def write_guard(folder: Path, upstream: Path) -> Path:
    """Write a guard's configuration and policy; returns the configuration."""
    (folder / "policies").mkdir()
    (folder / "policies" / "bench.cedar").write_text(POLICY)
    config = folder / "mcp-guard.toml"
    config.write_text(CONFIG.format(python=json.dumps(sys.executable), upstream=json.dumps(str(upstream))))
    return config


def added_over_durable(rounds: dict[str, list[dict]]) -> list[float]:
    """Per round, in which all targets ran under the same load: the added latency of the guard relative to `durable`."""
    names = ("guard", "durable", "direct")
    medians = [[statistics.median(each["latencies_ms"]) for each in rounds[name]] for name in names]
    return [(guard - direct) / (durable - direct) for guard, durable, direct in zip(*medians, strict=True)]


class Budget(NamedTuple):
    """Each measurement with its limit (for calls per second, the minimum): of the first version, and the goal."""

    what: str
    measured: float
    first: float
    final: float
    unit: str
    more_is_better: bool = False

    def is_within(self, bound: float) -> bool:
        return self.measured >= bound if self.more_is_better else self.measured <= bound

    def show(self, value: float) -> str:
        text = "-" if math.isinf(value) else f"{value:.{2 if self.unit == 'x' else 0}f}{self.unit}"
        return f"{text:>10}"

    @property
    def verdict(self) -> str:
        return "met" if self.is_within(self.final) else "first only" if self.is_within(self.first) else "MISSED"


def judge(report: dict) -> list[Budget]:
    """The budgets. Added latency is over the same run's `direct`."""
    direct, sdk, guard = (report["summaries"][name] for name in ("direct", "sdk", "guard"))
    added = guard["p50_ms"] - direct["p50_ms"]
    ratios = added_over_durable(report["rounds"])
    latency = statistics.median(ratios)
    throughput = guard["calls_per_s"] / sdk["calls_per_s"]
    start, resident = guard["init_ms"] - direct["init_ms"], guard["rss_mb"] * 1e6 / 2**20
    between = f"{min(ratios):.2f}-{max(ratios):.2f}x"
    return [
        Budget(f"added p50 (+{added:.2f} ms; rounds {between}) over `durable`'s", latency, 2.2, 1.5, "x"),
        Budget("added p50 over `sdk`'s", added / (sdk["p50_ms"] - direct["p50_ms"]), math.inf, 1.0, "x"),
        Budget(f"calls a second ({guard['calls_per_s']:.0f}) over `sdk`'s", throughput, 1.5, 3.0, "x", True),
        Budget("added start-up, handshake done", start, 250, 250, " ms"),
        Budget("resident memory", resident, 56, 56, " MiB"),
    ]


def main() -> int:
    """Exit codes: 0 measured, 1 a target failed or a budget was missed, 2 no real disk."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="other options go to the kit's driver")
    parser.add_argument("--felt", action="store_true", help="the official SDK as client and upstream; no budgets")
    parser.add_argument("--where", type=Path, default=HERE.parent / "build", help="a folder on a real disk")
    parser.add_argument("--json", type=Path, help="write every sample here")
    options, driver_options = parser.parse_known_args()
    options.where.mkdir(parents=True, exist_ok=True)
    if (kind := file_system(options.where)) in MEMORY_FILE_SYSTEMS:
        print(
            f"`{options.where}` is on {kind}: a sync costs nothing there\nhint: make bench-call ARGS='--where FOLDER'"
        )
        return 2
    kit = SHARED if (SHARED / "driver.py").exists() else HERE / "kit"
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=options.where))
    try:
        samples = options.json or folder / "samples.json"
        upstream = kit / ("upstream_sdk.py" if options.felt else "upstream.py")
        guard = f"guard={Path(sys.executable).with_name('mcp-guard')} run --config {write_guard(folder, upstream)}"
        command = [sys.executable, str(kit / "driver.py"), f"@{kit / 'peers.args'}", "--targets", guard]
        command += ["--upstream", f"{{python}} {upstream}", "--client", "sdk" if options.felt else "lean"]
        compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run([*command, "--json", str(samples), *driver_options], check=False, env=compiled)
        if not samples.exists() or done.returncode or options.felt:
            return done.returncode
        results = judge(json.loads(samples.read_bytes()))
    finally:
        shutil.rmtree(folder)
    print()
    print(f"{'':<62}{'measured':>10}{'first':>10}{'final':>10}")
    for each in results:
        figures = map(each.show, (each.measured, each.first, each.final))
        print(f"{each.what:<62}{''.join(figures)}  {each.verdict}")
    return 0 if all(each.verdict == "met" for each in results) else 1


if __name__ == "__main__":
    sys.exit(main())
