"""An instance whose requests are expensive waits while others are active; ordinary requests and a lone one never do."""

import asyncio
import time

import pytest

from mcp_guard.downstream.loop_share import ACTIVE_SECONDS, MAX_WAIT_SECONDS, WAIT_FACTOR, LoopShare, metered


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def shared() -> tuple[Clock, LoopShare]:
    clock = Clock()
    share = LoopShare(clock)
    assert share.delay("other") == 0
    assert share.delay("one") == 0
    return clock, share


def test_expensive_request_is_waited_for() -> None:
    clock, share = shared()
    share.charge("one", 0.105)
    assert share.delay("one") == pytest.approx(WAIT_FACTOR * 0.1)
    assert share.delay("other") == 0
    clock.now += WAIT_FACTOR * 0.1 + 0.001
    assert share.delay("one") == 0


def test_waits_add_up_to_a_limit() -> None:
    _, share = shared()
    share.charge("one", 0.055)
    share.charge("one", 0.055)
    assert share.delay("one") == pytest.approx(2 * WAIT_FACTOR * 0.05)
    share.charge("one", 60)
    assert share.delay("one") == MAX_WAIT_SECONDS


def test_ordinary_requests_are_free() -> None:
    _, share = shared()
    for _ in range(10_000):
        share.charge("one", 0.004)
    assert share.delay("one") == 0


def test_lone_instance_does_not_wait() -> None:
    clock, share = shared()
    clock.now += ACTIVE_SECONDS + 1
    assert share.delay("one") == 0
    share.charge("one", 0.5)
    assert share.delay("one") == 0


async def test_meter_counts_the_steps_and_not_the_waits_between_them() -> None:
    charged: list[float] = []

    async def work() -> None:
        for _ in range(3):
            end = time.thread_time() + 0.01
            while time.thread_time() < end:
                pass
            await asyncio.sleep(0.02)

    await metered(work(), charged.append)
    [seconds] = charged
    assert 0.03 <= seconds < 0.05


async def test_meter_passes_cancellations_and_errors_on() -> None:
    charged: list[float] = []
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            cleaned.append("yes")
            raise

    async def run() -> None:
        await metered(work(), charged.append)

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == ["yes"]
    assert len(charged) == 1

    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await metered(fail(), charged.append)
    assert len(charged) == 2
