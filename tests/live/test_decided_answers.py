"""`[guard] decide = ["elicitation"]`: a client's answers to an upstream are decided before they get there."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.running_guard import SERVERS, Client, Json, cli, log, upstream, write_config
from tests.live.test_stateless import approve

POLICIES = """
@id("all") permit (principal, action, resource);
@id("passwords") @reason("no passwords") forbid (principal, action in Action::"elicitation/create", resource)
when { resource.hasTag("password") };
@id("minors") @reason("adults only") forbid (principal, action in Action::"elicitation/create", resource)
when { resource.hasTag("age") && resource.getTag("age") has integer && resource.getTag("age").integer < 18 };
@id("terms") @reason("nobody agrees for a person") forbid (principal, action in Action::"elicitation/create", resource)
when { resource.hasTag("agreed") && resource.getTag("agreed") has boolean && resource.getTag("agreed").boolean };
@id("large") @reason("small amounts only") forbid (principal, action in Action::"elicitation/create", resource)
when { resource.hasTag("amount") && resource.getTag("amount") has number
  && resource.getTag("amount").number.greaterThan(decimal("99.5")) };
@id("teams") @reason("not the board") forbid (principal, action in Action::"elicitation/create", resource)
when { resource.hasTag("teams") && resource.getTag("teams") has strings
  && resource.getTag("teams").strings.contains("board") };
@id("asked") @require_approval("people") forbid (principal, action in Action::"elicitation/create", resource)
when { resource.hasTag("name") && resource.getTag("name").text == "Eve" };
@id("models") @reason("no secrets") forbid (principal, action == Action::"up__sampling/createMessage", resource)
when { resource.text like "*secret*" };
"""
GUARD = 'decide = ["elicitation"]\nhold_seconds = 0.1'
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0},
        "password": {"type": "string"}, "color": {"type": "string", "enum": ["red"]},
        "agreed": {"type": "boolean"}, "amount": {"type": "number"},
        "teams": {"type": "array", "items": {"type": "string", "enum": ["board", "sales"]}},
    },
    "required": ["name"],
}  # fmt: skip
FORM = {"method": "elicitation/create", "params": {"message": "Who?", "requestedSchema": SCHEMA}}
ALLOWED: Json = {"name": "Ann", "age": 18, "agreed": False, "amount": 99.5, "teams": ["sales"]}
INFINITE = json.dumps("1e400")
"""Written as a number, which no double holds."""
SAMPLE = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 9}}


@pytest.fixture(scope="module", params=["handshake", "stateless"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client in front of an upstream of either era."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    server, script = str(SERVERS / "mirror.py"), folder / "script.json"
    one = upstream("up", sys.executable, server, request.param, str(folder / "up.log"), str(script))
    with Client(write_config(folder, one, POLICIES, guard=GUARD)) as client:
        client.start("2025-11-25", elicitation={"form": {}}, sampling={})
        yield client


def answer(client: Client, question: Json, result: Json, error: Json | None = None) -> Json:
    """Call a tool that asks this question, and give this answer. Returns the answer that the upstream got."""
    folder = client.config.parent
    (folder / "script.json").write_text(json.dumps({"asks": [question], "result": {"content": []}}))
    id = client.send("tools/call", {"name": "up__any", "arguments": {}})
    while (message := client.read()).get("method") != question["method"]:
        client.others.append(message)
    given = {"result": result} if error is None else {"error": error}
    client.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **given}).replace(INFINITE, "1e400").encode())
    reply = client.wait(id)
    got = [json.loads(line) for line in (folder / "up.log").read_text().splitlines()][-1]
    if got.get("id") == "ask-0":
        return dict(got.get("result") or got["error"])
    return dict(got["params"].get("inputResponses", {}).get("k0") or reply["result"])


def accept(**content: object) -> Json:
    return {"action": "accept", "content": content}


def test_a_permitted_answer_reaches_the_upstream_as_it_is_with_a_receipt(client: Client) -> None:
    assert answer(client, FORM, accept(**ALLOWED)) == accept(**ALLOWED)
    kinds = [(r["kind"], r["tool"]) for r in log(client.config) if r.get("tool", "").startswith("up__")][-4:]
    action = "up__elicitation/create"
    assert kinds == [("intent", "up__any"), ("intent", action), ("outcome", action), ("outcome", "up__any")]
    assert cli("verify", "--config", str(client.config)).returncode == 0


def test_an_error_of_the_client_carries_nothing_of_its_words(client: Client) -> None:
    answer(client, FORM, {}, {"code": 5, "message": "hidden-words", "data": {"name": "hidden-words"}})
    assert "hidden-words" not in (client.config.parent / "up.log").read_text()


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (accept(name="Ann", password="hunter2"), "no passwords"),
        (accept(name="Ann", age=17), "adults only"),
        (accept(name="Ann", agreed=True), "nobody agrees for a person"),
        (accept(name="Ann", amount=100), "small amounts only"),
        (accept(name="Ann", amount=0.00001), "`amount` must be a number of at most 4 digits"),
        (accept(name="Ann", teams=["sales", "board"]), "not the board"),
        (accept(), "the field `name` is required"),
        (accept(name="Annabel"), "`name` must be a text of the length"),
        (accept(name=7), "`name` must be a text"),
        (accept(name="Ann", age=-1), "`age` must be an integer within the bounds"),
        (accept(name="Ann", age=2**63), "`age` must be an integer of at most 53 bits"),
        (accept(name="Ann", age="1e400"), "`age` must be an integer within the bounds"),
        (accept(name="Ann", amount="1e400"), "`1e400` is not a JSON number"),
        (accept(name=12345678901234567890), "`name` must be a text"),
        (accept(name="Ann", color="blue"), "`color` must be one of: red"),
        (accept(name="Ann", other="x"), "has no field `other`"),
        (accept(name="Ann") | {"password": "hunter2"}, "a member `password`, which MCP does not define"),
        ({"action": "perhaps"}, "`action` must be one of"),
        ({"action": "decline", "content": {"name": "x"}}, "only an accepted form"),
    ],
)
def test_a_refused_answer_is_declined_with_a_receipt(client: Client, result: Json, reason: str) -> None:
    assert answer(client, FORM, result) == {"action": "decline"}
    denied = log(client.config, "--kind", "decision")[-1]
    assert any(reason in text for text in denied["reasons"]), denied["reasons"]
    assert denied["tool"] == "up__elicitation/create"


def test_a_question_with_an_odd_schema_costs_nothing_but_itself(client: Client) -> None:
    odd: Json = {"type": "object", "properties": {"name": {"type": "string"}}, "required": [["name"], {}, None]}
    question = {"method": "elicitation/create", "params": {"message": "Who?", "requestedSchema": odd}}
    assert answer(client, question, accept(name="Ann")) == accept(name="Ann")


def test_a_held_answer_passes_when_it_is_given_again_after_its_approval(client: Client) -> None:
    assert answer(client, FORM, accept(name="Eve")) == {"action": "decline"}
    [held] = log(client.config, "--kind", "approval.requested")
    assert held["tool"] == "up__elicitation/create"
    approve(client.config, held["approval"])
    assert answer(client, FORM, accept(name="Eve")) == accept(name="Eve")
    intent = [receipt for receipt in log(client.config, "--kind", "intent") if receipt.get("approval")][-1]
    assert intent["approval"]["id"] == held["approval"]
    assert answer(client, FORM, accept(name="Eve")) == {"action": "decline"}  # one approval is for one answer


def test_an_answer_without_data_passes_undecided(client: Client) -> None:
    before = len(log(client.config))
    assert answer(client, FORM, {"action": "cancel"}) == {"action": "cancel"}
    assert len(log(client.config)) == before + 2  # the call's intent and outcome


def test_what_a_model_writes_for_an_upstream_is_decided(client: Client) -> None:
    written = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "fine"}}
    assert answer(client, SAMPLE, written) == written
    secret = {**written, "content": {"type": "text", "text": "the secret"}}
    assert "not passed on" in json.dumps(answer(client, SAMPLE, secret))
    assert log(client.config, "--kind", "decision")[-1]["reasons"] == ["no secrets"]
    used = {"type": "tool_use", "id": "1", "name": "n", "input": {"of": "the secret"}}
    assert "not passed on" in str(answer(client, SAMPLE, {"role": "assistant", "content": [used], "model": "m"}))
    assert log(client.config, "--kind", "decision")[-1]["reasons"] == ["no secrets"]
