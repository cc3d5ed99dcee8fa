"""A stateless client goes on at any gateway of a ledger. Real gateways, also ones that are killed."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.http_guard import PREFIX, REVISION, Raw, Served, free_port, reply, serving
from tests.live.running_guard import Json, cli, enrol, scripted, seen, write_config
from tests.live.test_session import held
from tests.live.test_stateless import ECHO, HOLD_POLICIES

URL = "https://guard.example/mcp"
CAN_WAIT: Json = {"sampling": {}}
CAN_SHOW: Json = {"elicitation": {"url": {}}}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    """Two gateways of one configuration."""
    folder, ports = tmp_path_factory.mktemp("fleet"), [free_port(), free_port()]
    serve = serving(1, f'url = "{URL}"')
    config = write_config(folder, scripted("up", folder), HOLD_POLICIES, serve, guard="hold_seconds = 1")
    enrol(config)
    with ExitStack() as running:
        yield [running.enter_context(Served(config, port, options=("--port", str(port)))) for port in ports]


def ask(client: Raw, params: Json, capabilities: Json) -> Json:
    meta = {f"{PREFIX}protocolVersion": REVISION, f"{PREFIX}clientCapabilities": capabilities}
    headers = {"mcp-protocol-version": REVISION, "mcp-method": "tools/call", "mcp-name": str(params["name"])}
    return reply(client.request("tools/call", {**params, "_meta": meta}, headers))


def made(gateway: Served) -> int:
    """How many calls the upstream has received."""
    return len(seen(gateway.config.parent, "up"))


def approve(config: Path) -> None:
    cli("approvals", "approve", held(config), "--rationale", "seen", *enrol(config))


def test_a_held_call_goes_on_at_another_gateway(fleet: list[Served]) -> None:
    here, there = fleet
    calls = made(here)
    token = here.issue()[1]
    first = ask(here.raw(token), ECHO, CAN_WAIT)["result"]
    assert first["resultType"] == "input_required"
    again = ask(there.raw(token), {**ECHO, "requestState": first["requestState"]}, CAN_WAIT)["result"]
    assert again["resultType"] == "input_required"
    approve(here.config)
    back = {**ECHO, "requestState": again["requestState"]}
    refused = ask(there.raw(there.issue()[1]), back, CAN_WAIT)
    assert refused["error"]["code"] == -32602  # another instance
    other = {**back, "arguments": {"text": "another"}}
    assert ask(here.raw(token), other, CAN_WAIT)["error"]["code"] == -32602  # another request
    assert made(here) == calls
    replies = [ask(gateway.raw(token), back, CAN_WAIT)["result"] for gateway in (here, there)]
    assert [json.loads(each["content"][0]["text"])["arguments"] for each in replies] == [ECHO["arguments"]] * 2
    assert made(here) == calls + 1


def test_a_question_of_an_upstream_is_answered_where_its_call_runs(fleet: list[Served]) -> None:
    here, there = fleet
    calls = made(here)
    call: Json = {"name": "up__ask_client", "arguments": {}}
    token = here.issue()[1]
    roots: Json = {"roots": {}}
    first = ask(here.raw(token), call, roots)["result"]
    answer = {"roots": [{"uri": "file:///x"}]}
    back = {
        **call,
        "requestState": first["requestState"],
        "inputResponses": dict.fromkeys(first["inputRequests"], answer),
    }
    elsewhere = ask(there.raw(token), back, roots)["error"]
    assert (elsewhere["code"], "may have taken effect" in elsewhere["message"]) == (-32602, True)
    done = ask(here.raw(token), back, roots)["result"]
    assert json.loads(done["content"][0]["text"]) == answer
    assert made(here) == calls + 1


def test_a_call_whose_approval_was_shown_goes_on_after_its_gateway_was_killed(fleet: list[Served]) -> None:
    here, there = fleet  # no later test has the first of them
    calls = made(here)
    token = here.issue()[1]
    first = ask(here.raw(token), ECHO, CAN_SHOW)["result"]
    assert [request["params"]["mode"] for request in first["inputRequests"].values()] == ["url"]
    here.process.kill()
    here.process.wait(timeout=30)
    approve(there.config)
    back = {**ECHO, "requestState": first["requestState"], "inputResponses": {"approval": {"action": "accept"}}}
    done = ask(there.raw(token), back, CAN_SHOW)["result"]
    assert done["resultType"] == "complete"
    assert json.loads(done["content"][0]["text"])["arguments"] == ECHO["arguments"]
    assert made(here) == calls + 1
