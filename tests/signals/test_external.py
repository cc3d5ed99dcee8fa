"""An operator's own signal answers or is unknown: late, broken, dead or invalid, it never blocks the loop."""

import asyncio
import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.model import Call, Effect, Signal, ToolCallRequest
from mcp_guard.settings import SignalSettings
from mcp_guard.signals.external import ANSWER_BYTES, THREADS, ExternalSignal
from mcp_guard.signals.monitor import RiskMonitor
from tests.promises.harness import ALLOW, make_instance, open_harness, text
from tests.signals import sample_signals

RULE = SignalSettings("fraud", (), "", 40, 25, 5.0, (), (Effect.WRITE,), Path())
HELD = 'forbid (principal, action, resource) when { context.risk.signals.contains("fraud_unknown") };'


def call() -> Call:
    from tests.core.provenance.test_history import SEND
    from tests.core.provenance.test_history import call as make

    return make(SEND, to="x", text="y")


def python(name: str, **changes: Any) -> ExternalSignal:
    return ExternalSignal(replace(RULE, entry=f"tests.signals.sample_signals:{name}", **changes))


def command(code: str, **changes: Any) -> ExternalSignal:
    return ExternalSignal(replace(RULE, argv=(sys.executable, "-c", code), **changes))


async def ask(signal: ExternalSignal) -> Signal | None:
    return await signal.ask(call())


READ = "import json, sys; call = json.load(sys.stdin); "
ANSWERS = {
    "a function that raises it": (python("raised"), "fraud", "crm__send of agent on crm__send"),
    "a function that says a text": (python("text"), "fraud", "looks odd"),
    "a function that does not": (python("calm"), None, ""),
    "a function that fails": (python("broken"), "fraud_unknown", "`fraud` is unknown: KeyError"),
    "a function that is not there": (python("nothing"), "fraud_unknown", "AttributeError"),
    "a function that says nonsense": (python("nonsense"), "fraud_unknown", "its answer is not"),
    "a command that raises it": (
        command(READ + 'print(json.dumps({"raised": True, "because": call["tool"]}))'), "fraud", "crm__send",
    ),
    "a command that does not": (command(READ + 'print(json.dumps({"raised": False}))'), None, ""),
    "a command that does not read": (command('print("{\\"raised\\": true}")'), "fraud", "no reason given"),
    "a command that fails": (command("raise SystemExit(3)"), "fraud_unknown", "exited with status 3"),
    "a command that says nonsense": (command('print("yes")'), "fraud_unknown", "its answer is not JSON"),
    "a command that says too much": (
        command(f'print("x" * {4 * ANSWER_BYTES})'), "fraud_unknown", "`fraud` is unknown",
    ),
    "a command that is not there": (
        ExternalSignal(replace(RULE, argv=("/nowhere/signal",))), "fraud_unknown", "cannot be started: No such file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", ANSWERS)
async def test_invalid_signal_answers_become_unknown_signals(how: str) -> None:
    signal, name, because = ANSWERS[how]
    result = await ask(signal)
    if name is None:
        assert result is None
        return
    assert result is not None
    assert (result.name, result.weight) == (name, 40 if name == "fraud" else 25)
    assert because in result.because


async def test_hanging_signal_command_times_out_and_is_killed_with_its_children(tmp_path: Path) -> None:
    child = "import pathlib, sys, time; held = open(sys.argv[1], 'w'); time.sleep(3); pathlib.Path(sys.argv[2]).touch()"
    words = [str(tmp_path / "pipe"), str(tmp_path / "alive")]
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}, *{words!r}])"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    started = time.monotonic()
    result = await ask(command(code, timeout=1.0))
    assert time.monotonic() - started < 2.9
    assert result is not None
    assert result.because == "`fraud` is unknown: no answer within 1 s"
    select.select([reader], [], [], 10)  # the end of file comes when the child is gone
    os.close(reader)
    assert not (tmp_path / "alive").exists()


async def test_hanging_signal_function_blocks_neither_the_loop_nor_other_calls() -> None:
    signal = python("hangs", timeout=0.2)

    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.005)

    ticking = asyncio.create_task(tick())
    result = await asyncio.gather(*(signal.ask(call()) for _ in range(THREADS + 2)))
    ticking.cancel()
    sample_signals.released.set()
    assert ticks > 3
    because = [item.because for item in result if item is not None]
    assert sum("no answer within 0.2 s" in item for item in because) == THREADS
    assert sum("all its earlier calls are still running" in item for item in because) == 2


async def test_unknown_signal_is_seen_by_policies_and_receipts(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f'{ALLOW} @id("u") @require_approval("people") {HELD}')
    harness.guard = replace(harness.guard, signals=RiskMonitor((command("raise SystemExit(1)"),)))
    reply = await harness.guard.call(make_instance(), ToolCallRequest("crm__note", {"text": "x"}))
    assert "held by mcp-guard" in text(reply)
    risk = harness.receipts("decision")[-1]["risk"]
    assert risk["score"] == 35
    assert risk["signals"] == ["blind_write", "fraud_unknown"]
    assert "exited with status 1" in risk["because"][1]
    harness.close()


async def test_threads_that_could_not_be_started_are_not_counted_as_running(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    signal = python("raised")
    with monkeypatch.context() as threadless:
        threadless.setattr(threading.Thread, "start", fail)
        failed = [await ask(signal) for _ in range(THREADS)]
    assert {answer.name for answer in failed if answer} == {"fraud_unknown"}
    answer = await ask(signal)
    assert answer is not None
    assert answer.name == "fraud"


def test_signal_is_evaluated_only_for_its_calls() -> None:
    assert ExternalSignal(RULE).concerns(call())
    assert not ExternalSignal(replace(RULE, tools=("crm__other",))).concerns(call())
    assert not ExternalSignal(replace(RULE, effects=(Effect.READ,))).concerns(call())


def test_hanging_signal_function_does_not_block_shutdown() -> None:
    code = """
import asyncio
from tests.signals.test_external import call, python
print(asyncio.run(python("hangs", timeout=0.1).ask(call())).name)
"""
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=25, cwd=Path(__file__).parents[2])
    assert done.stdout == "fraud_unknown\n", done.stderr
