"""`deploy/nginx/mcp-guard.conf` in front of three gateways on one ledger."""

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.deploy.nginx import HOST, Certificate, make_certificate, proxy_running, write_nginx
from tests.docs.page import ROOT
from tests.live.http_guard import Raw, Served, free_port, reply, serving
from tests.live.running_guard import ALLOW_ALL, Json, cli, enrol, scripted, seen, write_config
from tests.live.test_session import eventually, held

SITE = ROOT / "deploy" / "nginx" / "mcp-guard.conf"
PORTS = (8766, 8767, 8768)
HOLD = (
    f'{ALLOW_ALL}\n@id("gate") @require_approval("people") forbid (principal, action == Action::"up__echo", resource);'
)
ECHO: Json = {"name": "up__echo", "arguments": {"text": "hi"}}


@dataclass
class Fleet:
    """Three gateways with one configuration, and an nginx in front of them."""

    gateways: list[Served]
    port: int
    certificate: Certificate

    @property
    def config(self) -> Path:
        return self.gateways[0].config

    def client(self, token: str) -> Raw:
        return Raw(f"https://localhost:{self.port}/mcp", token, trust=self.certificate.trust())

    def sessions(self) -> list[int]:
        """How many are open at each gateway."""
        return [gateway.health()["sessions"] if is_running(gateway) else 0 for gateway in self.gateways]

    def grown(self, before: list[int]) -> set[int]:
        """The numbers of the gateways that have more sessions than before."""
        return {number for number, now in enumerate(self.sessions()) if now > before[number]}


def site(ports: list[int], port: int) -> str:
    changed = SITE.read_text().replace("listen 443", f"listen 127.0.0.1:{port}")
    for shown, used in zip(PORTS, ports, strict=True):
        changed = changed.replace(f":{shown};", f":{used};")
    return changed


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder, port, ports = tmp_path_factory.mktemp("fleet"), free_port(), [free_port() for _ in PORTS]
    more = serving(1, f'url = "https://{HOST}/mcp"')
    config = write_config(folder, scripted("up", folder) + "timeout_seconds = 30\n", HOLD, more)
    enrol(config)
    certificate = make_certificate(folder)
    words = write_nginx(folder, site(ports, port), certificate)
    with ExitStack() as running:
        gateways = [Served(config, each, options=("--port", str(each))) for each in ports]
        for gateway in gateways:
            running.enter_context(gateway)
        running.enter_context(proxy_running(words, port, certificate))
        yield Fleet(gateways, port, certificate)


def test_nginx_accepts_the_configuration_without_a_remark(tmp_path: Path) -> None:
    words = write_nginx(tmp_path, SITE.read_text(), make_certificate(tmp_path))
    done = subprocess.run([*words, "-t"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\[(warn|error)\]", done.stderr)


def test_each_request_of_a_session_reaches_the_gateway_that_opened_it(fleet: Fleet) -> None:
    token = fleet.gateways[0].issue()[1]
    before = fleet.sessions()
    clients = [opened(fleet, token) for _ in range(9)]
    assert len(fleet.grown(before)) > 1  # one gateway has all with a probability of 1 in 6,561
    assert {client.call("up__count")["result"]["isError"] for client in clients} == {False}
    for client in clients:
        assert client.ask("DELETE", client.url).status_code == 204
        assert client.request("tools/list").status_code == 404


def test_events_pass_while_a_call_is_held(fleet: Fleet) -> None:
    client = opened(fleet, fleet.gateways[0].issue()[1])
    headers = {
        "authorization": f"Bearer {client.token}",
        "accept": "application/json, text/event-stream",
        "mcp-session-id": client.session or "",
    }
    call = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {**ECHO, "_meta": {"progressToken": "p"}}}
    with (
        httpx.Client(timeout=60, trust_env=False, verify=client.trust) as http,
        http.stream("POST", client.url, json=call, headers=headers) as response,
    ):
        events = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {"))
        assert next(events)["method"] == "notifications/progress"
        approve(fleet.config)
        assert list(events)[-1]["result"]["isError"] is False


def test_both_endpoints_of_the_old_transport_reach_one_gateway(fleet: Fleet) -> None:
    client = fleet.client(fleet.gateways[0].issue()[1])
    base = client.url.removesuffix("/mcp")
    headers = {"authorization": f"Bearer {client.token}", "accept": "text/event-stream"}
    hello = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
    with (
        httpx.Client(timeout=60, trust_env=False, verify=client.trust) as http,
        http.stream("GET", f"{base}/sse", headers=headers) as response,
    ):
        data = (line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: "))
        client.url = base + next(data)
        for method, params in (("initialize", hello), ("ping", {}), ("ping", {}), ("ping", {})):
            assert client.request(method, params).status_code == 202
            assert "result" in json.loads(next(data))


def test_stateless_held_call_goes_on_where_its_state_was_sealed(fleet: Fleet) -> None:
    """Each token is tried until two of them have gone to different gateways."""
    reached: set[int] = set()
    while len(reached) < 2:
        client = fleet.client(fleet.gateways[0].issue()[1])
        before = fleet.sessions()
        first = reply(stateless(client, ECHO))["result"]
        assert first["resultType"] == "input_required"
        approve(fleet.config)
        done = reply(stateless(client, {**ECHO, "requestState": first["requestState"]}))["result"]
        assert (done["resultType"], done["isError"]) == ("complete", False)
        reached |= fleet.grown(before)


def test_token_is_valid_at_every_gateway(fleet: Fleet) -> None:
    token = fleet.gateways[0].issue()[1]
    for gateway in fleet.gateways:
        answer = reply(gateway.raw(token).stateless("tools/call", {"name": "up__count", "arguments": {}}))
        assert answer["result"]["isError"] is False


def test_session_of_a_killed_gateway_is_answered_with_404_and_its_held_call_goes_on_in_a_new_one(fleet: Fleet) -> None:
    sessions, calls = fleet.sessions(), len(seen(fleet.config.parent, "up"))
    client = opened(fleet, fleet.gateways[0].issue()[1])
    with ThreadPoolExecutor() as pool:
        [owner] = fleet.grown(sessions)
        interrupted = pool.submit(client.request, "tools/call", ECHO)
        request = held(fleet.config)
        kill(fleet.gateways[owner])
        assert not is_answered(interrupted)
    assert client.request("tools/list").status_code == 404
    approve(fleet.config)
    assert opened(fleet, client.token).call(**ECHO)["result"]["isError"] is False
    assert len(seen(fleet.config.parent, "up")) == calls + 1
    assert [shown["id"] for shown in requests(fleet.config, "--all")].count(request) == 1
    assert not requests(fleet.config)


def test_call_that_a_killed_gateway_may_have_sent_is_not_repeated_by_nginx(fleet: Fleet) -> None:
    client = fleet.client(fleet.gateways[0].issue()[1])
    sessions, calls = fleet.sessions(), len(seen(fleet.config.parent, "up"))
    with ThreadPoolExecutor() as pool:
        interrupted = pool.submit(stateless, client, {"name": "up__never", "arguments": {}})
        eventually(lambda: len(seen(fleet.config.parent, "up")) > calls)
        [owner] = fleet.grown(sessions)
        kill(fleet.gateways[owner])
        assert not is_answered(interrupted)
    assert reply(stateless(client, {"name": "up__count", "arguments": {}}))["result"]["isError"] is False
    assert [call["name"] for call in seen(fleet.config.parent, "up")[calls:]] == ["never", "count"]


def is_running(gateway: Served) -> bool:
    return gateway.process.poll() is None


def kill(gateway: Served) -> None:
    """For good: no later test has this gateway."""
    gateway.process.kill()
    gateway.process.wait(timeout=30)


def is_answered(interrupted: Future[httpx.Response]) -> bool:
    """Whether a call was answered although its gateway was killed."""
    try:
        return interrupted.result(timeout=60).status_code == 200
    except httpx.TransportError:  # the stream ended in the middle
        return False


def stateless(client: Raw, params: Json) -> httpx.Response:
    """A call by a client that can show the address of an approval."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"url": {}}},
    }
    mirrored = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": params["name"]}
    return client.request("tools/call", {**params, "_meta": meta}, mirrored)


def requests(config: Path, *options: str) -> list[Json]:
    """Those that wait for a decision, or all."""
    listed: list[Json] = json.loads(cli("approvals", "list", *options, "--json", "--config", str(config)).stdout)
    return listed


def approve(config: Path) -> None:
    cli("approvals", "approve", held(config), *enrol(config), "--rationale", "as expected")


def opened(fleet: Fleet, token: str) -> Raw:
    """A client that has opened a session."""
    client = fleet.client(token)
    client.start()
    return client
