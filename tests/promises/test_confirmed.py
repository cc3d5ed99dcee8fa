"""With `confirm`, an outcome says what was read after the call, whoever else writes, and however the guard ends.

The upstream of these tests is a file that all processes share, and knows what each call has really changed.
"""

import asyncio
import json
import multiprocessing
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mcp_guard.core.confirmation import differs
from mcp_guard.core.model import Execution, ExecutionStatus, Json, ToolCallRequest
from mcp_guard.ledger import confirmations
from mcp_guard.ledger.confirmations import COUNTER
from mcp_guard.ledger.recovery import recover
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel, Intent
from tests.kill_points import killed_at, report_commits
from tests.promises.engines import engine, verify
from tests.promises.harness import Harness, make_instance, open_harness, text
from tests.proof_size import sized

PROCESSES, CALLS = 16, sized(12, 2)
UPDATE = "crm__update_deal"
OK = ExecutionStatus.OK
SCHEMA = Path(__file__).parents[2] / "docs/reference/receipt.schema.json"
VALIDATOR = Draft202012Validator(json.loads(SCHEMA.read_text()))


@dataclass
class Crm:
    """A deal in a file. `journal` is what wrote it, in order; `effect` is what a call really changes."""

    path: Path

    def __post_init__(self) -> None:
        with self._open() as db:
            db.execute("CREATE TABLE IF NOT EXISTS journal (version INTEGER PRIMARY KEY, call TEXT, deal TEXT)")
            if not db.execute("SELECT 1 FROM journal").fetchone():
                self.write("", {"deal_id": "1", "amount": 0, "stage": "open"})

    def _open(self) -> Any:
        return closing(sqlite3.connect(self.path, isolation_level=None, timeout=60))

    def write(self, call: str, change: Json) -> None:
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            row = db.execute("SELECT deal FROM journal ORDER BY version DESC").fetchone()
            deal = (json.loads(row[0]) if row else {}) | change
            db.execute("INSERT INTO journal (call, deal) VALUES (?, ?)", (call, json.dumps(deal)))
            db.execute("COMMIT")

    def read(self) -> Json:
        with self._open() as db:
            version, deal = db.execute("SELECT version, deal FROM journal ORDER BY version DESC").fetchone()
        return {**json.loads(deal), "version": version}

    def calls(self) -> dict[int, str]:
        """The call that wrote each version."""
        with self._open() as db:
            return dict(db.execute("SELECT version, call FROM journal").fetchall())


def open_confirmed(folder: Path, effect: Json | None = None) -> tuple[Harness, Crm]:
    """A guard whose `update_deal` is confirmed. A call changes what it asks for, and `effect` besides."""
    harness, crm = open_harness(folder), Crm(folder / "crm.sqlite")
    tool = harness.upstream.catalog[UPDATE]
    rule = replace(tool.rule, confirm=True, also_changes=("version",))
    harness.upstream.catalog[UPDATE] = replace(tool, rule=rule)

    async def write(intent: Intent) -> None:
        if intent.call.name == UPDATE:
            crm.write(intent.call.id, intent.call.arguments | (effect or {}))

    harness.upstream.before = write
    harness.upstream.reading = lambda: Execution(OK, {"result": {"structuredContent": crm.read(), "content": []}})
    return harness, crm


def outcomes(harness: Harness) -> list[Json]:
    return [receipt for receipt in harness.receipts("outcome") if "purpose" not in receipt]


def update(**arguments: Any) -> ToolCallRequest:
    return ToolCallRequest(UPDATE, {"deal_id": "1", **arguments})


def check_exact(harness: Harness, crm: Crm) -> list[Json]:
    """Each confirmation says what was there when it was read, names who wrote that, and is counted if it differs."""
    by_seq = {receipt["seq"]: receipt for receipt in harness.receipts()}
    wrote, confirmed = crm.calls(), outcomes(harness)
    for outcome in confirmed:
        assert list(VALIDATOR.iter_errors(outcome)) == []
        said = outcome.get("confirmation", {"finding": "unread"})
        if said["finding"] == "unread":
            continue
        [intent] = outcome["follows"]
        asked = json.loads(harness.store.payloads(intent)["request"])["arguments"]
        after = json.loads(harness.store.payloads(outcome["seq"])["facts"])
        before = json.loads(harness.store.payloads(intent)["facts"])
        expected = before | asked | {"version": after["version"]}
        assert (said["finding"] == "as_requested") == (after == expected)
        writer = wrote[after["version"]]
        if writer != outcome["call"]:  # somebody else wrote in between: who is among those that the receipt names
            assert writer in [by_seq[seq]["call"] for seq in said["others"]]
    assert harness.store.sum_uses(COUNTER, UPDATE, 0) == sum(map(differs, confirmed))
    report = verify(harness.folder)
    assert report.ok, report.problem
    return confirmed


def race(folder: Path, number: int, barrier: Barrier, done: Any) -> None:
    harness, _ = open_confirmed(folder)

    async def work() -> int:
        barrier.wait(60)
        calls = [update(amount=1 + number + 100 * turn) for turn in range(CALLS)]
        replies = [await harness.guard.call(make_instance(f"run_{number}"), call) for call in calls]
        return sum(text(reply) == "done" for reply in replies)

    done.put(asyncio.run(work()))
    harness.close()


@pytest.mark.usefixtures("each_engine")
def test_sixteen_processes_confirm_exactly_what_was_there(tmp_path: Path) -> None:
    open_confirmed(tmp_path)[0].close()
    context = multiprocessing.get_context("fork")
    barrier, done = context.Barrier(PROCESSES), context.Queue()
    racers = [context.Process(target=race, args=(tmp_path, number, barrier, done)) for number in range(PROCESSES)]
    for racer in racers:
        racer.start()
    results = [done.get(timeout=240) for _ in racers]
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0] * PROCESSES
    harness, crm = open_confirmed(tmp_path)
    engine().let_leases_run_out(tmp_path)
    recover(harness.ledger.ledger)  # on a busy machine a ledger may be locked for so long that a call is denied
    ended = [outcome for outcome in check_exact(harness, crm) if outcome["ending"] == "ok"]
    assert len(ended) >= sum(results) > 0
    assert {"as_requested", "differs"} >= {outcome["confirmation"]["finding"] for outcome in ended} - {"unread"}
    harness.close()


def call_once(folder: Path, at: Any) -> None:
    harness, _ = open_confirmed(folder, {"stage": "stolen"})
    written = harness.upstream.before
    assert written is not None

    async def write(intent: Intent) -> None:
        at("before send")
        await written(intent)
        at("after send")

    report_commits(harness.store, at)
    harness.upstream.before = write
    asyncio.run(harness.guard.call(make_instance(), update(amount=5)))
    at("replied")
    harness.close()


@pytest.mark.usefixtures("each_engine")
def test_guard_killed_at_any_point_confirms_nothing_that_it_has_not_read(tmp_path: Path) -> None:
    points: list[str] = []
    (tmp_path / "all").mkdir()
    call_once(tmp_path / "all", points.append)
    found = set()
    for number in range(len(points) - 1, -1, -sized(1, 5)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert killed_at(number, partial(call_once, folder))
        engine().let_leases_run_out(folder)
        harness, crm = open_confirmed(folder)
        recover(harness.ledger.ledger)
        assert len(set(crm.calls().values())) <= 2  # the call was not made twice
        assert verify(folder).calls_without_outcome == 0
        for outcome in check_exact(harness, crm):
            found.add((outcome["ending"], outcome.get("confirmation", {}).get("finding")))
        harness.close()
    assert found <= {("unknown", None), ("ok", "differs")}
    assert ("ok", "differs") in found


@pytest.mark.usefixtures("each_engine")
async def test_a_difference_raises_the_risk_of_later_calls_of_the_tool(tmp_path: Path) -> None:
    harness, crm = open_confirmed(tmp_path, {"stage": "stolen"})
    await harness.guard.call(make_instance(), update(amount=5))
    await harness.guard.call(make_instance("run_2"), update(amount=5))
    [first, second] = [receipt for receipt in harness.receipts("intent") if "purpose" not in receipt]
    assert "differed_before" not in first["risk"]["signals"]
    assert "differed_before" in second["risk"]["signals"]
    [outcome, _] = check_exact(harness, crm)
    assert outcome["confirmation"] == {
        "finding": "differs", "actual": ["amount", "stage", "version"], "beside": ["stage"],
    }  # fmt: skip
    harness.close()


async def test_a_reading_that_fails_costs_only_itself(tmp_path: Path) -> None:
    harness, _ = open_confirmed(tmp_path)
    working = harness.upstream.reading
    assert working is not None
    failed = Execution(ExecutionStatus.TOOL_ERROR, {"result": {"content": []}}, "gone")
    harness.upstream.reading = lambda: failed if harness.upstream.writes() else working()
    assert text(await harness.guard.call(make_instance(), update(amount=5))) == "done"
    [outcome] = outcomes(harness)
    assert outcome["ending"] == "ok"
    assert outcome["confirmation"] == {
        "finding": "unread", "because": "the present state cannot be read with `get_deal`: gone",
    }  # fmt: skip
    assert verify(tmp_path).ok
    harness.close()


async def hang_on_second_reading(harness: Harness, reached: asyncio.Event | None = None) -> None:
    written, readings = harness.upstream.before, 0
    assert written is not None

    async def hang(intent: Intent) -> None:
        nonlocal readings
        await written(intent)
        readings += intent.call.purpose == "facts"
        if readings == 2:
            if reached is not None:
                reached.set()
            await asyncio.Event().wait()

    harness.upstream.before = hang


async def test_the_outcome_does_not_wait_longer_than_the_client(tmp_path: Path) -> None:
    harness, _ = open_confirmed(tmp_path)
    await hang_on_second_reading(harness)
    channel = ClientChannel(seconds_left=lambda: 0.05)
    assert text(await harness.guard.call(make_instance(), update(amount=5), channel)) == "done"
    [outcome] = outcomes(harness)
    assert outcome["ending"] == "ok"
    assert outcome["confirmation"]["because"] == "the resource could not be read again within 0.05 s"
    read = harness.receipts("outcome")[1]
    assert read["detail"] == "cancelled by the guard, which no longer waits for it after it was sent to the upstream"
    harness.close()


async def test_a_client_that_leaves_meanwhile_loses_the_confirmation_and_not_the_outcome(tmp_path: Path) -> None:
    harness, _ = open_confirmed(tmp_path)
    reached = asyncio.Event()
    await hang_on_second_reading(harness, reached)
    call = asyncio.create_task(harness.guard.call(make_instance(), update(amount=5)))
    await reached.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    [outcome] = outcomes(harness)
    assert (outcome["ending"], outcome["confirmation"]["finding"]) == ("ok", "unread")
    assert verify(tmp_path).calls_without_outcome == 0
    harness.close()


async def test_reading_again_tells_what_became_of_a_call_without_an_answer(tmp_path: Path) -> None:
    harness, _ = open_confirmed(tmp_path)
    answer = harness.upstream.execute

    async def lose_answers(intent: Intent, channel: ClientChannel = SILENT_CHANNEL) -> Execution:
        execution = await answer(intent, channel)
        is_write = intent.call.purpose == "call"
        return execution._replace(status=ExecutionStatus.UNKNOWN) if is_write else execution

    harness.upstream.execute = lose_answers  # type: ignore[method-assign]
    await harness.guard.call(make_instance(), update(amount=5))
    harness.upstream.before = None
    await harness.guard.call(make_instance(), update(amount=6))
    findings = [(outcome["ending"], outcome["confirmation"]["finding"]) for outcome in outcomes(harness)]
    assert findings == [("unknown", "as_requested"), ("unknown", "unchanged")]
    assert [intent.call.name for intent in harness.upstream.intents].count(UPDATE) == 2
    harness.close()


async def test_a_ledger_that_fails_meanwhile_delays_the_outcome_like_any_other(tmp_path: Path) -> None:
    harness, _ = open_confirmed(tmp_path)
    written = harness.upstream.before
    assert written is not None

    async def write_and_break(intent: Intent) -> None:
        await written(intent)
        if intent.call.purpose == "call":
            engine().break_writes(harness.store)

    harness.upstream.before = write_and_break
    reply = await harness.guard.call(make_instance(), update(amount=5))
    assert "the outcome could not be recorded" in text(reply)
    engine().restore_writes(harness.store)
    harness.upstream.before = written
    await harness.guard.ledger.catch_up()
    [outcome] = outcomes(harness)
    assert (outcome["ending"], outcome["confirmation"]["finding"]) == ("ok", "unread")
    harness.close()


async def test_with_too_many_receipts_since_nobody_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirmations, "MAX_LOOKED_AT", 1)
    harness, _ = open_confirmed(tmp_path, {"stage": "stolen"})
    await harness.guard.call(make_instance(), update(amount=5))
    [outcome] = outcomes(harness)
    assert "too many receipts" in outcome["confirmation"]["because"]
    harness.close()


async def test_redacted_facts_are_kept_out_of_the_outcome(tmp_path: Path) -> None:
    harness, _ = open_confirmed(tmp_path, {"stage": "stolen-secret"})
    tool = harness.upstream.catalog[UPDATE]
    hidden = replace(tool.rule.redaction, arguments=("/stage",), facts=("/stage",))
    harness.upstream.catalog[UPDATE] = replace(tool, rule=replace(tool.rule, redaction=hidden))
    await harness.guard.call(make_instance(), update(stage="asked-secret"))
    [outcome] = outcomes(harness)
    assert outcome["confirmation"]["missed"] == ["stage"]
    assert "/facts/stage" in outcome["redacted"]
    assert not [file for file in (tmp_path / "state").glob("ledger.sqlite*") if b"-secret" in file.read_bytes()]
    assert verify(tmp_path).ok
    harness.close()


async def test_what_is_not_sent_is_not_confirmed(tmp_path: Path) -> None:
    harness, _ = open_confirmed(tmp_path)
    written = harness.upstream.before
    assert written is not None

    async def cut_off(intent: Intent) -> None:
        harness.upstream.is_unreachable = intent.call.purpose == "call"

    harness.upstream.before = cut_off
    await harness.guard.call(make_instance(), update(amount=5))
    [outcome] = outcomes(harness)
    assert outcome["ending"] == "not_sent"
    assert "confirmation" not in outcome
    harness.close()
