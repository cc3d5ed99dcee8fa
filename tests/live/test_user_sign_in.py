"""Upstreams that each user signs in to: where a call leads them, what the pages keep, and what stops the next call."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from tests.live.authorization_server import Authority
from tests.live.http_guard import NO_TLS, PREFIX, Served, free_port, reply, serving
from tests.live.running_guard import Client, Json, cli, log, text, write_config
from tests.promises.test_p10_secrets_stay import find
from tests.web.inbox_client import Answer, InboxClient
from tests.web.inbox_process import inbox

CAN_SHOW: Json = {"elicitation": {"url": {}}}


@dataclass
class World:
    """An upstream that its users sign in to, a guard in front of it, and the guard's pages."""

    authority: Authority
    served: Served
    pages: str

    @property
    def config(self) -> Path:
        return self.served.config

    def person(self, name: str) -> InboxClient:
        """Their session on the pages."""
        code = json.loads(cli("approvers", "code", name, "--json", "--config", str(self.config)).stdout)["code"]
        return InboxClient(self.pages).sign_in(code)

    def token(self, user: str) -> str:
        return self.served.issue("--on-behalf-of", user)[1]


def begin(person: InboxClient) -> tuple[str, str]:
    """What the upstream sends the browser back with, and what that has kept."""
    status, begun = person.post("/upstreams/sign-in", {"upstream": "far"})
    assert status == 200, begun
    back = httpx.get(begun["url"], trust_env=False, verify=NO_TLS).headers["location"]
    assert back.startswith(f"{person.url}/upstreams/callback/far?")
    return urlsplit(back).query, begun["sealed"]


def finish(person: InboxClient, query: str, sealed: str, upstream: str = "far") -> Answer:
    return person.post("/upstreams/finish", {"upstream": upstream, "query": query, "sealed": sealed})


def sign_in(person: InboxClient) -> None:
    assert finish(person, *begin(person)) == (200, {"go": "/upstreams#far"})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder, port = tmp_path_factory.mktemp("users"), free_port()
    with Authority(folder, leak="own") as authority:
        methods = ["client_secret_basic"]
        body = {"registration_endpoint": f"{authority.url}/register", "token_endpoint_auth_methods_supported": methods}
        authority.behave(metadata=body)
        section = authority.section("", "authorization_code", 'as = "user"', client_id="")
        more = f"{serving(port)}[inbox]\nport = {free_port()}\n"
        config = write_config(folder, section, more=more, guard="hold_seconds = 20")
        with Served(config, port) as served, inbox(config) as pages:
            yield World(authority, served, pages)


def test_users_sign_in_for_themselves_and_out_again(world: World) -> None:
    alice, bob = world.person("alice"), world.person("bob")
    agent, other = world.served.raw(world.token("alice")), world.served.raw(world.token("bob"))
    agent.start()
    refused = text(agent.call("far__echo"))
    assert f"user `alice` has not signed in; sign in at {world.pages}/upstreams" in refused
    assert "mcp-guard" not in refused.partition("Receipt")[0]
    [denied] = log(world.config, "--kind", "decision")
    assert (denied["on_behalf_of"], denied["outcome"]) == ("alice", "deny")
    assert "has not signed in" in json.dumps(denied["reasons"])

    query, sealed = begin(alice)
    status, answer = finish(bob, query, sealed)
    assert (status, answer["problem"]) == (403, "somebody else has begun this sign-in")
    status, answer = finish(alice, query, sealed, "near")  # by the redirect of another upstream (RFC 9700 §4.4)
    assert (status, answer["problem"]) == (403, "this is the answer to another sign-in")
    assert finish(alice, query, sealed)[0] == 200
    assert finish(alice, query, sealed)[1]["problem"] == "this sign-in was completed already"
    assert "signed in" in str(alice.get("/upstreams")[1])

    assert "[secret " in text(agent.call("far__echo"))  # at once, in the same session
    other.start()  # its tool is listed, because its definition is accepted
    assert "user `bob` has not signed in" in text(other.call("far__echo"))
    intent = log(world.config, "--kind", "intent")[-1]
    assert (intent["authority"], intent["on_behalf_of"]) == ("user", "alice")
    denied = log(world.config, "--kind", "decision")[-1]
    assert (denied["authority"], denied["on_behalf_of"], denied["upstream"]) == ("user", "bob", "far")

    calls = len(world.authority.asked("call"))
    assert alice.post("/upstreams/sign-out", {"upstream": "far"})[0] == 200
    assert "user `alice` has not signed in" in text(agent.call("far__echo"))
    assert len(world.authority.asked("call")) == calls


def test_a_client_of_the_handshake_shows_where_and_the_call_waits(world: World) -> None:
    bob = world.person("bob")
    with Client(world.config, ("--on-behalf-of", "bob")) as client:
        client.start("2025-11-25", **CAN_SHOW)
        client.tools()
        call = client.send("tools/call", {"name": "far__echo", "arguments": {}})
        while (message := client.read()).get("method") != "elicitation/create":
            client.others.append(message)
        assert message["params"]["mode"] == "url"
        assert message["params"]["url"] == f"{world.pages}/upstreams#far"
        sign_in(bob)
        assert "[secret " in text(client.wait(call))
    said = cli("instances", "revoke", "--user", "bob", "--why", "left", "--config", str(world.config)).stdout
    assert "signed them out of `far`" in said
    assert "not signed in" in str(bob.get("/upstreams")[1])


def test_a_stateless_client_shows_where_and_comes_back(world: World) -> None:
    carol, agent = world.person("carol"), world.served.raw(world.token("carol"))
    meta = {f"{PREFIX}protocolVersion": "2026-07-28", f"{PREFIX}clientCapabilities": CAN_SHOW}

    def call(**more: object) -> Json:
        params = {"name": "far__echo", "arguments": {}, "_meta": meta, **more}
        mirrored = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "far__echo"}
        said = reply(agent.request("tools/call", params, mirrored))
        assert "result" in said, said
        return dict(said["result"])

    first = call()
    assert first["resultType"] == "input_required"
    assert first["inputRequests"]["sign-in"]["params"]["url"] == f"{world.pages}/upstreams#far"
    sign_in(carol)
    answer = {"sign-in": {"action": "accept"}}
    again = call(requestState=first["requestState"], inputResponses=answer)
    assert "[secret " in again["content"][0]["text"]


def test_the_command_signs_a_user_in_too(world: World) -> None:
    config = str(world.config)
    refused = cli("upstreams", "login", "far", "--config", config, check=False)
    assert "`far` requires `--user`" in refused.stderr
    out = cli("upstreams", "logout", "far", "--user", "dave", "--config", config, check=False)
    assert out.stdout == "not signed in to `far`\n"


def test_tokens_of_sign_ins_are_found_nowhere(world: World) -> None:
    alice = world.person("alice")
    sign_in(alice)
    [registered] = world.authority.asked("registered")  # once for all users
    assert registered["redirect_uris"] == [f"{world.pages}/upstreams/callback/far"]
    asked = world.authority.asked("token")
    assert {(item["grant_type"], item["client"]) for item in asked} == {("authorization_code", registered["client_id"])}
    tokens = {item[kind] for item in world.authority.asked("gave") for kind in ("access", "refresh")}
    tokens.add(registered["client_secret"])
    assert len(tokens) > 2
    shown = cli("log", "--last", "1000", "--json", "--config", str(world.config)).stdout
    everything = {"log": shown.encode(), "stderr": world.served.notes.encode()}
    everything |= {
        str(path): path.read_bytes() for path in (world.config.parent / "state").rglob("*") if path.is_file()
    }
    assert any("sign-ins/far." in where for where in everything)
    for secret in tokens:
        for where, data in everything.items():
            assert secret.encode() not in data, where
    latest = world.authority.asked("gave")[-1]["refresh"]
    assert not any(find(data, latest) for where, data in everything.items() if "sign-ins" in where)


def test_a_registration_that_the_server_has_forgotten_is_made_again(world: World) -> None:
    authority, alice, carol = world.authority, world.person("alice"), world.person("carol")

    def forget() -> str:
        """The client that the server has forgotten from now on."""
        client = str(authority.asked("registered")[-1]["client_id"])
        authority.behave(forgets=client)
        return client

    sign_in(alice)
    query, sealed = begin(carol)
    forgotten = forget()
    status, answer = finish(carol, query, sealed)
    assert status == 409
    assert "invalid_client" in answer["problem"]
    sign_in(carol)
    assert authority.asked("registered")[-1]["client_id"] != forgotten

    sign_in(alice)
    agent = world.served.raw(world.token("alice"))
    agent.start()
    agent.request("tools/list", {})
    forget()
    authority.drop()
    assert "invalid_client" in json.dumps(agent.call("far__echo"))
    sign_in(alice)


def test_sign_ins_that_are_begun_and_left_register_nothing_and_stop_no_other(world: World) -> None:
    alice, carol = world.person("alice"), world.person("carol")
    sign_in(alice)
    registered = world.authority.asked("registered")
    begun = [begin(person) for person in (carol, alice, alice, alice)]
    assert finish(carol, *begun[0])[0] == 200
    assert [finish(alice, *attempt)[0] for attempt in reversed(begun[1:])] == [200, 200, 200]
    cli("upstreams", "logout", "far", "--user", "alice", "--config", str(world.config))
    sign_in(alice)
    assert world.authority.asked("registered") == registered
