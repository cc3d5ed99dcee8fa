"""P2: no call slips past a rule because the tool's schema hides the argument that the rule names."""

import json
from pathlib import Path

import pytest

from tests.live.running_guard import ALLOW_ALL, Client, Json, cli, scripted, seen, text, write_config

STRING: Json = {"type": "string"}
HIDING: dict[str, Json] = {
    "undeclared": {"properties": {}},
    "open": {"properties": {}, "additionalProperties": STRING},
    "empty": {"properties": {"stage": {}}},
    "negated": {"properties": {"stage": {"not": {"const": "none"}}}},
    "external": {"properties": {"stage": {"$ref": "https://example.com/stage.json"}}},
    "long_list": {"properties": {"stage": {"enum": [f"stage {number}" for number in range(1100)]}}},
    "mixed": {"properties": {"stage": {"enum": ["Closed Won", ["Closed Won"], {"stage": "Closed Won"}]}}},
    "by_pattern": {"patternProperties": {"^st": STRING}, "additionalProperties": False},
}
CLOSING = """@id("closing") @require_approval("people") @reason("closing needs a person")
forbid (principal, {scope}, resource)
when {{ {condition} && ["Closed Won", "Closed Lost"].contains(context.input.stage) }};"""


def config_with(folder: Path, policies: str, tools: dict[str, Json]) -> Path:
    listing = [{"name": name, "inputSchema": {"type": "object", **schema}} for name, schema in tools.items()]
    (folder / "listing.json").write_text(json.dumps(listing))
    upstream = scripted("up", folder, LISTING=str(folder / "listing.json"))
    return write_config(folder, upstream, policies, guard="hold_seconds = 0")


def test_a_gate_on_one_tool_has_no_gap_at_another_that_hides_the_argument(tmp_path: Path) -> None:
    gate = CLOSING.format(scope='action in Action::"write"', condition="context.input has stage")
    config = config_with(tmp_path, ALLOW_ALL + gate, {"typed": {"properties": {"stage": STRING}}, **HIDING})
    with Client(config) as client:
        client.start()
        assert "is pending" in text(client.call("up__typed", {"stage": "Closed Won"}))
        for tool in HIDING:
            refused = text(client.call(f"up__{tool}", {"stage": "Closed Won"}))
            assert "`closing` depends on `context.input.stage`" in refused, tool
        assert "differs" in text(client.call("up__typed", {"stage": "open", "Stage": "Closed Won"}))
        assert seen(tmp_path, "up") == []
        for tool in HIDING:
            client.call(f"up__{tool}", {})
    assert [call["name"] for call in seen(tmp_path, "up")] == list(HIDING)


def check_is_not_loaded(folder: Path, policy: str) -> tuple[str, str]:
    """A set with this policy, which misspells `stage`, is not loaded, and the guard allows nothing.

    Returns what `policy validate` reports, and what the guard prints.
    """
    config = config_with(folder, ALLOW_ALL + policy, {"typed": {"properties": {"stage": STRING}}})
    validated = cli("policy", "validate", "--config", str(config), check=False)
    assert validated.returncode != 0
    assert "did you mean `stage`?" in validated.stderr
    with Client(config) as client:
        client.start()
        refused = client.call("up__typed", {"stage": "Closed Won"})
    assert refused["result"]["isError"]
    assert text(refused).startswith("not available: ")
    assert seen(folder, "up") == []
    return validated.stderr, client.stderr


@pytest.mark.parametrize(
    "condition",
    [
        "context.input has stagge",
        'context["input"] has "Stage"',
        "{a: context.input}.a has stagge",
        "(if context.risk.score > 50 then context.input else context.input) has stagge",
    ],
)
def test_a_rule_on_an_argument_that_no_tool_has_is_not_loaded(tmp_path: Path, condition: str) -> None:
    gate = CLOSING.format(scope='action == Action::"up__typed"', condition=f"{condition} && context.input has stage")
    reported, noted = check_is_not_loaded(tmp_path, gate)
    assert "closing: no call in its scope can have" in reported
    assert "closing: no call in its scope can have" in noted


def test_a_change_that_is_no_whole_number_is_not_overlooked(tmp_path: Path) -> None:
    """An integer argument compared with a fractional present value: the difference has no type."""
    big = """@id("big") forbid (principal, action == Action::"up__set_amount", resource)
    when { context.change.delta has amount && context.change.delta.amount > 100 };"""
    (tmp_path / "deals.json").write_text(json.dumps({"1": {"amount": 150.5}, "2": {"amount": 150}}))
    properties = {"id": STRING, "amount": {"type": "integer"}}
    config = config_with(tmp_path, ALLOW_ALL + big, {"set_amount": {"properties": properties, "required": ["id"]}})
    written = config.read_text().replace("env = {", f'env = {{ DEALS = "{tmp_path / "deals.json"}",')
    facts = 'facts = { tool = "get_deal", arguments = { id = "/id" } }'
    config.write_text(f'{written}\n[tools."up__set_amount"]\n{facts}\n[tools."up__get_deal"]\neffect = "read"\n')
    with Client(config) as client:
        client.start()
        refused = text(client.call("up__set_amount", {"id": "1", "amount": 1_000_000}))
        assert "`big` depends on `context.change.delta.amount`" in refused
        client.call("up__set_amount", {"id": "2", "amount": 1_000_000})
        client.call("up__set_amount", {"id": "2", "amount": 200})
    sent = [call["arguments"] for call in seen(tmp_path, "up") if call["name"] == "set_amount"]
    assert sent == [{"id": "2", "amount": 200}]


@pytest.mark.parametrize(
    "condition",
    ['context.change.fields.contains("stgae")', 'context.history.sinks.from_untrusted.containsAny(["Stage"])'],
)
def test_a_rule_that_misspells_an_argument_among_names_is_not_loaded(tmp_path: Path, condition: str) -> None:
    rule = f'@id("stage") forbid (principal, action == Action::"up__typed", resource) when {{ {condition} }};'
    reported, _ = check_is_not_loaded(tmp_path, rule)
    assert "so the policy would never see it: `up__typed` declares no such argument" in reported


def test_a_permit_for_calls_without_unknown_arguments_sees_a_change_that_is_no_whole_number(tmp_path: Path) -> None:
    permit = """@id("small") permit (principal, action == Action::"up__set_amount", resource)
    when { context.input_unknown.isEmpty() }
    unless { context.change.delta has amount && context.change.delta.amount > 100 };"""
    (tmp_path / "deals.json").write_text(json.dumps({"1": {"amount": 150.5}, "2": {"amount": 150}}))
    properties = {"id": STRING, "amount": {"type": "integer"}}
    config = config_with(tmp_path, permit, {"set_amount": {"properties": properties, "required": ["id"]}})
    written = config.read_text().replace("env = {", f'env = {{ DEALS = "{tmp_path / "deals.json"}",')
    facts = 'facts = { tool = "get_deal", arguments = { id = "/id" } }'
    config.write_text(f'{written}\n[tools."up__set_amount"]\n{facts}\n[tools."up__get_deal"]\neffect = "read"\n')
    with Client(config) as client:
        client.start()
        refused = text(client.call("up__set_amount", {"id": "1", "amount": 1_000_000}))
        assert "`small` depends on `context.change.delta.amount`" in refused
        client.call("up__set_amount", {"id": "2", "amount": 200})
    sent = [call["arguments"] for call in seen(tmp_path, "up") if call["name"] == "set_amount"]
    assert sent == [{"id": "2", "amount": 200}]


@pytest.mark.parametrize("spelling", ["deal_stage", "DealStage", "deal-stage"])
def test_another_spelling_that_a_server_takes_for_the_argument_is_refused(tmp_path: Path, spelling: str) -> None:
    """JSON of Protocol Buffers is read with the names of the fields as well as with those that are declared."""
    closing = CLOSING.format(scope="action", condition="context.input has dealStage").replace(".stage", ".dealStage")
    config = config_with(tmp_path, ALLOW_ALL + closing, {"typed": {"properties": {"dealStage": STRING}}})
    with Client(config) as client:
        client.start()
        assert "differs from the argument `dealStage`" in text(client.call("up__typed", {spelling: "Closed Won"}))
    assert seen(tmp_path, "up") == []
