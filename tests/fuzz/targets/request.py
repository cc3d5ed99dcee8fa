"""Cedar requests: any arguments are passed to Cedar exactly and decided without an error, or denied with a reason."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from mcp_guard.core.canonical import Unacceptable, parse
from mcp_guard.core.model import Outcome
from mcp_guard.policy.engine import PolicyEngine
from mcp_guard.policy.request import Inexpressible, build_context
from mcp_guard.policy.shapes import input_shape
from tests.policy.fixtures import PERMIT, load, make_call, make_tool

KINDS: dict[str, Any] = {name: {"type": name} for name in ("string", "integer", "number", "boolean")}
SCHEMA = {
    "type": "object",
    "properties": {
        **KINDS,
        "maybe": {"type": ["string", "null"]},
        "either": {"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        "one": {"enum": ["a", "b", 3]},
        "many": {"type": "array", "items": {"type": "object", "properties": KINDS}},
        "inner": {"type": "object", "properties": {**KINDS, "__extn": {"type": "object", "properties": KINDS}}},
        "anything": {},
    },
    "additionalProperties": True,
}
SEEDS = (
    b'{"string":"x","integer":1,"number":1.5,"boolean":true,"maybe":null,"either":[],"one":"a","anything":{"a":[1]}}',
    b'{"many":[{"string":"x","number":0.0001},{"integer":-9223372036854775808}],"inner":{"__extn":{"string":"y"}}}',
    b'{"number":922337203685477.5807,"integer":1e3,"__entity":{"type":"Agent","id":"x"},"either":true}',
)
TOOL = make_tool(SCHEMA)
POLICIES = (
    PERMIT
    + """
@id("no") forbid (principal, action, resource)
when { context.input has "string" && context.input["string"] == "forbidden" };
"""
)


@cache
def engine() -> PolicyEngine:
    with tempfile.TemporaryDirectory() as folder:
        return load(Path(folder), POLICIES, TOOL)


def check(data: bytes) -> None:
    try:
        arguments = parse(data)
    except Unacceptable:
        return
    if not isinstance(arguments, dict):
        return
    call = make_call(TOOL, arguments)
    if call.problems:
        return
    decision = engine().decide(call, {})
    shape = input_shape(TOOL)
    assert shape is not None
    try:
        context = build_context(call, shape, {})
    except Inexpressible as why:
        assert decision.outcome is Outcome.DENY
        assert str(why) in (*decision.reasons, *decision.errors)
        return
    assert not decision.errors, decision.errors
    is_forbidden = context["input"].get("string") == "forbidden"
    assert (decision.outcome is Outcome.DENY) == is_forbidden, decision
