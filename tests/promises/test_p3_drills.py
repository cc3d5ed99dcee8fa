"""P3: an approval of a drill permits nothing, and nobody can tell a drill from a request before they have decided."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.approval import ApprovalState, GrantTerms
from mcp_guard.core.drill_results import drill_lines
from mcp_guard.core.drills import DrillRule, Drills
from mcp_guard.core.model import HOUR, Json, ToolCallRequest
from mcp_guard.identity.instances import approval_id, call_id
from mcp_guard.ledger import registry
from mcp_guard.ledger.approvals.drill_counts import due_routes
from mcp_guard.ledger.approvals.votes import Votes
from mcp_guard.ledger.drills import DrillIds, put_drill
from mcp_guard.ledger.receipt_search import catch_up
from mcp_guard.notify.delivery import NotificationDispatcher
from mcp_guard.notify.message import make_ended_message, make_message
from mcp_guard.policy.authoring.past import decisions
from mcp_guard.policy.authoring.recorded import DECIDING
from mcp_guard.storage.engines import open_receipt_index
from mcp_guard.storage.receipt_index import ReceiptIndex
from tests.notify.due import deliver_due
from tests.promises.drilling import (
    HUNDREDFOLD,
    INSTANCE,
    ROUTE,
    ask,
    call_approved,
    drilling,
    expire,
    make_drill,
    put,
)
from tests.promises.engines import verify
from tests.promises.harness import ALLOW, HOLD, NOW, PEOPLE, SECOND, Harness, pending_id, text

pytestmark = pytest.mark.usefixtures("each_engine")
OTHER_DEAL = DrillRule("crm__update_deal", "another deal than the ticket names", {"deal_id": "13"}, {}, ())


@pytest.fixture
def harness(tmp_path: Path, each_engine: str) -> Iterator[Harness]:
    harness = drilling(tmp_path)
    yield harness
    harness.close()


async def test_drill_looks_like_any_other_request_until_it_is_decided(harness: Harness) -> None:
    id = await make_drill(harness)
    real = pending_id(await ask(harness, 170))
    first, second = (harness.store.approval(one)[0] for one in (id, real))
    for shown in (first.to_json(), harness.receipts("approval.requested")[-2], harness.receipts("decision")[-2]):
        assert "drill" not in json.dumps(shown).replace('"drills": true', "").replace(id, "")
    assert shape(first.to_json()) == shape(second.to_json())
    requested, decisions = harness.receipts("approval.requested")[-2:], harness.receipts("decision")[-2:]
    assert shape(requested[0]) == shape(requested[1])
    assert shape(decisions[0]) == shape(decisions[1])
    assert first.subject.arguments["amount"] in (15_000, 16_000)
    assert first.subject.present == {"amount": 100, "stage": "open"}


def shape(value: Any) -> Any:
    """The names and types of the members."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    return [shape(item) for item in value] if isinstance(value, list | tuple) else type(value).__name__


async def test_the_time_of_a_drill_is_that_at_which_it_is_put(harness: Harness) -> None:
    late = '@id("late") forbid (principal, action, resource) when { context.time.utc.hour > 23 };'
    harness.load(f"{ALLOW}\n{HOLD}\n{late}")
    await make_drill(harness)
    decision = harness.receipts("decision")[-1]
    assert decision["decided_at"][:19] == decision["time"][:19]


async def test_missed_drill_permits_nothing_and_gives_no_grant(harness: Harness, tmp_path: Path) -> None:
    id = await make_drill(harness)
    writes = len(harness.upstream.writes())
    harness.approve(id, terms=GrantTerms(5, 600, ("amount",)))
    missed = harness.store.approval(id)[0]
    assert missed.state is ApprovalState.MISSED
    assert harness.store.grants() == []
    wrong = missed.subject.arguments
    assert "pending" in text(await harness.guard.call(INSTANCE, ToolCallRequest("crm__update_deal", wrong)))
    resumed = await harness.guard.call(INSTANCE, ToolCallRequest("guard__await", {"approval": id}))
    assert "no approval" in text(resumed) or "unknown" in text(resumed)
    assert len(harness.upstream.writes()) == writes
    [receipt] = harness.receipts("approval.missed")
    assert (receipt["drill"]["missed"], receipt["verdict"], receipt["drill"]["changed"]) == (
        ["alice"],
        "approve",
        ["amount"],
    )
    report = verify(tmp_path)
    assert report.ok, report.problem
    assert report.drills == 1


async def test_caught_drill_is_receipted_as_one(harness: Harness, tmp_path: Path) -> None:
    id = await make_drill(harness)
    harness.approve(id, verdict="deny")
    assert not harness.store.sum_uses("denied:refused", "\x1fagent", 0)  # no call was denied
    [receipt] = harness.receipts("approval.denied")
    assert receipt["drill"]["caught"] == ["alice"]
    assert receipt["drill"]["why"] == HUNDREDFOLD.why
    assert verify(tmp_path).ok


async def test_each_vote_on_a_route_with_a_quorum_is_judged(tmp_path: Path) -> None:
    harness = drilling(tmp_path, replace(ROUTE, quorum=2))
    for amount in (150, 160):
        id = pending_id(await ask(harness, amount))
        harness.approve(id)
        harness.approve(id, "carol")
        await ask(harness, amount)
    harness.clock.time += 300 * SECOND
    assert put(harness)
    [drill] = harness.store.approvals([ApprovalState.REQUESTED])
    harness.approve(drill.id)
    assert "drill" not in harness.receipts("approval.granted")[-1]
    harness.approve(drill.id, "carol", "deny")
    ended = harness.receipts("approval.denied")[-1]["drill"]
    assert (ended["missed"], ended["caught"]) == (["alice"], ["carol"])
    assert verify(tmp_path).ok
    harness.close()


async def test_drill_is_judged_by_a_button_in_slack_too(tmp_path: Path) -> None:
    harness = drilling(tmp_path, replace(ROUTE, accept=("slack",)))
    writer, routes = harness.ledger.writer, harness.ledger.approvals.routes
    votes, reported = Votes(writer, routes, PEOPLE), {"team": "T1", "user": "U1", "channel": "C1", "message": "1.2"}
    ended = writer.run(votes.record_reported_op(await make_drill(harness), "alice", "approve", "slack", reported))
    assert "You missed it." in drill_lines(ended, "alice")
    assert "It was missed by alice." in drill_lines(ended, "carol")
    assert verify(tmp_path).ok
    harness.close()


async def test_drill_that_has_escalated_is_one_all_the_same(tmp_path: Path) -> None:
    lead = replace(ROUTE, name="lead", approvers=("carol",), drills=None)
    route = replace(ROUTE, approvers=("alice",), escalate_to="lead", escalate_after=60 * SECOND)
    harness = drilling(tmp_path, route, lead)
    id = await make_drill(harness)
    harness.clock.time += 61 * SECOND
    harness.approve(id, "carol", "deny")
    assert harness.receipts("approval.denied")[0]["drill"]["caught"] == ["carol"]
    assert verify(tmp_path).ok
    harness.close()


async def test_drill_is_put_once_if_two_gateways_try_at_the_same_moment(tmp_path: Path, each_engine: str) -> None:
    """The other one puts it while this one has read that it is due, where an engine allows that."""
    other, harness = drilling(tmp_path), drilling(tmp_path)
    for amount in (150, 160):
        await call_approved(harness, amount)
    set_clocks([other, harness])
    raced: list[bool] = []

    def approval() -> str:
        if each_engine == "postgres" and not raced:
            raced.append(put(other))
        return "ap_second"

    ids, routes = DrillIds(approval, lambda _: "call_second"), harness.ledger.approvals.routes
    is_put = harness.ledger.writer.run(lambda tx: put_drill(tx, routes["people"], routes, ids))
    assert [is_put, *raced].count(True) == 1
    assert len(harness.store.approvals([ApprovalState.REQUESTED])) == 1
    assert not put(other)
    for gateway in (other, harness):
        gateway.close()


async def test_undecided_drill_expires_and_says_so(harness: Harness, tmp_path: Path) -> None:
    expire(harness, await make_drill(harness))
    [receipt] = harness.receipts("approval.expired")
    assert not receipt["drill"].keys() & {"caught", "missed"}
    assert verify(tmp_path).ok


async def test_drill_ends_with_its_instance(harness: Harness) -> None:
    id = await make_drill(harness)
    harness.end()
    assert harness.store.approval(id)[0].state is ApprovalState.WITHDRAWN
    assert "drill" in harness.receipts("approval.withdrawn")[0]


async def test_agent_never_sees_a_drill(harness: Harness) -> None:
    id = await make_drill(harness)
    listed = await harness.guard.call(INSTANCE, ToolCallRequest("guard__requests", {}))
    assert id not in json.dumps(listed)
    assert harness.store.open_size(INSTANCE.id) == (0, 0, 0)


async def test_rate_is_exact_over_two_gateways_and_a_restart(tmp_path: Path) -> None:
    gateways = [drilling(tmp_path), drilling(tmp_path)]
    made = 0
    for amount in range(150, 158):
        gateway = gateways[amount % 2]
        await call_approved(gateway, amount)
        set_clocks(gateways)
        made += sum(put(each) for each in gateways)
        set_clocks(gateways)
        for drill in gateway.store.approvals([ApprovalState.REQUESTED]):
            gateway.approve(drill.id, verdict="deny")
        if amount == 153:
            gateways.pop().close()
            gateways.append(drilling(tmp_path))
        set_clocks(gateways)
    assert made == 4
    assert due_routes(gateways[0].store, gateways[0].ledger.approvals.routes, gateways[0].clock.time) == []
    for gateway in gateways:
        gateway.close()


def set_clocks(gateways: list[Harness]) -> None:
    now = max(gateway.clock.time for gateway in gateways) + 301 * SECOND
    for gateway in gateways:
        gateway.clock.time = now


async def test_drill_names_another_resource(tmp_path: Path) -> None:
    harness = drilling(tmp_path, replace(ROUTE, drills=Drills(2, (OTHER_DEAL,))))
    drill = harness.store.approval(await make_drill(harness))[0]
    assert drill.subject.resource.id == drill.subject.arguments["deal_id"] == "13"
    assert harness.receipts("approval.requested")[-1]["resource"] == {"type": "Deal", "id": "13"}
    assert verify(tmp_path).ok
    harness.close()


async def test_no_drill_is_put_while_another_is_open_or_no_instance_runs(harness: Harness) -> None:
    id = await make_drill(harness)
    for amount in (170, 180):
        await call_approved(harness, amount)
    harness.clock.time += 300 * SECOND
    assert not put(harness)
    harness.approve(id, verdict="deny")
    harness.ledger.writer.run(lambda tx: registry.end(tx, INSTANCE))
    assert not put(harness)


async def test_drills_say_nothing_of_earlier_requests(harness: Harness) -> None:
    harness.approve(await make_drill(harness), verdict="deny")
    real = harness.store.approval(pending_id(await ask(harness, 170)))[0]
    earlier = harness.store.earlier_requests(real)
    assert (earlier.done, earlier.denied) == (2, 0)


async def test_dispatcher_puts_a_drill_and_notifies_of_it_like_of_any_request(harness: Harness) -> None:
    for amount in (150, 160):
        await call_approved(harness, amount)
    harness.clock.time += 300 * SECOND
    ledger, ids = harness.ledger, DrillIds(approval_id, call_id)
    routes = {"people": replace(ROUTE, notify=("one",))}
    dispatcher = NotificationDispatcher(ledger.writer, ledger.reader, routes, {}, "http://localhost", drills=ids)
    await deliver_due(dispatcher)
    await deliver_due(dispatcher)
    [drill] = harness.store.approvals([ApprovalState.REQUESTED])
    [delivery] = harness.store.deliveries(drill.id)
    assert (delivery.notifier, delivery.event) == ("one", "requested")
    assert int(drill.subject.call[5:-4], 16) < drill.requested, "the call came before it was asked about"
    message = make_message(drill, "requested", "m", "http://localhost", harness.clock.now())
    assert "drill" not in json.dumps([message.title, message.lines, message.data])
    harness.approve(drill.id)
    ended = make_ended_message(harness.store.approval(drill.id)[0], "m", "http://localhost", harness.clock.now())
    assert "was a drill" in ended.title
    assert "It was missed by alice." in ended.lines
    await ledger.reader.close()


async def test_drill_is_counted_as_a_call_only_while_it_is_open(harness: Harness, tmp_path: Path) -> None:
    with closing(open_receipt_index(tmp_path)) as index:
        for amount in (150, 160):
            await call_approved(harness, amount)
        before, calls = counted(index, harness), index.numbers("agent", ["agent"])
        harness.clock.time += 300 * SECOND
        assert put(harness)
        while_open = counted(index, harness)
        assert while_open["tool", "crm__update_deal"] == before["tool", "crm__update_deal"] + 1
        [drill] = harness.store.approvals([ApprovalState.REQUESTED])
        harness.approve(drill.id, verdict="deny")
        assert +counted(index, harness) == before + Counter({("call", "drill"): 1})
        assert index.numbers("agent", ["agent"]) == calls
        assert [past.receipt["call"] for past in decisions(harness.store)] == [
            receipt["call"] for receipt in harness.receipts() if receipt["kind"] in DECIDING and is_of_call(receipt)
        ]


def counted(index: ReceiptIndex, harness: Harness) -> Counter[tuple[str, str]]:
    catch_up(index, harness.store, 5, lambda: False)
    counts: Counter[tuple[str, str]] = Counter()
    for _, kind, value, number in index.counts(NOW - HOUR, harness.clock.time + HOUR, 1):
        counts[kind, value] += number
    return counts


def is_of_call(receipt: Json) -> bool:
    return "purpose" not in receipt and not receipt["call"].startswith("call_x")
