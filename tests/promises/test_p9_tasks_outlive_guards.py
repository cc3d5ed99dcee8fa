"""P9: a call that goes on as a task is not closed with its guard: the next one asks the upstream how it ended."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_guard.core.model import ToolCallRequest
from mcp_guard.core.tasks import MAX_TTL
from mcp_guard.ledger.recovery import recover
from mcp_guard.ports import SILENT_CHANNEL
from tests.live.running_guard import cli, log
from tests.live.test_session import eventually
from tests.live.test_tasks import Tasked, configure, go_on, sent
from tests.promises.engines import engine
from tests.promises.harness import Harness, open_harness
from tests.promises.test_p1_tasks import INSTANCES, TaskUpstream, make_client
from tests.servers.tasks import text_result, write_state


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("is_known", [True, False])
def test_a_task_outlives_its_guard(tmp_path: Path, is_known: bool) -> None:
    """Killed while it runs: the next guard asks the upstream, and knows the outcome unless the upstream does not."""
    config = configure(tmp_path)
    with Tasked(config) as client:
        task = client.make()
        client.process.send_signal(signal.SIGKILL)
        client.process.wait()
    assert "no outcome is recorded yet" in cli("show", task["taskId"], "--config", str(config)).stdout
    if is_known:
        go_on(tmp_path, status="completed", result=text_result("done"))
    else:
        write_state(tmp_path / "tasks.json", {})
    engine().let_leases_run_out(tmp_path)
    with Tasked(config) as second:
        second.ask("server/discover")
        [outcome] = eventually(lambda: log(config, "--kind", "outcome"))
        assert second.look(task["taskId"])["error"]["code"] == -32602  # it is another run of the agent
    assert (outcome["ending"], outcome["call"]) == ("ok" if is_known else "unknown", task["taskId"])
    assert outcome["instance"] == log(config, "--kind", "intent")[0]["instance"]
    assert len(sent(tmp_path, "tools/call")) == 1
    cli("verify", "--config", str(config))


async def make_task(harness: Harness, upstream: TaskUpstream) -> str:
    harness.ledger.writer.run(lambda tx: list(map(tx.store.add_instance, INSTANCES.values())))
    guard = replace(harness.guard, upstreams=upstream)
    reply = await guard.call(INSTANCES["run_1"], ToolCallRequest("crm__note", {"text": "x"}))
    return str(reply["task"]["taskId"])


@pytest.mark.usefixtures("each_engine")
async def test_a_task_is_closed_as_unknown_once_nobody_can_say_how_it_ended(tmp_path: Path) -> None:
    first = open_harness(tmp_path)
    id = await make_task(first, TaskUpstream(first.upstream.catalog, agree=first.upstream.agree, folder=tmp_path))
    first.close()
    engine().let_leases_run_out(tmp_path)
    second = open_harness(tmp_path)
    assert recover(second.ledger.ledger) == []
    second.clock.time += 2 * MAX_TTL
    assert [intent["call"] for intent in recover(second.ledger.ledger)] == [id]
    assert [outcome["ending"] for outcome in second.receipts("outcome")] == ["unknown"]
    second.close()


@pytest.mark.usefixtures("each_engine")
async def test_any_gateway_answers_about_a_task_and_one_records_its_end(tmp_path: Path) -> None:
    first, second = open_harness(tmp_path), open_harness(tmp_path)
    upstream = TaskUpstream(first.upstream.catalog, agree=first.upstream.agree, folder=tmp_path)
    id = await make_task(first, upstream)
    clients = [make_client(harness, upstream, "run_1") for harness in (first, second)]
    upstream.states["secret-0"] = "completed"
    replies = [await client.handle("tasks/get", {"taskId": id}, SILENT_CHANNEL) for client in reversed(clients)]
    assert [reply["result"]["result"]["content"][0]["text"] for reply in replies] == ["done", "done"]
    assert [outcome["ending"] for outcome in first.receipts("outcome")] == ["ok"]
    first.close()
    second.close()
