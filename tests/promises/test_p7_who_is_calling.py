"""P7: the caller's identity comes from a credential, is never shared, and ends with the next call after revocation."""

import asyncio
import json
import sqlite3
import threading
from pathlib import Path

import pytest

from benchmarks.http_wire import Wire
from tests.live.http_guard import Raw, Served, free_port, reply, serving
from tests.live.running_guard import ALLOW_ALL, Client, Json, cli, log, scripted, seen, text, write_config
from tests.live.test_session import eventually, held
from tests.proof_size import sized

CALLS, CONNECTIONS = sized(10_000, 800), 8
HOLD_POLICIES = f"""{ALLOW_ALL}
@id("gate") @require_approval("people") forbid (principal, action == Action::"up__echo", resource);
"""
ECHO: Json = {"name": "up__echo", "arguments": {"text": "x"}}


def serve(folder: Path, policies: str = ALLOW_ALL, guard: str = "") -> Served:
    port = free_port()
    return Served(write_config(folder, scripted("up", folder), policies, more=serving(port), guard=guard), port)


async def test_concurrent_instances_are_never_confused(tmp_path: Path) -> None:
    """Many interleaved calls that each name their instance: every receipt must agree."""
    with serve(tmp_path, guard="unsafe_skip_fsync = true") as served:
        people = dict(served.issue("--on-behalf-of", user) for user in ("dana", "erin"))
        await _interleave(served.port, people)
    database = sqlite3.connect(tmp_path / "state" / "ledger.sqlite")
    rows = database.execute(
        "SELECT r.body, p.request FROM receipt r JOIN payload p ON p.seq = r.seq WHERE r.kind = 'intent'"
    ).fetchall()
    database.close()
    assert len(rows) == CALLS
    for body, request in rows:
        assert json.loads(body)["instance"] == json.loads(request[16:])["arguments"]["text"]


async def _interleave(port: int, people: dict[str, str]) -> None:
    connections = [(instance, Wire(port, token)) for instance, token in people.items() for _ in range(CONNECTIONS)]

    async def call(instance: str, wire: Wire) -> None:
        try:
            await talk(instance, wire)
        finally:
            await wire.close()

    async def talk(instance: str, wire: Wire) -> None:
        await wire.open()
        await wire.start()
        for number in range(CALLS // len(connections)):
            params = {"name": "up__echo", "arguments": {"text": instance}}
            status, answer = await wire.post({"id": number, "method": "tools/call", "params": params})
            assert status == 200
            assert json.loads(text(answer))["arguments"] == {"text": instance}

    async with asyncio.TaskGroup() as tasks:
        for instance, wire in connections:
            tasks.create_task(call(instance, wire))


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("scope", ["instance", "agent", "user"])
def test_revoked_credential_is_refused_at_the_next_call(tmp_path: Path, scope: str) -> None:
    with serve(tmp_path) as served:
        instance, token = served.issue("--on-behalf-of", "dana")
        client = served.raw(token)
        client.start()
        assert client.call("up__echo", {"text": "x"})["result"]["isError"] is False
        served.revoke(f"--{scope}", {"instance": instance, "agent": "tester", "user": "dana"}[scope])
        assert client.request("tools/call", ECHO).status_code == 401
        assert client.stateless("tools/call", ECHO).status_code == 401
    assert len(seen(tmp_path, "up")) == 1


@pytest.mark.usefixtures("each_engine")
def test_held_call_of_a_revoked_credential_is_refused(tmp_path: Path) -> None:
    """Another process than the one holding the call revokes it."""
    with serve(tmp_path, HOLD_POLICIES) as served:
        instance, token = served.issue()
        client = served.raw(token)
        client.start()
        answers: list[Json] = []
        calling = threading.Thread(target=lambda: answers.append(client.call("up__echo", {"text": "x"})))
        calling.start()
        id = held(served.config)
        served.revoke("--instance", instance)
        calling.join(20)
        assert "is withdrawn" in text(answers[0])
        late = cli("approvals", "show", id, "--config", str(served.config), "--json").stdout
        assert json.loads(late)["state"] == "withdrawn"
    assert not seen(tmp_path, "up")


def test_revoked_credential_is_refused_on_stdio_too(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    with Client(config) as client:
        client.start()
        assert client.call("up__echo", {"text": "x"})["result"]["isError"] is False
        [running] = json.loads(cli("instances", "list", "--config", str(config), "--json").stdout)
        assert running["state"] == "running"
        cli("instances", "revoke", "--instance", running["instance"], "--why", "x", "--config", str(config))
        assert "was revoked" in text(client.call("up__echo", {"text": "x"}))
        assert client.tools() == {}
    assert len(seen(tmp_path, "up")) == 1
    assert [receipt["outcome"] for receipt in log(config, "--kind", "decision")] == ["deny"]


def test_revoking_a_parent_revokes_what_it_delegated(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        parent, _ = served.issue("--tool", "up__echo", "--tool", "up__count")
        given = ["instances", "delegate", parent, "--tool", "up__echo", "--config", str(served.config), "--json"]
        child = json.loads(cli(*given).stdout)
        client = Raw(served.url, child["token"])
        call = reply(client.stateless("tools/call", ECHO))
        assert call["result"]["isError"] is False
        assert client.stateless("tools/call", {"name": "up__count"}).json()["error"]["message"].startswith("unknown")
        served.revoke("--instance", parent)
        assert client.stateless("tools/call", ECHO).status_code == 401
        refused = cli(*given, check=False)
        assert refused.returncode == 8
        assert "cannot delegate" in refused.stderr


def test_a_disabled_agent_gets_no_new_instance_until_it_is_enabled(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        config, why = ("--config", str(served.config)), ("--why", "drifts")
        token = served.issue()[1]
        cli("agents", "disable", "tester", *why, *config)
        assert served.raw(token).stateless("tools/list").status_code == 401
        [agent] = json.loads(cli("agents", "list", "--json", *config).stdout)
        assert (agent["state"], agent["alive"]) == ("disabled", 0)
        assert cli("instances", "issue", *config, check=False).returncode == 8
        cli("agents", "enable", "tester", *why, *config)
        assert served.raw(token).stateless("tools/list").status_code == 401  # revoked stays revoked
        assert served.raw(served.issue()[1]).stateless("tools/list").status_code == 200


def test_an_expired_credential_is_refused(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        token = served.issue("--ttl", "2")[1]
        eventually(lambda: served.raw(token).stateless("tools/list").status_code == 401)


@pytest.mark.usefixtures("each_engine")
def test_launch_code_works_once(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    code = cli("instances", "issue", "--launch", "--ticket", "INC-7", "--config", str(config)).stdout.strip()
    with Client(config, env={"MCP_GUARD_LAUNCH": code}) as client:
        client.start()
        client.call("up__echo", {"text": "x"})
    [intent] = log(config, "--kind", "intent")
    assert intent["ticket"] == "INC-7"
    refused = Client(config, env={"MCP_GUARD_LAUNCH": code})
    with pytest.raises(AssertionError, match="launch code is invalid"), refused:
        refused.start()
    for file in (tmp_path / "state").glob("ledger.sqlite*"):
        assert code.encode() not in file.read_bytes()
