"""`make bench-hooks`: the time that a coding agent waits for a hook, as a whole process each time.

Beside it in the same run: the same Python that does nothing, because starting a process is most of it. Fails if the
median of the question before a tool runs is over the budget.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mcp_guard import hook_client
from tests.live.preloaded_cli import PIPE, Forked
from tests.live.running_guard import write_config

BUDGET_MS = 60.0
POLICIES = Path(__file__).parent.parent / "policies" / "coding-agent" / "coding_agent.cedar"
MORE = '[hooks]\nagent = "tester"\n[routes.maintainers]\napprovers = ["alice"]\n'


def timed(words: list[str], payload: dict[str, object]) -> float:
    """Milliseconds of one process."""
    data = json.dumps(payload).encode()
    began = time.perf_counter()
    done = subprocess.run(words, input=data, capture_output=True, check=False)
    took = (time.perf_counter() - began) * 1000
    assert done.returncode == 0, done.stderr
    assert b"deny" not in done.stdout, done.stdout
    return took


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    subprocess.run(["git", "init", "-q", folder], check=True)  # elsewhere, git may run what it finds
    policies = POLICIES.read_text().replace('Group::"coding-agents"', 'Group::"testers"')
    guard = Forked(["serve", "--config", str(write_config(folder, "", policies, MORE))], stderr=PIPE)
    socket = folder / "state" / "hooks.sock"
    while not socket.exists():
        time.sleep(0.05)
    python = [sys.executable, "-I", "-S"]
    client = [*python, hook_client.__file__, "claude-code", str(socket)]
    times: dict[str, list[float]] = {"Python alone": [], "before a tool runs": [], "after it ran": []}
    for number in range(-5, rounds):
        call: dict[str, object] = {
            "session_id": "bench",
            "cwd": str(folder),
            "tool_name": "Bash",
            "tool_use_id": str(number),
        }
        call |= {"tool_input": {"command": "git status && ls -la | head -20", "description": "look around"}}
        row = (
            timed([*python, "-c", "import sys; sys.stdin.buffer.read()"], {}),
            timed(client, {**call, "hook_event_name": "PreToolUse"}),
            timed(client, {**call, "hook_event_name": "PostToolUse", "tool_response": {"stdout": "x" * 2000}}),
        )
        for name, took in zip(times, row, strict=True) if number >= 0 else ():
            times[name].append(took)
    guard.terminate()
    guard.wait(20)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="hooks-") as folder:
        times = measure(Path(folder), rounds)
    print(f"{rounds} rounds, milliseconds\n\n| Process | p50 | p95 |\n|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {statistics.median(values):.1f} | {statistics.quantiles(values, n=20)[-1]:.1f} |")
    median = statistics.median(times["before a tool runs"])
    print(
        f"\nbudget: {BUDGET_MS:g} ms for the question before a tool runs: {'met' if median <= BUDGET_MS else 'missed'}"
    )
    return 0 if median <= BUDGET_MS else 1


if __name__ == "__main__":
    sys.exit(main())
