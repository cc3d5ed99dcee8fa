"""The operator's own risk signals: a command, or a Python function `module:function`, called with a timeout.

If it does not answer in time, or answers nonsense, the signal is *unknown*: a separate signal with its own weight.

A command gets one JSON object on its standard input and answers with one on its standard output:
`{"raised": true, "because": "…"}`. A function gets the same object as a dictionary and returns such a dictionary, a
string (raised, with this reason), or None (not raised). Both run in threads, never on the event loop.
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
"""Threads per signal. A function that hangs occupies one; when all are occupied, the signal is unknown at once."""


class NoAnswer(Exception):
    """No usable answer; the message is the reason."""


class ExternalSignal:
    """One signal of the operator."""

    def __init__(self, rule: SignalSettings) -> None:
        self.rule = rule
        self._busy = 0

    def concerns(self, call: Call) -> bool:
        rule = self.rule
        return call.tool is not None and call.tool.effect in rule.effects and call.name in (rule.tools or (call.name,))

    async def ask(self, call: Call) -> Signal | None:
        """The signal if it is raised or unknown, else None. Never raises, and never takes longer than the timeout."""
        rule = self.rule
        try:
            async with asyncio.timeout(rule.timeout):
                answer = await self._ask(call)
            because = read_answer(answer)
        except TimeoutError:
            return self._unknown(f"no answer within {rule.timeout:g} s")
        except NoAnswer as error:
            return self._unknown(str(error))
        except Exception as error:  # the operator's own code may raise anything
            return self._unknown(f"{type(error).__name__}")
        return None if because is None else Signal(rule.name, rule.weight, because)

    def _unknown(self, reason: str) -> Signal:
        return Signal(f"{self.rule.name}_unknown", self.rule.unknown_weight, f"`{self.rule.name}` is unknown: {reason}")

    async def _ask(self, call: Call) -> Any:
        if self._busy >= THREADS:
            raise NoAnswer("all its earlier calls are still running")
        work = partial(self._run_command if self.rule.argv else self._call_function, describe_call(call))
        return await asyncio.shield(self._start(work))

    def _start(self, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Run in a daemon thread, so that a function that hangs does not prevent the guard from exiting."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def body() -> None:
            try:
                done = partial(future.set_result, work())
            except BaseException as error:  # passed to the caller that awaits the future
                done = partial(future.set_exception, error if isinstance(error, Exception) else NoAnswer("it exited"))
            with suppress(RuntimeError):  # the event loop is closed: nobody awaits the result
                loop.call_soon_threadsafe(done)

        threading.Thread(target=body, daemon=True, name=f"signal-{self.rule.name}").start()
        self._busy += 1  # a thread that could not be started gives nothing back
        future.add_done_callback(self._finish)
        return future

    def _finish(self, future: "asyncio.Future[Any]") -> None:
        self._busy -= 1
        if not future.cancelled():
            future.exception()  # mark the exception as retrieved: the caller may have timed out

    def _run_command(self, request: Json) -> Any:
        """Runs in a thread. After the timeout, the command and its child processes are killed."""
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
            raise NoAnswer(f"`{rule.argv[0]}` cannot be started: {error.strerror}") from None
        with process:
            try:
                answer, _ = process.communicate(json.dumps(request).encode(), rule.timeout)
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

    def _call_function(self, request: Json) -> Any:
        module, _, name = self.rule.entry.partition(":")
        return getattr(importlib.import_module(module), name)(request)


def describe_call(call: Call) -> Json:
    """The call as the signal receives it."""
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


def read_answer(answer: Any) -> str | None:
    """The reason if the signal is raised, else None. Raises: NoAnswer."""
    if answer is None:
        return None
    if isinstance(answer, str):
        return answer[:BECAUSE_LIMIT]
    if not isinstance(answer, dict) or not isinstance(answer.get("raised"), bool):
        raise NoAnswer('its answer is not {"raised": true or false, "because": "…"}')
    return str(answer.get("because") or "no reason given")[:BECAUSE_LIMIT] if answer["raised"] else None
