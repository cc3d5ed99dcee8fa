"""The HTTP headers that mirror the body of a request of revision 2026-07-28 (its "Streamable HTTP").

Used on both sides: to send them to upstreams, and to check those of clients.
"""

import base64
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from mcp_guard.core.canonical import canonicalize
from mcp_guard.core.exact_json import UnroundedNumber
from mcp_guard.core.model import Json
from mcp_guard.core.tasks import TASK_METHODS
from mcp_guard.protocol.methods import CALL_TOOL
from mcp_guard.protocol.stateless_server import REVISION
from mcp_guard.protocol.versions import is_stateless

NAMED_BY = {
    CALL_TOOL: "name", "prompts/get": "name", "resources/read": "uri", **dict.fromkeys(TASK_METHODS, "taskId"),
}  # fmt: skip
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
HEADER_SAFE = re.compile(r"(?! )[\x20-\x7e]*(?<! )")
NUMBER = re.compile(r"-?[0-9]{1,17}(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?")
MAX_DEPTH = 16


def mirror_headers(message: Json, schema_of: Callable[[str], Json | None]) -> dict[str, str]:
    """The headers of a stateless request, by lower-case name; none for any other message.

    `schema_of` gives the input schema of a tool by its name.
    """
    method, params = message.get("method"), message.get("params") or {}
    if not isinstance(method, str) or not is_stateless(method, params):
        return {}
    mirrored = {"mcp-protocol-version": REVISION, "mcp-method": method}
    if method in NAMED_BY:
        mirrored["mcp-name"] = encode_header(str(params.get(NAMED_BY[method], "")))
    name, arguments = params.get("name"), params.get("arguments")
    if method == CALL_TOOL and isinstance(name, str) and isinstance(arguments, dict) and (schema := schema_of(name)):
        for token, value in _marked_arguments(schema, arguments, 0):
            mirrored[f"mcp-param-{token.lower()}"] = encode_header(value)
    return mirrored


def encode_header(value: str) -> str:
    """A value as a header: as it is, or `=?base64?…?=` if a header cannot hold it."""
    if HEADER_SAFE.fullmatch(value) and not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    return f"=?base64?{base64.b64encode(value.encode('utf-8', 'surrogatepass')).decode()}?="


def decode_header(value: str | None) -> str | None:
    """The value of a header that mirrors a member of the body; None if it is missing or malformed."""
    if value is None or not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    try:
        return base64.b64decode(value[9:-2], validate=True).decode()
    except ValueError:
        return None


def _marked_arguments(schema: Json, arguments: Json, depth: int) -> Iterator[tuple[str, str]]:
    """Header token and value of each given argument that the schema marks with `x-mcp-header`."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or depth > MAX_DEPTH:
        return
    for name, subschema in properties.items():
        value = arguments.get(name)
        if not isinstance(subschema, dict) or value is None:
            continue
        token = subschema.get("x-mcp-header")
        if isinstance(token, str) and TOKEN.fullmatch(token) and (text := _text(value)) is not None:
            yield token, text
        if isinstance(value, dict):
            yield from _marked_arguments(subschema, value, depth + 1)


def _text(value: Any) -> str | None:
    """Numbers are written as in the body: `1e-7`, not `1e-07`."""
    if isinstance(value, str | UnroundedNumber):
        return str(value)
    return canonicalize(value, exact=True).decode() if isinstance(value, int | float) else None


def is_same_value(header: str | None, mirrored: str) -> bool:
    """Whether a client's header has the value that ours would have. Numbers may be written otherwise (`42.0`)."""
    sent, expected = decode_header(header), decode_header(mirrored)
    if sent == expected or sent is None or expected is None:
        return sent == expected
    return all(map(NUMBER.fullmatch, (sent, expected))) and Decimal(sent) == Decimal(expected)
