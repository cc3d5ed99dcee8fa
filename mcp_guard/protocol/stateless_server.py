"""The server's side of the stateless revision 2026-07-28: reading requests, making replies. Dictionaries in and out.

Source: the schema and "Basic protocol" of that revision. A server never sends a request. It answers `input_required`
with its questions, and the client repeats its request with the answers and the `requestState`.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson

from mcp_guard import __version__
from mcp_guard.core.model import Json
from mcp_guard.core.tasks import EXTENSION, offers_tasks
from mcp_guard.protocol.jsonrpc import error
from mcp_guard.protocol.methods import INVALID_PARAMS, LEVELS, LISTS, RESOURCE_UPDATED, WITHHELD_CAPABILITIES
from mcp_guard.protocol.versions import VERSION_KEY, withhold, without

REVISION = "2026-07-28"
MISSING_CAPABILITY, UNSUPPORTED_VERSION = -32021, -32022

DISCOVER = "server/discover"
LISTEN = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
LOG_MESSAGE = "notifications/message"

CLIENT_KEY = "io.modelcontextprotocol/clientInfo"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
LOG_LEVEL_KEY = "io.modelcontextprotocol/logLevel"
SERVER_KEY = "io.modelcontextprotocol/serverInfo"
SUBSCRIPTION_KEY = "io.modelcontextprotocol/subscriptionId"
ENVELOPE = (VERSION_KEY, CLIENT_KEY, CAPABILITIES_KEY, LOG_LEVEL_KEY)

ROUNDS = ("tools/call", "prompts/get", "resources/read")
"""Requests whose answer may be `input_required`."""
REQUESTS = (*ROUNDS, *LISTS, "completion/complete")
"""Requests that are routed as in the handshake revisions."""
CACHEABLE = (*LISTS, "resources/read", DISCOVER)
ROUND_MEMBERS = ("requestState", "inputResponses")

CHANGES = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}
"""Notifications that only a subscription carries, and the member of its filter that asks for them."""
SUBSCRIBED_URIS, SUBSCRIBED_TASKS = "resourceSubscriptions", "taskIds"
"""The members of a filter that name resources and tasks."""

ASKABLE = {"sampling/createMessage": "sampling", "elicitation/create": "elicitation", "roots/list": "roots"}
"""What a client can be asked, and the capability by which it offers that."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a request says about its client. `log_level` is the least severe level of log messages it wants, if any."""

    capabilities: Json
    client: Json
    log_level: str | None


def read_envelope(params: Json) -> Envelope | Json:
    """The envelope of a request, or the `error` member that answers it."""
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
    """The `error` member for a revision other than this."""
    data = {"supported": [REVISION], "requested": str(requested)[:40]}
    return {"error": {"code": UNSUPPORTED_VERSION, "message": "Unsupported protocol version", "data": data}}


def initialize_params(envelope: Envelope, revision: str) -> Json:
    """The `initialize` params that introduce this client to an upstream of the handshake revisions."""
    capabilities = {name: value for name, value in envelope.capabilities.items() if name in ASKABLE.values()}
    is_named = "name" in envelope.client and "version" in envelope.client
    client = envelope.client if is_named else {"name": "mcp-guard", "version": __version__}
    return {"protocolVersion": revision, "capabilities": capabilities, "clientInfo": client}


def client_meta(envelope: Envelope, may_have_task: bool = True) -> Json:
    """The envelope members that describe the client of a request to an upstream of this revision."""
    offered = envelope.capabilities
    meta: Json = {CAPABILITIES_KEY: without(offered, WITHHELD_CAPABILITIES) if may_have_task else withhold(offered)}
    meta |= {CLIENT_KEY: envelope.client} if envelope.client else {}
    return meta | ({LOG_LEVEL_KEY: envelope.log_level} if envelope.log_level is not None else {})


def without_envelope(params: Json) -> Json:
    """The params without the members that only this revision has."""
    members = {name: value for name, value in params.items() if name not in ROUND_MEMBERS}
    meta = {name: value for name, value in params["_meta"].items() if name not in ENVELOPE}
    return (members | {"_meta": meta}) if meta else without(members, ("_meta",))


def request_binding(method: str, params: Json) -> str:
    """The hash of the request that a `requestState` belongs to: method and params, but for state, answers and `_meta`.

    Raises: ValueError if the params cannot be written as JSON.
    """
    request = without(params, (*ROUND_MEMBERS, "_meta"))
    try:
        return hashlib.sha256(orjson.dumps([method, request], option=orjson.OPT_SORT_KEYS)).hexdigest()
    except TypeError as error:
        raise ValueError(str(error)) from None


def complete_result(method: str, reply: Json) -> Json:
    """The reply in the form of this revision. An upstream's own `resultType` is overwritten: it may only complete."""
    if (task := reply.get("task")) is not None:
        return {"result": {**task, "resultType": "task", "_meta": _with_server_info(task)}}
    result = reply.get("result")
    if not isinstance(result, dict):
        return reply
    complete = {**result, "resultType": "complete", "_meta": _with_server_info(result)}
    if method in CACHEABLE:
        complete = {"ttlMs": 0, "cacheScope": "private"} | complete
    return {"result": complete}


def input_required(state: str, requests: Json, base: Json | None = None) -> Json:
    """A reply that asks the client first. It repeats its request with the state and its answers.

    Of the result `base`, only `_meta` is kept.
    """
    result: dict[str, Any] = {
        "resultType": "input_required",
        "requestState": state,
        "_meta": _with_server_info(base or {}),
    }
    return {"result": result | ({"inputRequests": requests} if requests else {})}


def _with_server_info(result: Json) -> Json:
    meta = result.get("_meta")
    server_info = {SERVER_KEY: {"name": "mcp-guard", "version": __version__}}
    return {**meta, **server_info} if isinstance(meta, dict) else server_info


def has_tasks(initialize_result: Json) -> bool:
    """Whether an upstream with this `initialize` result, or what stands for it, may answer with tasks."""
    is_stateless = initialize_result.get("protocolVersion") == REVISION
    return is_stateless and offers_tasks(initialize_result["capabilities"])


def tasks_not_offered() -> Json:
    """The `error` member for a request about tasks of a client that does not offer the extension with it."""
    required: Json = {"extensions": {EXTENSION: {}}}
    message = f"the request does not offer the extension `{EXTENSION}` in `{CAPABILITIES_KEY}`"
    return {"error": {"code": MISSING_CAPABILITY, "message": message, "data": {"requiredCapabilities": required}}}


def accepted_filter(wanted: object) -> Json | None:
    """The supported part of a subscription's filter; None if it is not an object."""
    if not isinstance(wanted, dict):
        return None
    accepted: Json = {name: True for name in CHANGES.values() if wanted.get(name) is True}
    for member in (SUBSCRIBED_URIS, SUBSCRIBED_TASKS):
        names = wanted.get(member)
        if isinstance(names, list) and names:
            accepted[member] = [name for name in names if isinstance(name, str)]
    return accepted


def matches_filter(wanted: Json, method: str, params: Json) -> bool:
    """Whether a subscription with this filter carries this notification."""
    if method == RESOURCE_UPDATED:
        return params.get("uri") in wanted.get(SUBSCRIBED_URIS, ())
    return wanted.get(CHANGES.get(method, "")) is True


def meets_log_level(level: object, wanted: str | None) -> bool:
    """Whether a log message of this level goes to a request that wants the level `wanted`; None wants no messages."""
    return wanted is not None and level in LEVELS and LEVELS.index(str(level)) >= LEVELS.index(wanted)
