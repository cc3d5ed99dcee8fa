"""A clock set back: receipt times never decrease, small steps are tolerated, large ones refuse calls."""

from pathlib import Path

import pytest

from mcp_guard.core.errors import LedgerError
from mcp_guard.core.model import Effect, RateCounter, ToolCallRequest
from mcp_guard.core.receipt import format_time
from mcp_guard.ledger.clock import TOLERATED, SteadyClock, receipt_time
from tests.promises.harness import ALLOW, HOLD, SECOND, Harness, make_instance, open_harness, pending_id, text

NOTE = ToolCallRequest("crm__note", {"text": "x"})
HOUR = 3600 * SECOND


async def call(harness: Harness, asked: ToolCallRequest = NOTE) -> str:
    return text(await harness.guard.call(make_instance(), asked))


def times(harness: Harness) -> list[str]:
    return [receipt["time"] for receipt in harness.receipts()]


async def test_small_clock_step_back_uses_the_time_of_the_last_receipt(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    await call(harness)
    last = times(harness)[-1]
    harness.clock.time -= 3 * SECOND
    assert await call(harness) == "done"
    assert times(harness)[-2:] == [last, last]
    assert times(harness) == sorted(times(harness))
    harness.close()


async def test_large_clock_step_back_is_refused_until_corrected(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    await call(harness)
    last = times(harness)[-1]
    harness.clock.time -= HOUR
    reply = await call(harness)
    assert "denied by mcp-guard: the clock was set back: it reads " in reply
    assert last in reply
    assert format_time(harness.clock.time)[:16] in reply
    assert len(harness.upstream.sent) == 1
    harness.clock.time += HOUR
    assert await call(harness) == "done"
    harness.close()


async def test_guard_does_not_start_with_a_clock_set_back(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    harness.clock.time += HOUR
    await call(harness)
    harness.close()
    with pytest.raises(LedgerError, match="the clock was set back"):
        open_harness(tmp_path).note()
    after = open_harness(tmp_path)
    assert "the clock was set back" in await call(after)
    assert after.upstream.sent == []
    after.close()


class Machine:
    """The two clocks of a machine, in nanoseconds."""

    def __init__(self) -> None:
        self.wall, self.ticks = 10**18, 5

    def clock(self) -> SteadyClock:
        return SteadyClock(lambda: self.wall, lambda: self.ticks)


def test_time_advances_in_a_process_whose_clock_is_set_back() -> None:
    machine = Machine()
    clock = machine.clock()
    before = clock.now()
    machine.wall += 10**9
    machine.ticks += 9 * 10**8
    assert clock.now() == before + SECOND
    machine.wall -= 3600 * 10**9
    machine.ticks += 10**9
    assert clock.now() == before + 2 * SECOND
    assert clock.wall() == before + SECOND - HOUR
    machine.wall += 7200 * 10**9
    assert clock.now() == before + SECOND + HOUR


def test_a_clock_set_back_is_noticed_without_a_receipt_in_between() -> None:
    """A guard was idle for nine hours when its clock is set back by nine hours, to just after the last receipt."""
    machine = Machine()
    clock = machine.clock()
    last = clock.now()
    machine.ticks += 9 * 3600 * 10**9
    machine.wall += 10**9
    with pytest.raises(LedgerError, match="the clock was set back") as refusal:
        receipt_time(clock, last)
    assert format_time(last + 9 * HOUR) in refusal.value.message
    machine.wall += 9 * 3600 * 10**9 - 10**9 - TOLERATED * 1000
    assert receipt_time(clock, last) == last + 9 * HOUR


async def test_expired_credential_stays_expired(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    harness.clock.time = make_instance().expires - 2 * SECOND
    assert await call(harness) == "done"
    harness.clock.time += 4 * SECOND
    assert "has expired" in await call(harness)
    harness.clock.time -= 3 * SECOND  # before its expiry, and within the tolerated step
    assert "has expired" in await call(harness)
    harness.close()


async def test_expired_approval_stays_expired(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, f"{ALLOW}\n{HOLD}")
    id = pending_id(await harness.guard.call(make_instance(), NOTE))
    harness.approve(id)
    harness.clock.time += HOUR + SECOND
    await call(harness)
    harness.clock.time -= 2 * SECOND
    assert "held by mcp-guard" in await call(harness)  # requested again
    assert harness.upstream.sent == []
    harness.close()


async def test_clock_set_back_does_not_reset_rates(tmp_path: Path) -> None:
    counter = RateCounter("writes", HOUR, ("instance",), (Effect.WRITE,))
    two = '@id("two") permit (principal, action, resource) when { context.rate.writes <= 2 };'
    harness = open_harness(tmp_path, two, (counter,))
    assert await call(harness) == await call(harness) == "done"
    harness.clock.time -= 4 * SECOND
    assert "denied" in await call(harness)
    harness.clock.time -= HOUR
    assert "the clock was set back" in await call(harness)
    harness.close()
