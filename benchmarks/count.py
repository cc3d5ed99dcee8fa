"""`make bench-count`: counts what one call costs, where times are too noisy to compare.

User instructions, SQL statements and signatures come from callgrind, system calls from strace. Both run the guard twice
as a user has it (the setting of `bench.py`), with `--calls` more calls in the second run: the difference is without
start-up and end. Exits 1 if the instructions of a call are over the budget.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.bench import write_guard  # noqa: E402

BUDGET_INSTRUCTIONS = 2_600_000
UPSTREAM = HERE / "kit" / "upstream.py"
FIRST_CALLS = 100
"""Made in both runs: until then caches fill."""
SETTLE_SECONDS = 4.0
"""Before the first call: where files of the ledger's folder have just changed, more is looked at (`FileLocation`)."""
LIBRARY_CALLS = {"SQL statements": "sqlite3_bind_parameter_count", "signatures": "crypto_sign_ed25519_detached"}
"""Each by the exported function that is called once for it: Python's sqlite3 asks every statement what it binds."""
COMPACT = (",", ":")
"""As the official SDKs write."""
NAME = re.compile(r"c?fn=\((\d+)\)(?: (.*))?")
SYSTEM_CALL = re.compile(r"(\w+)\(")


def make_calls(command: list[str], count: int) -> None:
    """Run the guard for one client that makes this many calls, one after the other, and ends."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONHASHSEED"] = "0"  # the order of sets changes what is compared with what
    with subprocess.Popen(command, stdin=-1, stdout=-1, env=environment) as guard:
        assert guard.stdin is not None
        assert guard.stdout is not None
        there, back = guard.stdin, guard.stdout

        def send(message: dict) -> None:
            there.write(json.dumps({"jsonrpc": "2.0", **message}, separators=COMPACT).encode() + b"\n")
            there.flush()

        def ask(id: int, method: str, params: dict) -> dict:
            send({"id": id, "method": method, "params": params})
            for line in back:
                message: dict = json.loads(line)
                if message.get("id") == id and "method" not in message:
                    return message
            raise SystemExit(f"the guard ended with status {guard.wait()}")

        client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "count", "version": "1"}}
        ask(1, "initialize", client)
        send({"method": "notifications/initialized"})
        ask(2, "tools/list", {})
        time.sleep(SETTLE_SECONDS)
        for number in range(count):
            arguments = {"id": f"D-{number}", "amount": 1000.5 + number, "stage": "open", "notes": "later start " * 16}
            reply = ask(3 + number, "tools/call", {"name": "bench__update_deal", "arguments": arguments})
            if reply.get("result", {}).get("isError") is not False:
                raise SystemExit(f"a call was refused: {reply}")
        there.close()
        back.read()


def read_callgrind(file: Path) -> Counter[str]:
    """Instructions, and how often each of `LIBRARY_CALLS` was called, from callgrind's output."""
    counts: Counter[str] = Counter()
    names: dict[str, str] = {}
    called = ""
    for line in file.read_text().splitlines():
        if match := NAME.match(line):
            id, name = match.groups()
            called = names[id] = name or names[id]
        elif line.startswith("calls="):
            counts[called] += int(line[len("calls=") :].split()[0])
        elif line.startswith("totals:"):
            counts["user instructions"] = int(line.split()[1])
    wanted = {"user instructions": "user instructions", **LIBRARY_CALLS}
    return Counter({shown: counts[name] for shown, name in wanted.items()})


def read_strace(folder: Path) -> Counter[str]:
    """System calls by name, from one file a thread, without those of the upstream."""
    counts: Counter[str] = Counter()
    for file in folder.glob("trace.*"):
        text = file.read_text(errors="replace")
        if not any(UPSTREAM.name in line for line in text.splitlines() if line.startswith("execve(")):
            counts.update(match[1] for line in text.splitlines() if (match := SYSTEM_CALL.match(line)))
    return counts


@contextmanager
def guard_command(where: Path) -> Iterator[tuple[Path, list[str]]]:
    """A new folder on a real disk, with the command of a guard that keeps its ledger there."""
    where.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="count-", dir=where))
    try:
        guard = str(Path(sys.executable).with_name("mcp-guard"))
        yield folder, [sys.executable, guard, "run", "--config", str(write_guard(folder, UPSTREAM))]
    finally:
        shutil.rmtree(folder)


def count_instructions(where: Path, calls: int, keep: Path | None = None) -> Counter[str]:
    with guard_command(where) as (folder, command):
        file = folder / "callgrind.out"
        make_calls(["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={file}", *command], calls)
        if keep is not None:
            shutil.copy(file, keep)
        return read_callgrind(file)


def count_system_calls(where: Path, calls: int) -> Counter[str]:
    with guard_command(where) as (folder, command):
        make_calls(["strace", "-ff", "-qq", "-s", "512", "-o", str(folder / "trace"), *command], calls)
        return read_strace(folder)


def per_call(first: Counter[str], second: Counter[str], calls: int) -> dict[str, float]:
    return {name: (second[name] - first[name]) / calls for name in second}


def main() -> int:
    """Exit codes: 0 within the budget, 1 over it, 2 a tool is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=300, help="by how many calls the two runs differ")
    parser.add_argument("--where", type=Path, default=HERE.parent / "build", help="a folder on a real disk")
    parser.add_argument("--profile", type=Path, help="keep callgrind's output here, for callgrind_annotate")
    options = parser.parse_args()
    if missing := [tool for tool in ("valgrind", "strace") if shutil.which(tool) is None]:
        print(f"not installed: {', '.join(missing)}\nhint: apt-get install {' '.join(missing)}, as root")
        return 2
    more = FIRST_CALLS + options.calls
    traced = count_system_calls(options.where, FIRST_CALLS)
    system = per_call(traced, count_system_calls(options.where, more), options.calls)
    first = count_instructions(options.where, FIRST_CALLS)
    user = per_call(first, count_instructions(options.where, more, options.profile), options.calls)
    kinds = sorted((-count, name) for name, count in system.items() if count >= 0.05)
    print(f"{'per call':<24}{'count':>12}")
    for name, count in user.items():
        print(f"{name:<24}{count:>12,.{0 if name == 'user instructions' else 1}f}")
    print(f"{'system calls':<24}{sum(system.values()):>12.1f}")
    for negative, name in kinds:
        print(f"  {name:<22}{-negative:>12.1f}")
    measured = user["user instructions"]
    verdict = "met" if measured <= BUDGET_INSTRUCTIONS else "MISSED"
    print(
        f"\nbudget: {BUDGET_INSTRUCTIONS:,} user instructions a call: {verdict} ({measured / BUDGET_INSTRUCTIONS:.2f}x)"
    )
    return 0 if verdict == "met" else 1


if __name__ == "__main__":
    sys.exit(main())
