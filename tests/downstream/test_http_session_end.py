"""How sessions over HTTP end that nobody ends."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Instance
from mcp_guard.downstream.http import sessions as module
from mcp_guard.downstream.http.sessions import HttpSessions
from mcp_guard.downstream.limits import SessionShares
from mcp_guard.downstream.transport import DownstreamTransport
from mcp_guard.settings import SessionLimits
from tests.promises.harness import make_instance


async def close(seconds: float) -> None: ...


def make_session(_: Instance, transport: DownstreamTransport) -> Any:
    """As much of a session as its end needs."""
    return SimpleNamespace(
        loop_share=SimpleNamespace(charge=lambda *_: None), sender=None, is_busy=False, note=transport.note,
        tasks=asyncio.TaskGroup(), close=close,
        upstreams=SimpleNamespace(kill=lambda: None, throttle=lambda _: None),
    )  # fmt: skip


async def not_barred(_: Instance) -> None: ...


def make_sessions(
    notes: list[str], why_barred: Callable[[Instance], Awaitable[str | None]] = not_barred
) -> HttpSessions:
    return HttpSessions(
        make_session=make_session, why_barred=why_barred, on_barred=not_barred, note=notes.append,
        shares=SessionShares(SessionLimits(8, 8, 8)), max_responses=8, idle_seconds=60, stop_seconds=1,
    )  # fmt: skip


async def test_an_outage_of_the_ledger_is_noted_once_and_not_for_each_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REAP_SECONDS", 0.001)
    failures = [True] * 6 + [False] * 2 + [True] * 4  # of two sessions at a time
    notes: list[str] = []
    asked_all = asyncio.Event()

    async def why_barred(_: Instance) -> str | None:
        if not failures:
            asked_all.set()
        elif failures.pop(0):
            raise LedgerError("the database cannot be reached")
        return None

    sessions = make_sessions(notes, why_barred)
    started = asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(sessions.run(started))
        await started.wait()
        await asyncio.gather(*(sessions.open(make_instance(f"run_{n}")) for n in (1, 2)))
        await asked_all.wait()
        sessions.stop()
    assert notes == ["the database cannot be reached"] * 2


async def test_a_defect_in_one_session_ends_no_other() -> None:
    notes: list[str] = []
    sessions, started = make_sessions(notes), asyncio.Event()

    async def fail() -> None:
        raise ValueError("embedded null byte")

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(sessions.run(started))
        await started.wait()
        broken, other = await asyncio.gather(*(sessions.open(make_instance(f"run_{n}")) for n in (1, 2)))
        broken.session.tasks.create_task(fail())
        await broken.closed.wait()
        assert sessions.find_session(broken.id, broken.instance) is None
        assert sessions.find_session(other.id, other.instance) is other
        sessions.stop()
    assert notes == ["run_1: the session ended because of an internal error: ValueError: embedded null byte"]
