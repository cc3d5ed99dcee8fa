"""The budget of an upstream: what is held never exceeds the limit, and unasked work is paid for with time."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core.model import Json
from mcp_guard.upstream.budget import BURST_COST, COST_PER_SECOND, MESSAGE_COST, UpstreamBudget
from mcp_guard.upstream.notifications import NotificationCoalescer

UPDATED = "notifications/resources/updated"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**8))))
def test_held_bytes_are_the_sum_and_within_the_limit(changes: list[tuple[int, int]]) -> None:
    budget = UpstreamBudget(1_000_000)
    holdings = [budget.hold() for _ in range(4)]
    for which, size in changes:
        before = holdings[which].size
        fits = holdings[which].resize(size)
        assert holdings[which].size == (size if fits else before)
        assert budget.held == sum(holding.size for holding in holdings) <= budget.limit


def test_holding_is_released_at_the_end() -> None:
    budget = UpstreamBudget(1000)
    with budget.hold() as holding:
        assert holding.resize(500)
    assert budget.held == 0


def test_a_flood_is_paid_for_with_time() -> None:
    budget, now, messages = UpstreamBudget(1000), 100.0, 20_000
    for _ in range(messages):
        now += budget.charge(MESSAGE_COST, now)
    assert now - 100 >= (messages * MESSAGE_COST - BURST_COST) / COST_PER_SECOND - 1e-6


def test_a_burst_costs_no_time_and_comes_back() -> None:
    budget = UpstreamBudget(1000)
    assert budget.charge(BURST_COST, 100.0) == 0
    assert budget.charge(MESSAGE_COST, 100.0) > 0
    assert budget.charge(BURST_COST, 103.0) == 0


async def test_reports_of_a_change_are_coalesced_and_the_last_is_not_lost() -> None:
    passed_on: list[tuple[str, Json]] = []
    budget = UpstreamBudget(1_000_000)
    coalescer = NotificationCoalescer(lambda method, params: passed_on.append((method, params)), budget)
    for number in range(1000):
        coalescer.receive(UPDATED, {"uri": "x://1", "n": number})
    coalescer.receive(UPDATED, {"uri": "x://2"})
    coalescer.receive("notifications/message", {"data": 1})
    coalescer.receive("notifications/message", {"data": 2})
    assert len(passed_on) == 4
    assert budget.held > 0
    await asyncio.sleep(0.3)
    assert passed_on[4:] == [(UPDATED, {"uri": "x://1", "n": 999})]
    await asyncio.sleep(0.3)
    assert budget.held == 0
    coalescer.close()


async def test_reports_that_find_no_room_are_passed_on() -> None:
    passed_on: list[tuple[str, Json]] = []
    budget = UpstreamBudget(0)
    assert budget.hold().resize(budget.limit)
    coalescer = NotificationCoalescer(lambda method, params: passed_on.append((method, params)), budget)
    for _ in range(3):
        coalescer.receive(UPDATED, {"uri": "x://1"})
    assert len(passed_on) == 3
