"""What is said to a server of the stateless revision 2026-07-28, and read of its answers. Dictionaries in and out.

The other side of `protocol/stateless_server.py`, from the same source: each request carries revision, client and
capabilities in `_meta`; an answer may be `input_required`; changes arrive on the stream
of one `subscriptions/listen`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mcp_guard.core.errors import UpstreamError
from mcp_guard.core.model import Json
from mcp_guard.protocol.stateless_server import (
    ASKABLE,
    CAPABILITIES_KEY,
    CLIENT_KEY,
    ENVELOPE,
    LEVELS,
    LOG_LEVEL_KEY,
    REVISION,
    ROUND_MEMBERS,
    SERVER_KEY,
    SUBSCRIPTION_KEY,
)
from mcp_guard.protocol.versions import VERSION_KEY, withhold


@dataclass(frozen=True, slots=True)
class InputRequired:
    """What a server wants to know before it goes on: `requests` by key, and its own `state` to be given back."""

    requests: dict[str, Json]
    state: object


def read_discovery(reply: Json) -> Json | None:
    """An answer to `server/discover` in the form of an `initialize` result; None if its server has another era."""
    result = reply.get("result")
    if not isinstance(result, dict) or not isinstance(result.get("capabilities"), dict):
        return None
    revisions, meta = result.get("supportedVersions"), result.get("_meta")
    if not isinstance(revisions, list) or REVISION not in revisions:
        return None
    server = meta.get(SERVER_KEY) if isinstance(meta, dict) else None
    return {**result, "protocolVersion": REVISION, "serverInfo": server if isinstance(server, dict) else {}}


def envelope_for(hello: Json) -> Json:
    """The envelope that says what these `initialize` params say of the client."""
    said = {VERSION_KEY: REVISION, CAPABILITIES_KEY: withhold(hello.get("capabilities") or {})}
    return said | ({CLIENT_KEY: hello["clientInfo"]} if isinstance(hello.get("clientInfo"), dict) else {})


def with_envelope(params: Json | None, said: Json) -> Json:
    """The params with the envelope. What they say of the client themselves does not count."""
    kept = params or {}
    meta = kept.get("_meta")
    own = {name: value for name, value in meta.items() if name not in ENVELOPE} if isinstance(meta, dict) else {}
    return {**kept, "_meta": own | said}


def plain_reply(reply: Json) -> Json:
    """The answer without what only this revision has. Raises: UpstreamError for one that is not complete."""
    result = reply.get("result")
    if not isinstance(result, dict):
        return reply
    kind = result.get("resultType", "complete")
    if kind != "complete":
        raise UpstreamError(f"a result of the type `{str(kind)[:40]}`, which this guard does not pass on")
    kept = {name: value for name, value in result.items() if name != "resultType"}
    return {"result": _without_meta(kept, SERVER_KEY)}


def read_input_required(reply: Json) -> InputRequired | None:
    """What must be asked before this answer can be had; None if it is one. Raises: UpstreamError."""
    result = reply.get("result")
    if not isinstance(result, dict) or result.get("resultType") != "input_required":
        return None
    requests, state = result.get("inputRequests"), result.get("requestState")
    if requests is None and state is not None:
        requests = {}
    if not isinstance(requests, dict) or not all(_is_request(each) for each in requests.values()):
        raise UpstreamError("a result of the type `input_required` that asks nothing that can be read")
    return InputRequired(requests, state)


def _is_request(asked: object) -> bool:
    return (
        isinstance(asked, dict) and isinstance(asked.get("method"), str) and isinstance(asked.get("params", {}), dict)
    )


def next_round_params(params: Json, required: InputRequired, answers: Mapping[str, Json]) -> Json:
    """The same request once more, with the answers and the state that its server gave."""
    fresh = {name: value for name, value in params.items() if name not in ROUND_MEMBERS}
    fresh |= {"inputResponses": dict(answers)} if answers else {}
    return fresh | ({"requestState": required.state} if required.state is not None else {})


def missing_capability(request: Json, capabilities: Json) -> str | None:
    """The capability that a client would need to be asked this and has not offered; None if it can be asked."""
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
    """The filter that asks for every change of which a server with these capabilities can tell."""

    def has(name: str, what: str) -> bool:
        offered = capabilities.get(name)
        return isinstance(offered, dict) and offered.get(what) is True

    wanted: Json = {
        f"{name}ListChanged": True for name in ("tools", "prompts", "resources") if has(name, "listChanged")
    }
    return wanted | ({"resourceSubscriptions": sorted(uris)} if uris else {})


def without_subscription_id(params: Json) -> Json:
    """A notification's params without the mark of the subscription that it came on."""
    return _without_meta(params, SUBSCRIPTION_KEY)


def with_log_level(said: Json, level: str) -> Json:
    return {**said, LOG_LEVEL_KEY: level} if level in LEVELS else said


def _without_meta(holder: Json, key: str) -> Json:
    meta = holder.get("_meta")
    if not isinstance(meta, dict) or key not in meta:
        return holder
    kept = {name: value for name, value in meta.items() if name != key}
    return {**holder, "_meta": kept} if kept else {name: value for name, value in holder.items() if name != "_meta"}
