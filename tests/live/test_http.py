"""The HTTP server: official clients of both protocol versions, tokens, proofs, other issuers, hostile requests."""

import base64
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx2 as httpx
import jwt
import mcp_types as types
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from mcp import Client as OfficialClient
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from mcp_guard.identity.dpop import thumbprint
from tests.live.http_guard import NO_TLS, REVISION, Served, free_port, reply, serving
from tests.live.running_guard import ALLOW_ALL, Json, cli, enrol, log, scripted, seen, text, write_config
from tests.live.test_session import alive, children, eventually, held

HOLD_POLICIES = f"""{ALLOW_ALL}
@id("gate") @require_approval("people") forbid (principal, action == Action::"up__echo", resource);
"""


ENVELOPE = {"io.modelcontextprotocol/protocolVersion": REVISION, "io.modelcontextprotocol/clientCapabilities": {}}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    port = free_port()
    with Served(write_config(tmp_path, scripted("up", tmp_path), more=serving(port)), port) as guard:
        yield guard


# Official clients


@pytest.mark.parametrize("mode", ["legacy", REVISION, "auto"])
async def test_official_client_works_with_both_protocol_versions(served: Served, mode: str) -> None:
    instance, token = served.issue("--on-behalf-of", "dana", "--ticket", "INC-1")
    asked: list[str] = []
    steps: list[float] = []

    async def roots(context: Any) -> types.ListRootsResult:
        asked.append("roots")
        return types.ListRootsResult(roots=[types.Root(uri="file:///x", name="x")])

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    with anyio.fail_after(60):
        bearer = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(headers=bearer, trust_env=False, verify=NO_TLS) as http:
            transport = streamable_http_client(served.url, http_client=http)
            async with OfficialClient(transport, mode=mode, list_roots_callback=roots) as client:
                assert "up__echo" in {tool.name for tool in (await client.list_tools()).tools}
                assert not (await client.call_tool("up__echo", {"text": "hi"})).is_error
                await client.call_tool("up__count", {}, progress_callback=on_progress)
                answered = await client.call_tool("up__ask_client", {})
    assert asked == ["roots"]
    assert "file:///x" in str(answered.content[0])
    assert steps == [1, 2, 3]
    intents = log(served.config, "--kind", "intent")
    assert {(intent["instance"], intent["on_behalf_of"], intent["ticket"]) for intent in intents} == {
        (instance, "dana", "INC-1")
    }


async def test_the_official_client_of_the_old_transport_works(served: Served) -> None:
    _, token = served.issue()
    old = served.url.replace("/mcp", "/sse")
    with anyio.fail_after(60):
        transport = sse_client(old, headers={"authorization": f"Bearer {token}"})
        async with OfficialClient(transport, mode="legacy") as client:
            assert not (await client.call_tool("up__echo", {"text": "hi"})).is_error


async def test_fastmcps_client_works(served: Served) -> None:
    from fastmcp import Client
    from fastmcp.client.transports import StreamableHttpTransport

    _, token = served.issue()
    transport = StreamableHttpTransport(served.url, headers={"authorization": f"Bearer {token}"})
    with anyio.fail_after(60):
        async with Client(transport) as client:
            assert "up__echo" in {tool.name for tool in await client.list_tools()}
            result = await client.call_tool("up__echo", {"text": "hi"})
    assert not result.is_error


# Authentication


def test_request_without_a_valid_token_is_refused(served: Served) -> None:
    _, token = served.issue()
    header, claims, signature = token.split(".")
    forged = json.loads(base64.urlsafe_b64decode(claims + "=="))
    forged["sub"] = "somebody-else"
    other = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode().rstrip("=")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    for bad in ("x", f"{header}.{other}.{signature}", f"{none}.{claims}.", token[:-4] + "AAAA", "a.b.c"):
        refused = served.raw(bad).request("initialize")
        assert refused.status_code == 401
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    missing = served.raw(token).request("initialize", headers={"authorization": ""})
    assert missing.status_code == 401
    assert "error" not in missing.headers["www-authenticate"]
    where = missing.headers["www-authenticate"].partition('resource_metadata="')[2].rstrip('"')
    document = httpx.get(where, trust_env=False, verify=NO_TLS).json()
    assert document["resource"] == served.url
    assert document["bearer_methods_supported"] == ["header"]


def test_a_token_for_another_resource_is_refused(served: Served, tmp_path: Path) -> None:
    text = served.config.read_text()
    served.config.write_text(text.replace("[serve]", '[serve]\nurl = "https://other.example/mcp"'))
    _, token = served.issue()
    assert served.raw(token).request("initialize").status_code == 401


@pytest.mark.parametrize(
    ("header", "value", "status"), [("host", "evil.example", 421), ("origin", "https://evil", 403)]
)
def test_other_hosts_and_origins_are_refused(served: Served, header: str, value: str, status: int) -> None:
    _, token = served.issue()
    assert served.raw(token).request("initialize", headers={header: value}).status_code == status


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
def test_a_method_that_mcp_does_not_use_is_refused(served: Served, method: str) -> None:
    _, token = served.issue()
    client = served.raw(token)
    client.start()
    refused = client.ask(method, client.url)  # a HEAD that is taken for GET would take the standing stream
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST, GET, DELETE")


def test_session_belongs_to_one_instance(served: Served) -> None:
    (_, alices), (_, bobs) = served.issue(), served.issue()
    alice, bob = served.raw(alices), served.raw(bobs)
    alice.start()
    bob.session = alice.session
    for response in (bob.request("tools/list"), bob.ask("DELETE", bob.url)):
        assert response.status_code == 404
    assert "result" in reply(alice.request("tools/list"))


def test_credential_limited_to_tools_lists_and_calls_only_those(served: Served) -> None:
    _, token = served.issue("--tool", "up__echo", "--tool", "up__t*")
    client = served.raw(token)
    client.start()
    listed = {tool["name"] for tool in reply(client.request("tools/list"))["result"]["tools"]}
    assert listed == {"up__echo", "up__tool_error", "up__twice"}
    assert client.call("up__count")["error"]["message"] == "unknown tool: up__count"
    assert client.call("up__echo", {"text": "x"})["result"]["isError"] is False


# Sessions


def test_ended_session_stops_its_upstreams(served: Served) -> None:
    client = served.raw(served.issue()[1])
    client.start()
    client.call("up__echo", {"text": "x"})
    [child] = children(served.process.pid)
    assert client.ask("DELETE", client.url).status_code == 204
    eventually(lambda: not alive(child))
    assert client.request("tools/list").status_code == 404


def test_idle_session_ends(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, scripted("up", tmp_path), more=serving(port, "idle_seconds = 0.1"))
    with Served(config, port) as served:
        client = served.raw(served.issue()[1])
        client.start()
        eventually(lambda: client.ask("GET", client.url.replace("/mcp", "/health")).json()["sessions"] == 0)
        assert client.request("tools/list").status_code == 404


def test_session_limit_is_enforced(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, scripted("up", tmp_path), more=serving(port, "max_sessions = 1"))
    with Served(config, port) as served:
        served.raw(served.issue()[1]).start()
        other = served.raw(served.issue()[1])
        for refused in (other.request("initialize"), other.stateless("tools/list")):
            assert refused.status_code == 429
            assert refused.headers["retry-after"]
            assert "serve.max_sessions_per_agent" in refused.json()["error"]["message"]


def test_two_stateless_clients_of_one_instance_may_use_the_same_ids(served: Served) -> None:
    token = served.issue()[1]
    results: dict[str, Json] = {}

    def call(said: str) -> None:
        params = {"name": "up__echo", "arguments": {"text": said}}
        results[said] = reply(served.raw(token).stateless("tools/call", params))

    threads = [threading.Thread(target=call, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for said, found in results.items():
        assert found["id"] == 1
        assert json.loads(text(found))["arguments"] == {"text": said}


def test_a_held_call_is_answered_when_it_is_approved(tmp_path: Path) -> None:
    port = free_port()
    with Served(write_config(tmp_path, scripted("up", tmp_path), HOLD_POLICIES, more=serving(port)), port) as served:
        client = served.raw(served.issue()[1])
        client.start()
        person = threading.Thread(
            target=lambda: cli(
                "approvals", "approve", held(served.config), "--rationale", "fine", *enrol(served.config)
            )
        )
        person.start()
        response = client.request("tools/call", {"name": "up__echo", "arguments": {"text": "x"}})
        person.join()
        assert reply(response)["result"]["isError"] is False


def test_stateless_client_that_disconnects_cancels_its_call(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(
        tmp_path, scripted("up", tmp_path), HOLD_POLICIES, more=serving(port), guard='on_cancel = "withdraw"'
    )
    with Served(config, port) as served:
        client = served.raw(served.issue()[1], patience=3)
        with pytest.raises(httpx.TimeoutException):
            client.stateless("tools/call", {"name": "up__echo", "arguments": {"text": "x"}})
        eventually(lambda: log(served.config, "--kind", "approval.withdrawn"))
    assert not seen(tmp_path, "up")


# Hostile requests


def test_unparsable_body_is_refused(served: Served) -> None:
    client = served.raw(served.issue()[1])
    client.start()
    assert client.send(b"not json").status_code == 400
    assert client.send(b"[]").status_code == 400
    assert client.send({"jsonrpc": "2.0", "id": None, "method": "ping"}).status_code == 400
    assert client.request("ping", headers={"mcp-protocol-version": "1999-01-01"}).status_code == 400
    client.session = "unknown"
    assert client.request("ping").status_code == 404
    client.session = None
    assert client.request("ping").status_code == 400


@pytest.mark.parametrize(
    "message",
    [
        {"id": 1, "method": None},
        {"id": 1, "method": "tools/call", "params": {}},
        {"id": 1, "method": "tools/call", "params": {"name": ["up__echo"]}},
        {"id": [[[[]]]], "method": "tools/call", "params": {"name": "up__echo", "arguments": 7}},
    ],
)
def test_invalid_request_is_refused_and_the_next_is_answered(served: Served, message: Json) -> None:
    client = served.raw(served.issue()[1])
    client.start()
    assert client.send({"jsonrpc": "2.0", **message}).status_code < 500
    said = {**message, "params": {**message.get("params", {}), "_meta": ENVELOPE}}
    mirrored = {"mcp-protocol-version": REVISION, "mcp-method": str(message["method"])}
    assert client.send({"jsonrpc": "2.0", **said}, mirrored).status_code < 500
    assert "isError" in client.call("up__echo", {"text": "x"})["result"]


def test_a_message_over_the_limit_is_not_read(tmp_path: Path) -> None:
    port = free_port()
    more = serving(port) + "[limits]\nmessage_bytes = 1000\n"
    with Served(write_config(tmp_path, scripted("up", tmp_path), more=more), port) as served:
        assert served.raw(served.issue()[1]).send(b"x" * 1001).status_code == 413


def test_ambiguous_body_is_refused_with_a_receipt(served: Served) -> None:
    client = served.raw(served.issue()[1])
    client.start()
    two = b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"up__echo","name":"up__die"}}'
    assert reply(client.send(two))["result"]["isError"] is True
    assert [receipt["outcome"] for receipt in log(served.config, "--kind", "decision")] == ["deny"]


@pytest.mark.parametrize("header", ["mcp-protocol-version", "mcp-method", "mcp-name"])
def test_headers_that_differ_from_the_body_are_refused(served: Served, header: str) -> None:
    client = served.raw(served.issue()[1])
    said = {"name": "up__echo", "arguments": {"text": "x"}}
    assert reply(client.stateless("tools/call", said))["result"]["isError"] is False
    refused = client.stateless("tools/call", said, {header: "2031-01-01"})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == -32020
    assert client.stateless("no/such").status_code == 404


def test_a_refusal_repeats_an_id_that_no_double_holds(served: Served) -> None:
    client = served.raw(served.issue()[1])
    refused = client.send(
        b'{"jsonrpc":"2.0","id":1e400,"method":"tools/list","params":{}}', {"mcp-protocol-version": REVISION}
    )
    assert refused.status_code == 400, refused.text
    assert b'"id":1e400,"error"' in refused.content


def test_methods_absent_from_the_stateless_revision_are_refused(served: Served) -> None:
    client = served.raw(served.issue()[1])
    greeting = client.stateless("initialize")
    assert (greeting.status_code, greeting.json()["error"]["code"]) == (404, -32601)
    bare = client.request("server/discover", {}, {"mcp-protocol-version": REVISION, "mcp-method": "server/discover"})
    assert (bare.status_code, bare.json()["error"]["code"]) == (400, -32602)


# Proof of possession


def _jwk(key: EllipticCurvePrivateKey) -> Json:
    document: Json = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    return document


def _proof(key: EllipticCurvePrivateKey, token: str, url: str, **changes: Any) -> str:
    ath = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).decode().rstrip("=")
    claims = {"htm": "POST", "htu": url, "iat": int(time.time()), "jti": os.urandom(8).hex(), "ath": ath, **changes}
    return jwt.encode(claims, key, algorithm="ES256", headers={"typ": "dpop+jwt", "jwk": _jwk(key)})


def test_a_token_bound_to_a_key_needs_a_fresh_proof_of_it(served: Served) -> None:
    key, other = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    _, token = served.issue(f"--thumbprint={thumbprint(_jwk(key))}")
    client = served.raw(token)

    def status(proof: str | None, scheme: str = "DPoP") -> int:
        headers = {"authorization": f"{scheme} {token}"} | ({"dpop": proof} if proof else {})
        return client.stateless("tools/list", headers=headers).status_code

    good = _proof(key, token, served.url)
    assert status(good) == 200
    assert status(good) == 401  # a proof is valid once
    assert status(None) == 401
    assert status(None, "Bearer") == 401
    assert status(_proof(key, token, served.url), "Bearer") == 401
    for bad in (
        _proof(other, token, served.url),
        _proof(key, token, served.url + "/other"),
        _proof(key, token, served.url, htm="GET"),
        _proof(key, token + "x", served.url),
        _proof(key, token, served.url, iat=int(time.time()) - 300),
        _proof(key, token, served.url, jti=""),
    ):
        assert status(bad) == 401


# Other issuers


def _issuer(folder: Path, key: EllipticCurvePrivateKey, agents: str) -> str:
    jwks = {"keys": [{**_jwk(key), "kid": "k1", "alg": "ES256", "use": "sig"}]}
    (folder / "jwks.json").write_text(json.dumps(jwks))
    return (
        '[issuers.corp]\nissuer = "https://login.example"\njwks = { file = "jwks.json" }\n'
        f'algorithms = ["ES256"]\nagents = {agents}\ntask = "request"\n'
    )


def test_tokens_of_another_issuer_are_mapped_to_agent_and_user(tmp_path: Path) -> None:
    port, key, other = free_port(), generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    labels = '[tools."up__echo"]\nsinks = ["text"]\n'
    more = serving(port) + labels + _issuer(tmp_path, key, '{ "client-7" = "tester" }')
    with Served(write_config(tmp_path, scripted("up", tmp_path), more=more), port) as served:

        def token(signer: EllipticCurvePrivateKey = key, **changes: Any) -> str:
            now = int(time.time())
            claims = {
                "iss": "https://login.example", "aud": served.url, "sub": "dana", "client_id": "client-7",
                "iat": now, "exp": now + 600, "jti": os.urandom(8).hex(), "request": "echo x@y.example", **changes,
            }  # fmt: skip
            return jwt.encode(claims, signer, algorithm="ES256", headers={"kid": "k1"})

        good = token()
        call = {"name": "up__echo", "arguments": {"text": "x@y.example"}}
        for _ in range(2):
            assert reply(served.raw(good).stateless("tools/call", call))["result"]["isError"] is False
        for bad in (
            token(other),
            token(aud="https://elsewhere.example"),
            token(client_id="client-8"),
            token(exp=int(time.time()) - 120),
            token(iss="https://evil.example"),
            token(sub=None),
        ):
            assert served.raw(bad).stateless("tools/list").status_code == 401
        intents = log(served.config, "--kind", "intent")
        assert {(intent["agent"], intent["on_behalf_of"]) for intent in intents} == {("tester", "dana")}
        assert {intent["user_issuer"] for intent in intents} == {"https://login.example"}
        assert len({intent["instance"] for intent in intents}) == 1  # one token is one instance
        own = served.issue("--task", "echo x@y.example")[1], served.issue()[1]
        for each in own:
            assert reply(served.raw(each).stateless("tools/call", call))["result"]["isError"] is False
        sinks = [intent["history"]["sinks"] for intent in log(served.config, "--kind", "intent")]
        by_task, repeated = {"from_task": ["text"]}, {"repeated": ["text"]}
        assert sinks == [by_task, by_task | repeated, by_task, {"unknown_origin": ["text"]}]
        served.revoke("--user", "dana")
        assert served.raw(good).stateless("tools/list").status_code == 401
        assert len(log(served.config, "--kind", "instance.started")) == 3


@pytest.mark.parametrize("revision", ["2025-06-18", "2025-11-25"])
@pytest.mark.parametrize("accepts", ["application/json, text/event-stream", "application/json"])
def test_response_of_a_call_that_its_client_cancels_ends(
    served: Served, tmp_path: Path, revision: str, accepts: str
) -> None:
    """So that it holds no connection: it said `still here` until the client hung up."""
    client = served.raw(served.issue()[1], patience=20)
    client.start()
    with ThreadPoolExecutor(1) as pool:
        params = {"name": "up__never", "arguments": {}}
        call = pool.submit(client.request, "tools/call", params, {"mcp-protocol-version": revision, "accept": accepts})
        eventually(lambda: seen(tmp_path, "up"))
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": client.last}}
        assert client.send(cancelled).status_code == 202
        response = call.result(timeout=30)
    assert response.status_code in (200, 202)
    assert "result" not in response.text
