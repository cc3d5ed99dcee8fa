"""What goes on of `_meta`: the listed members with their types, and nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_guard.core import canonical
from mcp_guard.core.describe import DescriptionRules, describe, hash_request
from mcp_guard.core.model import Agent, Effect, Instance, Json, Task, Tool, ToolCallRequest, ToolRule
from mcp_guard.core.request_meta import (
    BAGGAGE,
    forwarded_members,
    forwarded_params,
    is_reserved,
    trace_id,
    without_trace,
)

KINDS = {
    "traceparent": "string", "tracestate": "string", "a/text": "string", "a/count": "integer", "a/amount": "number",
    "a/flag": "boolean", "a/list": "strings",
}  # fmt: skip
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "strings": (list,),
}  # fmt: skip
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e6, 1e6) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
metas = st.dictionaries(st.sampled_from([*KINDS, "progressToken", "b/text", ""]), values, max_size=6)
TRACE = f"00-{'1' * 32}-{'2' * 16}-01"
WELL_FORMED = {"traceparent": TRACE, "tracestate": "a@b=x y,, c/*=~"}
TOOL = Tool("up", "act", "up__act", {}, "sha256:0", ToolRule(ask=("ticket", "reason")), Effect.WRITE)
INSTANCE = Instance("run_1", Agent("agent", "bob"), None, Task(), 0, 1, "", "cred_1")


@given(metas)
def test_only_listed_members_of_their_type_go_on(meta: Json) -> None:
    members, problems = forwarded_members(meta, KINDS)
    for name, value in (members or {}).items():
        assert meta[name] is value
        assert isinstance(value, TYPES[KINDS[name]])
        assert isinstance(value, bool) == (KINDS[name] == "boolean")
    left_out = {name for name in KINDS if meta.get(name) is not None} - (members or {}).keys()
    assert len(problems) == len(left_out - {"traceparent", "tracestate"})


@given(metas, st.dictionaries(texts, values, max_size=3))
def test_other_params_keep_everything_but_unlisted_meta(meta: Json, others: Json) -> None:
    params = {name: value for name, value in others.items() if name != "_meta"}
    members, _ = forwarded_members(meta, KINDS)
    assert forwarded_params(params | {"_meta": meta}, KINDS) == params | ({"_meta": members} if members else {})


@given(metas, st.dictionaries(texts, values, max_size=3), texts, texts)
def test_the_request_is_what_is_hashed_and_two_requests_differ_in_their_hash(
    meta: Json, arguments: Json, ticket: str, other: str
) -> None:
    rules = DescriptionRules(forward_meta=KINDS)

    def make(meta: Json, **claims: Any) -> Any:
        return describe(rules, "c", INSTANCE, ToolCallRequest("up__act", arguments | claims, meta), TOOL)

    call = make(meta, guard_ticket=ticket)
    if call.problems:
        return
    params = json.loads(call.request)
    assert params.get("_meta") == call.meta
    assert canonical.canonicalize(params, exact=True) == call.request
    assert (hash_request(make(meta, guard_ticket=other)) == hash_request(call)) == (ticket == other)
    retraced = make(meta | {"traceparent": TRACE}, guard_ticket=ticket)
    assert hash_request(retraced) == hash_request(call)
    changed = make(without_trace(meta) | {"a/count": 7}, guard_ticket=ticket)
    assert (hash_request(changed) == hash_request(call)) == (without_trace(call.meta).get("a/count") == 7)


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"traceparent": TRACE, "tracestate": "a=1"}, {"traceparent": TRACE, "tracestate": "a=1"}),
        ({"traceparent": TRACE.upper().replace("1", "A"), "tracestate": "a=1"}, None),
        ({"traceparent": f"{TRACE}-rm -rf"}, None),
        ({"traceparent": f"00-{'0' * 32}-{'2' * 16}-01"}, None),
        ({"traceparent": TRACE, "tracestate": "é"}, {"traceparent": TRACE}),
        ({"traceparent": TRACE, "tracestate": "a=" + "b" * 511}, {"traceparent": TRACE}),
        ({"traceparent": TRACE, "tracestate": "delete everything"}, {"traceparent": TRACE}),
        ({"traceparent": TRACE, "tracestate": "a=1,b"}, {"traceparent": TRACE}),
        ({"traceparent": TRACE, "tracestate": "a=1=2"}, {"traceparent": TRACE}),
        ({"traceparent": TRACE, "tracestate": ", ,"}, {"traceparent": TRACE}),
        ({"traceparent": TRACE, "tracestate": ",".join("a=1" for _ in range(33))}, {"traceparent": TRACE}),
        (WELL_FORMED, WELL_FORMED),
        ({"tracestate": "a=1"}, None),
    ],
)
def test_malformed_trace_context_is_dropped(meta: Json, expected: Json | None) -> None:
    assert forwarded_members(meta, KINDS) == (expected, [])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("progressToken", True), ("io.modelcontextprotocol/x", True), ("modelcontextprotocol/", True),
        ("com.mcp.tools/x", True), ("traceparent", False), ("com.mcpx/x", False), ("vendor/mcp", False),
    ],
)  # fmt: skip
def test_names_of_the_protocol_are_reserved(name: str, expected: bool) -> None:
    assert is_reserved(name) == expected


@pytest.mark.parametrize(
    ("value", "is_kept"),
    [
        ("user=7", True), ("a = 1;secure; ttl = 5 , b=%20x", True), ("a=", True), ("", False), ("a", False),
        ("a=1,", False), ("a=b c", False), ("a=é", False), ('a="1"', False), ("a b=1", False), ("a=1;=2", False),
        ("a=" + "b" * 2047, False), (",".join("a=1" for _ in range(65)), False), (7, False),
    ],
)  # fmt: skip
def test_baggage_goes_on_only_where_it_is_listed_and_well_formed(value: object, is_kept: bool) -> None:
    meta = {"traceparent": TRACE, BAGGAGE: value}
    kept = meta if is_kept else {"traceparent": TRACE}
    assert forwarded_members(meta, {"traceparent": "string", BAGGAGE: "string"}) == (kept, [])
    assert forwarded_members(meta, KINDS) == ({"traceparent": TRACE}, [])


@pytest.mark.parametrize(
    ("meta", "id"),
    [
        ({"traceparent": TRACE}, "1" * 32),
        ({"traceparent": TRACE[:-1]}, ""),
        ({"traceparent": 7}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_trace_of_a_request_is_read_from_its_context(meta: Json | None, id: str) -> None:
    assert trace_id(meta) == id
