"""P1 and P7 for tasks: whatever clients ask about them, nothing reaches an upstream but under the durable intent of a
call of theirs; and each task has one outcome."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.describe import DescriptionRules, describe
from mcp_guard.core.model import Execution, ExecutionStatus, Instance, Json, ToolCallRequest
from mcp_guard.core.provenance.instances import InstanceHistories
from mcp_guard.downstream.task_requests import TaskRequests
from mcp_guard.guard import Guard
from mcp_guard.ports import SILENT_CHANNEL, ClientChannel, Intent, UpstreamTask
from tests.promises.engines import engine
from tests.promises.harness import SECOND, Harness, Recorder, make_instance, open_harness
from tests.proof_size import FULL

METHODS = ("tasks/get", "tasks/update", "tasks/cancel")
STATES: dict[str, Json] = {
    "working": {},
    "input_required": {"inputRequests": {"k": {"method": "elicitation/create", "params": {"message": "?"}}}},
    "completed": {"result": {"content": [{"type": "text", "text": "done"}]}},
    "failed": {"error": {"code": -32603, "message": "broke"}},
    "cancelled": {},
    "forgotten": {},
}
ENDINGS = {"completed": "ok", "failed": "upstream_error", "cancelled": "cancelled", "forgotten": "unknown"}
INSTANCES = {id: make_instance(id) for id in ("run_1", "run_2")}
"""Two of one user."""
OTHERS = {
    "run_3": make_instance("run_3", on_behalf_of="eve"),
    "run_4": make_instance("run_4", user_issuer="https://login.example"),  # where somebody else is called like that
    "run_5": make_instance("run_5", on_behalf_of=None),
}
"""Those of other users."""
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("call", "watch", "change", *METHODS)),
        st.sampled_from(tuple(INSTANCES)),
        st.integers(0, 3),
        st.sampled_from(tuple(STATES)),
    ),
    max_size=20,
)
Step = tuple[str, str, int, str]


@dataclass
class TaskUpstream(Recorder):
    """An upstream that makes a task of each call, and checks what it is asked about them."""

    folder: Path = Path()
    states: dict[str, str] = field(default_factory=dict)
    asking: str = ""
    """The instance that asks; empty while the guard does."""
    connections: dict[str, Any] = field(
        default_factory=lambda: {"crm": SimpleNamespace(protocol=True, has_own_process=False)}
    )

    async def execute(self, intent: Intent, channel: ClientChannel = SILENT_CHANNEL) -> Execution:
        id = f"secret-{len(self.states)}"
        self.states[id] = "working"
        return Execution(ExecutionStatus.OK, {"task": {"taskId": intent.call.id, "ttlMs": 1000}}, task=id)

    async def ask_task(self, task: UpstreamTask, method: str, params: Json, channel: ClientChannel) -> Json:
        seq = task.intent["seq"]
        assert engine().read(self.folder, f"SELECT kind, call FROM receipt WHERE seq = {seq}") == [
            ("intent", task.call)
        ]
        [(noted,)] = engine().read(self.folder, f"SELECT value FROM meta WHERE name = 'task {seq}'")
        assert task.id in noted
        assert self.asking in ("", task.instance.id)
        state = self.states[task.id]
        if state == "forgotten":
            return {"error": {"code": -32602, "message": "not found"}}
        if method == "tasks/cancel" and state not in ENDINGS:
            self.states[task.id] = "cancelled"
        return {"result": {"taskId": task.id, "status": state, **STATES[state]} if method == "tasks/get" else {}}

    def forwarded_answer(self, answer: Json) -> Json:
        return answer


@dataclass
class ClientSession:
    """The part of a session that tasks use."""

    guard: Guard
    instance: Instance
    upstreams: TaskUpstream

    async def settle(self) -> None: ...

    def on_result(self, server: str, result: Json) -> None: ...

    async def on_answers(self, server: str, questions: Json, answers: dict[str, Json]) -> dict[str, Json]:
        return answers


def make_client(harness: Harness, upstream: TaskUpstream, instance: str) -> TaskRequests:
    guard = replace(harness.guard, upstreams=upstream)
    session = ClientSession(guard, (INSTANCES | OTHERS)[instance], upstream)
    return TaskRequests(session, lambda _: None)  # type: ignore[arg-type]


async def follow(harness: Harness, upstream: TaskUpstream, steps: Sequence[Step]) -> None:
    guard = replace(harness.guard, upstreams=upstream)
    clients = {id: make_client(harness, upstream, id) for id in INSTANCES}
    made: list[tuple[str, str, str]] = []
    """The instance, the id that it knows and the upstream's of each task."""
    for what, who, number, state in steps:
        upstream.asking = "" if what == "watch" else who
        owner, id, secret = made[number] if number < len(made) else ("", f"call_made_up{number}", "")
        match what:
            case "call":
                reply = await guard.call(INSTANCES[who], ToolCallRequest("crm__note", {"text": "x"}))
                made.append((who, reply["task"]["taskId"], list(upstream.states)[-1]))
            case "watch":
                harness.clock.time += 60 * SECOND
                await clients[who].ask_about_due()
            case "change" if secret and upstream.states[secret] not in ENDINGS:
                upstream.states[secret] = state
            case method if method in METHODS:
                params = {"taskId": id, "inputResponses": {"k": {"action": "decline"}}}
                reply = await clients[who].handle(method, params, SILENT_CHANNEL)
                if owner != who:
                    assert reply["error"]["code"] == -32602
                    last = next(harness.store.receipts_back())
                    assert (last.kind, json.loads(last.body)["tool"]) == ("decision", method)
                assert "secret" not in str(reply)
    upstream.states |= {id: "completed" for id, state in upstream.states.items() if state not in ENDINGS}
    upstream.asking, harness.clock.time = "", harness.clock.time + 60 * SECOND
    await clients["run_1"].ask_about_due()
    for _, id, secret in made:
        receipts = [json.loads(row.body) for row in harness.store.receipts_of(id)]
        assert [receipt["kind"] for receipt in receipts] == ["intent", "outcome"]
        assert receipts[1]["ending"] == ENDINGS[upstream.states[secret]]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Harness, TaskUpstream]]:
    folder = tmp_path_factory.mktemp("tasks")
    harness = open_harness(folder)
    harness.ledger.writer.run(lambda tx: list(map(tx.store.add_instance, INSTANCES.values())))
    yield harness, TaskUpstream(harness.upstream.catalog, agree=harness.upstream.agree, folder=folder)
    harness.close()


@settings(max_examples=300 if FULL else 8, deadline=None)
@given(steps=STEPS)
def test_nothing_about_a_task_reaches_an_upstream_without_the_intent_of_its_call(
    ledger: tuple[Harness, TaskUpstream], steps: Sequence[Step]
) -> None:
    asyncio.run(follow(*ledger, [("call", "run_1", 0, ""), ("call", "run_2", 0, ""), *steps]))


async def test_a_session_asks_by_itself_only_about_tasks_of_its_own_user(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    harness.ledger.writer.run(lambda tx: list(map(tx.store.add_instance, (INSTANCES | OTHERS).values())))
    upstream = TaskUpstream(harness.upstream.catalog, agree=harness.upstream.agree, folder=tmp_path)
    guard = replace(harness.guard, upstreams=upstream)
    await guard.call(INSTANCES["run_1"], ToolCallRequest("crm__note", {"text": "x"}))
    upstream.states["secret-0"] = "completed"
    harness.clock.time += 60 * SECOND
    for id in OTHERS:
        assert not await make_client(harness, upstream, id).ask_about_due()
        assert harness.receipts("outcome") == []
    assert await make_client(harness, upstream, "run_2").ask_about_due()  # the others have not taken its turn
    assert [outcome["ending"] for outcome in harness.receipts("outcome")] == ["ok"]
    harness.close()


async def test_turns_of_tasks_that_others_have_ended_are_forgotten(tmp_path: Path) -> None:
    here, there = open_harness(tmp_path), open_harness(tmp_path)
    here.ledger.writer.run(lambda tx: list(map(tx.store.add_instance, INSTANCES.values())))
    upstream = TaskUpstream(here.upstream.catalog, agree=here.upstream.agree, folder=tmp_path)
    guard, turns = replace(here.guard, upstreams=upstream), here.ledger.ledger.task_turns
    reply = await guard.call(INSTANCES["run_1"], ToolCallRequest("crm__note", {"text": "x"}))
    upstream.states["secret-0"] = "completed"
    await make_client(there, upstream, "run_1").handle("tasks/get", {"taskId": reply["task"]["taskId"]}, SILENT_CHANNEL)
    assert len(here.receipts("outcome")) == len(turns) == 1
    here.clock.time += 100 * SECOND
    assert not await make_client(here, upstream, "run_1").ask_about_due()
    assert len(turns) == 0
    here.close()
    there.close()


async def test_the_result_of_a_task_that_another_process_ended_counts_in_the_history_of_the_run(tmp_path: Path) -> None:
    here, there = (open_harness(tmp_path) for _ in range(2))
    here.ledger.writer.run(lambda tx: list(map(tx.store.add_instance, INSTANCES.values())))
    upstream = TaskUpstream(here.upstream.catalog, agree=here.upstream.agree, folder=tmp_path)
    reply = await replace(here.guard, upstreams=upstream).call(INSTANCES["run_1"], ToolCallRequest("crm__note", {}))
    upstream.states["secret-0"] = "completed"
    for harness in (there, here):
        harness.guard = replace(harness.guard, memory=InstanceHistories(attentive=True))
        client = make_client(harness, upstream, "run_1")
        await client.handle("tasks/get", {"taskId": reply["task"]["taskId"]}, SILENT_CHANNEL)
    tool = here.upstream.catalog["crm__note"]
    seen = describe(DescriptionRules(), "call", INSTANCES["run_1"], ToolCallRequest("crm__note", {}), tool)
    assert here.guard.memory.history_for(seen).tools == ("crm__note",)
    here.close()
    there.close()


def process_of_another_session(upstream: TaskUpstream) -> TaskUpstream:
    """A process of the same upstream, which knows of no task."""
    crm = SimpleNamespace(protocol=True, has_own_process=True)
    states = dict.fromkeys(upstream.states, "forgotten")
    return replace(upstream, states=states, connections={"crm": crm})


async def test_a_process_of_another_session_is_not_asked_while_the_one_that_made_the_task_runs(tmp_path: Path) -> None:
    harness = open_harness(tmp_path)
    harness.ledger.writer.run(lambda tx: list(map(tx.store.add_instance, INSTANCES.values())))
    upstream = TaskUpstream(harness.upstream.catalog, agree=harness.upstream.agree, folder=tmp_path)
    upstream.connections["crm"].has_own_process = True
    guard = replace(harness.guard, upstreams=upstream)
    await guard.call(INSTANCES["run_1"], ToolCallRequest("crm__note", {"text": "x"}))
    own = make_client(harness, upstream, "run_1")
    other = make_client(harness, process_of_another_session(upstream), "run_2")
    for _ in range(3):
        harness.clock.time += 20 * SECOND
        await own.ask_about_due()
        harness.clock.time += 11 * SECOND
        await other.ask_about_due()
    assert harness.receipts("outcome") == []
    harness.clock.time += 100 * SECOND  # its session has ended, and its process with it
    await other.ask_about_due()
    assert [outcome["ending"] for outcome in harness.receipts("outcome")] == ["unknown"]
    harness.close()


async def test_a_process_of_another_gateway_is_not_asked(tmp_path: Path) -> None:
    here, there = open_harness(tmp_path), open_harness(tmp_path)
    here.ledger.writer.run(lambda tx: list(map(tx.store.add_instance, INSTANCES.values())))
    upstream = TaskUpstream(here.upstream.catalog, agree=here.upstream.agree, folder=tmp_path)
    reply = await replace(here.guard, upstreams=upstream).call(
        INSTANCES["run_1"], ToolCallRequest("crm__note", {"text": "x"})
    )
    other = make_client(there, process_of_another_session(upstream), "run_1")
    for method in ("tasks/get", "tasks/cancel"):
        asked = await other.handle(method, {"taskId": reply["task"]["taskId"]}, SILENT_CHANNEL)
        assert "another gateway; ask there" in asked["error"]["message"]
    assert here.receipts("outcome") == []
    here.close()
    there.close()
