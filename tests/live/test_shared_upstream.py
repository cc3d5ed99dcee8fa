"""`serve` with `share = true`: one process for all sessions, and each receipt names the instance that called."""

import json
import sys
from pathlib import Path

from tests.live.http_guard import Served, free_port, serving
from tests.live.running_guard import SERVERS, cli, text, upstream, write_config
from tests.live.test_session import alive, children


def test_sessions_of_two_instances_share_a_process_and_their_receipts_do_not(tmp_path: Path) -> None:
    server = upstream("up", sys.executable, str(SERVERS / "stateless_stdio.py"), str(tmp_path / "log"))
    port = free_port()
    config = write_config(tmp_path, f"{server}share = true", more=serving(port))
    with Served(config, port) as served:
        callers = {instance: served.raw(token) for instance, token in (served.issue(), served.issue())}
        for instance, client in callers.items():
            client.start()
            assert text(client.call("up__work", {"text": instance})).split()[1] == instance
        assert len(children(served.process.pid)) == 1
        first, second = callers.values()
        first.ask("DELETE", served.url)
        assert text(second.call("up__work", {"text": "still there"}))
        [server_pid] = children(served.process.pid)
    assert not alive(server_pid)
    intents = json.loads(cli("log", "--config", str(config), "--json", "--kind", "intent").stdout)
    assert sorted(intent["instance"] for intent in intents) == sorted([*callers, list(callers)[1]])
