"""P3 and P9: kill -9 of the guard at each commit and send, while a call is not sent at first and then is."""

import asyncio
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mcp_guard.core.approval import ApprovalState
from mcp_guard.core.model import ToolCallRequest
from mcp_guard.ledger.recovery import recover
from mcp_guard.ports import Intent
from tests.kill_points import killed_at, report_commits
from tests.promises.engines import engine, verify
from tests.promises.harness import ALLOW, HOLD, KEYS, Harness, make_instance, open_harness, pending_id, text

POLICIES = f"{ALLOW}\n{HOLD}"
ASKED = ToolCallRequest("crm__note", {"text": "hello"})
KILL_POINTS = 13


KEY = Ed25519PrivateKey.generate()


def approve_in(folder: Path) -> None:
    """Make a ledger in which the call is approved."""
    KEYS["alice"] = KEY
    harness = open_harness(folder, POLICIES)
    harness.approve(pending_id(asyncio.run(harness.guard.call(make_instance(), ASKED))))
    harness.close()


@pytest.fixture(scope="module")
def approved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in which the call is approved."""
    folder = tmp_path_factory.mktemp("approved")
    approve_in(folder)
    return folder


@pytest.fixture
def folder(approved: Path, tmp_path: Path, each_engine: str) -> Path:
    if each_engine == "sqlite":
        shutil.copytree(approved, tmp_path / "copy")
    else:
        (tmp_path / "copy").mkdir()
        approve_in(tmp_path / "copy")
    return tmp_path / "copy"


def log_sends(harness: Harness, at: Callable[[str], None] = lambda _: None) -> None:
    async def told_send(intent: Intent) -> None:
        at("before send")
        if not harness.upstream.is_unreachable:
            with (harness.folder / "sent").open("a") as log:
                log.write("sent\n")
        at("after send")

    harness.upstream.before = told_send


def use_twice(folder: Path, at: Callable[[str], None]) -> None:
    """Make the call while the upstream is down, and again when it is up; `at` is where the process may die."""
    harness = open_harness(folder, POLICIES)
    report_commits(harness.store, at)
    log_sends(harness, at)
    for is_unreachable in (True, False):
        harness.upstream.is_unreachable = is_unreachable
        asyncio.run(harness.guard.call(make_instance(), ASKED))
    at("replied")
    harness.close()


def sends(folder: Path) -> int:
    log = folder / "sent"
    return len(log.read_text().split()) if log.exists() else 0


def test_every_kill_point_is_reached(folder: Path) -> None:
    seen: list[str] = []
    use_twice(folder, seen.append)
    assert len(seen) == KILL_POINTS
    assert sends(folder) == 1


@pytest.mark.parametrize("number", range(KILL_POINTS))
async def test_killed_at_any_point_the_call_runs_at_most_once(folder: Path, number: int) -> None:
    assert killed_at(number, partial(use_twice, folder))
    engine().let_leases_run_out(folder)
    harness = open_harness(folder, POLICIES)
    recover(harness.ledger.ledger)
    endings = [receipt["ending"] for receipt in harness.receipts("outcome")]
    assert len(endings) == len(harness.receipts("intent"))
    assert len(harness.receipts("approval.released")) == endings.count("not_sent")
    may_have_run = [ending for ending in endings if ending != "not_sent"]
    [approval] = harness.store.approvals()
    assert approval.state is (ApprovalState.CONSUMED if may_have_run else ApprovalState.APPROVED)
    before = sends(folder)
    assert before <= len(may_have_run) <= 1
    log_sends(harness)
    reply = text(await harness.guard.call(make_instance(), ASKED))
    if may_have_run:
        assert "may have taken effect" in reply or "held by mcp-guard" in reply
        assert sends(folder) == before
    else:
        assert (reply, sends(folder)) == ("done", 1)
    harness.close()
    report = verify(folder)
    assert report.ok, report.problem
