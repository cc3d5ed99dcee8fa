"""Measure the guard and comparable proxies, interleaved in one run, and compare the result with the budgets.

The kit that takes the samples is `../shared/bench` where that exists, else its copy in `benchmarks/kit`. The guard is
as a user has it: a policy with a condition on the arguments, both receipts signed and synced to a real disk.
"""

import argparse
import json
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


def is_real_disk(where: Path, command: str) -> bool:
    """Make the folder. Prints why not if it is in memory; `command` is the one by which another folder is named."""
    where.mkdir(parents=True, exist_ok=True)
    found = subprocess.run(["stat", "-f", "-c", "%T", where], capture_output=True, text=True, check=True)
    if (kind := found.stdout.strip()) in MEMORY_FILE_SYSTEMS:
        print(f"`{where}` is on {kind}: a sync costs nothing there\nhint: {command} ARGS='--where FOLDER'")
        return False
    return True


def write_guard(folder: Path, upstream: Path) -> Path:
    """Write a guard's configuration and policy; returns the configuration."""
    (folder / "policies").mkdir()
    (folder / "policies" / "bench.cedar").write_text(POLICY)
    config = folder / "mcp-guard.toml"
    config.write_text(CONFIG.format(python=json.dumps(sys.executable), upstream=json.dumps(str(upstream))))
    return config


def per_round(report: dict, name: str, key: str) -> list[float]:
    """A figure of each round; for latencies their median."""
    values = [each[key] for each in report["rounds"][name]]
    return [statistics.median(value) if isinstance(value, list) else value for value in values]


def added_ratios(report: dict, other: str) -> list[float]:
    """Per round, in which all targets ran under the same load: the guard's added latency relative to another's."""
    medians = [per_round(report, name, "latencies_ms") for name in ("guard", other, "direct")]
    return [(guard - direct) / (beside - direct) for guard, beside, direct in zip(*medians, strict=True)]


def ratios(report: dict, key: str) -> list[float]:
    """Per round: a figure of the guard relative to `sdk`'s."""
    return [
        guard / sdk for guard, sdk in zip(per_round(report, "guard", key), per_round(report, "sdk", key), strict=True)
    ]


class Budget(NamedTuple):
    """A measurement with its limit (for calls per second, the minimum). `rounds` are those of a ratio."""

    what: str
    measured: float
    limit: float
    unit: str = "x"
    rounds: tuple[float, ...] = ()
    more_is_better: bool = False

    def show(self, value: float) -> str:
        return f"{value:.{2 if self.unit == 'x' else 0}f}{self.unit}"

    @property
    def row(self) -> str:
        between = f" ({min(self.rounds):.2f}-{max(self.rounds):.2f})" if self.rounds else ""
        allowed = f"{'>=' if self.more_is_better else '<='} {self.show(self.limit)}"
        verdict = "met" if self.is_met else "MISSED"
        return f"{self.what:<44}{allowed:>12}{self.show(self.measured) + between:>22}  {verdict}"

    @property
    def is_met(self) -> bool:
        return self.measured >= self.limit if self.more_is_better else self.measured <= self.limit


def ratio_budget(what: str, rounds: list[float], limit: float, *, more_is_better: bool = False) -> Budget:
    return Budget(what, statistics.median(rounds), limit, "x", tuple(rounds), more_is_better)


def judge(report: dict) -> list[Budget]:
    """The budgets: ratios within a round, and what a guard adds to the start-up and the memory of a session."""
    direct, sdk, guard = (report["summaries"][name] for name in ("direct", "sdk", "guard"))
    start, sdk_start = guard["init_ms"] - direct["init_ms"], sdk["init_ms"] - direct["init_ms"]
    return [
        ratio_budget("added p50 over `sdk`'s", added_ratios(report, "sdk"), 1.3),
        ratio_budget("added p50 over `fastmcp`'s", added_ratios(report, "fastmcp"), 1.0),
        ratio_budget("CPU per call over `sdk`'s", ratios(report, "cpu_us_per_call"), 0.8),
        ratio_budget("calls a second over `sdk`'s", ratios(report, "calls_per_s"), 1.8, more_is_better=True),
        Budget("added start-up over `sdk`'s", start / sdk_start, 1.0),
        Budget("added start-up, handshake done", start, 250, " ms"),
        Budget("resident memory", guard["rss_mb"] * 1e6 / 2**20, 56, " MiB"),
    ]


def main() -> int:
    """Exit codes: 0 measured, 1 a target failed or a budget was missed, 2 no real disk."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="other options go to the kit's driver")
    parser.add_argument("--felt", action="store_true", help="the official SDK as client and upstream; no budgets")
    parser.add_argument("--where", type=Path, default=HERE.parent / "build", help="a folder on a real disk")
    parser.add_argument("--json", type=Path, help="write every sample here")
    options, driver_options = parser.parse_known_args()
    if not is_real_disk(options.where, "make bench-call"):
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
    print(f"\n{'':<44}{'budget':>12}{'measured (rounds)':>22}")
    for each in results:
        print(each.row)
    return 0 if all(each.is_met for each in results) else 1


if __name__ == "__main__":
    sys.exit(main())
