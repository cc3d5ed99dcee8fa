"""P13: work over text that agents and upstreams choose grows with its length, or is cut off and the call denied."""

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_guard.core.errors import TooMuchMatching
from mcp_guard.core.hidden_characters import find_hidden
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.core.provenance import matching
from mcp_guard.core.provenance.injection import injection_start
from mcp_guard.core.provenance.instances import InstanceHistories
from mcp_guard.policy.shapes import read_shape
from mcp_guard.protocol.batches import split_batch
from tests.growth import assert_linear
from tests.promises.harness import ALLOW, make_instance, make_tool, open_harness, text

Case = tuple[Callable[[int], Any], Callable[[Any], object], int]


def repeated(part: str) -> Callable[[int], str]:
    return lambda size: (part * (size // len(part) + 1))[:size]


def properties(count: int) -> list[Json]:
    return [{"type": "object", "properties": {f"p{number}": {"type": "string"}}} for number in range(count)]


CASES: dict[str, Case] = {
    **{
        f"addresses in {part!r}": (repeated(part), matching.addresses, 20_000)
        for part in ("a.", "a@", "a.b@c.", "1 ", "AB12 ", "www.", "a.b.c.d/", "0x")
    },
    **{
        f"instructions in {part!r}": (repeated(part), injection_start, 50_000)
        for part in ("ignore all ", "important message ", "you must first ", "<", ". ", "never tell ")
    },
    "instructions after many #": (lambda n: "#" * n + "x #system", injection_start, 5_000),
    "a normal form of marks": (repeated("\u0301\u0316"), matching.plain, 5_000),
    **{f"encodings in {part!r}": (repeated(part), matching.decodings, 50_000) for part in ("%25", "&amp;", "ab12_")},
    "nested base64": (lambda n: b64encode(b64encode(b"a" * (n // 2))).decode(), matching.decodings, 50_000),
    "a normal form": (repeated("\ufdfa"), matching.plain, 5_000),
    "a value in longer words": (lambda n: "a" * n, lambda seen: matching.contains_value("a" * 20, seen), 50_000),
    "hidden characters": (lambda n: {"x": "\u200b" * n}, lambda found: list(find_hidden(found)), 20_000),
    "anyOf objects": (lambda n: {"anyOf": properties(n)}, lambda schema: read_shape(schema, {}), 200),
    "allOf objects": (lambda n: {"allOf": properties(n)}, lambda schema: read_shape(schema, {}), 200),
    "an enum": (lambda n: {"enum": [f"v{number}" for number in range(n)]}, lambda schema: read_shape(schema, {}), 200),
    "a text without an end in a batch": (lambda n: b'["' + b'\\"' * n, split_batch, 2_000),
    "references": (
        lambda n: {"properties": {f"p{number}": {"$ref": "#/$defs/x"} for number in range(n)}},
        lambda schema: read_shape(schema, schema | {"$defs": {"x": {"type": "string"}}}),
        400,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_work_is_linear(name: str) -> None:
    make, work, size = CASES[name]
    assert_linear(make, work, size)


def test_value_that_overlaps_itself_is_cut_off() -> None:
    with pytest.raises(TooMuchMatching):
        matching.contains_value("a" * 100_000, "a" * 300_000)


@pytest.mark.parametrize(
    ("seen", "arguments", "reason"),
    [
        ("z" * 900_000, {"text": "x", "many": [f"value {number}" for number in range(5000)]}, "too many values"),
        ("z", {"text": "x", "many": [f"value {number}" for number in range(15_000)]}, "too many values"),
        ("z", {"text": "a.b@c.d " * 50_000}, "too many addresses"),
        ("z", {"text": "a." * 20_000 + "b"}, "too many addresses"),
        ("z", {"text": b64encode(b"a.b@c.d " * 50_000).decode()}, "too many addresses"),
        ("z", {"text": (b64encode(b"some words").decode() + " ") * 2_000}, "too many encoded texts"),
        ("a" * 300_000, {"text": "a" * 100_000}, "too often"),
    ],
)
async def test_call_with_too_much_to_trace_is_denied_with_a_receipt(
    tmp_path: Path, seen: str, arguments: Json, reason: str
) -> None:
    schema: Json = {"text": {"type": "string"}, "many": {"type": "array", "items": {"type": "string"}}}
    read, write = make_tool("read", schema, returns=("untrusted",)), make_tool("send", schema, sinks=("to",))
    harness = open_harness(tmp_path, ALLOW)
    harness.upstream.catalog |= {tool.listed_as: tool for tool in (read, write)}
    harness.load(ALLOW)
    guard = replace(harness.guard, memory=InstanceHistories(attentive=True))
    first = await guard.call(make_instance(), ToolCallRequest("crm__read", {"text": seen}))
    assert text(first) == "done"
    reply = await guard.call(make_instance(), ToolCallRequest("crm__send", arguments))
    assert reply["result"]["isError"] is True
    assert reason in text(reply)
    assert reason in json.dumps(harness.receipts("decision")[-1])
    again = await guard.call(make_instance(), ToolCallRequest("crm__send", {"text": "hello"}))
    assert text(again) == "done"
