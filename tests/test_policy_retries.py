"""Policies that the ledger cannot record are tried again, once at a time for each session, and while it lasts."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from weakref import WeakSet

import pytest

from mcp_guard import runtime as module
from mcp_guard.core.errors import LedgerError
from mcp_guard.runtime import Runtime


class Session:
    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    def start_background(self, work: Any) -> None:
        self.tasks.append(asyncio.create_task(work))


class Policies:
    in_force = SimpleNamespace(version="none", explain_absence=lambda _: None)


async def test_one_retry_waits_for_a_session_however_often_its_catalog_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEDGER_RETRY_SECONDS", 0.01)
    failures = 23

    async def load(_: object) -> bool:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise LedgerError("the ledger is full")
        return False

    runtime = cast(Any, Runtime.__new__(Runtime))
    runtime.note, runtime._retrying, runtime._reloader = lambda _: None, WeakSet(), SimpleNamespace(load=load)
    runtime._note_hidden = lambda *_: None
    session, policies = Session(), Policies()
    for _ in range(20):
        await runtime._load_policies(session, policies, None)
    assert len(session.tasks) == 1
    async with asyncio.timeout(10):
        while failures >= 0:
            await asyncio.sleep(0.01)
        await asyncio.gather(*session.tasks)
    assert len(session.tasks) == 4
