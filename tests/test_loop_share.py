"""An instance whose requests are expensive waits while others are active; ordinary requests and a lone one never do."""

import asyncio
import time
from collections.abc import Callable

import pytest

from mcp_guard.downstream.loop_share import (
    ACTIVE_SECONDS,
    AGENT_WAIT_FACTOR,
    MAX_WAIT_SECONDS,
    WAIT_FACTOR,
    LoopShare,
    Sender,
    metered,
)

ONE, SIBLING, OTHER = Sender("agent", "one"), Sender("agent", "sibling"), Sender("another", "other")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def shared() -> tuple[Clock, LoopShare]:
    clock = Clock()
    share = LoopShare(clock)
    assert share.delay(OTHER) == 0
    assert share.delay(ONE) == 0
    return clock, share


def test_expensive_request_is_waited_for() -> None:
    clock, share = shared()
    share.charge(ONE, 0.105)
    assert share.delay(ONE) == pytest.approx(WAIT_FACTOR * 0.1)
    assert share.delay(OTHER) == 0
    clock.now += WAIT_FACTOR * 0.1 + 0.001
    assert share.delay(ONE) == 0


def test_waits_add_up_to_a_limit() -> None:
    _, share = shared()
    share.charge(ONE, 0.055)
    share.charge(ONE, 0.055)
    assert share.delay(ONE) == pytest.approx(2 * WAIT_FACTOR * 0.05)
    share.charge(ONE, 60)
    assert share.delay(ONE) == MAX_WAIT_SECONDS


def test_ordinary_requests_are_free() -> None:
    _, share = shared()
    for _ in range(10_000):
        share.charge(ONE, 0.004)
    assert share.delay(ONE) == 0


def test_lone_instance_does_not_wait() -> None:
    clock, share = shared()
    clock.now += ACTIVE_SECONDS + 1
    assert share.delay(ONE) == 0
    share.charge(ONE, 0.5)
    assert share.delay(ONE) == 0


def test_new_instances_of_an_agent_wait_for_what_others_of_it_cost() -> None:
    _, share = shared()
    share.charge(ONE, 0.105)
    assert share.delay(SIBLING) == pytest.approx(AGENT_WAIT_FACTOR * 0.1)
    share.forget("one")
    assert share.delay(ONE) == pytest.approx(AGENT_WAIT_FACTOR * 0.1)


async def test_one_message_is_taken_in_a_turn_and_the_next_agent_comes_next() -> None:
    share, taken = LoopShare(), []
    turns = 0

    def take(name: str) -> Callable[[], bool]:
        def taking() -> bool:
            taken.append((turns, name))
            return True

        return taking

    for number in range(3):
        share.on_turn(ONE, take(f"one {number}"))
    share.on_turn(SIBLING, take("sibling"))
    share.on_turn(OTHER, take("other"))
    for _ in range(8):
        turns += 1
        await asyncio.sleep(0)
    assert taken[0] == (0, "one 0")  # at once
    assert [name for _, name in taken[1:]] == ["one 1", "other", "sibling", "one 2"]
    assert len({turn for turn, _ in taken}) == 5


async def test_messages_wait_for_what_their_sender_cost_and_no_others_do() -> None:
    share = LoopShare()
    await share.turn(OTHER)
    await share.turn(ONE)
    share.charge(ONE, 0.1)
    began = time.monotonic()
    waiting = [asyncio.create_task(share.turn(ONE)) for _ in range(2)]
    cancelled = asyncio.create_task(share.turn(ONE))
    await asyncio.sleep(0)
    cancelled.cancel()
    await share.turn(OTHER)
    assert not any(turn.done() for turn in waiting)
    await asyncio.gather(*waiting)
    assert time.monotonic() - began >= 0.7


async def test_meter_counts_the_steps_and_not_the_waits_between_them() -> None:
    charged: list[float] = []

    async def work() -> None:
        for _ in range(3):
            end = time.thread_time() + 0.01
            while time.thread_time() < end:
                pass
            await asyncio.sleep(0.2)

    await metered(work(), charged.append)
    [seconds] = charged
    assert 0.03 <= seconds < 0.3


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
