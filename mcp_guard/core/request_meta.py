"""The members of a request's `_meta` that go on to an upstream: those that the operator lists, each with a type. Pure.

An upstream may act on `_meta`, so whatever goes on with a tool call is part of the request: hashed, recorded, shown to
approvers and readable by policies. Everything else is dropped. The progress token is the guard's own.
"""

import re
from collections.abc import Mapping
from typing import Any

from mcp_guard.core.canonical import Limits, canonicalize
from mcp_guard.core.model import Json

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
TRACE_CONTEXT = (TRACEPARENT, TRACESTATE)
"""W3C trace context (SEP-414). It says which trace a request belongs to, and differs whenever a call is repeated."""
BAGGAGE = "baggage"
"""W3C baggage (SEP-414): values that a client gives a trace. A server may act on them, so they go on only if listed."""
FORWARDED_BY_DEFAULT: Mapping[str, str] = dict.fromkeys(TRACE_CONTEXT, "string")
MAX_TEXT_LENGTH = 2048
"""Characters of one text."""
MAX_TEXTS = 64
MAX_META = Limits(bytes=256 * 1024, depth=3)
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
MAX_TRACESTATE_LENGTH, MAX_TRACESTATE_MEMBERS = 512, 32
_TRACESTATE_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9_*/-]{0,240}(@[a-z][a-z0-9_*/-]{0,13})?="
    r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_BAGGAGE_VALUE = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_BAGGAGE_MEMBER = re.compile(
    rf"{_NAME}[ \t]*=[ \t]*{_BAGGAGE_VALUE}([ \t]*;[ \t]*{_NAME}([ \t]*=[ \t]*{_BAGGAGE_VALUE})?)*"
)
MAX_BAGGAGE_MEMBERS = 64


def forwarded_members(meta: Mapping[str, Any] | None, kinds: Mapping[str, str]) -> tuple[Json | None, list[str]]:
    """The members that go on, or None, and why the request must be denied.

    `kinds` maps each listed name to `string`, `integer`, `number`, `boolean` or `strings`. Trace context and baggage
    that are not well-formed are dropped, as the W3C recommendations say; any other listed member of another type is a
    problem.
    """
    if not meta:
        return None, []
    members: Json = {}
    problems = []
    for name, kind in kinds.items():
        if (value := meta.get(name)) is None:
            continue
        if name in (*TRACE_CONTEXT, BAGGAGE):
            if isinstance(value, str) and _is_well_formed(name, value):
                members[name] = value
        elif _has_kind(value, kind):
            members[name] = value
        else:
            problems.append(f"`_meta` member `{name}` must be {_DESCRIPTIONS[kind]}")
    if TRACEPARENT not in members:
        members.pop(TRACESTATE, None)
    return members or None, problems


def forwarded_params(params: Json, kinds: Mapping[str, str]) -> Json:
    """The params of a message that is no tool call, with the listed members of `_meta` only."""
    if "_meta" not in params:
        return params
    meta = params["_meta"]
    members, _ = forwarded_members(meta, kinds) if isinstance(meta, dict) else (None, [])
    others = {name: value for name, value in params.items() if name != "_meta"}
    return others | {"_meta": members} if members else others


def canonical_request(name: str, arguments: bytes, meta: Mapping[str, Any] | None) -> bytes:
    """RFC 8785 bytes of the `params` of a `tools/call` as an upstream is sent them, but for a progress token.

    `arguments` are canonical already. Raises: Unacceptable.
    """
    before = b'"_meta":' + canonicalize(meta, MAX_META, exact=True) + b"," if meta else b""
    return b"{" + before + b'"arguments":' + arguments + b',"name":' + canonicalize(name) + b"}"


def without_trace(meta: Mapping[str, Any] | None) -> Json:
    """The members by which two requests are distinguished."""
    return {name: value for name, value in (meta or {}).items() if name not in TRACE_CONTEXT}


def trace_id(meta: Mapping[str, Any] | None) -> str:
    """The trace that a request says it belongs to, as 32 hexadecimal digits; empty if it says none."""
    parent = meta.get(TRACEPARENT) if meta else None
    return parent[3:35] if isinstance(parent, str) and _TRACEPARENT.fullmatch(parent) else ""


def trace_headers(message: Json) -> dict[str, str]:
    """The trace context and baggage in the params of a request, which have the same names as HTTP headers."""
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    kinds = dict.fromkeys((*TRACE_CONTEXT, BAGGAGE), "string")
    members, _ = forwarded_members(meta if isinstance(meta, dict) else None, kinds)
    return members or {}


def is_reserved(name: str) -> bool:
    """Whether MCP reserves the name: the guard writes such members, or the protocol gives them a meaning."""
    prefix, slash, _ = name.partition("/")
    return name == "progressToken" or bool(slash and {"modelcontextprotocol", "mcp"} & set(prefix.split(".")))


def _is_well_formed(name: str, value: str) -> bool:
    """Whether the value has the form of the W3C recommendations: Trace Context §3.2 and §3.3.1, Baggage §3.2."""
    if name == TRACEPARENT:
        return bool(_TRACEPARENT.fullmatch(value))
    if name == BAGGAGE:
        members = value.split(",") if len(value) <= MAX_TEXT_LENGTH else []
        return 0 < len(members) <= MAX_BAGGAGE_MEMBERS and all(
            _BAGGAGE_MEMBER.fullmatch(member.strip(" \t")) for member in members
        )
    members = value.split(",") if len(value) <= MAX_TRACESTATE_LENGTH else []
    stripped = [member.strip(" \t") for member in members]
    is_list = 0 < len(members) <= MAX_TRACESTATE_MEMBERS and any(stripped)
    return is_list and all(not member or _TRACESTATE_MEMBER.fullmatch(member) for member in stripped)


def _has_kind(value: object, kind: str) -> bool:
    match kind:
        case "string":
            return isinstance(value, str) and len(value) <= MAX_TEXT_LENGTH
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
    return isinstance(value, list) and len(value) <= MAX_TEXTS and all(_has_kind(item, "string") for item in value)


_DESCRIPTIONS = {
    "string": f"a text of at most {MAX_TEXT_LENGTH} characters",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "strings": f"a list of at most {MAX_TEXTS} texts",
}
