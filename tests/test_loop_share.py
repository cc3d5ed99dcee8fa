"""An instance whose requests are expensive waits while others are active; ordinary requests and a lone one never do."""

import asyncio
import time

import pytest

from mcp_guard.downstream.loop_share import (
    ACTIVE_SECONDS,
    AGENT_WAIT_FACTOR,
    LEAST_BYTES,
    MAX_WAIT_SECONDS,
    TURN_BYTES,
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


class Turns:
    """Messages that note their name and the turn of the event loop in which they are taken."""

    def __init__(self) -> None:
        self.share, self.taken, self.number = LoopShare(), list[tuple[int, str]](), 0

    def send(self, sender: Sender, name: str, size: int) -> None:
        def take() -> bool:
            self.taken.append((self.number, name))
            return True

        self.share.on_turn(sender, take, size)

    async def pass_by(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            await asyncio.sleep(0)

    def in_turn(self, number: int) -> list[str]:
        return [name for turn, name in self.taken if turn == number]


async def test_one_large_message_is_taken_in_a_turn_and_the_next_agent_comes_next() -> None:
    turns = Turns()
    for number in range(3):
        turns.send(ONE, f"one {number}", TURN_BYTES)
    turns.send(SIBLING, "sibling", TURN_BYTES)
    turns.send(OTHER, "other", TURN_BYTES)
    assert turns.taken == [(0, "one 0")]  # at once
    await turns.pass_by(8)
    assert [name for _, name in turns.taken[1:]] == ["one 1", "other", "sibling", "one 2"]
    assert len({turn for turn, _ in turns.taken}) == 5


async def test_small_messages_share_a_turn_and_agents_still_come_in_turn() -> None:
    turns, most = Turns(), TURN_BYTES // LEAST_BYTES
    for number in range(most + 8):
        turns.send(ONE, f"one {number}", 10)
    turns.send(OTHER, "large", TURN_BYTES)
    turns.send(OTHER, "other", 10)
    assert turns.in_turn(0) == [f"one {number}" for number in range(most)]
    await turns.pass_by(3)
    assert turns.in_turn(1) == [f"one {most}", "large"]  # nothing comes after a large one in its turn
    assert turns.in_turn(2) == [f"one {most + 1}", "other", *(f"one {number}" for number in range(most + 2, most + 8))]


async def test_messages_that_nobody_waits_for_any_more_take_no_room() -> None:
    turns = Turns()
    for _ in range(3):
        turns.share.on_turn(ONE, lambda: False, TURN_BYTES)
    turns.send(ONE, "one", TURN_BYTES)
    assert turns.in_turn(0) == ["one"]


async def test_messages_wait_for_what_their_sender_cost_and_no_others_do() -> None:
    share = LoopShare()
    await share.turn(OTHER, 10)
    await share.turn(ONE, 10)
    share.charge(ONE, 0.1)
    began = time.monotonic()
    waiting = [asyncio.create_task(share.turn(ONE, 10)) for _ in range(2)]
    cancelled = asyncio.create_task(share.turn(ONE, 10))
    await asyncio.sleep(0)
    cancelled.cancel()
    await share.turn(OTHER, 10)
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
