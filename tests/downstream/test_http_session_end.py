"""How sessions over HTTP end that nobody ends."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Instance
from mcp_guard.downstream.http import sessions as module
from mcp_guard.downstream.http.sessions import HttpSessions
from mcp_guard.downstream.limits import SessionShares
from mcp_guard.settings import SessionLimits
from tests.promises.harness import make_instance


@asynccontextmanager
async def no_tasks() -> Any:
    yield


async def close(seconds: float) -> None: ...


def make_session(*_: object) -> Any:
    """As much of a session as its end needs."""
    share = SimpleNamespace(charge=lambda *_: None)
    upstreams = SimpleNamespace(kill=lambda: None, throttle=lambda _: None)
    return SimpleNamespace(loop_share=share, sender=None, tasks=no_tasks(), close=close, upstreams=upstreams)


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

    async def on_barred(_: Instance) -> None: ...

    sessions = HttpSessions(
        make_session=make_session, why_barred=why_barred, on_barred=on_barred, note=notes.append,
        shares=SessionShares(SessionLimits(8, 8, 8)), max_responses=8, idle_seconds=60, stop_seconds=1,
    )  # fmt: skip
    started = asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(sessions.run(started))
        await started.wait()
        await asyncio.gather(*(sessions.open(make_instance(f"run_{n}")) for n in (1, 2)))
        await asked_all.wait()
        sessions.stop()
    assert notes == ["the database cannot be reached"] * 2
