"""The two families of MCP revisions: telling them apart, and what they have in common. Dictionaries in and out.

The handshake revisions (2024-11-05 to 2025-11-25) begin with `initialize`. In the stateless one (2026-07-28) every
request carries its revision, client and capabilities in `_meta`, and a server asks its client for something by
answering `input_required`. Source: the schema of revision 2026-07-28.
"""

from collections.abc import Mapping
from typing import Any

from mcp_guard.core.approval import Approval
from mcp_guard.core.model import Json
from mcp_guard.protocol.methods import INITIALIZE, WITHHELD_CAPABILITIES, WITHHELD_EXTENSIONS

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"


def is_stateless(method: str, params: Json) -> bool:
    """Whether a request is of the stateless revision. `initialize` never is, whatever it carries."""
    meta = params.get("_meta")
    return method != INITIALIZE and isinstance(meta, dict) and VERSION_KEY in meta


def supported_versions(reply: Json) -> list[str]:
    """The revisions that an error names because it refuses the one that was asked for (any code, as servers differ)."""
    refusal = reply.get("error")
    data = refusal.get("data") if isinstance(refusal, dict) else None
    versions = data.get("supported") if isinstance(data, dict) else None
    return [version for version in versions if isinstance(version, str)] if isinstance(versions, list) else []


def without(members: Json, names: tuple[str, ...]) -> Json:
    return {name: value for name, value in members.items() if name not in names}


def withhold(capabilities: Json) -> Json:
    """The capabilities without those that would run tools by an unguarded path, in either direction.

    The tasks extension is guarded between a client and an upstream of revision 2026-07-28, which add it themselves.
    """
    remaining = without(capabilities, WITHHELD_CAPABILITIES)
    if isinstance(extensions := remaining.get("extensions"), dict):
        remaining["extensions"] = without(extensions, WITHHELD_EXTENSIONS)
    return remaining


def merge_capabilities(results: list[Json], is_complete: bool = True) -> Json:
    """The capabilities of all upstreams together, from their `initialize` results.

    If those are not complete, prompts and resources are offered as well, with reports of changes.
    """
    capabilities: Json = {}
    for result in results:
        for name, value in withhold(result["capabilities"]).items():
            merged = capabilities.setdefault(name, {})
            if isinstance(value, dict) and isinstance(merged, dict):
                merged |= value
    for name in ("tools",) if is_complete else ("tools", "prompts", "resources"):
        capabilities[name] = {**capabilities.get(name, {}), "listChanged": True}
    return capabilities


def merge_instructions(results: list[Json]) -> Json:
    """An `instructions` member with those of all upstreams; with several upstreams, each under its server's name."""
    texts = []
    for result in results:
        if text := result.get("instructions"):
            server = result.get("serverInfo")
            name = server.get("name", "") if isinstance(server, dict) else ""
            texts.append(f"# {name}\n{text}" if len(results) > 1 else str(text))
    return {"instructions": "\n\n".join(texts)} if texts else {}


def can_open_urls(capabilities: object) -> bool:
    """Whether a client with these capabilities can be asked to open a URL."""
    elicitation = capabilities.get("elicitation") if isinstance(capabilities, Mapping) else None
    return isinstance(elicitation, dict) and isinstance(elicitation.get("url"), dict)


def sign_in_elicitation(upstream: str, pages: str) -> dict[str, Any]:
    """The params of an elicitation in URL mode that leads to where the user signs in to an upstream."""
    message = f"Sign in to {upstream}, so that agents can call it for you."
    return {"mode": "url", "url": f"{pages}/upstreams#{upstream}", "message": message}


def approval_elicitation(approval: Approval, inbox: str) -> dict[str, Any]:
    """The params of an elicitation in URL mode that leads to the approval page."""
    message = f"{approval.subject.tool} waits for approval by {', '.join(approval.routes)}."
    return {"mode": "url", "url": f"{inbox}/requests/{approval.id}", "message": message}
