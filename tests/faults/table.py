"""Every fault at every step of one call: `make fault-table`. Each cell is a real run of two real guards.

A cell stops the call at its step, lets the fault happen, and goes on; what must hold afterwards is read without the
guard's own code (`pair.check`, `scenario.finish`). See docs/reference/faults.md.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.disks import fill
from tests.faults.guard_process import Ask
from tests.faults.preload import STOP_AFTER, STOP_BEFORE, STOP_OUTPUT
from tests.faults.single_fault import TIMEOUT, FaultScenario, open_scenario
from tests.faults.two_guards import require

SLOW_MS = 900
"""Longer than the upstream's time-out."""


@dataclass(frozen=True)
class Step:
    """`stop` sends the call and returns once it stands at this step; `go` lets it go on.

    `sync` is which sync of the guard belongs to the step, if one does; `held` whether a person must approve the call.
    """

    name: str
    stop: Callable[[FaultScenario, Ask], None]
    go: Callable[[FaultScenario], None]
    sync: int = 0
    held: bool = False


def stopped(scenario: FaultScenario, ask: Ask) -> None:
    """The guard is stopped before it reads the call."""
    os.kill(scenario.guard.pid, signal.SIGSTOP)
    scenario.await_stop()
    scenario.guard.send([ask])


def at_call(mode: int, number: int) -> Callable[[FaultScenario, Ask], None]:
    def stop(scenario: FaultScenario, ask: Ask) -> None:
        scenario.pages[0].arm(scenario.guard.pid, mode, number)
        scenario.guard.send([ask])
        scenario.await_stop()

    return stop


def at_upstream(tool: str, moment: str) -> Callable[[FaultScenario, Ask], None]:
    def stop(scenario: FaultScenario, ask: Ask) -> None:
        scenario.upstream.order("plan", [tool, moment])
        scenario.guard.send([ask])
        scenario.await_upstream(tool, moment)

    return stop


def held(scenario: FaultScenario, ask: Ask) -> None:
    scenario.guard.send([ask])
    scenario.await_hold()


def go_on(scenario: FaultScenario) -> None:
    if scenario.guard.process.poll() is None:
        os.kill(scenario.guard.pid, signal.SIGCONT)


def answer(scenario: FaultScenario) -> None:
    scenario.upstream.connection.setblocking(True)
    try:
        scenario.upstream.connection.sendall(b'{"go": 0}\n')
    except OSError:
        return  # the upstream is dead


STEPS = (
    Step("identify", stopped, go_on),
    Step("describe", at_upstream("get", "received"), answer, sync=1),
    Step("decide", at_call(STOP_AFTER, 2), go_on),
    Step("hold", held, FaultScenario.decide, sync=3, held=True),
    Step("record intent", at_call(STOP_BEFORE, 3), go_on, sync=3),
    Step("execute: received", at_upstream("update", "received"), answer),
    Step("execute: ran", at_upstream("update", "ran"), answer),
    Step("record outcome", at_call(STOP_BEFORE, 4), go_on, sync=4),
    Step("reply", at_call(STOP_OUTPUT, 1), go_on),
)  # fmt: skip

# Faults


def kill(scenario: FaultScenario) -> None:
    os.kill(scenario.guard.pid, signal.SIGKILL)


def pause(scenario: FaultScenario) -> None:
    """Pause the guard for longer than its upstream's time-out."""
    os.kill(scenario.guard.pid, signal.SIGSTOP)
    scenario.await_stop()
    threading.Event().wait(2 * TIMEOUT)
    os.kill(scenario.guard.pid, signal.SIGCONT)


def pause_upstream(scenario: FaultScenario) -> None:
    """Pause the upstream until the call is answered, or for a while if it is not."""
    os.kill(scenario.upstream.pid, signal.SIGSTOP)
    scenario.when_healed.append(lambda: os.kill(scenario.upstream.pid, signal.SIGCONT))


def fill_disk(scenario: FaultScenario) -> None:
    assert scenario.disk is not None
    scenario.when_healed.append(fill(scenario.disk).unlink)


def client_leaves(scenario: FaultScenario) -> None:
    scenario.guard.leave()
    scenario.ends_by_itself = True


def client_leaves_mid_line(scenario: FaultScenario) -> None:
    """The guard's output is still read."""
    assert scenario.guard.process.stdin
    scenario.guard.write_bytes(b'{"jsonrpc":"2.0","id":9,"method":"tools/ca')
    scenario.guard.process.stdin.close()
    scenario.ends_by_itself = True


CLIENT_GARBAGE = (
    b"garbage", b"\xff\xfe\x00", b'{"jsonrpc":"2.0","id":1,"meth',
    b'{"jsonrpc":"2.0","id":1,"result":{}}', b'{"jsonrpc":"2.0","jsonrpc":"2.0","id":[],"method":7}', b"[1,2]",
    b'{"jsonrpc":"2.0","id":2,"result":{}}{"jsonrpc"', b'"' + b"x" * 20_000 + b'"', b"[" * 300 + b"]" * 300,
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":[]}}',
)  # fmt: skip
UPSTREAM_GARBAGE = (
    b"garbage", b"\xff\xfe\x00", b'{"jsonrpc":"2.0","id":1,"resu', b'{"jsonrpc":"2.0","id":1,"result":{}}',
    b'{"jsonrpc":"2.0","id":999,"result":{"content":[]}}', b'{"jsonrpc":"2.0","id":"3","result":{}}', b"[]", b"null",
    b'{"jsonrpc":"2.0","id":9{"jsonrpc":"2.0","id":8,"result":{}},"result":{}}', b'"' + b"x" * 20_000 + b'"',
    b'{"jsonrpc":"2.0","id":998,"result":' + b"[" * 300 + b"]" * 300 + b"}", b'{"jsonrpc":"2.0","id":7}',
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}',
)  # fmt: skip
"""Not JSON, not UTF-8, cut off, answers to others and to nothing, twice, mixed, too long, too deep, and no ids."""


def client_garbage(scenario: FaultScenario) -> None:
    scenario.guard.write_bytes(b"\n".join(CLIENT_GARBAGE) + b"\n")


def upstream_garbage(scenario: FaultScenario) -> None:
    scenario.upstream.order("say", (b"\n".join(UPSTREAM_GARBAGE) + b"\n").decode("latin-1"))


def close_input(scenario: FaultScenario) -> None:
    scenario.upstream.order("close", 0)


def close_output(scenario: FaultScenario) -> None:
    scenario.upstream.order("close", 1)


def half_a_line(scenario: FaultScenario) -> None:
    scenario.upstream.order("say", '{"jsonrpc":"2.0","id":3,"result":{"cont')
    scenario.upstream.order("die")


def restart_upstream(scenario: FaultScenario) -> None:
    scenario.upstream.order("die")


FAULTS: dict[str, Callable[[FaultScenario], None] | None] = {
    "guard killed": kill,
    "guard paused": pause,
    "upstream paused": pause_upstream,
    "disk full": fill_disk,
    "client gone": client_leaves,
    "client gone mid-line": client_leaves_mid_line,
    "client: garbage": client_garbage,
    "upstream: garbage": upstream_garbage,
    "upstream closes its input": close_input,
    "upstream closes its output": close_output,
    "upstream: half a line": half_a_line,
    "upstream restarts": restart_upstream,
    "slow sync": None,
}
NO_SYNC = "no sync belongs to this step"


def run(step: Step, fault: str) -> str:
    """Run one cell: what the client was told about its call, or in brackets why the cell has no meaning. Raises:
    Broken.
    """
    if fault == "slow sync" and not step.sync:
        return f"({NO_SYNC})"
    try:
        with (
            tempfile.TemporaryDirectory(prefix="mcp-guard-fault-") as made,
            open_scenario(Path(made), fault == "disk full") as scenario,
        ):
            ask = scenario.name("update", id="held 1" if step.held else "")
            beside = Beside(scenario, scenario.name("note", "side"), scenario.name("note"))
            if fault == "slow sync":
                slow(step, ask, beside)
            else:
                strike(step, fault, ask, beside)
            scenario.finish()
            return scenario.summary(ask)
    except pytest.skip.Exception as missing:
        return f"({missing})"


@dataclass(frozen=True)
class Beside:
    """Other requests in progress: a call to the other upstream of guard 0, and one of guard 1."""

    scenario: FaultScenario
    same: Ask
    other: Ask

    def send(self) -> None:
        self.scenario.guards[0].send([self.same])
        self.scenario.guards[1].send([self.other])


def strike(step: Step, fault: str, ask: Ask, beside: Beside) -> None:
    scenario, act = beside.scenario, FAULTS[fault]
    assert act is not None
    step.stop(scenario, ask)
    act(scenario)
    beside.send()
    step.go(scenario)


def slow(step: Step, ask: Ask, beside: Beside) -> None:
    """Whatever depends on the sync happens after it has returned, and not before."""
    scenario = beside.scenario
    scenario.pages[0].slow(scenario.guard.pid, step.sync, SLOW_MS)
    tool = {1: "get", 3: "update"}.get(step.sync)
    if tool is not None and not step.held:
        scenario.upstream.order("plan", [tool, "received"])
    scenario.guard.send([ask])
    if step.held:
        scenario.await_hold()
        scenario.decide()
    elif tool is not None:
        news = scenario.upstream.hear()
        require(news.get("at") == [tool, "received"], f"the upstream is at {news}")
        require(0 < scenario.pages[0].returned < news["time"], "it was dispatched before the sync returned")
        answer(scenario)
    scenario.guard.settle()
    beside.send()
    require(0 < scenario.pages[0].returned < time.monotonic_ns(), "it was answered before the sync returned")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fault-table", description="Every fault at every step.")
    parser.add_argument("--step", default="", help="only steps that begin so")
    parser.add_argument("--fault", default="", help="only faults that begin so")
    options = parser.parse_args()
    failed, counts = 0, Counter[str]()
    for step in STEPS:
        for fault in FAULTS:
            if not (step.name.startswith(options.step) and fault.startswith(options.fault)):
                continue
            began = time.monotonic()
            try:
                done = run(step, fault)
            except Exception as broken:
                done, failed = f"BROKEN: {broken!r}", failed + 1
            counts[done.split(":")[0]] += 1
            print(f"{step.name:18} {fault:27} {done}  ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{counts.total()} cells: {dict(counts)}; {failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
