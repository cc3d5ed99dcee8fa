"""An operator's own signal: a command, or a Python function `module:function`. It is asked with a time-out, and what it
does not answer in time, or not sensibly, is *unknown*: a signal of its own, with a weight of its own.

A command gets one JSON object on its standard input and answers with one on its standard output:
`{"raised": true, "because": "…"}`. A function gets the same object as a dictionary and returns such a dictionary, or
a text (raised, because of this), or None (not raised). Both are waited for in threads, never on the loop.
"""

import asyncio
import importlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from mcp_guard.core.model import Call, Json, Signal
from mcp_guard.settings import SignalSettings

BECAUSE_LIMIT = 200
ANSWER_BYTES = 64 * 1024
THREADS = 4
"""Of each signal. A function that hangs keeps its thread; when all are kept, the signal is unknown at once."""


class NoAnswer(Exception):
    """Why a signal is unknown."""


class ExternalSignal:
    """One such signal."""

    def __init__(self, rule: SignalSettings) -> None:
        self.rule = rule
        self._busy = 0

    def concerns(self, call: Call) -> bool:
        rule = self.rule
        return call.tool is not None and call.tool.effect in rule.effects and call.name in (rule.tools or (call.name,))

    async def ask(self, call: Call) -> Signal | None:
        """The signal, if it is raised or unknown. Never raises, and never takes longer than its time-out."""
        rule = self.rule
        try:
            async with asyncio.timeout(rule.timeout):
                said = await self._ask(call)
            because = read_answer(said)
        except TimeoutError:
            return self._unknown(f"no answer within {rule.timeout:g} s")
        except NoAnswer as error:
            return self._unknown(str(error))
        except Exception as error:  # the operator's own code: whatever it raises, it has not answered
            return self._unknown(f"{type(error).__name__}")
        return None if because is None else Signal(rule.name, rule.weight, because)

    def _unknown(self, why: str) -> Signal:
        return Signal(f"{self.rule.name}_unknown", self.rule.unknown_weight, f"`{self.rule.name}` is unknown: {why}")

    async def _ask(self, call: Call) -> Any:
        if self._busy >= THREADS:
            raise NoAnswer("all its earlier calls are still running")
        work = partial(self._run if self.rule.argv else self._enter, about(call))
        return await asyncio.shield(self._start(work))

    def _start(self, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        """In a daemon thread, which a function that hangs cannot keep the guard from ending by."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        future.add_done_callback(self._left)

        def body() -> None:
            try:
                done = partial(future.set_result, work())
            except BaseException as error:  # whatever the operator's code raises is for the one who waits
                done = partial(future.set_exception, error if isinstance(error, Exception) else NoAnswer("it ended"))
            with suppress(RuntimeError):  # the loop is gone: nobody waits
                loop.call_soon_threadsafe(done)

        self._busy += 1
        threading.Thread(target=body, daemon=True, name=f"signal-{self.rule.name}").start()
        return future

    def _left(self, future: "asyncio.Future[Any]") -> None:
        self._busy -= 1
        if not future.cancelled():
            future.exception()  # whoever waited for it may be gone

    def _run(self, said: Json) -> Any:
        """In a thread. The command ends with its time-out, and with it whatever it has started."""
        rule, pipe, null = self.rule, subprocess.PIPE, subprocess.DEVNULL
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        try:
            process = subprocess.Popen(
                rule.argv,
                stdin=pipe,
                stdout=pipe,
                stderr=null,
                env=environment,
                cwd=rule.base_dir,
                start_new_session=True,
            )
        except OSError as error:
            raise NoAnswer(f"`{rule.argv[0]}` does not start: {error.strerror}") from None
        with process:
            try:
                answer, _ = process.communicate(json.dumps(said).encode(), rule.timeout)
            except subprocess.TimeoutExpired:
                raise NoAnswer(f"no answer within {rule.timeout:g} s") from None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise NoAnswer(f"`{rule.argv[0]}` exited with status {process.returncode}")
        if len(answer) > ANSWER_BYTES:
            raise NoAnswer("its answer is too long")
        try:
            return json.loads(answer)
        except ValueError:
            raise NoAnswer("its answer is not JSON") from None

    def _enter(self, said: Json) -> Any:
        module, _, name = self.rule.entry.partition(":")
        return getattr(importlib.import_module(module), name)(said)


def about(call: Call) -> Json:
    """What a signal may look at."""
    instance = call.instance
    return {
        "agent": instance.agent.name,
        "instance": instance.id,
        "on_behalf_of": instance.on_behalf_of,
        "ticket": call.task.ticket,
        "reason": call.task.reason,
        "tool": call.name,
        "arguments": call.arguments,
        "resource": {"type": call.resource.type, "id": call.resource.id},
        "facts": call.facts.values if call.facts else None,
        "changes": list(call.change.fields),
    }


def read_answer(said: Any) -> str | None:
    """Why the signal is raised, or None if it is not. Raises: NoAnswer."""
    if said is None:
        return None
    if isinstance(said, str):
        return said[:BECAUSE_LIMIT]
    if not isinstance(said, dict) or not isinstance(said.get("raised"), bool):
        raise NoAnswer('its answer is not {"raised": true or false, "because": "…"}')
    return str(said.get("because") or "it does not say why")[:BECAUSE_LIMIT] if said["raised"] else None
