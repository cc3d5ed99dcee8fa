"""Many guards on one ledger race for one counter, and never exceed its limit, in counts or sums.

Held calls count when they go, not when they wait; a restart forgets nothing.
"""

import asyncio
import multiprocessing
from dataclasses import replace
from decimal import Decimal
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.model import Call, Effect, Micros, RateCounter, ToolCallRequest
from mcp_guard.ledger.ledger import SqlLedger
from mcp_guard.ports import UseSums
from tests.promises.engines import verify
from tests.promises.harness import ALLOW, HOLD, SECOND, make_instance, open_harness, pending_id, text
from tests.proof_size import sized

pytestmark = pytest.mark.usefixtures("each_engine")
PROCESSES, CALLS = sized(16, 6), 12
WRITES = (Effect.WRITE,)
COUNT = RateCounter("writes", 3600 * SECOND, ("agent",), WRITES)
SUM = RateCounter("paid", 3600 * SECOND, ("user", "resource"), WRITES, ("crm__update_deal",), "/amount")
COUNTERPARTY = RateCounter("to_one", 3600 * SECOND, ("agent", "argument:/deal_id"), WRITES, SUM.tools, "/amount")
COUNTERS = (COUNT, SUM, COUNTERPARTY)
LIMITS = """
@id("count") @reason("enough calls") forbid (principal, action, resource) when { context.rate.writes > 40 };
@id("sum") @reason("enough money") forbid (principal, action, resource)
when { context.rate.paid.greaterThan(decimal("100.0")) };
"""


def race(folder: Path, number: int, barrier: Barrier, sent: Any) -> None:
    """One process: at the same moment as all others, pay 2.50 until refused."""
    harness = open_harness(folder, ALLOW + LIMITS, COUNTERS)

    async def pay_repeatedly() -> int:
        barrier.wait(60)
        done = 0
        for turn in range(CALLS):
            instance = make_instance(f"run_{number}_{turn}")
            reply = await harness.guard.call(
                instance, ToolCallRequest("crm__update_deal", {"deal_id": "7", "amount": 2.5})
            )
            done += text(reply) == "done"
        return done

    sent.put((asyncio.run(pay_repeatedly()), len(harness.upstream.writes())))
    harness.close()


def race_all(folder: Path) -> list[tuple[int, int]]:
    open_harness(folder, ALLOW + LIMITS, COUNTERS).close()
    context = multiprocessing.get_context("fork")
    barrier, sent = context.Barrier(PROCESSES), context.Queue()
    racers = [context.Process(target=race, args=(folder, n, barrier, sent)) for n in range(PROCESSES)]
    for racer in racers:
        racer.start()
    results = [sent.get(timeout=120) for _ in racers]
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0] * PROCESSES
    return results


class SlowLedger(SqlLedger):
    """One whose sums are outdated by the time that they arrive, as those of an engine over a network may be."""

    async def sum_uses(self, call: Call, counters: tuple[RateCounter, ...], now: Micros) -> UseSums:
        sums = await super().sum_uses(call, counters, now)
        for _ in range(int(call.arguments["amount"])):
            await asyncio.sleep(0)
        return sums


async def test_calls_of_one_process_never_get_one_number_however_late_the_sums_arrive(tmp_path: Path) -> None:
    limit = '@id("few") @reason("enough") forbid (principal, action, resource) when { context.rate.writes > 6 };'
    harness = open_harness(tmp_path, ALLOW + limit, (COUNT,))
    slow = SlowLedger(harness.ledger.writer, harness.ledger.presence, counters=(COUNT,))
    guard = replace(harness.guard, ledger=slow)
    calls = [ToolCallRequest("crm__note", {"text": "a", "amount": 4 * (number % 5)}) for number in range(9)]
    replies = await asyncio.gather(*(guard.call(make_instance(), call) for call in calls))
    assert sum(text(reply) == "done" for reply in replies if "result" in reply) == 6
    assert [receipt["rates"]["writes"] for receipt in harness.receipts("intent")] == [1, 2, 3, 4, 5, 6]
    harness.close()


async def test_many_processes_never_exceed_a_counter(tmp_path: Path) -> None:
    done, sent = map(sum, zip(*race_all(tmp_path), strict=True))
    assert 0 < done <= sent <= 40  # on a busy machine, some calls are denied because they never got a number
    harness = open_harness(tmp_path, ALLOW + LIMITS, COUNTERS)
    pay = ToolCallRequest("crm__update_deal", {"deal_id": "7", "amount": 2.5})
    later = [text(await harness.guard.call(make_instance("later"), pay)) for _ in range(41 - sent)]
    assert ["enough" in reply for reply in later] == [False] * (40 - sent) + [True]  # a new process goes on counting
    rates = [receipt["rates"] for receipt in harness.receipts("intent") if receipt.get("purpose") != "facts"]
    assert [rate["writes"] for rate in rates] == [*range(1, 41)]
    for name in ("paid", "to_one"):
        assert [Decimal(rate[name]) for rate in rates] == [Decimal("2.5") * n for n in range(1, 41)]
    harness.close()
    report = verify(tmp_path)
    assert report.ok, report.problem


async def test_after_kill_9_each_counterparty_has_what_the_ledger_sent_it(tmp_path: Path) -> None:
    limit = """@id("one") @reason("enough for this one") forbid (principal, action, resource)
    when { context.rate.to_one.greaterThan(decimal("20.0")) };"""
    open_harness(tmp_path, ALLOW + limit, (COUNTERPARTY,)).close()
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    payer = context.Process(target=pay_until_killed, args=(tmp_path, limit, ready))
    payer.start()
    assert ready.wait(60)
    payer.kill()
    payer.join(60)
    harness = open_harness(tmp_path, ALLOW + limit, (COUNTERPARTY,))
    sent = [receipt for receipt in harness.receipts("intent") if receipt.get("purpose") != "facts"]
    for deal in ("7", "8"):
        before = sum(receipt["resource"]["id"] == deal for receipt in sent)
        pay = ToolCallRequest("crm__update_deal", {"deal_id": deal, "amount": 2.5})
        replies = [text(await harness.guard.call(make_instance(), pay)) for _ in range(9 - before)]
        assert ["enough for this one" in reply for reply in replies] == [False] * (8 - before) + [True]
    harness.close()


def pay_until_killed(folder: Path, limit: str, ready: Any) -> None:
    harness = open_harness(folder, ALLOW + limit, (COUNTERPARTY,))

    async def pay() -> None:
        for turn in range(1000):
            call = ToolCallRequest("crm__update_deal", {"deal_id": "78"[turn % 2], "amount": 2.5})
            await harness.guard.call(make_instance(), call)
            if turn == 4:
                ready.set()

    asyncio.run(pay())


async def test_held_call_counts_when_it_is_sent(tmp_path: Path) -> None:
    hold = HOLD.replace("forbid (principal, action, resource)", 'forbid (principal, action, resource == Deal::"7")')
    harness = open_harness(tmp_path, ALLOW + LIMITS + hold, COUNTERS)
    pay = partial(harness.guard.call, make_instance())
    held = ToolCallRequest("crm__update_deal", {"deal_id": "7", "amount": 60})
    id = pending_id(await pay(held))
    assert harness.store.sum_uses("paid", "dana\x1fDeal::7", 0) == 0  # a waiting call does not count
    other = ToolCallRequest("crm__update_deal", {"deal_id": "7", "amount": 50})
    other_id = pending_id(await pay(other))
    harness.approve(other_id)
    assert text(await pay(other)) == "done"
    harness.approve(id)
    assert "enough money" in text(await pay(held))  # approved, but by now 110 would be too much
    assert harness.store.sum_uses("paid", "dana\x1fDeal::7", 0) == 500_000
    assert len(harness.upstream.writes()) == 1
    harness.close()


async def test_call_without_the_summed_amount_is_denied(tmp_path: Path) -> None:
    harness = open_harness(tmp_path, ALLOW + LIMITS, COUNTERS)
    reply = await harness.guard.call(make_instance(), ToolCallRequest("crm__update_deal", {"deal_id": "7"}))
    assert "rate `paid` sums `/amount`, which is missing in this call" in text(reply)
    assert harness.upstream.writes() == []
    harness.close()
