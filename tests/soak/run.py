"""`make soak`: many HTTP sessions at once, and what is left of them: no error, process, descriptor, task or memory.

A guard serves a lean upstream. SESSIONS clients open a session each, make CALLS calls, and end it, all at once. The
first WARM_UP rounds, of the same size, are the warm-up, after which memory is at its base; the rounds after them must
come back to it.
Memory is the resident set of the guard once its sessions are gone.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.http_wire import Wire
from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import ALLOW_ALL, scripted, seen, write_config
from tests.live.test_session import children

WARM_UP = 2
"""Rounds until the allocator has what it needs for so many sessions: the first leaves less than all that follow."""
SETTLE_SECONDS = 30.0
GROWTH_MIB = 8.0
"""How much more memory than its base a guard may hold after a round: allocators do not give everything back."""


@dataclass(frozen=True, slots=True)
class Left:
    """What an idle guard holds. `tasks` are those of asyncio."""

    children: int
    descriptors: int
    tasks: int
    mib: float


def look(served: Served) -> Left:
    pid = served.process.pid
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Left(len(children(pid)), descriptors, served.health()["tasks"], pages * 4096 / 2**20)


def settle(served: Served, base: Left | None) -> Left:
    """What is left once all sessions are gone and delayed cleanup is done."""
    end = time.monotonic() + SETTLE_SECONDS
    while served.health()["sessions"]:
        assert time.monotonic() < end, f"sessions that do not end: {served.health()}"
    while (left := look(served)).children or (base and leaks(base, left)):
        if time.monotonic() > end:
            break
    return left


async def one(port: int, token: str, number: int, calls: int) -> list[str]:
    """Run one session; returns what failed."""
    wire, wrong = Wire(port, token), []
    await wire.open()
    await wire.start()
    for call in range(calls):
        arguments = {"text": f"{number}.{call}"}
        params = {"name": "up__echo", "arguments": arguments}
        status, reply = await wire.post({"id": call, "method": "tools/call", "params": params})
        said = reply.get("result", {}).get("content", [{}])[0].get("text", "")
        if status != 200 or reply.get("id") != call or f"{number}.{call}" not in said:
            wrong.append(f"session {number}, call {call}: {status} {str(reply)[:300]}")
    wrong += [] if await wire.delete() == 204 else [f"session {number} could not be ended"]
    await wire.close()
    return wrong


async def burst(port: int, tokens: list[str], calls: int) -> list[str]:
    """All sessions at once."""
    async with asyncio.TaskGroup() as tasks:
        done = [tasks.create_task(one(port, token, number, calls)) for number, token in enumerate(tokens)]
    return [wrong for task in done for wrong in task.result()]


def soak(folder: Path, sessions: int, calls: int, rounds: int = WARM_UP + 1) -> tuple[Left, Left]:
    """What was left after the warm-up and after the last round. Raises: AssertionError if a call fails."""
    port = free_port()
    config = write_config(folder, scripted("up", folder), ALLOW_ALL, serving(port))
    with Served(config, port, new_interpreter=True) as served:
        tokens = [served.issue()[1] for _ in range(min(sessions, 10))]
        tokens = [tokens[number % len(tokens)] for number in range(sessions)]
        left: list[Left] = []
        for number in range(rounds):
            started = time.monotonic()
            wrong = asyncio.run(burst(port, tokens, calls))
            seconds = time.monotonic() - started
            assert not wrong, f"{len(wrong)} went wrong: {wrong[:5]}"
            left.append(settle(served, left[WARM_UP - 1] if number >= WARM_UP else None))
            print(f"round {number}: {sessions} sessions x {calls} calls in {seconds:.1f} s; left: {left[-1]}")
    assert len(seen(folder, "up")) == sessions * calls * rounds
    return left[WARM_UP - 1], left[-1]


def leaks(base: Left, last: Left) -> list[str]:
    """What is left beyond the baseline."""
    return [
        f"{name}: {after} after {before}"
        for name, before, after, more in (
            ("children", 0, last.children, 0), ("descriptors", base.descriptors, last.descriptors, 0),
            ("tasks", base.tasks, last.tasks, 0), ("MiB", base.mib, last.mib, GROWTH_MIB),
        )
        if after > before + more
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=WARM_UP + 2)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        result = leaks(*soak(folder, options.sessions, options.calls, options.rounds))
    finally:
        shutil.rmtree(folder)
    print("\n".join(result) or "nothing was left behind")
    return 1 if result else 0


if __name__ == "__main__":
    sys.exit(main())
