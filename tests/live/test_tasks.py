"""The tasks extension: one intent when an upstream makes a task of a call, one outcome when it ends."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.http_guard import Raw, Served, free_port, reply, serving
from tests.live.running_guard import ALLOW_ALL, SERVERS, Json, cli, log, text, upstream, write_config
from tests.live.test_session import eventually, held
from tests.live.test_stateless import Stateless, approve
from tests.servers.tasks import EXTENSION, read_state, text_result, write_state

HOLD = f"""{ALLOW_ALL}
@id("gate") @require_approval("people") forbid (principal, action == Action::"up__work", resource);
"""
TASKS: Json = {"extensions": {EXTENSION: {}}, "elicitation": {"form": {}}}


def configure(folder: Path, policies: str = ALLOW_ALL, guard: str = "", more: str = "", server: str = "") -> Path:
    """`server` are more lines about the upstream."""
    words = (sys.executable, str(SERVERS / "tasks.py"), str(folder / "up.log"), str(folder / "tasks.json"))
    return write_config(folder, upstream("up", *words) + server, policies, more, guard)


class Tasked(Stateless):
    """A client that offers the extension with every request."""

    def send(self, method: str, params: Json | None = None, **capabilities: Json) -> int:
        return super().send(method, params, **(capabilities or TASKS))

    def make(self, tool: str = "work", said: str = "hi") -> Json:
        """Call a tool, and return the task that it is answered with."""
        reply = self.ask("tools/call", {"name": f"up__{tool}", "arguments": {"text": said}})
        assert "result" in reply, reply
        task: Json = reply["result"]
        assert task["resultType"] == "task"
        return task

    def look(self, id: str) -> Json:
        return dict(self.ask("tasks/get", {"taskId": id}))


def go_on(folder: Path, **state: Any) -> None:
    """What the upstream says of its latest task from now on."""
    path = folder / "tasks.json"
    tasks = read_state(path)
    write_state(path, {**tasks, list(tasks)[-1]: {**list(tasks.values())[-1], **state}})


def sent(folder: Path, method: str) -> list[Json]:
    messages = [json.loads(line) for line in (folder / "up.log").read_text().splitlines()]
    return [message["params"] for message in messages if message.get("method") == method]


def endings(config: Path) -> list[str]:
    return [receipt["ending"] for receipt in log(config, "--kind", "outcome")]


def test_a_task_has_one_intent_and_one_outcome(tmp_path: Path) -> None:
    config = configure(tmp_path)
    with Tasked(config) as client:
        assert EXTENSION in client.ask("server/discover")["result"]["capabilities"]["extensions"]
        task = client.make()
        assert (task["status"], task["pollIntervalMs"]) == ("working", 500)
        [intent] = log(config, "--kind", "intent")
        assert task["taskId"] == intent["call"]
        assert endings(config) == []
        assert client.look(task["taskId"])["result"]["status"] == "working"
        go_on(tmp_path, status="completed", result=text_result("done"))
        for _ in range(2):
            ended = client.look(task["taskId"])["result"]
            assert (ended["status"], ended["resultType"], ended["taskId"]) == ("completed", "complete", task["taskId"])
            assert ended["result"] == text_result("done")
        assert client.ask("tasks/cancel", {"taskId": task["taskId"]})["result"]["resultType"] == "complete"
    [outcome] = log(config, "--kind", "outcome")
    assert (outcome["ending"], outcome["follows"], outcome["tool"]) == ("ok", [intent["seq"]], "up__work")
    assert "secret-1" not in json.dumps(log(config))
    assert {request["taskId"] for request in sent(tmp_path, "tasks/get")} == {"secret-1"}
    assert sent(tmp_path, "tasks/cancel") == []
    cli("verify", "--config", str(config))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For guards one after the other, on one ledger."""
    return configure(tmp_path_factory.mktemp("tasks"), guard='decide = ["elicitation"]', more='[tools."up__work"]')


@pytest.fixture(scope="module")
def client(config: Path) -> Iterator[Tasked]:
    with Tasked(config) as client:
        yield client


@pytest.mark.parametrize(
    ("state", "ending", "status"),
    [
        ({"status": "completed", "result": {**text_result("no"), "isError": True}}, "tool_error", "completed"),
        ({"status": "failed", "error": {"code": -32603, "message": "broke"}}, "upstream_error", "failed"),
        ({"status": "cancelled"}, "cancelled", "cancelled"),
    ],
)
def test_how_a_task_ends_is_the_outcome(client: Tasked, state: Json, ending: str, status: str) -> None:
    task = client.make()
    go_on(client.config.parent, **state)
    for _ in range(2):  # as the upstream says it, and as it is recorded
        ended = client.look(task["taskId"])["result"]
        assert {name: ended.get(name) for name in state} == state
    last = log(client.config, "--kind", "outcome")[-1]
    assert (last["ending"], last["call"], ended["status"]) == (ending, task["taskId"], status)


def test_a_task_that_the_upstream_has_forgotten_is_unknown(client: Tasked) -> None:
    task = client.make()
    write_state(client.config.parent / "tasks.json", {})
    ended = client.look(task["taskId"])["result"]
    assert ended["status"] == "failed"
    assert "does not know the task any more" in ended["error"]["message"]
    assert log(client.config, "--kind", "outcome")[-1]["ending"] == "unknown"


def test_cancel_is_passed_on_and_the_guard_learns_the_end_by_itself(client: Tasked) -> None:
    task = client.make()
    acknowledged = client.ask("tasks/cancel", {"taskId": task["taskId"]})["result"]
    assert acknowledged.keys() == {"resultType", "_meta"}
    ended = eventually(lambda: [r for r in log(client.config, "--kind", "outcome") if r["call"] == task["taskId"]])
    assert [receipt["ending"] for receipt in ended] == ["cancelled"]


def test_answers_to_a_tasks_questions_are_decided(client: Tasked) -> None:
    folder, answer = client.config.parent, "up__elicitation/create"
    task = client.make("ask")
    asking = client.look(task["taskId"])["result"]
    assert (asking["status"], list(asking["inputRequests"])) == ("input_required", ["k"])
    before = len(sent(folder, "tasks/update"))
    update: Json = {"taskId": task["taskId"], "inputResponses": {"other": {"action": "accept"}}}
    assert "result" in client.ask("tasks/update", update)  # as the specification says of keys that nobody asked for
    assert len(sent(folder, "tasks/update")) == before
    update["inputResponses"] = {"k": {"action": "accept", "content": {"name": "Annabel"}, "_meta": {"x": 1}}}
    assert "result" in client.ask("tasks/update", update)
    assert sent(folder, "tasks/update")[-1]["inputResponses"] == {"k": {"action": "decline"}}
    denied = log(client.config, "--kind", "decision")[-1]
    assert denied["tool"] == answer
    assert "must be a text of the length that the question allows" in denied["reasons"][0]
    task = client.make("ask")
    update = {"taskId": task["taskId"], "inputResponses": {"k": {"action": "accept", "content": {"name": "Ann"}}}}
    assert "result" in client.ask("tasks/update", update)
    ended = client.look(task["taskId"])["result"]
    assert json.loads(ended["result"]["content"][0]["text"])["content"] == {"name": "Ann"}
    receipts = [r for r in log(client.config) if r.get("tool") == answer or r.get("call") == task["taskId"]][-4:]
    kinds = [(receipt["kind"], receipt["tool"]) for receipt in receipts]
    assert kinds == [("intent", "up__ask"), ("intent", answer), ("outcome", answer), ("outcome", "up__ask")]


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
def test_a_task_of_another_instance_is_denied_with_a_receipt(client: Tasked, config: Path, method: str) -> None:
    task = client.make()
    params: Json = {"inputResponses": {}}
    before = len(sent(config.parent, method))
    with Tasked(config) as other:
        for id, why in (
            (task["taskId"], "is of another instance"),
            ("call_made_up", "is not known"),
            (7, "is not known"),
        ):
            refused = other.ask(method, {**params, "taskId": id})["error"]
            assert (refused["code"], refused["message"]) == (-32602, "this instance has no task of this id")
            denied = log(config, "--kind", "decision")[-1]
            assert (denied["outcome"], denied["tool"]) == ("deny", method)
            assert why in denied["reasons"][-1]
        assert (
            method == "tasks/get" or len(sent(config.parent, method)) == before
        )  # which the guard sends by itself, too


def test_a_client_that_does_not_offer_the_extension_gets_no_task(client: Tasked) -> None:
    reply = client.ask("tools/call", {"name": "up__work", "arguments": {}}, sampling={})
    assert text(reply) == "at once"
    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        refused = client.ask(method, {"taskId": "t"}, sampling={})["error"]
        assert (refused["code"], refused["data"]["requiredCapabilities"]) == (-32021, {"extensions": {EXTENSION: {}}})
    refused = client.ask("subscriptions/listen", {"notifications": {"taskIds": ["t"]}}, sampling={})["error"]
    assert refused["code"] == -32021
    for method in ("tasks/result", "tasks/list"):
        assert client.ask(method, {"taskId": "t"})["error"]["code"] == -32601


def test_a_session_has_a_limited_number_of_open_tasks(config: Path) -> None:
    with Tasked(config, prelude="from mcp_guard.downstream import task_requests; task_requests.MAX_OPEN = 1") as other:
        task = other.make()
        request = {"name": "up__work", "arguments": {}}
        assert text(other.ask("tools/call", request)) == "at once"
        go_on(config.parent, status="cancelled")
        assert other.look(task["taskId"])["result"]["status"] == "cancelled"
        assert other.ask("tools/call", request)["result"]["resultType"] == "task"


def test_a_subscriber_is_told_how_its_task_goes(client: Tasked) -> None:
    task = client.make()
    id = client.send("subscriptions/listen", {"notifications": {"taskIds": [task["taskId"], "call_of_another"]}})
    acknowledged = client.read()["params"]
    assert acknowledged["notifications"] == {"taskIds": [task["taskId"]]}
    told = client.read()
    assert (told["method"], told["params"]["status"]) == ("notifications/tasks", "working")
    go_on(client.config.parent, status="completed", result=text_result("done"))
    ended = client.read()["params"]
    assert (ended["taskId"], ended["result"]) == (task["taskId"], text_result("done"))
    client.notify("notifications/cancelled", {"requestId": id})


def test_a_subscriber_who_is_revoked_is_told_no_more(config: Path) -> None:
    with Tasked(config) as other:
        task = other.make()
        other.send("subscriptions/listen", {"notifications": {"taskIds": [task["taskId"]]}})
        assert [other.read()["method"] for _ in range(2)][-1] == "notifications/tasks"
        instance = log(config, "--kind", "intent")[-1]["instance"]
        cli("instances", "revoke", "--instance", instance, "--why", "left", "--config", str(config))
        go_on(config.parent, status="completed", result=text_result("not for them"))
        eventually(lambda: log(config, "--kind", "outcome")[-1]["call"] == task["taskId"])
        other.process.stdin.close()  # type: ignore[union-attr]
        assert b"not for them" not in other.process.stdout.read()  # type: ignore[union-attr]


def test_one_approval_makes_one_task(tmp_path: Path) -> None:
    config = configure(tmp_path, HOLD, "hold_seconds = 0.1")
    request: Json = {"name": "up__work", "arguments": {"text": "hi"}}
    with Tasked(config) as client:
        first = client.ask("tools/call", request)["result"]
        assert first["resultType"] == "input_required"
        approve(config, held(config))
        again = {**request, "requestState": first["requestState"]}
        task = client.ask("tools/call", again)["result"]
        assert task["resultType"] == "task"
        assert "its call is running" in text(client.ask("tools/call", again))
        assert "its call is running" in text(client.ask("tools/call", request))
        go_on(tmp_path, status="completed", result=text_result("done"))
        eventually(lambda: endings(config))
        assert text(client.ask("tools/call", again)) == "done"
        assert client.look(task["taskId"])["result"]["result"] == text_result("done")
    assert len(sent(tmp_path, "tools/call")) == 1
    assert endings(config) == ["ok"]
    cli("verify", "--config", str(config))


def test_sessions_of_a_shared_upstream_have_their_own_tasks(tmp_path: Path) -> None:
    port = free_port()
    config = configure(tmp_path, more=serving(port), server="share = true\n")
    with Served(config, port) as served:
        first, second = (served.raw(served.issue()[1]) for _ in range(2))

        def ask(client: Raw, method: str, **params: Any) -> Json:
            return reply(client.stateless(method, params, **TASKS))

        ids = [
            ask(client, "tools/call", name="up__work", arguments={})["result"]["taskId"] for client in (first, second)
        ]
        go_on(tmp_path, status="completed", result=text_result("of the second"))
        assert text(ask(second, "tasks/get", taskId=ids[1])["result"]) == "of the second"
        assert ask(first, "tasks/get", taskId=ids[0])["result"]["status"] == "working"
        for client, id in ((first, ids[1]), (second, ids[0])):
            refused = ask(client, "tasks/cancel", taskId=id)["error"]
            assert refused["message"] == "this instance has no task of this id"
        assert "result" in ask(first, "tasks/cancel", taskId=ids[0])
        eventually(lambda: len(endings(config)) == 2)
    assert {item["taskId"] for item in sent(tmp_path, "tasks/cancel")} == {"secret-1"}
    assert sorted(endings(config)) == ["cancelled", "ok"]


LABELLED = """
@id("all") permit (principal, action, resource);
@id("known") @reason("others wrote it") forbid (principal, action == Action::"up__plain", resource)
unless { context.history.sinks.from_untrusted.isEmpty() };
"""
RULES = """
[tools."up__work"]
returns = ["untrusted"]
redact_result = ["/pin"]

[tools."up__ask"]
redact = ["/text"]

[tools."up__plain"]
sinks = ["text"]
"""


def test_the_result_of_a_task_is_labelled_and_redacted_like_that_of_a_call(tmp_path: Path) -> None:
    config = configure(tmp_path, LABELLED, more=RULES)
    with Tasked(config) as client:
        task = client.make()
        result = {**text_result("to eve@evil.example"), "structuredContent": {"pin": "4711-0815"}}
        go_on(tmp_path, status="completed", result=result)
        assert client.look(task["taskId"])["result"]["result"] == result
        assert "others wrote it" in text(
            client.ask("tools/call", {"name": "up__plain", "arguments": {"text": "eve@evil.example"}})
        )
        task = client.make("ask", "hunter22")
        go_on(tmp_path, status="failed", error={"code": -32603, "message": "no hunter22"})
        assert client.look(task["taskId"])["result"]["error"]["message"] == "no hunter22"
        kept = b"".join(file.read_bytes() for file in (tmp_path / "state").glob("ledger.sqlite*"))
    assert b"4711-0815" not in kept
    assert b"hunter22" not in kept


def test_what_a_task_has_changed_is_confirmed_when_it_has_ended(tmp_path: Path) -> None:
    facts = '[tools."up__work".facts]\ntool = "get"\narguments = {}\nconfirm = true'
    config = configure(tmp_path, more=f'[tools."up__get"]\neffect = "read"\n{facts}')
    with Tasked(config) as client:
        task = client.make(said="hi")
        go_on(tmp_path, status="completed", result=text_result("done"), text="ho")
        assert client.look(task["taskId"])["result"]["status"] == "completed"
    [outcome] = [receipt for receipt in log(config, "--kind", "outcome") if "purpose" not in receipt]
    assert outcome["confirmation"] == {"finding": "differs", "actual": ["text"], "missed": ["text"]}
    cli("verify", "--config", str(config))
