"""The stateless revision 2026-07-28: what a request must carry, and what an answer must. Dictionaries in and out.

Source: the schema and "Basic protocol" of that revision. A server never sends a request; it answers `input_required`
with what it wants to know, and the client makes its request again with the answers and the `requestState`.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson

from mcp_guard import __version__
from mcp_guard.core.model import Json
from mcp_guard.protocol.jsonrpc import error
from mcp_guard.protocol.methods import INVALID_PARAMS, LISTS
from mcp_guard.protocol.versions import VERSION_KEY, withhold, without

REVISION = "2026-07-28"
UNSUPPORTED_VERSION = -32022

DISCOVER = "server/discover"
LISTEN = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
LOG_MESSAGE = "notifications/message"
RESOURCE_UPDATED = "notifications/resources/updated"

CLIENT_KEY = "io.modelcontextprotocol/clientInfo"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
LOG_LEVEL_KEY = "io.modelcontextprotocol/logLevel"
SERVER_KEY = "io.modelcontextprotocol/serverInfo"
SUBSCRIPTION_KEY = "io.modelcontextprotocol/subscriptionId"
ENVELOPE = (VERSION_KEY, CLIENT_KEY, CAPABILITIES_KEY, LOG_LEVEL_KEY)

ROUNDS = ("tools/call", "prompts/get", "resources/read")
"""Requests whose answer may be `input_required`."""
REQUESTS = (*ROUNDS, *LISTS, "completion/complete")
"""Requests that take the same roads as in the handshake era."""
CACHEABLE = (*LISTS, "resources/read", DISCOVER)
ROUND_MEMBERS = ("requestState", "inputResponses")

CHANGES = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}
"""Notifications that only a subscription carries, and the member of its filter that asks for them."""

ASKABLE = {"sampling/createMessage": "sampling", "elicitation/create": "elicitation", "roots/list": "roots"}
"""What a client can be asked, and the capability by which it says so."""

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a request says of its client. `log_level` is the least severe log message it wants, if any."""

    capabilities: Json
    client: Json
    log_level: str | None


def read_envelope(params: Json) -> Envelope | Json:
    """The envelope of a request, or the error that answers it."""
    meta = params.get("_meta")
    if not isinstance(meta, dict) or not isinstance(meta.get(VERSION_KEY), str):
        return error(INVALID_PARAMS, f"`_meta` must carry `{VERSION_KEY}` and `{CAPABILITIES_KEY}`")
    if meta[VERSION_KEY] != REVISION:
        return unsupported_version(meta[VERSION_KEY])
    capabilities, client, level = meta.get(CAPABILITIES_KEY), meta.get(CLIENT_KEY), meta.get(LOG_LEVEL_KEY)
    if not isinstance(capabilities, dict):
        return error(INVALID_PARAMS, f"`_meta` must carry an object `{CAPABILITIES_KEY}`")
    if level is not None and level not in LEVELS:
        return error(INVALID_PARAMS, f"`{LOG_LEVEL_KEY}` must be one of {', '.join(LEVELS)}")
    return Envelope(capabilities, client if isinstance(client, dict) else {}, level)


def unsupported_version(requested: object) -> Json:
    data = {"supported": [REVISION], "requested": str(requested)[:40]}
    return {"error": {"code": UNSUPPORTED_VERSION, "message": "Unsupported protocol version", "data": data}}


def initialize_params(envelope: Envelope, revision: str) -> Json:
    """The `initialize` params by which an upstream of the handshake era hears of this client."""
    able = {name: value for name, value in envelope.capabilities.items() if name in ASKABLE.values()}
    named = "name" in envelope.client and "version" in envelope.client
    client = envelope.client if named else {"name": "mcp-guard", "version": __version__}
    return {
        "protocolVersion": revision,
        "capabilities": able,
        "clientInfo": client,
    }


def client_meta(envelope: Envelope) -> Json:
    """What an upstream of this revision hears of the client of a request."""
    said: Json = {CAPABILITIES_KEY: withhold(envelope.capabilities)}
    said |= {CLIENT_KEY: envelope.client} if envelope.client else {}
    return said | ({LOG_LEVEL_KEY: envelope.log_level} if envelope.log_level is not None else {})


def without_envelope(params: Json) -> Json:
    """The params without what only this revision has: what an upstream of the handshake era is sent."""
    kept = {name: value for name, value in params.items() if name not in ROUND_MEMBERS}
    meta = {name: value for name, value in params["_meta"].items() if name not in ENVELOPE}
    return (kept | {"_meta": meta}) if meta else without(kept, ("_meta",))


def request_binding(method: str, params: Json) -> str:
    """A hash of what a `requestState` belongs to: the method and everything asked of it. Raises: ValueError."""
    asked = without(params, (*ROUND_MEMBERS, "_meta"))
    try:
        return hashlib.sha256(orjson.dumps([method, asked], option=orjson.OPT_SORT_KEYS)).hexdigest()
    except TypeError as refused:
        raise ValueError(str(refused)) from None


def complete_result(method: str, reply: Json) -> Json:
    """The reply as this revision has it. What an upstream says of `resultType` is not taken: it may only complete."""
    result = reply.get("result")
    if not isinstance(result, dict):
        return reply
    stamped = {**result, "resultType": "complete", "_meta": _signed(result)}
    if method in CACHEABLE:
        stamped = {"ttlMs": 0, "cacheScope": "private"} | stamped
    return {"result": stamped}


def input_required(state: str, requests: Json, about: Json | None = None) -> Json:
    """An answer that asks the client first: it makes its request again with the state and its answers."""
    result: dict[str, Any] = {"resultType": "input_required", "requestState": state, "_meta": _signed(about or {})}
    return {"result": result | ({"inputRequests": requests} if requests else {})}


def _signed(result: Json) -> Json:
    meta = result.get("_meta")
    ours = {SERVER_KEY: {"name": "mcp-guard", "version": __version__}}
    return {**meta, **ours} if isinstance(meta, dict) else ours


def accepted_filter(wanted: object) -> Json | None:
    """The part of a subscription's filter that can be honored; None if it is no filter."""
    if not isinstance(wanted, dict):
        return None
    kept: Json = {name: True for name in CHANGES.values() if wanted.get(name) is True}
    uris = wanted.get("resourceSubscriptions")
    if isinstance(uris, list) and uris:
        kept["resourceSubscriptions"] = [uri for uri in uris if isinstance(uri, str)]
    return kept


def matches_filter(wanted: Json, method: str, params: Json) -> bool:
    """Whether a subscription carries this notification."""
    if method == RESOURCE_UPDATED:
        return params.get("uri") in wanted.get("resourceSubscriptions", ())
    return wanted.get(CHANGES.get(method, "")) is True


def meets_log_level(level: object, wanted: str | None) -> bool:
    """Whether a log message of this level is for a request that wants that level."""
    return wanted is not None and level in LEVELS and LEVELS.index(str(level)) >= LEVELS.index(wanted)
