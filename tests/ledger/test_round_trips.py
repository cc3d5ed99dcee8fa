"""How many exchanges with the database a call costs, where nobody else writes: its budget is three."""

import asyncio
from pathlib import Path

from mcp_guard.core.model import Effect, RateCounter, SequenceRule, StepOutcome, ToolCallRequest
from tests.ledger.on_database import RemoteGuard, exchanges, remote_guard
from tests.promises.harness import ALLOW, HOLD, SECOND, make_instance, pending_id, text

BUDGET = 3
HOUR = 3600 * SECOND
COUNTERS = (
    RateCounter("writes", HOUR, ("agent",), (Effect.WRITE,)),
    RateCounter("by_tool", HOUR, ("tool",), (Effect.WRITE,)),
)
SEQUENCES = tuple(
    SequenceRule(f"is_{counts}", ("crm__note",), counts, ("agent",), HOUR, "/text", "/text") for counts in StepOutcome
)


async def cost(remote: RemoteGuard, calls: int = 3) -> list[int]:
    """What each of these calls costs, after one that need not be the first of its process."""
    remote.harness.upstream.agree = lambda _: None  # it looks at the ledger, too
    costs = []
    for number in range(calls + 1):
        before = exchanges(remote.executor)
        assert text(await remote.call(str(number))) == "done"
        costs.append(exchanges(remote.executor) - before)
    return costs[1:]


async def test_a_call_costs_three_exchanges(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        assert await cost(remote) == [BUDGET] * 3


async def test_what_a_call_counts_costs_no_further_exchange(tmp_path: Path) -> None:
    async with remote_guard(tmp_path, counters=COUNTERS, sequences=SEQUENCES) as remote:
        assert await cost(remote) == [BUDGET] * 3
        assert remote.store.sum_uses("writes", "agent", 0) == remote.store.sum_uses("by_tool", "crm__note", 0) == 4


async def test_an_approved_call_costs_its_look_up_and_its_approval(tmp_path: Path) -> None:
    async with remote_guard(tmp_path, ALLOW + HOLD) as remote:
        remote.harness.upstream.agree = lambda _: None
        id = pending_id(await remote.call())
        remote.harness.approve(id)
        before = exchanges(remote.executor)
        assert text(await remote.call()) == "done"
        assert (
            exchanges(remote.executor) - before <= BUDGET + 4
        )  # the request with bars, its receipt and the tree above, what its outcome reads of it


async def test_calls_side_by_side_share_their_exchanges(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        await cost(remote, 1)
        before = exchanges(remote.executor)
        await asyncio.gather(*(remote.call(str(number)) for number in range(20)))
        assert exchanges(remote.executor) - before <= 4 * BUDGET


async def test_a_call_whose_facts_are_read_costs_as_much_as_two(tmp_path: Path) -> None:
    async with remote_guard(tmp_path) as remote:
        await cost(remote, 1)
        before = exchanges(remote.executor)
        request = ToolCallRequest("crm__update_deal", {"deal_id": "1", "amount": 150})
        assert text(await remote.harness.guard.call(make_instance(), request)) == "done"
        assert exchanges(remote.executor) - before <= 2 * BUDGET
