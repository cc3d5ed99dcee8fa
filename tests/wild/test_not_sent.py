"""An upstream that is down, restarting or dying gets nothing of a call: the agent is told so, and repeats it later."""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.live.running_guard import SERVERS, Client, Json, cli, enrol, log, text, upstream, write_config
from tests.live.test_session import eventually
from tests.servers.flaky_http import FlakyServer

HOLD = """
@id("all") permit (principal, action, resource);
@id("gate") @require_approval("people") @reason("people decide") forbid (principal, action, resource);
"""


def outcome_of(reply: Json) -> str:
    return str(reply["result"]["_meta"]["mcp-guard/decision"]["outcome"])


def test_a_refused_connection_is_not_said_to_have_taken_effect(tmp_path: Path) -> None:
    with FlakyServer() as server:
        config = write_config(tmp_path, f'[upstreams.far]\nurl = "{server.url}"\n')
        with Client(config) as client:
            client.start()
            client.tools()
            server.down()
            reply = client.call("far__pay", {"number": 1})
            assert "was not sent, so it did not take place: repeat exactly the same call later" in text(reply)
            assert "may have taken effect" not in text(reply)
            assert outcome_of(reply) == "not_sent"
            server.up()
            assert text(client.call("far__pay", {"number": 1})) == "done"
    assert dict(server.ran) == {'{"number": 1}': 1}
    assert [receipt["ending"] for receipt in log(config, "--kind", "outcome")] == ["not_sent", "ok"]
    assert "far: 1 not_sent" in cli("status", "--config", str(config)).stdout
    assert (
        "; it was not sent." in cli("show", log(config, "--kind", "intent")[0]["call"], "--config", str(config)).stdout
    )
    cli("verify", "--config", str(config))


@pytest.mark.parametrize("resumes", [True, False], ids=["await", "same call"])
def test_an_approval_survives_a_refused_connection(tmp_path: Path, resumes: bool) -> None:
    """P3: it is asked for once, and the call runs once."""
    with FlakyServer() as server:
        section = f'[upstreams.far]\nurl = "{server.url}"\n'
        config = write_config(tmp_path, section, HOLD, guard="hold_seconds = 0")
        with Client(config) as client:
            client.start()
            client.tools()
            id = client.call("far__pay", {"number": 1})["result"]["_meta"]["mcp-guard/decision"]["approval"]
            cli("approvals", "approve", id, "--rationale", "fine", *enrol(config))
            server.down()
            for _ in range(2):
                reply = client.call("far__pay", {"number": 1})
                assert outcome_of(reply) == "not_sent"
                assert f"Approval {id} has not been used" in text(reply)
            assert "approved" in cli("approvals", "list", "--all", "--config", str(config)).stdout
            server.up()
            name, arguments = ("guard__await", {"approval": id}) if resumes else ("far__pay", {"number": 1})
            assert text(client.call(name, arguments)) == "done"
            assert outcome_of(client.call("far__pay", {"number": 1})) == "require_approval"
    assert dict(server.ran) == {'{"number": 1}': 1}
    kinds = [receipt["kind"] for receipt in log(config) if receipt.get("approval") == id]
    used = ["approval.consumed", "approval.released"]
    assert kinds == ["approval.requested", "approval.granted", *used, *used, "approval.consumed"]
    cli("verify", "--config", str(config))


def test_an_approval_survives_a_call_that_is_held_while_its_upstream_goes_down(tmp_path: Path) -> None:
    with FlakyServer() as server:
        section = f'[upstreams.far]\nurl = "{server.url}"\n'
        config = write_config(tmp_path, section, HOLD, guard="hold_seconds = 30")
        with Client(config) as client:
            client.start()
            client.tools()
            held = client.send("tools/call", {"name": "far__pay", "arguments": {"number": 1}})
            eventually(lambda: log(config, "--kind", "approval.requested") != [])
            [requested] = log(config, "--kind", "approval.requested")
            key = enrol(config)
            server.down()
            cli("approvals", "approve", requested["approval"], "--rationale", "fine", *key)
            assert outcome_of(client.wait(held)) == "not_sent"
            server.up()
            assert text(client.call("far__pay", {"number": 1})) == "done"
    assert dict(server.ran) == {'{"number": 1}': 1}
    assert len(log(config, "--kind", "approval.requested")) == 1


def has_ended(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_process_that_is_killed_before_a_call_gets_nothing_of_it(tmp_path: Path) -> None:
    """Whether the guard has noticed or not, it never says that the call may have run. The next process may run it."""
    (tmp_path / "alive").mkdir()
    (tmp_path / "fate").write_text("answered")
    server = upstream("near", sys.executable, str(SERVERS / "dying_stdio.py"), str(tmp_path))
    config = write_config(tmp_path, server)
    with Client(config) as client:
        client.start()
        client.tools()
        done = []
        for number in range(3):
            eventually(lambda: text(client.call("near__pay", {"warm": "up"})) == "done")
            for alive in (tmp_path / "alive").iterdir():
                os.kill(int(alive.name), signal.SIGKILL)
                eventually(partial(has_ended, alive.name))  # until then it may read the call
                alive.unlink()
            reply = text(client.call("near__pay", {"number": number}))
            assert "may have taken effect" not in reply
            done += [number] if reply == "done" else []
    ran = map(json.loads, (tmp_path / "ran").read_text().splitlines())
    assert [arguments["number"] for arguments in ran if "number" in arguments] == done
    endings = {receipt["ending"] for receipt in log(config, "--kind", "outcome")}
    assert endings <= {"ok", "not_sent"}
