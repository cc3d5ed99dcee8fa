"""P12: everything else of MCP passes through unharmed in both directions, whichever protocol version each side uses."""

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.live.running_guard import SERVERS, Client, Json, log, upstream, write_config
from tests.live.test_session import eventually
from tests.live.test_stateless import PREFIX, Stateless
from tests.proof_size import sized

EXAMPLES = settings(
    max_examples=sized(20, 8),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LEAF = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(codec="utf-8"))
VALUE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.$"), inner), max_leaves=6
)
ODD = st.dictionaries(st.from_regex(r"x-[a-z]{1,4}", fullmatch=True), VALUE, min_size=1, max_size=3)
KEYED = st.dictionaries(st.from_regex(r"x\.y/[a-z]{1,4}", fullmatch=True), VALUE, min_size=1, max_size=3)
ABLE: Json = {"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {"listChanged": True}}
ENVELOPE = {f"{PREFIX}{name}" for name in ("protocolVersion", "clientInfo", "clientCapabilities", "logLevel")}
TRACE = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1"}
ERA_MEMBERS = ("resultType", "ttlMs", "cacheScope")

REQUESTS: dict[str, tuple[Json, Json, Json]] = {
    "tools/call": ({"name": "up__any"}, {"name": "any"}, {"content": [{"type": "text", "text": "t"}]}),
    "prompts/get": ({"name": "up__prompt"}, {"name": "prompt"}, {"messages": []}),
    "resources/read": ({"uri": "mem://one"}, {"uri": "mem://one"}, {"contents": []}),
    "completion/complete": (
        {"ref": {"type": "ref/prompt", "name": "up__prompt"}, "argument": {"name": "n", "value": "v"}},
        {"ref": {"type": "ref/prompt", "name": "prompt"}, "argument": {"name": "n", "value": "v"}},
        {"completion": {"values": []}},
    ),
}
"""By method: what the client says, what the upstream must see, what it answers."""
ROUNDS = ("tools/call", "prompts/get", "resources/read")
ASKS: dict[str, tuple[Json, Json]] = {
    "sampling/createMessage": ({"messages": [], "maxTokens": 5}, {"role": "assistant", "content": [], "model": "m"}),
    "elicitation/create": ({"message": "m", "requestedSchema": {"type": "object"}}, {"action": "decline"}),
    "roots/list": ({}, {"roots": []}),
}


@dataclass
class Proxy:
    """A running guard between a client and an upstream, each with its protocol version."""

    client: Client
    folder: Path
    upstream: str

    @property
    def is_stateless(self) -> bool:
        return isinstance(self.client, Stateless)

    def script(self, **what: Any) -> None:
        (self.folder / "script.json").write_text(json.dumps({"result": {}, **what}))

    def seen(self) -> list[Json]:
        log = self.folder / "up.jsonl"
        return [json.loads(line) for line in log.read_bytes().splitlines()] if log.exists() else []

    def send(self, method: str, params: Json) -> int:
        return self.client.send(method, params, **(ABLE if self.is_stateless else {}))

    def ask(self, method: str, params: Json) -> Json:
        return self.client.wait(self.send(method, params))

    def heard(self, method: str) -> Json:
        while True:
            for number, message in enumerate(self.client.others):
                if message.get("method") == method:
                    return self.client.others.pop(number)
            self.client.others.append(self.client.read())

    def last(self, method: str) -> Json:
        """The params of the last message of this method at the upstream, without the envelope."""
        params = next(message for message in reversed(self.seen()) if message.get("method") == method).get("params", {})
        return without_meta(params, {*ENVELOPE, "progressToken"})


def without_meta(holder: Json, names: set[str]) -> Json:
    meta = {name: value for name, value in holder.get("_meta", {}).items() if name not in names}
    rest = {name: value for name, value in holder.items() if name != "_meta"}
    return rest | ({"_meta": meta} if meta else {})


def plain(result: Json) -> Json:
    """A result without the fields of the client's protocol version."""
    return without_meta({k: v for k, v in result.items() if k not in ERA_MEMBERS}, {f"{PREFIX}serverInfo"})


@pytest.fixture(
    scope="module",
    params=[(client, upstream) for client in (Client, Stateless) for upstream in ("handshake", "stateless")],
    ids=lambda both: f"{both[0].__name__}-{both[1]}",
)
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    kind, era = request.param
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = (str(folder / "up.jsonl"), str(folder / "script.json"))
        config = write_config(folder, upstream("up", sys.executable, str(SERVERS / "mirror.py"), era, *files))
        with kind(config) as client:
            if kind is Client:
                client.start("2025-11-25", **ABLE)
            yield Proxy(client, folder, era)


@pytest.mark.parametrize("method", REQUESTS)
@EXAMPLES
@given(odd=ODD, meta=KEYED, said=ODD, about=KEYED)
def test_unknown_members_pass_in_requests_and_results(
    proxy: Proxy, method: str, odd: Json, meta: Json, said: Json, about: Json
) -> None:
    """But for `_meta` of a request: of that, only what the operator lists goes on."""
    client, upstream, result = REQUESTS[method]
    members = {"arguments": odd} if method == "tools/call" else odd
    proxy.script(result={**result, **said, "_meta": about})
    reply = proxy.ask(method, {**client, **members, "_meta": meta | TRACE})["result"]
    assert proxy.last(method) == {**upstream, **members, "_meta": TRACE}
    assert plain(reply) == {**result, **said, "_meta": about}


@pytest.mark.parametrize("method", REQUESTS)
@EXAMPLES
@given(code=st.integers(-32099, -32000) | st.integers(1, 999), data=VALUE, odd=ODD)
def test_errors_pass_through(proxy: Proxy, method: str, code: int, data: Any, odd: Json) -> None:
    failed = {"code": code, "message": "no", "data": data, **odd}
    proxy.script(error=failed)
    assert proxy.ask(method, REQUESTS[method][0])["error"] == failed


@pytest.mark.parametrize("asked", ASKS)
@EXAMPLES
@given(odd=ODD, meta=KEYED, said=ODD)
def test_upstream_requests_and_their_answers_pass_through(
    proxy: Proxy, asked: str, odd: Json, meta: Json, said: Json
) -> None:
    params, answer = ASKS[asked]
    question = {"method": asked, "params": {**params, **odd, "_meta": meta}}
    proxy.script(asks=[question], result=REQUESTS["tools/call"][2])
    call: Json = {"name": "up__any", "arguments": {}}
    if proxy.is_stateless:
        first = proxy.ask("tools/call", call)["result"]
        [(key, put)] = first["inputRequests"].items()
        back = {"requestState": first["requestState"], "inputResponses": {key: {**answer, **said}}}
        assert "error" not in proxy.ask("tools/call", {**call, **back})
    else:
        id = proxy.send("tools/call", call)
        put = proxy.heard(asked)
        reply = {"jsonrpc": "2.0", "id": put["id"], "result": {**answer, **said}}
        proxy.client.write(json.dumps(reply).encode())
        assert "error" not in proxy.client.wait(id)
    assert {"method": put["method"], "params": put["params"]} == question
    assert answered(proxy) == {**answer, **said}


def test_an_answer_may_come_before_its_question(proxy: Proxy) -> None:
    """A stateless client may answer with the first request; what nobody asks for reaches nobody."""
    if not (proxy.is_stateless and proxy.upstream == "stateless"):
        return
    [(asked, (params, answer)), *_] = ASKS.items()
    proxy.script(asks=[{"method": asked, "params": params}], result=REQUESTS["tools/call"][2])
    early = {"k0": answer, "never_asked": {"action": "accept"}}
    reply = proxy.ask("tools/call", {"name": "up__any", "arguments": {}, "inputResponses": early})
    assert reply["result"]["resultType"] == "complete"
    assert answered(proxy) == answer
    assert "never_asked" not in proxy.last("tools/call")["inputResponses"]


def answered(proxy: Proxy) -> Any:
    if proxy.upstream == "stateless":
        return proxy.last("tools/call")["inputResponses"]["k0"]
    return next(message for message in reversed(proxy.seen()) if "method" not in message)["result"]


def test_url_and_several_questions_share_one_round(proxy: Proxy) -> None:
    url: Json = {"method": "elicitation/create", "params": {"mode": "url", "url": "https://x/", "message": "m"}}
    if proxy.upstream == "handshake":
        url["params"]["elicitationId"] = "e"
    proxy.script(asks=[url], result={"content": []})
    call: Json = {"name": "up__any", "arguments": {}}
    if proxy.is_stateless:
        first = proxy.ask("tools/call", call)["result"]
        [(key, put)] = first["inputRequests"].items()
        answers = {key: {"action": "accept"}}
        proxy.ask("tools/call", {**call, "requestState": first["requestState"], "inputResponses": answers})
    else:
        id = proxy.send("tools/call", call)
        put = proxy.heard("elicitation/create")
        reply = {"jsonrpc": "2.0", "id": put["id"], "result": {"action": "accept"}}
        proxy.client.write(json.dumps(reply).encode())
        proxy.client.wait(id)
        assert put["params"]["elicitationId"]
    assert put["params"]["url"] == "https://x/"
    assert answered(proxy) == {"action": "accept"}


@EXAMPLES
@given(odd=ODD, meta=KEYED)
def test_progress_passes_through(proxy: Proxy, odd: Json, meta: Json) -> None:
    news = {"progress": 1, "message": "m", **odd, "_meta": meta}
    for method in ROUNDS:
        proxy.script(says=[{"method": "notifications/progress", "params": news}], result=REQUESTS[method][2])
        proxy.ask(method, {**REQUESTS[method][0], "_meta": {"progressToken": "mine"}})
        assert proxy.heard("notifications/progress")["params"] == {**news, "progressToken": "mine"}


@EXAMPLES
@given(odd=ODD, meta=KEYED)
def test_log_messages_pass_at_the_requested_level(proxy: Proxy, odd: Json, meta: Json) -> None:
    said = {"level": "warning", "data": {"d": [1]}, **odd, "_meta": meta}
    proxy.script(says=[{"method": "notifications/message", "params": said}], result={"content": []})
    wanted: Json = {"_meta": {f"{PREFIX}logLevel": "info"}} if proxy.is_stateless else {}
    if not proxy.is_stateless:
        assert proxy.ask("logging/setLevel", {"level": "info"})["result"] == {}
    proxy.ask("tools/call", {"name": "up__any", "arguments": {}, **wanted})
    assert proxy.heard("notifications/message")["params"] == said
    if proxy.upstream == "stateless":
        call = next(message for message in reversed(proxy.seen()) if message.get("method") == "tools/call")
        assert call["params"]["_meta"][f"{PREFIX}logLevel"] == "info"
    else:
        assert proxy.last("logging/setLevel") == {"level": "info"}


def test_envelope_fields_come_only_from_the_guard(proxy: Proxy) -> None:
    if proxy.is_stateless or proxy.upstream == "handshake":
        pytest.skip("a stateless client says it itself, and the handshake revisions have none")
    proxy.script(result={"content": []})
    said = {f"{PREFIX}logLevel": "emergency", f"{PREFIX}clientCapabilities": {"x": 1}, "x/y": 1}
    proxy.ask("tools/call", {"name": "up__any", "arguments": {}, "_meta": said})
    meta = _meta(next(message for message in reversed(proxy.seen()) if message.get("method") == "tools/call"))
    assert "x/y" not in meta
    assert meta[f"{PREFIX}clientCapabilities"] == ABLE
    assert meta.get(f"{PREFIX}logLevel") != "emergency"


def test_change_notifications_pass_through(proxy: Proxy) -> None:
    kinds = ("prompts", "resources", "tools")
    says = [{"method": f"notifications/{kind}/list_changed", "params": {"_meta": {"x/y": 1}}} for kind in kinds]
    updated = {"uri": "mem://one", "x-odd": 1, "_meta": {"x/y": 1}}
    says.append({"method": "notifications/resources/updated", "params": updated})
    proxy.script(says=says, result={"content": []})
    marks: set[str] = set()
    if proxy.is_stateless:
        wanted: Json = {f"{kind}ListChanged": True for kind in kinds} | {"resourceSubscriptions": ["mem://one"]}
        proxy.send("subscriptions/listen", {"notifications": wanted})
        proxy.heard("notifications/subscriptions/acknowledged")
        marks = {f"{PREFIX}subscriptionId"}
    else:
        assert proxy.ask("resources/subscribe", {"uri": "mem://one"})["result"] == {}
    proxy.ask("tools/call", {"name": "up__any", "arguments": {}})
    assert without_meta(proxy.heard("notifications/resources/updated")["params"], marks) == updated
    for kind in ("prompts", "resources"):
        told = proxy.heard(f"notifications/{kind}/list_changed")["params"]
        assert without_meta(told, marks) == {"_meta": {"x/y": 1}}
    proxy.heard("notifications/tools/list_changed")
    if proxy.upstream == "stateless":
        assert proxy.last("subscriptions/listen")["notifications"]["resourceSubscriptions"] == ["mem://one"]
    else:
        assert proxy.last("resources/subscribe") == {"uri": "mem://one"}


def test_listings_pass_with_every_member(proxy: Proxy) -> None:
    odd = {"x-odd": {"kept": [1, None, "ü"]}, "_meta": {"x/odd": True}}
    for method, name, known in (
        ("tools/list", "tools", {"name": "up__any"}),
        ("prompts/list", "prompts", {"name": "up__prompt"}),
        ("resources/list", "resources", {"uri": "mem://one"}),
        ("resources/templates/list", "resourceTemplates", {"uriTemplate": "mem://{x}"}),
    ):
        [item] = proxy.ask(method, {})["result"][name]
        assert item | known | odd == item


def test_cancellation_reaches_the_upstream(proxy: Proxy) -> None:
    """It names the request by the id that the upstream knows."""
    proxy.script(silent=True)
    for method in ROUNDS:
        trace = f"00-{'a' * 32}-{ROUNDS.index(method) + 1:016x}-01"
        id = proxy.send(method, {**REQUESTS[method][0], "_meta": {"traceparent": trace}})
        [request] = eventually(partial(traced, proxy, trace))
        earlier = len(cancelled(proxy))
        proxy.client.notify("notifications/cancelled", {"requestId": id})
        [cancellation] = eventually(lambda earlier=earlier: cancelled(proxy)[earlier:])  # type: ignore[misc]
        assert cancellation["params"]["requestId"] == request["id"]


def test_question_that_its_server_cancels_is_cancelled_with_its_reason(proxy: Proxy) -> None:
    if proxy.is_stateless or proxy.upstream == "stateless":
        pytest.skip("questions of the stateless revision are results, which nobody can cancel")
    question = {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {"type": "object"}}}
    proxy.script(asks=[question], withdraws=True, result={"content": []})
    call = proxy.send("tools/call", {"name": "up__any", "arguments": {}})
    asked = proxy.heard("elicitation/create")
    proxy.client.notify("notifications/roots/list_changed")
    assert proxy.heard("notifications/cancelled")["params"] == {"requestId": asked["id"], "reason": "no longer needed"}
    assert "error" not in proxy.client.wait(call)


def _meta(message: Json) -> Json:
    return dict(message.get("params", {}).get("_meta", {}))


def traced(proxy: Proxy, trace: str) -> list[Json]:
    return [message for message in proxy.seen() if _meta(message).get("traceparent") == trace]


def cancelled(proxy: Proxy) -> list[Json]:
    return [message for message in proxy.seen() if message.get("method") == "notifications/cancelled"]


def test_changed_roots_are_announced_where_supported(proxy: Proxy) -> None:
    if proxy.is_stateless:
        pytest.skip("the stateless revision has no such notification: roots are requested again")
    proxy.client.notify("notifications/roots/list_changed", {"_meta": {"x/y": 1}})
    proxy.script(result={"content": []})
    proxy.ask("tools/call", {"name": "up__any", "arguments": {}})
    told = [message for message in proxy.seen() if message.get("method") == "notifications/roots/list_changed"]
    assert len(told) == (1 if proxy.upstream == "handshake" else 0)


# An MCP method that executes a tool another way is guarded too (tests/live/test_tasks.py), or refused.


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/list", "tasks/cancel", "tasks/update"])
def test_no_method_of_tasks_is_passed_on_unasked(proxy: Proxy, method: str) -> None:
    is_extension = proxy.is_stateless and method not in ("tasks/result", "tasks/list")
    assert proxy.ask(method, {"taskId": "t"})["error"]["code"] == (-32021 if is_extension else -32601)
    assert not any(str(message.get("method")).startswith("tasks/") for message in proxy.seen())


def test_a_call_is_never_made_as_a_task(proxy: Proxy) -> None:
    """Task requests are dropped, as specified for servers that do not offer tasks."""
    proxy.script(result={"content": []})
    proxy.ask("tools/call", {"name": "up__any", "arguments": {}, "task": {"ttl": 1}, "x-odd": 1})
    assert proxy.last("tools/call") == {"name": "any", "arguments": {}}


def test_task_only_tool_is_neither_listed_nor_callable(proxy: Proxy) -> None:
    assert [tool["name"] for tool in proxy.ask("tools/list", {})["result"]["tools"]] == ["up__any"]
    refused = proxy.ask("tools/call", {"name": "up__tasked", "arguments": {}, "task": {}})
    assert refused["error"]["message"] == "unknown tool: up__tasked"
    assert not any(message.get("params", {}).get("name") == "tasked" for message in proxy.seen())


def test_unrequested_task_is_not_a_result(proxy: Proxy) -> None:
    if proxy.upstream != "stateless":
        pytest.skip("the handshake revisions have no type of result")
    proxy.script(result={"resultType": "task", "taskId": "t", "status": "working"})
    reply = proxy.ask("tools/call", {"name": "up__any", "arguments": {}})["result"]
    assert reply["isError"] is True
    assert "`task`" in reply["content"][0]["text"]
    last = log(proxy.folder / "mcp-guard.toml", "--kind", "outcome")[-1]
    assert last["ending"] == "upstream_error"


def test_tasks_are_advertised_between_sides_of_the_extension_only(proxy: Proxy) -> None:
    """An upstream learns of the extension with the calls of a client that offers it."""
    [greeting] = [message for message in proxy.seen() if message.get("method") in ("initialize", "server/discover")][
        -1:
    ]
    assert "tasks" not in json.dumps(greeting)
    if proxy.is_stateless:
        offered = proxy.ask("server/discover", {})["result"]["capabilities"]
        assert "tasks" not in offered
        tasks: Json = {f"{PREFIX}tasks": {}} if proxy.upstream == "stateless" else {}
        assert offered["extensions"] == {"x.odd/extension": {"kept": 1}, **tasks}
        assert offered["experimental"] == {"x-odd": {"kept": 1}}
