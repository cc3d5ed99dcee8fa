"""A stateless client goes on at any gateway of a ledger. Real gateways, also ones that are killed."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from mcp_guard.identity.dpop import thumbprint
from tests.adversary.test_p7_proof_replay import JWK, prove, status
from tests.live.authorization_server import Authority
from tests.live.http_guard import PREFIX, REVISION, Raw, Served, free_port, reply, serving
from tests.live.running_guard import Json, cli, enrol, scripted, seen, text, write_config
from tests.live.test_session import held
from tests.live.test_stateless import ECHO, HOLD_POLICIES
from tests.live.test_user_sign_in import sign_in
from tests.storage.postgres_server import server
from tests.web.inbox_client import InboxClient
from tests.web.inbox_process import inbox

URL = "https://guard.example/mcp"
LEDGER = '[ledger]\ndatabase = { env = "DATABASE_URL" }\nshared_secret = { env = "SHARED_SECRET" }\n'
CAN_WAIT: Json = {"sampling": {}}
CAN_SHOW: Json = {"elicitation": {"url": {}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fleet")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Iterator[Authority]:
    """An upstream that its users sign in to."""
    with Authority(folder) as running:
        yield running


@pytest.fixture(scope="module")
def fleet(folder: Path, authority: Authority) -> Iterator[list[Served]]:
    """Two gateways with a state folder each, as on two machines, which have the ledger's key and a secret in common."""
    env = {"DATABASE_URL": server().url, "SHARED_SECRET": "canary-shared-secret-of-gateways"}
    of_users = authority.section("", "authorization_code", 'as = "user"')
    gateways = [gateway(folder, name, env, of_users) for name in ("here", "there")]
    with ExitStack() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)  # for commands
        running.enter_context(gateways[0])
        shutil.copy(folder / "here" / "state" / "ledger.key", folder / "there" / "state")
        running.enter_context(gateways[1])
        enrol(gateways[0].config)
        yield gateways


def gateway(folder: Path, name: str, env: dict[str, str], of_users: str) -> Served:
    (folder / name / "state").mkdir(mode=0o700, parents=True)
    port = free_port()
    config = write_config(
        folder / name,
        scripted("up", folder) + of_users,
        HOLD_POLICIES,
        serving(port, f'url = "{URL}"') + LEDGER + f"[inbox]\nport = {free_port()}\n",
        guard='origin = "any-gateway.example/ledger"\nhold_seconds = 1',
    )
    return Served(config, port, env=env)


def ask(client: Raw, params: Json, capabilities: Json) -> Json:
    meta = {f"{PREFIX}protocolVersion": REVISION, f"{PREFIX}clientCapabilities": capabilities}
    headers = {"mcp-protocol-version": REVISION, "mcp-method": "tools/call", "mcp-name": str(params["name"])}
    return reply(client.request("tools/call", {**params, "_meta": meta}, headers))


def made(folder: Path) -> int:
    """How many calls the upstream has received."""
    return len(seen(folder, "up"))


def approve(config: Path) -> None:
    cli("approvals", "approve", held(config), "--rationale", "seen", *enrol(config))


def test_a_held_call_goes_on_at_another_gateway(fleet: list[Served], folder: Path) -> None:
    here, there = fleet
    calls = made(folder)
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
    assert made(folder) == calls
    replies = [ask(gateway.raw(token), back, CAN_WAIT)["result"] for gateway in (here, there)]
    assert [json.loads(each["content"][0]["text"])["arguments"] for each in replies] == [ECHO["arguments"]] * 2
    assert made(folder) == calls + 1


def test_a_proof_of_possession_is_accepted_by_one_gateway(fleet: list[Served]) -> None:
    here, there = fleet
    token = here.issue(f"--thumbprint={thumbprint(JWK)}")[1]
    proofs = [prove(token) for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        sent = [(proof, pool.submit(status, gateway, token, proof)) for proof in proofs for gateway in (here, there)]
        answers = sorted((proof, answer.result()) for proof, answer in sent)
    assert answers == sorted((proof, code) for proof in proofs for code in (200, 401))


def test_a_question_of_an_upstream_is_answered_where_its_call_runs(fleet: list[Served], folder: Path) -> None:
    here, there = fleet
    calls = made(folder)
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
    assert made(folder) == calls + 1


def test_a_user_signs_in_to_an_upstream_at_one_gateway_for_all(fleet: list[Served], authority: Authority) -> None:
    here, there = fleet

    def call() -> str:
        agent = here.raw(here.issue("--on-behalf-of", "alice")[1])
        agent.start()
        return text(agent.call("far__echo"))

    assert "user `alice` has not signed in" in call()
    with inbox(there.config) as pages:
        code = json.loads(cli("approvers", "code", "alice", "--json", "--config", str(there.config)).stdout)["code"]
        alice = InboxClient(pages).sign_in(code)
        sign_in(alice)
        assert call() == "done"
        [gave] = authority.asked("gave")
        kept = cli("instances", "revoke", "--user", "alice", "--why", "left", "--config", str(there.config)).stdout
        assert "signed them out of `far`" in kept
        assert "not signed in" in str(alice.get("/upstreams")[1])
    assert "user `alice` has not signed in" in call()
    files = [path.read_bytes() for path in here.config.parent.parent.rglob("state/**/*") if path.is_file()]
    assert not any(gave[kind].encode() in data for kind in ("access", "refresh") for data in files)


def test_a_call_that_was_shown_goes_on_after_its_gateway_was_killed(fleet: list[Served], folder: Path) -> None:
    here, there = fleet  # no later test has the first of them
    calls = made(folder)
    token = here.issue()[1]
    first = ask(here.raw(token), ECHO, CAN_SHOW)["result"]
    assert [request["params"]["mode"] for request in first["inputRequests"].values()] == ["url"]
    here.process.kill()
    here.process.wait(timeout=30)
    approve(here.config)
    back = {**ECHO, "requestState": first["requestState"], "inputResponses": {"approval": {"action": "accept"}}}
    done = ask(there.raw(token), back, CAN_SHOW)["result"]
    assert done["resultType"] == "complete"
    assert json.loads(done["content"][0]["text"])["arguments"] == ECHO["arguments"]
    assert made(folder) == calls + 1
