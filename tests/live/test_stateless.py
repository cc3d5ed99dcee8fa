"""Clients of the stateless revision 2026-07-28: held calls with request state, and questions from upstreams."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp import Client as OfficialClient
from mcp import StdioServerParameters

from tests.live.running_guard import (
    ALLOW_ALL,
    Client,
    Json,
    cli,
    command,
    enrol,
    log,
    scripted,
    seen,
    text,
    write_config,
)
from tests.live.test_session import eventually, held

REVISION = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
HOLD_POLICIES = f"""{ALLOW_ALL}
@id("gate") @require_approval("people") forbid (principal, action == Action::"up__echo", resource);
"""
ECHO: Json = {"name": "up__echo", "arguments": {"text": "hi"}}


def holding(folder: Path, hold: float = 0.1, more: str = "", guard: str = "") -> Path:
    guard = f"hold_seconds = {hold}\n{guard}"
    return write_config(folder, scripted("up", folder), HOLD_POLICIES, guard=guard, more=more)


class Stateless(Client):
    """A raw client that adds the envelope to every request. It can be asked, so it knows requests of several rounds."""

    def send(self, method: str, params: Json | None = None, **capabilities: Json) -> int:
        capabilities = capabilities or {"sampling": {}}
        meta = {f"{PREFIX}protocolVersion": REVISION, f"{PREFIX}clientCapabilities": capabilities}
        return super().send(method, {**(params or {}), "_meta": {**meta, **(params or {}).get("_meta", {})}})

    def ask(self, method: str, params: Json | None = None, **capabilities: Json) -> Json:
        return self.wait(self.send(method, params, **capabilities))


def approve(config: Path, id: str, verdict: str = "approve") -> None:
    cli("approvals", verdict, id, "--rationale", "seen", *enrol(config))


def state_of(reply: Json) -> str:
    assert reply["result"]["resultType"] == "input_required"
    return str(reply["result"]["requestState"])


def test_request_without_handshake_is_served(tmp_path: Path) -> None:
    with Stateless(write_config(tmp_path, scripted("up", tmp_path))) as client:
        reply = client.ask("tools/call", ECHO)["result"]
        assert json.loads(reply["content"][0]["text"])["arguments"] == {"text": "hi"}
        assert reply["resultType"] == "complete"
        result = client.ask("server/discover")["result"]
        assert result["supportedVersions"] == [REVISION]
        assert result["_meta"][f"{PREFIX}serverInfo"]["name"] == "mcp-guard"
        assert {"ttlMs", "cacheScope"} <= client.ask("tools/list")["result"].keys()
    assert "_meta" not in seen(tmp_path, "up")[0]  # the envelope is for the guard only


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ({f"{PREFIX}protocolVersion": "2031-01-01"}, -32022),
        ({f"{PREFIX}protocolVersion": 7}, -32602),
        ({f"{PREFIX}clientCapabilities": None}, -32602),
        ({f"{PREFIX}logLevel": "shouting"}, -32602),
    ],
)
def test_invalid_envelope_is_refused(tmp_path: Path, meta: Json, code: int) -> None:
    with Stateless(write_config(tmp_path, scripted("up", tmp_path))) as client:
        assert client.ask("tools/call", {**ECHO, "_meta": meta})["error"]["code"] == code
    assert not seen(tmp_path, "up")


def test_connection_keeps_its_protocol_version(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    with Stateless(config) as client:
        client.ask("server/discover")
        refused = client.wait(Client.send(client, "initialize", {"protocolVersion": "2025-11-25"}))
        assert refused["error"]["code"] == -32022
        assert refused["error"]["data"]["supported"] == [REVISION]
        assert client.ask("ping")["error"]["code"] == -32601
    with Stateless(config) as client:
        Client.send(client, "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}})
        client.read()
        client.notify("notifications/initialized")
        assert client.ask("tools/call", ECHO)["error"]["code"] == -32600


def test_ambiguous_frame_is_refused_with_a_receipt(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    with Stateless(config) as client:
        client.ask("server/discover")
        client.write(b'{"jsonrpc":"2.0","id":"d","method":"tools/call","params":{"name":"up__echo","name":"up__echo"}}')
        reply = client.wait("d")["result"]
        assert reply["isError"] is True
        assert reply["resultType"] == "complete"
    assert [receipt["outcome"] for receipt in log(config, "--kind", "decision")] == ["deny"]


def test_held_call_resumes_with_its_request_state(tmp_path: Path) -> None:
    config = holding(tmp_path)
    with Stateless(config) as client:
        first = client.ask("tools/call", ECHO)
        again = client.ask("tools/call", {**ECHO, "requestState": state_of(first)})
        assert not seen(tmp_path, "up")
        approve(config, held(config))
        done = client.ask("tools/call", {**ECHO, "requestState": state_of(again)})["result"]
        assert done["resultType"] == "complete"
        # A reply that was lost is given again, and nothing runs twice.
        lost = client.ask("tools/call", {**ECHO, "requestState": state_of(again)})["result"]
        assert lost["content"] == done["content"]
    assert len(seen(tmp_path, "up")) == 1
    cli("verify", "--config", str(config))


def test_denial_ends_the_retries(tmp_path: Path) -> None:
    config = holding(tmp_path)
    with Stateless(config) as client:
        state = state_of(client.ask("tools/call", ECHO))
        approve(config, held(config), "deny")
        assert "denied by Alice: seen" in text(client.ask("tools/call", {**ECHO, "requestState": state}))
    assert not seen(tmp_path, "up")


def test_request_state_is_valid_only_for_its_own_request(tmp_path: Path) -> None:
    config = holding(tmp_path)
    with Stateless(config) as client:
        state = state_of(client.ask("tools/call", ECHO))
        approve(config, held(config))
        changed = state[:-6] + ("A" if state[-6] != "A" else "B") + state[-5:]
        others: list[Json] = [
            {**ECHO, "requestState": changed},
            {**ECHO, "requestState": f"{state}-more"},
            {**ECHO, "requestState": "not base64!"},
            {**ECHO, "requestState": ""},
            {**ECHO, "requestState": 7},
            {**ECHO, "arguments": {"text": "other"}, "requestState": state},
            {**ECHO, "name": "up__count", "requestState": state},
        ]
        for params in others:
            assert client.ask("tools/call", params)["error"]["code"] == -32602
    assert not seen(tmp_path, "up")


def test_request_state_of_another_session_is_refused(tmp_path: Path) -> None:
    config = holding(tmp_path)
    with Stateless(config) as one, Stateless(config) as other:
        state = state_of(one.ask("tools/call", ECHO))
        assert other.ask("tools/call", {**ECHO, "requestState": state})["error"]["code"] == -32602


def test_endless_retries_end_with_a_text_reply(tmp_path: Path) -> None:
    with Stateless(holding(tmp_path, hold=0.01)) as client:
        reply = client.ask("tools/call", ECHO)
        rounds = 1
        while reply["result"]["resultType"] == "input_required":
            reply = client.ask("tools/call", {**ECHO, "requestState": state_of(reply)})
            rounds += 1
        assert rounds == 3  # which together last as long as `hold_seconds`
        assert "is pending on people" in text(reply)


def test_client_that_cannot_be_asked_is_told_in_words(tmp_path: Path) -> None:
    """SDKs raise an error if a server answers `input_required` to a client that did not expect it."""
    config = holding(tmp_path, guard="")
    with Stateless(config) as client:
        meta = {f"{PREFIX}protocolVersion": REVISION, f"{PREFIX}clientCapabilities": {}}
        pending = client.wait(Client.send(client, "tools/call", {**ECHO, "_meta": meta}))
        assert pending["result"]["resultType"] == "complete"
        id = pending["result"]["_meta"]["mcp-guard/decision"]["approval"]
        approve(config, id)
        resumed = {"name": "guard__await", "arguments": {"approval": id}, "_meta": meta}
        done = client.wait(Client.send(client, "tools/call", resumed))
        assert json.loads(text(done))["arguments"] == {"text": "hi"}


def test_cancelled_retry_withdraws_the_approval_request(tmp_path: Path) -> None:
    config = holding(tmp_path, hold=60, guard='on_cancel = "withdraw"')
    with Stateless(config) as client:
        first = client.ask("tools/call", ECHO, elicitation={"url": {}})
        id, back = held(config), {**ECHO, "requestState": state_of(first)}
        retry = client.send("tools/call", {**back, "_meta": {"progressToken": "p"}})
        assert client.read()["method"] == "notifications/progress"  # it is waiting
        client.notify("notifications/cancelled", {"requestId": retry})
        [withdrawn] = eventually(lambda: log(config, "--kind", "approval.withdrawn"))
        assert withdrawn["approval"] == id


def test_client_with_url_elicitation_is_sent_to_the_inbox(tmp_path: Path) -> None:
    """The client comes back at once and waits; its answer decides nothing."""
    config = holding(tmp_path, hold=60)
    urls: Json = {"url": {}}
    with Stateless(config) as client:
        first = client.ask("tools/call", ECHO, elicitation=urls)["result"]
        [(key, request)] = first["inputRequests"].items()
        id = held(config)
        assert request["method"] == "elicitation/create"
        assert request["params"]["mode"] == "url"
        assert request["params"]["url"].endswith(f"/requests/{id}")
        back = {**ECHO, "requestState": first["requestState"], "inputResponses": {key: {"action": "accept"}}}
        waiting = client.send("tools/call", back, elicitation=urls)
        assert not seen(tmp_path, "up")
        approve(config, id)
        done = client.wait(waiting)["result"]
        assert done["resultType"] == "complete"
        assert client.ask("tools/call", back)["result"]["content"] == done["content"]
    assert len(seen(tmp_path, "up")) == 1


def test_a_call_that_was_approved_while_its_client_was_away_is_made_on_return(tmp_path: Path) -> None:
    """It may return to another gateway, and a client that has gone for good is not there for the result."""
    config = holding(tmp_path, hold=60)
    with Stateless(config) as client:
        first = client.ask("tools/call", ECHO, elicitation={"url": {}})["result"]
        approve(config, held(config))
        assert not seen(tmp_path, "up")
        back = client.ask("tools/call", {**ECHO, "requestState": first["requestState"]})["result"]
        assert json.loads(back["content"][0]["text"])["arguments"] == {"text": "hi"}
    assert len(seen(tmp_path, "up")) == 1


def test_client_leaving_between_retries_leaves_nothing_pending(tmp_path: Path) -> None:
    config = holding(tmp_path, hold=60)
    with Stateless(config) as client:
        client.ask("tools/call", ECHO, elicitation={"url": {}})
    assert len(log(config, "--kind", "approval.withdrawn")) == 1
    assert not seen(tmp_path, "up")


def test_upstream_question_is_a_round_of_the_running_call(tmp_path: Path) -> None:
    config = write_config(tmp_path, scripted("up", tmp_path))
    call: Json = {"name": "up__ask_client", "arguments": {}}
    with Stateless(config) as client:
        first = client.ask("tools/call", call, roots={})["result"]
        [(key, request)] = first["inputRequests"].items()
        assert request["method"] == "roots/list"
        silent = client.ask("tools/call", {**call, "requestState": first["requestState"]}, roots={})["result"]
        assert silent["inputRequests"] == {key: request}  # a client that returns without an answer is asked again
        answer = {"roots": [{"uri": "file:///x"}]}
        back = {**call, "requestState": silent["requestState"], "inputResponses": {key: answer}}
        assert json.loads(text(client.ask("tools/call", back, roots={}))) == answer
        assert json.loads(text(client.ask("tools/call", call))) is None  # a client without roots is not asked
    assert len(seen(tmp_path, "up")) == 2


@asynccontextmanager
async def official(config: Path, **options: Any) -> AsyncIterator[OfficialClient]:
    words = command("run", "--config", str(config))
    with anyio.fail_after(60):
        server = StdioServerParameters(command=words[0], args=words[1:], env=dict(os.environ))
        async with OfficialClient(server, mode=REVISION, **options) as client:
            yield client


async def test_official_client_waits_for_approval_automatically(tmp_path: Path) -> None:
    config = holding(tmp_path, hold=30)
    results: list[Any] = []

    async def call(client: OfficialClient) -> None:
        results.append(await client.call_tool("up__echo", {"text": "hi"}))

    async with official(config) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(call, client)
        await anyio.to_thread.run_sync(lambda: approve(config, held(config)))
    assert not results[0].is_error
    assert len(seen(tmp_path, "up")) == 1


async def test_official_client_shows_the_approval_link(tmp_path: Path) -> None:
    config = holding(tmp_path, hold=20)
    shown: list[str] = []

    async def open_url(_: Any, params: types.ElicitRequestURLParams) -> types.ElicitResult:
        shown.append(params.url)
        await anyio.to_thread.run_sync(lambda: approve(config, params.url.rpartition("/")[2]))
        return types.ElicitResult(action="accept")

    async with official(config, elicitation_callback=open_url) as client:
        assert not (await client.call_tool("up__echo", {"text": "hi"})).is_error
    assert len(shown) == 1
    assert len(seen(tmp_path, "up")) == 1
