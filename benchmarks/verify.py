"""Measures the speed of `verify` and whether its memory grows with the ledger (written by the guard's own code).

    make bench-verify                                  # 200 thousand and 1 million receipts, some minutes
    make bench-verify ARGS="--sizes 20000"

Exits 1 if a budget of docs/reference/performance.md is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson

from mcp_guard.core import canonical
from mcp_guard.core.model import (
    Agent,
    Call,
    Decision,
    Effect,
    Execution,
    ExecutionStatus,
    Instance,
    Outcome,
    Resource,
    Risk,
    Task,
    Tool,
    ToolRule,
)
from mcp_guard.core.receipt import Draft, intent_draft, outcome_draft
from mcp_guard.core.request_meta import canonical_request
from mcp_guard.ledger.open import LedgerSettings, open_writer
from mcp_guard.ledger.writer import Transaction, Writer

A_SECOND = 20_000
GROWTH = 1.15
MATERIAL = b'{"policies":{"all.cedar":"permit (principal, action, resource);"}}'


class Clock:
    """Real time."""

    def now(self) -> int:
        return time.time_ns() // 1000

    wall = now


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="200000,1000000", help="receipts, by commas")
    parser.add_argument("--where", type=Path, help="a folder to write the ledgers in")
    parser.add_argument("--keep", type=Path, help="a folder to write the ledgers in for good, or to find them in")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.where) as folder:
        for size in map(int, options.sizes.split(",")):
            state = (options.keep or Path(folder)) / str(size)
            if not state.exists():
                write(state, size)
            rows.append(measure(state, size))
            print_row(rows[-1], first=len(rows) == 1)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))
    return judge(rows)


def write(state: Path, size: int) -> None:
    """A ledger of typical calls: intent with request and material, outcome with reply."""
    settings = LedgerSettings(state, "bench.example/ledger", unsafe_skip_fsync=True)
    writer = open_writer(settings, Clock())
    version = canonical.digest(MATERIAL)

    def begin(tx: Transaction) -> None:
        tx.store.keep_policy(version, MATERIAL)
        tx.add(Draft("policy.loaded", {"policy_version": version}))

    writer.run(begin)
    call, decision = make_call(), make_decision(version)
    while (seq := writer.read(lambda store: store.head().size)) < size:
        writer.run(lambda tx, seq=seq: add_calls(tx, call, decision, min(10_000, size - seq)))  # type: ignore[misc]
    close(writer)


def close(writer: Writer) -> None:
    """Close the ledger and fold its write-ahead log into the file, as the last guard to exit does."""
    writer.store.close()


def add_calls(tx: Transaction, call: Call, decision: Decision, receipts: int) -> None:
    reply = Execution(
        ExecutionStatus.OK, {"result": {"content": [{"type": "text", "text": "Deal D-1042 is updated. " * 20}]}}
    )
    for _ in range((receipts + 1) // 2):
        intent = tx.add(intent_draft(call, decision))
        if receipts > 1:
            tx.add(outcome_draft(call, intent, reply))
        receipts -= 2


def make_call() -> Call:
    agent = Agent("deal-update-agent", "alice", ("crm-agents",))
    instance = Instance("run_2026_01_31_19_22Z_7f3k", agent, "dana", Task("INC-4451"), 0, 0, "", "cred_7f3k2m9q")
    rule = ToolRule(Effect.WRITE, verb="updated deal")
    tool = Tool("crm", "update_deal", "crm__update_deal", {}, "sha256:" + "5" * 64, rule, Effect.WRITE)
    arguments = {"deal_id": "D-1042", "amount": 12500, "stage": "negotiation", "notes": "agreed by phone " * 8}
    text = canonical.canonicalize(arguments)
    return Call(
        "call_9f8s7d6f5g4h", instance, "crm__update_deal", tool, arguments, text,
        canonical_request("update_deal", text, None), Resource("Deal", "D-1042"),
        Task("INC-4451", "the customer asked for it"), risk=Risk(20, "low"),
    )  # fmt: skip


def make_decision(version: str) -> Decision:
    request = {"principal": {"type": "AgentInstance", "id": "run"}, "context": {"input": {"notes": "x" * 1200}}}
    return Decision(
        Outcome.ALLOW,
        version,
        ("deals",),
        ("deals may be updated",),
        counts={"writes": 3},
        material=orjson.dumps(request),
    )


def measure(state: Path, size: int) -> dict[str, float]:
    """One run of the stand-alone verifier in a separate process, with the peak memory of it and its workers."""
    command = [sys.executable, "-m", "mcp_guard.verifier", str(state / "ledger.sqlite")]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--key", str(state / "ledger.pub"), "--json"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    workers = watch(process.pid)
    report = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    assert status == 0, report
    assert report["ok"], report["problem"]
    assert report["receipts"] == size
    return {
        "receipts": size,
        "file_mb": (state / "ledger.sqlite").stat().st_size / 1e6,
        "seconds": seconds,
        "per_second": size / seconds,
        "parent_mb": usage.ru_maxrss / 1024,
        "worker_mb": workers,
        "cpu_us": (usage.ru_utime + usage.ru_stime) / size * 1e6,
    }


def watch(pid: int) -> float:
    """The peak of the largest worker in MiB, sampled until the process ends."""
    peak = 0.0
    children = Path(f"/proc/{pid}/task/{pid}/children")
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        try:
            for child in children.read_text().split():
                status = Path(f"/proc/{child}/status").read_text()
                peak = max(peak, int(status.split("VmHWM:")[1].split()[0]) / 1024)
        except (OSError, IndexError):
            pass  # it has just ended
        time.sleep(0.05)
    return peak


HEAD = """| Receipts | file MB | seconds | receipts/s | CPU µs a receipt | parent MiB | largest worker MiB |
|---|---|---|---|---|---|---|"""


def print_row(row: dict[str, float], first: bool) -> None:
    if first:
        print(HEAD)
    print(
        f"| {row['receipts']:,} | {row['file_mb']:,.0f} | {row['seconds']:.1f} | {row['per_second']:,.0f} "
        f"| {row['cpu_us']:.0f} | {row['parent_mb']:.0f} | {row['worker_mb']:.0f} |",
        flush=True,
    )


def judge(rows: list[dict[str, float]]) -> int:
    slow = [row for row in rows if row["per_second"] < A_SECOND]
    grown = max(rows[-1][name] / max(rows[0][name], 1) for name in ("parent_mb", "worker_mb"))
    print(f"\nat least {A_SECOND:,} receipts a second: {'missed' if slow else 'met'}")
    print(f"memory of the largest over the smallest ledger: {grown:.2f} (allowed {GROWTH})")
    return 1 if slow or grown > GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
