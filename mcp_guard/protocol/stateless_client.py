"""The client's side of the stateless revision 2026-07-28: making requests, reading replies. Dictionaries in and out.

The counterpart of `protocol/stateless_server.py`, from the same source: each request carries revision, client and
capabilities in `_meta`; a reply may be `input_required`; changes arrive on the stream of one `subscriptions/listen`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mcp_guard import __version__
from mcp_guard.core.errors import UpstreamError
from mcp_guard.core.model import Json
from mcp_guard.core.tasks import EXTENSION, offers_tasks, read_task_id
from mcp_guard.protocol.methods import LEVELS
from mcp_guard.protocol.stateless_server import (
    ASKABLE,
    CAPABILITIES_KEY,
    CLIENT_KEY,
    ENVELOPE,
    LOG_LEVEL_KEY,
    REVISION,
    ROUND_MEMBERS,
    SERVER_KEY,
    SUBSCRIPTION_KEY,
)
from mcp_guard.protocol.versions import VERSION_KEY, withhold, without

MAX_QUESTIONS = 32
"""How many questions one round may have: each is a request to the client."""


@dataclass(frozen=True, slots=True)
class InputRequired:
    """A server's questions before it goes on: `requests` by key, and its own `state` to be sent back."""

    requests: dict[str, Json]
    state: object


def read_discovery(reply: Json) -> Json | None:
    """A reply to `server/discover` in the form of an `initialize` result; None if the server lacks this revision."""
    result = reply.get("result")
    if not isinstance(result, dict) or not isinstance(result.get("capabilities"), dict):
        return None
    revisions, meta = result.get("supportedVersions"), result.get("_meta")
    if not isinstance(revisions, list) or REVISION not in revisions:
        return None
    server = meta.get(SERVER_KEY) if isinstance(meta, dict) else None
    return {**result, "protocolVersion": REVISION, "serverInfo": server if isinstance(server, dict) else {}}


def envelope_for(initialize_params: Json) -> Json:
    """The envelope members that describe the client as these `initialize` params do."""
    envelope = {VERSION_KEY: REVISION, CAPABILITIES_KEY: withhold(initialize_params.get("capabilities") or {})}
    client = initialize_params.get("clientInfo")
    return envelope | ({CLIENT_KEY: client} if isinstance(client, dict) else {})


KNOWN_CAPABILITIES: Mapping[str, tuple[str, ...]] = {
    "sampling": ("tools", "context"), "elicitation": ("form", "url"), "roots": ("listChanged",),
}  # fmt: skip
"""What a client can offer a server that executes a call, and the variants of each."""


def without_free_text(envelope: Json) -> Json:
    """The envelope for a tool call: nothing in it that an agent can word, so that it cannot change what is approved.

    The client is this guard, and the capabilities are those by which it can be asked, named and no more.
    """
    offered = envelope[CAPABILITIES_KEY]
    capabilities: Json = {}
    for name, variants in KNOWN_CAPABILITIES.items():
        if isinstance(value := offered.get(name), dict):
            given = {variant: value[variant] for variant in variants if variant in value}
            capabilities[name] = {variant: True if item is True else {} for variant, item in given.items()}
    if offers_tasks(offered):
        capabilities["extensions"] = {EXTENSION: {}}
    client = {CLIENT_KEY: {"name": "mcp-guard", "version": __version__}}
    return {**envelope, CAPABILITIES_KEY: capabilities, **client}


def with_envelope(params: Json | None, envelope: Json) -> Json:
    """The params with this envelope instead of their own."""
    members = params or {}
    meta = members.get("_meta")
    other_meta = {name: value for name, value in meta.items() if name not in ENVELOPE} if isinstance(meta, dict) else {}
    return {**members, "_meta": other_meta | envelope}


def read_task(reply: Json) -> tuple[str, Json] | None:
    """The id of the task that a tool call is answered with, and the reply without the members that only this revision
    has; None for any other reply. Raises: UpstreamError if it is malformed."""
    result = reply.get("result")
    if not isinstance(result, dict) or result.get("resultType") != "task":
        return None
    try:
        return read_task_id(result), {"result": _without_meta(without(result, ("resultType",)), SERVER_KEY)}
    except ValueError as fault:
        raise UpstreamError(f"a result of type `task`, whose {fault}") from None


def plain_reply(reply: Json, of_task: bool = False) -> Json:
    """The reply without the members that only this revision has. Raises: UpstreamError unless it is complete.

    What is told `of_task` has the type `task` in some examples of its specification.
    """
    result = reply.get("result")
    if not isinstance(result, dict):
        return reply
    result_type = result.get("resultType", "complete")
    if result_type != "complete" and not (of_task and result_type == "task"):
        raise UpstreamError(f"a result of type `{str(result_type)[:40]}`, which this guard does not forward")
    members = {name: value for name, value in result.items() if name != "resultType"}
    return {"result": _without_meta(members, SERVER_KEY)}


def read_input_required(reply: Json) -> InputRequired | None:
    """The questions of an `input_required` reply; None for any other. Raises: UpstreamError if it is malformed."""
    result = reply.get("result")
    if not isinstance(result, dict) or result.get("resultType") != "input_required":
        return None
    requests, state = result.get("inputRequests"), result.get("requestState")
    if requests is None and state is not None:
        requests = {}
    if not isinstance(requests, dict) or not all(_is_request(request) for request in requests.values()):
        raise UpstreamError("a result of type `input_required` whose requests are malformed")
    if len(requests) > MAX_QUESTIONS:
        raise UpstreamError(f"a result of type `input_required` with more than {MAX_QUESTIONS} requests")
    return InputRequired(requests, state)


def _is_request(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    return isinstance(value.get("method"), str) and isinstance(value.get("params", {}), dict)


def next_round_params(params: Json, required: InputRequired, answers: Mapping[str, Json]) -> Json:
    """The params of the same request in its next round: with the answers, and the state that the server sent."""
    members = {name: value for name, value in params.items() if name not in ROUND_MEMBERS}
    members |= {"inputResponses": dict(answers)} if answers else {}
    return members | ({"requestState": required.state} if required.state is not None else {})


def missing_capability(request: Json, capabilities: Json) -> str | None:
    """The capability that a client needs for this request and has not offered; None if it can be asked."""
    method, params = request["method"], request.get("params", {})
    needed = ASKABLE.get(method)
    if needed is None or not isinstance(offered := capabilities.get(needed), dict):
        return needed or str(method)[:80]
    if needed == "elicitation":
        mode = str(params.get("mode", "form"))[:20]
        return None if mode in offered or (mode == "form" and not offered) else f"{needed}.{mode}"
    if needed == "sampling" and ("tools" in params or "toolChoice" in params):
        return None if "tools" in offered else "sampling.tools"
    return None


def subscription_filter(capabilities: Json, uris: Collection[str]) -> Json:
    """The filter that asks for every change which a server with these capabilities reports."""

    def reports_list_changes(name: str) -> bool:
        offered = capabilities.get(name)
        return isinstance(offered, dict) and offered.get("listChanged") is True

    wanted: Json = {
        f"{name}ListChanged": True for name in ("tools", "prompts", "resources") if reports_list_changes(name)
    }
    return wanted | ({"resourceSubscriptions": sorted(uris)} if uris else {})


def without_subscription_id(params: Json) -> Json:
    """A notification's params without the id of the subscription that it came on."""
    return _without_meta(params, SUBSCRIPTION_KEY)


def with_log_level(envelope: Json, level: str) -> Json:
    """The envelope with this log level; unchanged if there is no such level."""
    return {**envelope, LOG_LEVEL_KEY: level} if level in LEVELS else envelope


def _without_meta(members: Json, key: str) -> Json:
    meta = members.get("_meta")
    if not isinstance(meta, dict) or key not in meta:
        return members
    other_meta = {name: value for name, value in meta.items() if name != key}
    if other_meta:
        return {**members, "_meta": other_meta}
    return {name: value for name, value in members.items() if name != "_meta"}
