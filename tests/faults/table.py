"""Every fault at every step of the story of one call: `make fault-table`. Each cell is a real run of two real guards.

A cell stops the story at its step, lets the fault happen, and goes on; what must hold afterwards is read past the
guard's own code (`world.check`, `stage.finish`). See docs/reference/faults.md.
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
from tests.faults.single_fault import TIMEOUT, Stage, open_stage
from tests.faults.two_guards import require

SLOW_MS = 900
"""Longer than the upstream's time-out."""


@dataclass(frozen=True)
class Step:
    """`stop` sends the call and returns once it stands at this step; `go` lets it go on.

    `sync` is which sync of the guard belongs to the step, if one does; `held` whether a person must approve the call.
    """

    name: str
    stop: Callable[[Stage, Ask], None]
    go: Callable[[Stage], None]
    sync: int = 0
    held: bool = False


def stopped(stage: Stage, ask: Ask) -> None:
    """Not even read."""
    os.kill(stage.guard.pid, signal.SIGSTOP)
    stage.await_stop()
    stage.guard.send([ask])


def at_call(mode: int, number: int) -> Callable[[Stage, Ask], None]:
    def stop(stage: Stage, ask: Ask) -> None:
        stage.pages[0].arm(stage.guard.pid, mode, number)
        stage.guard.send([ask])
        stage.await_stop()

    return stop


def at_upstream(tool: str, moment: str) -> Callable[[Stage, Ask], None]:
    def stop(stage: Stage, ask: Ask) -> None:
        stage.upstream.order("plan", [tool, moment])
        stage.guard.send([ask])
        stage.await_upstream(tool, moment)

    return stop


def held(stage: Stage, ask: Ask) -> None:
    stage.guard.send([ask])
    stage.await_hold()


def go_on(stage: Stage) -> None:
    if stage.guard.process.poll() is None:
        os.kill(stage.guard.pid, signal.SIGCONT)


def answer(stage: Stage) -> None:
    stage.upstream.connection.setblocking(True)
    try:
        stage.upstream.connection.sendall(b'{"go": 0}\n')
    except OSError:
        return  # the upstream is dead


STEPS = (
    Step("identify", stopped, go_on),
    Step("describe", at_upstream("get", "received"), answer, sync=1),
    Step("decide", at_call(STOP_AFTER, 2), go_on),
    Step("hold", held, Stage.decide, sync=3, held=True),
    Step("record intent", at_call(STOP_BEFORE, 3), go_on, sync=3),
    Step("execute: received", at_upstream("update", "received"), answer),
    Step("execute: ran", at_upstream("update", "ran"), answer),
    Step("record outcome", at_call(STOP_BEFORE, 4), go_on, sync=4),
    Step("reply", at_call(STOP_OUTPUT, 1), go_on),
)  # fmt: skip

# Faults


def kill(stage: Stage) -> None:
    os.kill(stage.guard.pid, signal.SIGKILL)


def pause(stage: Stage) -> None:
    """The guard, for longer than its upstream's time-out."""
    os.kill(stage.guard.pid, signal.SIGSTOP)
    stage.await_stop()
    threading.Event().wait(2 * TIMEOUT)
    os.kill(stage.guard.pid, signal.SIGCONT)


def pause_upstream(stage: Stage) -> None:
    """Until the call is answered, or a while if it is not."""
    os.kill(stage.upstream.pid, signal.SIGSTOP)
    stage.when_healed.append(lambda: os.kill(stage.upstream.pid, signal.SIGCONT))


def fill_disk(stage: Stage) -> None:
    assert stage.disk is not None
    stage.when_healed.append(fill(stage.disk).unlink)


def client_leaves(stage: Stage) -> None:
    stage.guard.leave()
    stage.ends_by_itself = True


def client_leaves_mid_line(stage: Stage) -> None:
    """Its output is still read."""
    assert stage.guard.process.stdin
    stage.guard.write_bytes(b'{"jsonrpc":"2.0","id":9,"method":"tools/ca')
    stage.guard.process.stdin.close()
    stage.ends_by_itself = True


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


def client_garbage(stage: Stage) -> None:
    stage.guard.write_bytes(b"\n".join(CLIENT_GARBAGE) + b"\n")


def upstream_garbage(stage: Stage) -> None:
    stage.upstream.order("say", (b"\n".join(UPSTREAM_GARBAGE) + b"\n").decode("latin-1"))


def close_input(stage: Stage) -> None:
    stage.upstream.order("close", 0)


def close_output(stage: Stage) -> None:
    stage.upstream.order("close", 1)


def half_a_line(stage: Stage) -> None:
    stage.upstream.order("say", '{"jsonrpc":"2.0","id":3,"result":{"cont')
    stage.upstream.order("die")


def restart_upstream(stage: Stage) -> None:
    stage.upstream.order("die")


FAULTS: dict[str, Callable[[Stage], None] | None] = {
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
    """One cell: what the client was told of its call, or in brackets why the cell has no meaning. Raises: Broken."""
    if fault == "slow sync" and not step.sync:
        return f"({NO_SYNC})"
    try:
        with (
            tempfile.TemporaryDirectory(prefix="mcp-guard-fault-") as made,
            open_stage(Path(made), fault == "disk full") as stage,
        ):
            ask = stage.name("update", id="held 1" if step.held else "")
            beside = Beside(stage, stage.name("note", "side"), stage.name("note"))
            if fault == "slow sync":
                slow(step, ask, beside)
            else:
                strike(step, fault, ask, beside)
            stage.finish()
            return stage.story(ask)
    except pytest.skip.Exception as missing:
        return f"({missing})"


@dataclass(frozen=True)
class Beside:
    """What else is asked of the guards: a call to the other upstream of guard 0, and one of guard 1."""

    stage: Stage
    same: Ask
    other: Ask

    def send(self) -> None:
        self.stage.guards[0].send([self.same])
        self.stage.guards[1].send([self.other])


def strike(step: Step, fault: str, ask: Ask, beside: Beside) -> None:
    stage, act = beside.stage, FAULTS[fault]
    assert act is not None
    step.stop(stage, ask)
    act(stage)
    beside.send()
    step.go(stage)


def slow(step: Step, ask: Ask, beside: Beside) -> None:
    """What belongs to the sync happens once it has returned, and not before."""
    stage = beside.stage
    stage.pages[0].slow(stage.guard.pid, step.sync, SLOW_MS)
    tool = {1: "get", 3: "update"}.get(step.sync)
    if tool is not None and not step.held:
        stage.upstream.order("plan", [tool, "received"])
    stage.guard.send([ask])
    if step.held:
        stage.await_hold()
        stage.decide()
    elif tool is not None:
        news = stage.upstream.hear()
        require(news.get("at") == [tool, "received"], f"the upstream is at {news}")
        require(0 < stage.pages[0].returned < news["time"], "it was dispatched before the sync returned")
        answer(stage)
    stage.guard.settle()
    beside.send()
    require(0 < stage.pages[0].returned < time.monotonic_ns(), "it was answered before the sync returned")


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
                said = run(step, fault)
            except Exception as broken:
                said, failed = f"BROKEN: {broken!r}", failed + 1
            counts[said.split(":")[0]] += 1
            print(f"{step.name:18} {fault:27} {said}  ({time.monotonic() - began:.1f} s)", flush=True)
    print(f"{counts.total()} cells: {dict(counts)}; {failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
