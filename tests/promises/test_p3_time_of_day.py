"""P3 where policies read the time: an approval is bound to what was approved, and the hour alone makes none stale."""

from datetime import datetime
from pathlib import Path

import pytest

from mcp_guard.core.approval import Route
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.core.times import micros
from tests.promises.harness import ALLOW, ROUTES, SECOND, Harness, make_instance, open_harness, pending_id, text

pytestmark = pytest.mark.usefixtures("each_engine")
TWO_ROUTES = ROUTES | {"security": Route("security", ("mallory", "carol"), 24 * 3600 * SECOND)}
NOTE = ToolCallRequest("crm__note", {"text": "x"})
WRITES = '@id("writes") @require_approval("people") forbid (principal, action, resource);'
NIGHT = "context.time.utc.hour < 8 || context.time.utc.hour >= 18"
NIGHTS = f'@id("nights") @require_approval("security") forbid (principal, action, resource) when {{ {NIGHT} }};'
CLOSED = f'@id("closed") @reason("closed until 08:00") forbid (principal, action, resource) when {{ {NIGHT} }};'


def guard_at(folder: Path, policies: str, hour: str) -> Harness:
    harness = open_harness(folder, policies, routes=TWO_ROUTES)
    set_clock(harness, hour)
    return harness


def set_clock(harness: Harness, hour: str) -> None:
    harness.clock.time = micros(datetime.fromisoformat(f"2026-09-22T{hour}:00Z"))


async def ask(harness: Harness) -> Json:
    reply: Json = await harness.guard.call(make_instance(expires=2**60), NOTE)
    return reply


async def test_time_that_passes_does_not_make_an_approval_stale(tmp_path: Path) -> None:
    harness = guard_at(tmp_path, ALLOW + WRITES + CLOSED, "17:10")
    harness.approve(pending_id(await ask(harness)))
    set_clock(harness, "17:50")
    assert text(await ask(harness)) == "done"
    assert [receipt["decided_at"] for receipt in harness.receipts("decision") + harness.receipts("intent")] == [
        "2026-09-22T17:10:00Z", "2026-09-22T17:50:00Z",
    ]  # fmt: skip
    harness.close()


async def test_a_call_approved_after_closing_time_is_refused_with_the_reason(tmp_path: Path) -> None:
    harness = guard_at(tmp_path, ALLOW + WRITES + CLOSED, "17:50")
    id = pending_id(await ask(harness))
    set_clock(harness, "18:05")
    harness.approve(id)
    assert "closed until 08:00" in text(await ask(harness))
    assert harness.upstream.writes() == []
    harness.close()


async def test_more_approvals_than_the_hour_requires_are_enough(tmp_path: Path) -> None:
    """Asked at night, when security must approve too; both have approved by the morning, when people are enough."""
    harness = guard_at(tmp_path, ALLOW + WRITES + NIGHTS, "07:30")
    id = pending_id(await ask(harness))
    harness.approve(id, "alice")
    set_clock(harness, "07:58")
    assert "pending" in text(await ask(harness)), "security has not approved"
    harness.approve(id, "mallory")
    set_clock(harness, "08:05")
    assert text(await ask(harness)) == "done"
    (intent,) = harness.receipts("intent")
    assert intent["routes"] == ["people"]
    assert [by["approver"] for by in intent["approval"]["approvers"]] == ["alice", "mallory"]
    harness.close()


async def test_fewer_approvals_than_the_hour_requires_are_not(tmp_path: Path) -> None:
    harness = guard_at(tmp_path, ALLOW + WRITES + NIGHTS, "17:50")
    id = pending_id(await ask(harness))
    harness.approve(id, "alice")
    set_clock(harness, "18:05")
    assert pending_id(await ask(harness)) != id
    assert [receipt["note"] for receipt in harness.receipts("approval.stale")] == ["routes"]
    assert harness.upstream.writes() == []
    harness.close()


@pytest.mark.parametrize("hour", ["07:30", "12:00"])
async def test_a_call_that_the_hour_allows_needs_no_approval(tmp_path: Path, hour: str) -> None:
    harness = guard_at(tmp_path, ALLOW + NIGHTS, hour)
    reply = text(await ask(harness))
    assert ("pending" in reply) is (hour == "07:30"), reply
    harness.close()
