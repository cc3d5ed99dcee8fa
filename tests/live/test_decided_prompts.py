"""`[guard] decide = ["prompts"]`: getting a prompt, and completing its arguments, take the path of tool calls."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.running_guard import SERVERS, Client, Json, log, upstream, write_config
from tests.live.test_decided_resources import sent
from tests.live.test_stateless import Stateless, approve

POLICIES = """
@id("reads") permit (principal, action in Action::"read", resource);
@id("secret") @reason("not this one") forbid (principal, action in Action::"prompts/get", resource == Prompt::"secret");
@id("english") @reason("only in English") forbid (principal, action in Action::"prompts/get", resource)
when { resource.hasTag("language") && resource.getTag("language") != "en" };
@id("asked") @require_approval("people")
forbid (principal, action in Action::"prompts/get", resource == Prompt::"asked");
@id("names") @reason("no names") forbid (principal, action in Action::"completion/complete", resource)
when { resource.value like "Eve*" };
"""
ARGUMENTS = [{"name": "who", "required": True}, {"name": "language"}]
PROMPTS: Json = {
    "prompts": [{"name": "greet", "arguments": ARGUMENTS}, {"name": "secret"}, {"name": "asked"}],
}
SCENARIO: Json = {
    "capabilities": {"tools": {}, "prompts": {}, "completions": {}},
    "lists": {"tools/list": {"null": {"tools": []}}, "prompts/list": {"null": PROMPTS}},
    "results": {name: {"messages": [{"role": "user", "content": {"type": "text", "text": name}}]}
                for name in ("greet", "secret", "asked")}
    | {"completion/complete": {"completion": {"values": ["Eva"]}}},
}  # fmt: skip
GUARD = 'decide = ["prompts"]\nhold_seconds = 0.1'


@pytest.fixture(scope="module", params=["handshake", "stateless"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    (folder / "scenario.json").write_text(json.dumps(SCENARIO))
    server = str(SERVERS / "scenario.py")
    one = upstream("up", sys.executable, server, str(folder / "scenario.json"), str(folder / "up.log"))
    with (Client if request.param == "handshake" else Stateless)(
        write_config(folder, one, POLICIES, guard=GUARD)
    ) as it:
        if request.param == "handshake":
            it.start()
        yield it


def get(client: Client, name: str, **arguments: object) -> Json:
    return client.request("prompts/get", {"name": name, "arguments": arguments})


def test_prompts_are_listed_and_got_as_the_policies_say(client: Client) -> None:
    listed = [prompt["name"] for prompt in client.request("prompts/list")["result"]["prompts"]]
    assert listed == ["up__greet", "up__asked"]
    assert get(client, "up__greet", who="Ann", language="en")["result"]["messages"][0]["content"]["text"] == "greet"
    assert sent(client.config.parent, "prompts/get")[-1]["arguments"] == {"who": "Ann", "language": "en"}
    intent = log(client.config, "--kind", "intent")[-1]
    assert (intent["tool"], intent["resource"]) == ("up__prompts/get", {"type": "Prompt", "id": "greet"})


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("up__secret", {}, "not this one"),
        ("up__greet", {"who": "Ann", "language": "de"}, "only in English"),
        ("up__greet", {"language": "en"}, "requires the argument `who`"),
        ("up__greet", {"who": "Ann", "more": "x"}, "no argument `more`; it has: `who`, `language`"),
        ("up__greet", {"who": 7}, "`who` must be a text"),
        ("up__greet", {f"a{number}": "x" for number in range(100)}, "at most 64 arguments"),
        ("up__none", {}, "no prompt of this name"),
    ],
)
def test_a_refused_prompt_has_a_reason_and_a_receipt(client: Client, name: str, arguments: Json, reason: str) -> None:
    before = sent(client.config.parent, "prompts/get")
    assert reason in get(client, name, **arguments)["error"]["message"]
    assert any(reason in text for text in log(client.config, "--kind", "decision")[-1]["reasons"])
    assert sent(client.config.parent, "prompts/get") == before


def test_a_held_prompt_is_got_once_it_is_approved(client: Client) -> None:
    held = get(client, "up__asked")
    meta = held["error"]["data"] if "error" in held else held["result"]["_meta"]
    approve(client.config, meta["mcp-guard/decision"]["approval"])
    assert get(client, "up__asked")["result"]["messages"][0]["content"]["text"] == "asked"


def complete(client: Client, prompt: str, value: str) -> Json:
    ref = {"type": "ref/prompt", "name": prompt}
    return client.request("completion/complete", {"ref": ref, "argument": {"name": "who", "value": value}})


def test_a_completion_is_decided_and_only_for_what_is_listed(client: Client) -> None:
    assert complete(client, "up__greet", "E")["result"]["completion"]["values"] == ["Eva"]
    assert "no names" in complete(client, "up__greet", "Eve")["error"]["message"]
    assert "error" in complete(client, "up__secret", "E")
    assert [params["argument"]["value"] for params in sent(client.config.parent, "completion/complete")] == ["E"]
    assert log(client.config, "--kind", "decision")[-1]["outcome"] == "deny"
