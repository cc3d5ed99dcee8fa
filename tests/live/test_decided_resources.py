"""`[guard] decide = ["resources"]`: reading and subscribing take the path of tool calls, for clients of both eras."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.running_guard import SERVERS, Client, Json, cli, log, upstream, write_config
from tests.live.test_stateless import Stateless, approve, state_of

POLICIES = """
@id("reads") permit (principal, action in Action::"read", resource);
@id("private") @reason("private resources stay with people")
forbid (principal, action in Action::"resources/read", resource) when { resource.path like "/private*" };
@id("deals-of-others") @reason("only deal 42")
forbid (principal, action in Action::"resources/read", resource)
when { resource.hasTag("id") && resource.getTag("id") != "42" };
@id("asked") @require_approval("people")
forbid (principal, action == Action::"up__resources/read", resource) when { resource.path like "/asked*" };
"""
LISTS: Json = {
    "tools/list": {"null": {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}},
    "resources/list": {
        "null": {"resources": [{"uri": f"mem://x/{name}", "name": name} for name in ("public", "private/a", "asked")]}
    },
    "resources/templates/list": {
        "null": {
            "resourceTemplates": [
                {"uriTemplate": "crm://deals/{id}", "name": "deal"}, {"uriTemplate": "mem://x/private/{n}", "name": "p"}
            ]
        }
    },
}  # fmt: skip
URIS = ("mem://x/public", "mem://x/asked", "mem://x/private/a", "crm://deals/42", "crm://deals/7")
SCENARIO: Json = {
    "capabilities": {"tools": {}, "logging": {}, "resources": {"subscribe": True}},
    "lists": LISTS,
    "results": {uri: f"text of {uri}" for uri in URIS},
}
GUARD = 'decide = ["tools", "resources"]\nhold_seconds = 0.1'
LABELS = '[uris."mem://x/public*"]\nreturns = ["untrusted"]\n'


def make(folder: Path, policies: str = POLICIES, guard: str = GUARD, more: str = "") -> Path:
    (folder / "scenario.json").write_text(json.dumps(SCENARIO))
    server = str(SERVERS / "scenario.py")
    one = upstream("up", sys.executable, server, str(folder / "scenario.json"), str(folder / "up.log"))
    return write_config(folder, one, policies, guard=guard, more=more)


def sent(folder: Path, method: str) -> list[Json]:
    """The params of each request of this method that the upstream got."""
    log = folder / "up.log"  # which is not there until its server has started
    lines = log.read_text().splitlines() if log.exists() else []
    return [message["params"] for message in map(json.loads, lines) if message.get("method") == method]


@pytest.fixture(scope="module", params=["handshake", "stateless"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    config = make(tmp_path_factory.mktemp(request.param))
    with (Client if request.param == "handshake" else Stateless)(config) as client:
        if request.param == "handshake":
            client.start()
        yield client


def uris(client: Client) -> list[str]:
    return [item["uri"] for item in client.request("resources/list")["result"]["resources"]]


def read(client: Client, uri: str) -> Json:
    return client.request("resources/read", {"uri": uri})


def test_a_listed_resource_is_one_that_could_be_read(client: Client) -> None:
    assert uris(client) == ["mem://x/public", "mem://x/asked"]
    listed = client.request("resources/templates/list")["result"]["resourceTemplates"]
    assert [item["uriTemplate"] for item in listed] == ["crm://deals/{id}", "mem://x/private/{n}"]


def test_a_permitted_read_has_a_decision_an_intent_and_an_outcome(client: Client) -> None:
    assert read(client, "mem://x/public")["result"]["contents"][0]["text"] == "text of mem://x/public"
    assert read(client, "crm://deals/42")["result"]["contents"][0]["uri"] == "crm://deals/42"
    intents = log(client.config, "--kind", "intent")
    assert [intent["tool"] for intent in intents[-2:]] == ["up__resources/read"] * 2
    assert {(i["resource"]["type"], i["resource"]["id"]) for i in intents} >= {("Resource", "crm://deals/42")}
    assert log(client.config, "--kind", "outcome")[-1]["ending"] == "ok"
    assert cli("verify", "--config", str(client.config)).returncode == 0


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("mem://x/private/a", "private resources stay with people"),
        ("crm://deals/7", "only deal 42"),
        ("crm://deals/%2e%2e", "`..` as a segment"),
        ("crm://deals/4%32", "encodes `2`"),
        ("mem://x/public/../private/a", "`..` as a segment"),
        ("mem://x/public%2F..%2Fprivate", "encodes a slash"),
        ("crm://deals/42%252Fx", "encoded twice"),
        ("MEM://x/public", "scheme in lower case"),
        ("file:///etc/passwd", "the URI scheme `file` is unknown"),
        (7, "`uri` must be a text"),
    ],
)
def test_a_refused_read_has_a_reason_and_a_receipt_and_is_not_sent(client: Client, uri: str, reason: str) -> None:
    before = sent(client.config.parent, "resources/read")
    refused = read(client, uri)["error"]
    assert reason in refused["message"]
    assert refused["data"]["mcp-guard/decision"]["outcome"] == "deny"
    receipt = log(client.config, "--kind", "decision")[-1]
    assert receipt["seq"] == refused["data"]["mcp-guard/decision"]["receipt"]
    assert any(reason in text for text in receipt["reasons"])
    assert sent(client.config.parent, "resources/read") == before


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        (b'{"uri":"mem://x/public","uri":"mem://x/private/a"}', "duplicate key"),
        (b'{"uri":"\\ud800"}', "not acceptable"),
    ],
)
def test_a_read_that_cannot_be_parsed_is_denied_with_a_receipt(client: Client, params: bytes, reason: str) -> None:
    read(client, "mem://x/public")  # says which protocol the client speaks
    client.write(b'{"jsonrpc":"2.0","id":"odd","method":"resources/read","params":%s}' % params)
    assert reason in client.wait("odd")["error"]["message"]
    receipt = log(client.config, "--kind", "decision")[-1]
    assert (receipt["outcome"], receipt["tool"]) == ("deny", "resources/read")
    assert any(reason in text for text in receipt["reasons"])


def test_no_tool_call_can_name_a_method(client: Client) -> None:
    refused = client.call("up__resources/read", {"uri": "mem://x/public"})
    assert "error" in refused
    assert "up__resources/read" not in client.tools()


def test_a_held_read_runs_once_when_it_is_approved(client: Client) -> None:
    held = read(client, "mem://x/asked")
    if isinstance(client, Stateless):
        assert held["result"]["resultType"] == "input_required"
        id = held["result"]["_meta"]["mcp-guard/decision"]["approval"]
        again: Json = {"uri": "mem://x/asked", "requestState": state_of(held)}
    else:
        id, again = held["error"]["data"]["mcp-guard/decision"]["approval"], {"uri": "mem://x/asked"}
    approve(client.config, id)
    assert client.request("resources/read", again)["result"]["contents"][0]["text"] == "text of mem://x/asked"
    assert [params["uri"] for params in sent(client.config.parent, "resources/read")].count("mem://x/asked") == 1


def test_guard_await_returns_the_contents_of_a_held_read(tmp_path: Path) -> None:
    with Client(make(tmp_path)) as client:
        client.start()
        id = read(client, "mem://x/asked")["error"]["data"]["mcp-guard/decision"]["approval"]
        approve(client.config, id)
        result = client.call("guard__await", {"approval": id})["result"]
        assert result["content"][0]["resource"]["text"] == "text of mem://x/asked"
        assert result["isError"] is False


def test_a_subscription_is_decided(tmp_path: Path) -> None:
    policies = POLICIES.replace('"resources/read"', '"resources/subscribe"')
    with Client(make(tmp_path, policies)) as client:
        client.start()
        assert "result" in client.request("resources/subscribe", {"uri": "mem://x/public"})
        assert "error" in client.request("resources/subscribe", {"uri": "mem://x/private/a"})
        assert [receipt["tool"] for receipt in log(client.config, "--kind", "intent")] == ["up__resources/subscribe"]
    assert [params["uri"] for params in sent(tmp_path, "resources/subscribe")] == ["mem://x/public"]


def test_requests_that_are_not_decided_carry_no_more_than_they_are_for(tmp_path: Path) -> None:
    with Client(make(tmp_path)) as client:
        client.start()
        client.request("resources/subscribe", {"uri": "mem://x/public"})
        assert client.request("resources/unsubscribe", {"uri": "mem://x/text-for-the-server"})["result"] == {}
        assert client.request("resources/unsubscribe", {"uri": "mem://x/public", "more": "text"})["result"] == {}
        assert "unknown level" in client.request("logging/setLevel", {"level": "text"})["error"]["message"]
        assert client.request("logging/setLevel", {"level": "info", "more": "text"})["result"] == {}
    assert sent(tmp_path, "resources/unsubscribe") == [{"uri": "mem://x/public"}]
    assert sent(tmp_path, "logging/setLevel") == [{"level": "info"}]


def test_the_label_of_a_resource_feeds_the_history(tmp_path: Path) -> None:
    policies = """@id("all") permit (principal, action, resource);
    @id("tainted") forbid (principal, action == Action::"up__echo", resource)
    when { context.history.untrusted_seen };"""
    with Client(make(tmp_path, policies, more=LABELS)) as client:
        client.start()
        assert "isError" not in client.call("up__echo")["result"]
        read(client, "mem://x/public")
        assert client.call("up__echo")["result"]["isError"] is True


def test_without_the_key_resources_pass_undecided(tmp_path: Path) -> None:
    nothing = '@id("none") permit (principal, action == Action::"up__echo", resource);'
    with Client(make(tmp_path, nothing, guard="")) as client:
        client.start()
        assert "result" in read(client, "mem://x/private/a")
        assert log(client.config, "--kind", "intent") == []


def test_a_method_is_no_tool(client: Client) -> None:
    called = client.request("tools/call", {"name": "crm__resources/read", "arguments": {"uri": "crm://deals/7"}})
    assert called["error"] == {"code": -32602, "message": "unknown tool: crm__resources/read"}
