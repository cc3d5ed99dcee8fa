"""What policies cannot express passes where no policy looks at it, exactly as it was written, and is denied with the
policy's name where one does: numbers of any size, arguments that are left out, values that do not fit the schema."""

import json
import re
import sys
import tempfile
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_guard.core.canonical import canonicalize, parse
from mcp_guard.core.describe import read_facts
from mcp_guard.core.exact_json import loads
from mcp_guard.core.model import (
    Effect,
    Execution,
    ExecutionStatus,
    Facts,
    FactsRule,
    Outcome,
    RateCounter,
    ResourceRule,
    ToolRule,
)
from mcp_guard.policy.engine import PolicyEngine
from tests.live.running_guard import ALLOW_ALL, SERVERS, Client, Json, cli, enrol, log, text, upstream, write_config
from tests.policy.fixtures import PERMIT, load, make_call, make_tool, object_of
from tests.proof_size import sized

NUMBER, INTEGER, STRING, BOOLEAN = ({"type": kind} for kind in ("number", "integer", "string", "boolean"))
PLACE: Json = {
    **object_of(
        lat=NUMBER, count=INTEGER, full=BOOLEAN, mode={"enum": ["a", "b"]}, tags={"type": "array", "items": NUMBER}
    ),
    "required": ["mode"],
    "additionalProperties": False,
}
TOOLS = [{"name": "place", "inputSchema": PLACE}, {"name": "other", "inputSchema": PLACE}]
WILD = [
    '{"mode":"a","lat":48.85837}',
    '{"mode":"a","lat":3.14159265358979323846264338}',
    '{"mode":"a","lat":1e-30,"count":123456789012345678901234567890}',
    '{"mode":"a","count":9007199254740993}',
    '{"mode":"a","count":"2"}',
    '{"full":null,"mode":"a"}',
    '{"mode":"c"}',
    '{"mode":"a","unknown":{"deep":[1e22]}}',
    '{"mode":"a","tags":[0.123456789,1]}',
    "{}",
]


def tolerant(folder: Path, tools: list[Json], name: str = "up") -> str:
    """The TOML of the server that takes whatever it is given."""
    listing = folder / f"{name}.json"
    listing.write_text(json.dumps(tools))
    return upstream(name, sys.executable, str(SERVERS / "tolerant.py"), str(folder / f"{name}.log"), str(listing))


def sent(folder: Path) -> list[str]:
    """The arguments of each call as the upstream got them."""
    lines = (folder / "up.log").read_text().splitlines() if (folder / "up.log").exists() else []
    return [found[1] for line in lines if (found := re.search(r'"arguments":(\{.*\})\}\}', line))]


def call(client: Client, tool: str, arguments: str) -> Json:
    """Call a tool with arguments as they are written here."""
    client.last_id += 1
    head = f'{{"jsonrpc":"2.0","id":{client.last_id},"method":"tools/call","params":{{"name":"{tool}"'
    client.write(f'{head},"arguments":{arguments}}}}}'.encode())
    return client.wait(client.last_id)


READS = """
@id("reads-lat") forbid (principal, action == Action::"up__place", resource)
when { context.input has lat && context.input.lat.greaterThan(decimal("90.0")) };
@id("reads-mode") forbid (principal, action == Action::"up__place", resource) when { context.input.mode == "b" };
@id("reads-count") @require_approval("people") forbid (principal, action == Action::"up__place", resource)
when { context.input has count && context.input.count > 5 };
@id("reads-tags") forbid (principal, action == Action::"up__place", resource)
when { context.input has tags && context.input.tags.contains(decimal("7.0")) };
@id("reads-full") forbid (principal, action == Action::"up__place", resource)
when { context.input has full && context.input.full };
"""
BY = [
    "reads-lat", "reads-lat", "reads-lat", "reads-count", "reads-count", "reads-full", "reads-mode", None, "reads-tags",
    "reads-mode",
]  # fmt: skip


def test_what_no_policy_looks_at_is_sent_exactly_and_what_one_reads_is_denied_by_its_name(tmp_path: Path) -> None:
    config = write_config(tmp_path, tolerant(tmp_path, TOOLS), ALLOW_ALL + READS)
    with Client(config) as client:
        client.start()
        assert {"up__place", "up__other"} <= client.tools().keys()
        for arguments in WILD:
            assert text(call(client, "up__other", arguments)) == "done", arguments
        assert [json.loads(got, parse_float=Decimal) for got in sent(tmp_path)] == [
            json.loads(arguments, parse_float=Decimal) for arguments in WILD
        ]
        for arguments, policy in zip(WILD, BY, strict=True):
            reply = call(client, "up__place", arguments)
            assert (f"`{policy}` depends on `context.input." in text(reply)) == (policy is not None), (arguments, reply)
        assert call(client, "up__place", '{"mode":"a","lat":89.5,"tags":[1]}')["result"].get("isError") is None
    assert len(sent(tmp_path)) == len(WILD) + 2
    denied = [receipt["policies"] for receipt in log(config, "--kind", "decision")]
    assert denied == [[policy] for policy in BY if policy]


@pytest.mark.parametrize(
    "arguments", ['{"a":1,"a":2}', '{"Mode":"a"}', '{"lat":NaN}', '{"lat":1e400}', '{"mode":"\\ud800"}']
)
def test_what_two_readers_may_take_for_different_calls_is_refused(tmp_path: Path, arguments: str) -> None:
    config = write_config(tmp_path, tolerant(tmp_path, TOOLS))
    with Client(config) as client:
        client.start()
        reply = call(client, "up__other", arguments)
        assert reply["result"]["isError"] is True
    assert sent(tmp_path) == []


HOLD = ALLOW_ALL + '@id("g") @require_approval("people") forbid (principal, action, resource);'


def test_an_approver_sees_the_exact_number_and_it_is_sent(tmp_path: Path) -> None:
    config = write_config(tmp_path, tolerant(tmp_path, TOOLS), HOLD, guard="hold_seconds = 0")
    exact = '{"count":123456789012345678901234567890,"lat":0.30000000000000000001,"mode":"a"}'
    with Client(config) as client:
        client.start()
        held = text(call(client, "up__place", exact))
        [requested] = log(config, "--kind", "approval.requested")
        assert requested["approval"] in held
        shown = cli("approvals", "show", requested["approval"], "--config", str(config)).stdout
        assert "123456789012345678901234567890" in shown
        assert "0.30000000000000000001" in shown
        cli("approvals", "approve", requested["approval"], *enrol(config), "--rationale", "seen")
        assert "pending" in text(call(client, "up__place", exact.replace("67890,", "67891,"))), "another number"
        assert text(client.call("guard__await", {"approval": requested["approval"]})) == "done"
    assert sent(tmp_path) == [exact]


FACTS = FactsRule("get", {"id": "/id"}, "")


@pytest.mark.parametrize("id", ['"2"', '"02"', '" 2 "', '"2.0"', '"2e0"'])
@pytest.mark.parametrize("rule", [ToolRule(resource=ResourceRule("Deal", "/id")), ToolRule(facts=FACTS)])
def test_what_identifies_a_resource_must_be_of_its_type(tmp_path: Path, rule: ToolRule, id: str) -> None:
    """A server that reads `"02"` as 2 would change a deal that policies and rates take for another."""
    tool = replace(make_tool(object_of(id=INTEGER)), rule=rule)
    engine = load(tmp_path, PERMIT, tool, attributes={"Deal": {}})
    decision = engine.decide(make_call(tool, {"id": json.loads(id)}), {})
    assert decision.outcome is Outcome.DENY
    assert "`id` must be exactly of the type that the tool declares, because the resource" in decision.reasons[0]
    assert engine.decide(make_call(tool, {"id": 3}), {}).outcome is Outcome.ALLOW


def test_what_a_rate_sums_must_be_of_its_type(tmp_path: Path) -> None:
    tool = make_tool(object_of(amount=INTEGER, note=INTEGER))
    counter = RateCounter("paid", 1, ("agent",), (Effect.WRITE,), ("up__tool",), "/amount")
    engine = load(tmp_path, PERMIT, tool, counters=(counter,))
    assert engine.decide(make_call(tool, {"amount": 1, "note": "x"}), {"paid": 1}).outcome is Outcome.ALLOW
    decision = engine.decide(make_call(tool, {"amount": 1.5}), {"paid": 1})
    assert "`amount` must be exactly of the type" in decision.reasons[0]


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("amount", ["100.00000000000000001", "100.00001", "18446744073709551617", "1e400"])
def test_the_present_state_is_not_rounded_for_a_policy(tmp_path: Path, amount: str, structured: bool) -> None:
    state = f'{{"amount":{amount}}}'
    result = {"content": [{"type": "text", "text": state}]}
    if structured:
        result = {"structuredContent": loads(state.encode())}
    facts = read_facts(FACTS, Execution(ExecutionStatus.OK, {"result": result}))
    assert isinstance(facts, Facts)
    rule = ToolRule(resource=ResourceRule("Deal", "/id"), facts=FACTS)
    tool = replace(make_tool(object_of(id=INTEGER, amount=NUMBER)), rule=rule)
    engine = load(tmp_path, PERMIT, tool, attributes={"Deal": {"amount": "number"}})
    call = make_call(tool, {"id": 1, "amount": 100}, facts.values)
    assert call.change.fields == ("amount",)
    assert f"`{amount}` is neither rounded nor converted" in engine.decide(call, {}).reasons[0]


# For any arguments

JSON_NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)
NAMES = st.sampled_from(["n", "i", "s", "o", "l", "x", "é", "a/b", "__extn"])
LEAVES = (
    st.sampled_from(["null", "true", "false", '""', '"2"', "1", "1.5"]) | JSON_NUMBERS
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4).map(json.dumps)
)  # fmt: skip


def written(members: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in members.items()) + "}"


VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.dictionaries(NAMES, inner, max_size=3).map(written)
    ),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(NAMES, VALUES, max_size=5).map(written)
TOOL = make_tool(
    {
        **object_of(
            n=NUMBER, i=INTEGER, s={"enum": ["a", "b"]}, l={"type": "array", "items": NUMBER},
            o={**object_of(n=NUMBER, s=STRING), "required": ["n"]},
        ),
        "required": ["i"],
        "additionalProperties": False,
    }
)  # fmt: skip
CONDITIONS = {
    "n": 'context.input has n && context.input.n == decimal("1.5")',
    "i": "context.input.i == 1",
    "s": 'context.input has s && context.input.s != "a"',
    "l": 'context.input has l && !([decimal("1.5")].containsAll(context.input.l))',
    "o": 'context.input has o && context.input.o.n.lessThan(decimal("0.0"))',
}


def loaded(text: str) -> PolicyEngine:
    with tempfile.TemporaryDirectory() as folder:
        return load(Path(folder), text, TOOL)


OPEN = loaded(PERMIT)
FORBIDS = {
    name: loaded(f'{PERMIT} @id("f") forbid (principal, action, resource) when {{ {condition} }};')
    for name, condition in CONDITIONS.items()
}
PERMITS = {
    name: loaded(f'@id("p") permit (principal, action, resource) when {{ {condition} }};')
    for name, condition in CONDITIONS.items()
}


@settings(max_examples=sized(200, 25), deadline=None)
@given(ARGUMENTS)
def test_any_arguments_pass_where_no_policy_looks_at_them(arguments: str) -> None:
    call = make_call(TOOL, parse(b'{"params":{"arguments":%s}}' % arguments.encode())["params"]["arguments"])
    assert OPEN.decide(call, {}).outcome is Outcome.ALLOW
    exact = json.loads(arguments, parse_int=Decimal, parse_float=Decimal)
    assert json.loads(call.canonical, parse_int=Decimal, parse_float=Decimal) == exact
    assert canonicalize(call.arguments, exact=True) == call.canonical


@settings(max_examples=sized(200, 25), deadline=None)
@given(ARGUMENTS, st.sampled_from(sorted(CONDITIONS)))
def test_a_policy_never_decides_on_a_value_that_it_does_not_see_exactly(arguments: str, name: str) -> None:
    """The oracle is the condition on the plain arguments; only a value of the declared type is known to be harmless."""
    call = make_call(TOOL, parse(b'{"params":{"arguments":%s}}' % arguments.encode())["params"]["arguments"])
    plain = json.loads(arguments, parse_int=Decimal, parse_float=Decimal)
    forbidden, permitted = FORBIDS[name].decide(call, {}), PERMITS[name].decide(call, {})
    verdict = holds(name, plain)
    assert (forbidden.outcome is Outcome.DENY) == (verdict is not False)
    assert (permitted.outcome is Outcome.ALLOW) == (verdict is True)
    if forbidden.outcome is Outcome.DENY:
        assert forbidden.policies == ("f",)


def holds(name: str, plain: Json) -> bool | None:
    """Whether the condition on this argument holds; None if its value is not one that Cedar holds exactly."""
    if name not in plain:
        return None if name == "i" else False
    value = plain[name]
    match name:
        case "n":
            return value == Decimal("1.5") if is_decimal(value) else None
        case "i":
            return value == 1 if isinstance(value, Decimal) and value == int(value) and abs(value) < 2**53 else None
        case "s":
            return value != "a" if value in ("a", "b") and isinstance(value, str) else None
        case "l":
            if not isinstance(value, list) or not all(map(is_decimal, value)):
                return None
            return any(item != Decimal("1.5") for item in value)
        case _:
            return value["n"] < 0 if isinstance(value, dict) and is_decimal(value.get("n")) else None


def is_decimal(value: Any) -> bool:
    """Whether Cedar has a decimal of exactly this value, and the guard need not ask how a server reads it."""
    if not isinstance(value, Decimal) or abs(value) > Decimal("922337203685477.5807"):
        return False
    return value == round(value, 4) and Decimal(repr(float(value))) == value
