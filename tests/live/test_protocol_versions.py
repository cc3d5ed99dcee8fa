"""Upstreams and clients of both protocol versions: official servers, four combinations, on stdio and over HTTP."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.http_guard import await_answer, free_port
from tests.live.preloaded_cli import DEVNULL, Forked, stand_in
from tests.live.running_guard import ALLOW_ALL, SERVERS, Client, Json, cli, log, text, upstream, write_config
from tests.live.test_session import eventually, held
from tests.live.test_stateless import PREFIX, REVISION, Stateless, approve

ROOTS: Json = {"roots": [{"uri": "file:///x"}]}
NAMED: Json = {"action": "accept", "content": {"name": "Ada"}}
ABLE: Json = {"elicitation": {}, "roots": {}}


@dataclass
class UpstreamServer:
    """One official server of a protocol version, and the configuration of a guard in front of it."""

    folder: Path
    era: str
    over_http: bool = False
    policies: str = ALLOW_ALL
    more: str = ""
    guard: str = 'first_use = "pin"'

    def __post_init__(self) -> None:
        self.log = self.folder / "up.jsonl"
        script = SERVERS / "protocol_versions.py"
        self.process: Forked | None = None
        if not self.over_http:
            self.config = write_config(
                self.folder,
                upstream("up", *stand_in(script, self.era, str(self.log))),
                self.policies,
                self.more,
                self.guard,
            )
            return
        port = free_port()
        self.process = Forked([self.era, str(self.log), str(port)], script=script, stderr=DEVNULL)
        await_answer(f"http://127.0.0.1:{port}/mcp")
        self.config = write_config(
            self.folder, f'[upstreams.up]\nurl = "http://127.0.0.1:{port}/mcp"\n', guard=self.guard
        )

    def seen(self, what: str) -> list[Json]:
        document = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        return [item for item in document if item["what"] == what]

    def outcomes(self) -> list[Json]:
        return log(self.config, "--kind", "outcome")


@pytest.fixture(params=["stdio", "http"])
def modern(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UpstreamServer]:
    yield from serving(UpstreamServer(tmp_path, "modern", request.param == "http"))


def serving(server: UpstreamServer) -> Iterator[UpstreamServer]:
    yield server
    if server.process is not None:
        server.process.kill()
        server.process.wait()


def answer(client: Client, **answers: Json) -> None:
    """Answer the guard's next requests to the client by method, in any order."""
    waiting = dict(answers)
    while waiting:
        message = next((item for item in client.others if item.get("method") in waiting and "id" in item), None)
        if message is not None:
            client.others.remove(message)
        else:
            message = client.read()
        if message.get("method") in waiting:
            body = waiting.pop(message["method"])
            client.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **body}).encode())
        else:
            client.others.append(message)


def heard(client: Client, method: str) -> Json:
    """The next notification of this kind."""
    while True:
        for number, message in enumerate(client.others):
            if message.get("method") == method:
                return dict(client.others.pop(number)["params"])
        client.others.append(client.read())


def test_handshake_client_works_with_a_stateless_upstream(modern: UpstreamServer) -> None:
    with Client(modern.config) as client:
        hello = client.start(elicitation={})
        assert hello["instructions"] == "be kind"
        assert {"up__echo", "up__greet"} <= client.tools().keys()
        reply = client.call("up__echo", {"text": "hi"})
        assert text(reply) == "hi"
        assert "resultType" not in reply["result"]
        params = {"name": "up__steps", "arguments": {}, "_meta": {"progressToken": "p"}}
        assert text(client.request("tools/call", params)) == "done"
        news = [message["params"] for message in client.others if message.get("method") == "notifications/progress"]
        assert [(item["progressToken"], item["progress"]) for item in news] == [("p", 1), ("p", 2), ("p", 3)]
        assert not any(message.get("method") == "notifications/message" for message in client.others)
        said = client.request("prompts/get", {"name": "up__hello", "arguments": {"name": "Ada"}})["result"]
        assert said["messages"][0]["content"]["text"] == "say hello to Ada"
        assert client.request("resources/read", {"uri": "mem://one"})["result"]["contents"][0]["text"] == "the resource"
    assert modern.seen("echo")[0] | {"text": ""} == {
        "what": "echo", "text": "", "era": REVISION, "capabilities": {"elicitation": {}}
    }  # fmt: skip
    assert [entry["method"] for entry in modern.seen("greeting")][:2] == ["initialize", "server/discover"]
    cli("verify", "--config", str(modern.config))


def test_log_level_is_sent_with_each_stateless_request(modern: UpstreamServer) -> None:
    with Client(modern.config) as client:
        client.start()
        if "error" in client.request("logging/setLevel", {"level": "info"}):
            pytest.skip("the SDK's server offers no logging in this protocol version")
        client.call("up__steps")
        assert heard(client, "notifications/message")["data"] == "a word"


def test_upstream_questions_reach_a_handshake_client_within_the_call(modern: UpstreamServer) -> None:
    with Client(modern.config) as client:
        client.start(**ABLE)
        id = client.send("tools/call", {"name": "up__greet", "arguments": {"times": 2}})
        for _ in range(2):
            answer(client, **{"elicitation/create": {"result": NAMED}, "roots/list": {"result": ROOTS}})
        assert text(client.wait(id)) == "hello Ada"
    assert [entry["answers"] for entry in modern.seen("greet")] == [[], ["where", "who"], ["where", "who"]]
    [outcome] = modern.outcomes()
    assert (outcome["ending"], outcome["rounds"]) == ("ok", 3)
    assert len(log(modern.config, "--kind", "intent")) == 1
    cli("verify", "--config", str(modern.config))


def test_upstream_questions_reach_a_stateless_client_with_the_guards_state(modern: UpstreamServer) -> None:
    call: Json = {"name": "up__greet", "arguments": {}}
    with Stateless(modern.config) as client:
        first = client.ask("tools/call", call, **ABLE)["result"]
        asked = {each["method"]: key for key, each in first["inputRequests"].items()}
        assert asked.keys() == {"elicitation/create", "roots/list"}
        back = {**call, "requestState": first["requestState"]}
        forged = {**call, "requestState": "1", "inputResponses": {"who": NAMED}}
        assert client.ask("tools/call", forged, **ABLE)["error"]["code"] == -32602
        other = {**back, "arguments": {"times": 7}, "inputResponses": {asked["roots/list"]: ROOTS}}
        assert client.ask("tools/call", other, **ABLE)["error"]["code"] == -32602
        answers = {asked["elicitation/create"]: NAMED, asked["roots/list"]: ROOTS}
        done = client.ask("tools/call", {**back, "inputResponses": answers}, **ABLE)
        assert text(done) == "hello Ada"
        assert client.ask("tools/call", {**back, "inputResponses": answers}, **ABLE)["error"]["code"] == -32602
    assert len(modern.seen("greet")) == 2
    [outcome] = modern.outcomes()
    assert outcome["rounds"] == 2


def test_question_unsupported_by_the_client_is_named_and_ends_the_call(modern: UpstreamServer) -> None:
    with Client(modern.config) as client:
        client.start(elicitation={})
        reply = client.call("up__greet")
        assert reply["result"]["isError"] is True
        assert "`roots/list`, but the client did not offer `roots`" in text(reply)
    with Stateless(modern.config) as other:
        reply = other.ask("tools/call", {"name": "up__greet", "arguments": {}}, roots={})
        assert "`elicitation/create`, but the client did not offer `elicitation`" in text(reply)
    assert [outcome["ending"] for outcome in modern.outcomes()] == ["cancelled", "cancelled"]
    assert len(modern.seen("greet")) == 2


def test_client_refusal_to_answer_ends_the_call(modern: UpstreamServer) -> None:
    with Client(modern.config) as client:
        client.start(**ABLE)
        id = client.send("tools/call", {"name": "up__greet", "arguments": {}})
        no = {"error": {"code": -1, "message": "not today"}}
        answer(client, **{"elicitation/create": no, "roots/list": {"result": ROOTS}})
        assert "not today" in text(client.wait(id))
    assert [outcome["ending"] for outcome in modern.outcomes()] == ["cancelled"]


def test_endless_questions_are_cut_off(modern: UpstreamServer) -> None:
    with Client(modern.config) as client:
        client.start(**ABLE)
        id = client.send("tools/call", {"name": "up__greet", "arguments": {"times": 99}})
        for _ in range(10):
            answer(client, **{"elicitation/create": {"result": NAMED}, "roots/list": {"result": ROOTS}})
        assert "after 10 rounds" in text(client.wait(id))
    assert len(modern.seen("greet")) == 10
    assert [(outcome["ending"], outcome["rounds"]) for outcome in modern.outcomes()] == [("cancelled", 10)]


def test_call_whose_guard_dies_between_rounds_is_unknown_and_not_resumed(modern: UpstreamServer) -> None:
    with Client(modern.config) as client:
        client.start(**ABLE)
        client.send("tools/call", {"name": "up__greet", "arguments": {}})
        heard(client, "elicitation/create")
        client.process.kill()
    with Client(modern.config) as client:
        client.start(**ABLE)
        client.tools()
    assert [outcome["ending"] for outcome in modern.outcomes()] == ["unknown"]
    assert len(modern.seen("greet")) == 1


def test_approved_call_with_several_rounds_has_one_intent(tmp_path: Path) -> None:
    hold = '@id("gate") @require_approval("people") forbid (principal, action == Action::"up__greet", resource);'
    modern = UpstreamServer(tmp_path, "modern", policies=ALLOW_ALL + hold, guard="hold_seconds = 0.1")
    call: Json = {"name": "up__greet", "arguments": {}}
    with Stateless(modern.config) as client:
        first = client.ask("tools/call", call, **ABLE)["result"]
        assert not modern.seen("greet")
        approve(modern.config, held(modern.config))
        asked = client.ask("tools/call", {**call, "requestState": first["requestState"]}, **ABLE)["result"]
        keys = {each["method"]: key for key, each in asked["inputRequests"].items()}
        answers = {keys["elicitation/create"]: NAMED, keys["roots/list"]: ROOTS}
        back = {**call, "requestState": asked["requestState"], "inputResponses": answers}
        assert text(client.ask("tools/call", back, **ABLE)) == "hello Ada"
    assert len(log(modern.config, "--kind", "intent")) == 1
    assert [outcome["rounds"] for outcome in modern.outcomes()] == [2]
    cli("verify", "--config", str(modern.config))


def test_facts_that_need_user_input_deny_the_call(tmp_path: Path) -> None:
    facts = """
[tools.up__echo.facts]
tool = "greet"
arguments = {}

[tools.up__greet]
effect = "read"
"""
    modern = UpstreamServer(tmp_path, "modern", more=facts)
    with Client(modern.config) as client:
        client.start(**ABLE)
        assert client.call("up__echo", {"text": "hi"})["result"]["isError"] is True
    assert len(modern.seen("greet")) == 1
    assert not modern.seen("echo")
    assert [receipt["outcome"] for receipt in log(modern.config, "--kind", "decision")] == ["deny"]


@pytest.mark.parametrize("era", ["old", "modern"])
def test_stateless_client_module_is_loaded_only_for_stateless_upstreams(tmp_path: Path, era: str) -> None:
    listed = {"PYTHONPROFILEIMPORTTIME": "1"}
    with Client(UpstreamServer(tmp_path, era).config, env=listed, new_interpreter=True) as client:
        client.start()
        client.call("up__echo", {"text": "hi"})
    modules = ("upstream.stateless", "protocol.stateless_server", "protocol.stateless_client")
    assert [f"mcp_guard.{name}" in client.stderr for name in modules] == [era == "modern"] * 3
    assert "mcp_guard.protocol.headers" not in client.stderr


def test_upstream_that_only_asks_for_time_is_retried(modern: UpstreamServer) -> None:
    with Client(modern.config) as client:
        client.start()
        assert text(client.call("up__wait")) == "waited"
    assert [entry["state"] for entry in modern.seen("wait")] == [None, "soon"]


@pytest.mark.parametrize("kind", [Client, Stateless])
def test_client_leaving_between_rounds_cancels_the_call(modern: UpstreamServer, kind: type[Client]) -> None:
    with kind(modern.config) as client:
        if kind is Client:
            client.start(**ABLE)
            client.send("tools/call", {"name": "up__greet", "arguments": {}})
            heard(client, "elicitation/create")
        else:
            assert isinstance(client, Stateless)
            client.ask("tools/call", {"name": "up__greet", "arguments": {}}, **ABLE)
    assert [outcome["ending"] for outcome in modern.outcomes()] == ["cancelled"]
    assert len(modern.seen("greet")) == 1
    cli("verify", "--config", str(modern.config))


@pytest.mark.parametrize("kind", [Client, Stateless])
def test_a_cancelled_call_is_cancelled_at_the_upstream(modern: UpstreamServer, kind: type[Client]) -> None:
    with kind(modern.config) as client:
        if kind is Client:
            client.start()
        id = client.send("tools/call", {"name": "up__slow", "arguments": {}})
        eventually(lambda: modern.seen("slow"))
        client.notify("notifications/cancelled", {"requestId": id})
        eventually(lambda: modern.seen("slow is cancelled"))
        eventually(lambda: [outcome["ending"] for outcome in modern.outcomes()] == ["cancelled"])


def test_handshake_client_receives_change_notifications(modern: UpstreamServer) -> None:
    with Client(modern.config) as client:
        client.start()
        assert "up__later" not in client.tools()
        assert client.request("resources/subscribe", {"uri": "mem://one"})["result"] == {}
        client.call("up__change")
        assert heard(client, "notifications/resources/updated") == {"uri": "mem://one"}
        heard(client, "notifications/tools/list_changed")
        assert "up__later" in client.tools()
        assert client.request("resources/unsubscribe", {"uri": "mem://one"})["result"] == {}


def test_stateless_client_receives_change_notifications_by_subscription(modern: UpstreamServer) -> None:
    with Stateless(modern.config) as client:
        wanted = {"toolsListChanged": True, "resourceSubscriptions": ["mem://one"]}
        id = client.send("subscriptions/listen", {"notifications": wanted})
        marked = {f"{PREFIX}subscriptionId": id}
        assert heard(client, "notifications/subscriptions/acknowledged")["notifications"] == wanted
        client.ask("tools/call", {"name": "up__change", "arguments": {}})
        assert heard(client, "notifications/resources/updated") == {"uri": "mem://one", "_meta": marked}
        assert heard(client, "notifications/tools/list_changed")["_meta"] == marked


def test_upstream_with_both_versions_gets_the_version_of_its_client(tmp_path: Path) -> None:
    dual = UpstreamServer(tmp_path, "dual")
    with Client(dual.config) as client:
        client.start()
        client.call("up__echo", {"text": "a"})
    with Stateless(dual.config) as client:
        client.ask("tools/call", {"name": "up__echo", "arguments": {"text": "b"}})
    assert [entry["era"] for entry in dual.seen("echo")] == ["2025-06-18", REVISION]
    assert [entry["method"] for entry in dual.seen("greeting")][:2] == ["initialize", "server/discover"]


@pytest.mark.parametrize("over_http", [False, True], ids=["stdio", "http"])
def test_handshake_only_upstream_gets_the_handshake(tmp_path: Path, over_http: bool) -> None:
    for old in serving(UpstreamServer(tmp_path, "old", over_http)):
        with Stateless(old.config) as client:
            reply = client.ask("tools/call", {"name": "up__echo", "arguments": {"text": "a"}})
            assert text(reply) == "a"
            assert reply["result"]["resultType"] == "complete"
        assert [entry["era"] for entry in old.seen("echo")] == ["2025-11-25"]
        assert [entry["method"] for entry in old.seen("greeting")] == ["server/discover", "initialize"]


def test_arguments_marked_in_the_schema_are_sent_as_headers(tmp_path: Path) -> None:
    for modern in serving(UpstreamServer(tmp_path, "modern", over_http=True)):
        with Client(modern.config) as client:
            client.start()
            assert text(client.call("up__routed", {"region": "Zürich"})) == "Zürich"
        [routed] = modern.seen("routed")
        assert routed == {"what": "routed", "header": "=?base64?WsO8cmljaA==?=", "name": "routed"}


def test_upstream_that_returns_is_reconnected(tmp_path: Path) -> None:
    modern = UpstreamServer(tmp_path, "modern")
    with Client(modern.config) as client:
        client.start()
        client.call("up__echo", {"text": "a"})
        os.kill(modern.seen("started")[0]["pid"], signal.SIGKILL)
        eventually(lambda: "upstream `up`" not in str(client.call("up__echo", {"text": "b"})))
    assert modern.seen("echo")[-1]["text"] == "b"
