"""What is read from the requests and notifications of a client, or an upstream. Pure."""

from typing import Any, TypeGuard

from mcp_guard.core.exact_json import dumps
from mcp_guard.core.model import Json, ToolCallRequest
from mcp_guard.protocol.jsonrpc import CancelReason, Id, error, is_id
from mcp_guard.protocol.methods import INVALID_PARAMS

MAX_REASON_LENGTH = 500


def read_tool_call(params: Json) -> ToolCallRequest | Json:
    """The call that the params of a `tools/call` ask for, or the `error` member that answers them."""
    name, arguments, meta = params.get("name"), params.get("arguments", {}), params.get("_meta")
    if not isinstance(name, str) or not isinstance(arguments, dict | None):
        return error(INVALID_PARAMS, "tools/call needs a `name` and an object of `arguments`")
    if meta is not None and not isinstance(meta, dict):
        return error(INVALID_PARAMS, "`_meta` must be an object")
    passed_on = {key: value for key, value in meta.items() if key != "progressToken"} if meta else None
    return ToolCallRequest(name, arguments or {}, passed_on)


def can_be_answered(id: object) -> TypeGuard[Id]:
    """Whether an id that a lenient reader has read can be written in a reply."""
    try:
        return is_id(id) and bool(dumps(id))
    except TypeError:  # a lone surrogate, or an integer of over 64 bits
        return False


def cancelled_id(params: Json) -> Id | None:
    """Which request a cancellation is for; None if it names none."""
    id = params.get("requestId")
    return id if is_id(id) else None


def cancel_reason(params: Json) -> CancelReason | None:
    reason = params.get("reason")
    return CancelReason(reason[:MAX_REASON_LENGTH]) if isinstance(reason, str) else None


def progress_token(params: Json) -> Any:
    """The progress token of a request; None if it has none."""
    meta = params.get("_meta")
    return meta.get("progressToken") if isinstance(meta, dict) else None


def client_name(info: object) -> str:
    """The name in a `clientInfo`; empty if it has none."""
    name = info.get("name") if isinstance(info, dict) else None
    return name if isinstance(name, str) else ""
