"""P9: a call that goes on as a task is not closed with its guard: the next one asks the upstream how it ended."""

import signal
from pathlib import Path

import pytest

from tests.live.running_guard import cli, log
from tests.live.test_session import eventually
from tests.live.test_tasks import Tasked, configure, go_on, sent
from tests.promises.engines import engine
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
    engine().let_leases_run_out(tmp_path)
    with Tasked(config) as second:
        second.ask("server/discover")
        assert "no outcome is recorded yet" in cli("show", task["taskId"], "--config", str(config)).stdout
        if is_known:
            go_on(tmp_path, status="completed", result=text_result("done"))
        else:
            write_state(tmp_path / "tasks.json", {})
        [outcome] = eventually(lambda: log(config, "--kind", "outcome"))
        assert second.look(task["taskId"])["error"]["code"] == -32602  # it is another run of the agent
    assert (outcome["ending"], outcome["call"]) == ("ok" if is_known else "unknown", task["taskId"])
    assert outcome["instance"] == log(config, "--kind", "intent")[0]["instance"]
    assert len(sent(tmp_path, "tools/call")) == 1
    cli("verify", "--config", str(config))
