"""What the two eras of MCP have in common, and how one is told from the other. Dictionaries in, dictionaries out.

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
    """Whether a request is of the stateless era. `initialize` never is, whatever it carries."""
    meta = params.get("_meta")
    return method != INITIALIZE and isinstance(meta, dict) and VERSION_KEY in meta


def without(capabilities: Json, names: tuple[str, ...]) -> Json:
    return {name: value for name, value in capabilities.items() if name not in names}


def withhold(capabilities: Json) -> Json:
    """The capabilities without those that would run tools by another road, in either direction."""
    kept = without(capabilities, WITHHELD_CAPABILITIES)
    if isinstance(extensions := kept.get("extensions"), dict):
        kept["extensions"] = without(extensions, WITHHELD_EXTENSIONS)
    return kept


def merge_capabilities(answers: list[Json]) -> Json:
    """What all upstreams together can do, from their `initialize` results."""
    capabilities: Json = {}
    for answer in answers:
        for name, value in withhold(answer["capabilities"]).items():
            merged = capabilities.setdefault(name, {})
            if isinstance(value, dict) and isinstance(merged, dict):
                merged |= value
    capabilities["tools"] = {**capabilities.get("tools", {}), "listChanged": True}
    return capabilities


def merge_instructions(answers: list[Json]) -> Json:
    """The upstreams' instructions as one member. Of several, each is headed by the server that it comes from."""
    texts = []
    for answer in answers:
        if text := answer.get("instructions"):
            server = answer.get("serverInfo")
            name = server.get("name", "") if isinstance(server, dict) else ""
            texts.append(f"# {name}\n{text}" if len(answers) > 1 else str(text))
    return {"instructions": "\n\n".join(texts)} if texts else {}


def can_open_urls(capabilities: object) -> bool:
    """Whether a client with these capabilities can be asked to open a URL."""
    elicitation = capabilities.get("elicitation") if isinstance(capabilities, Mapping) else None
    return isinstance(elicitation, dict) and isinstance(elicitation.get("url"), dict)


def approval_elicitation(held: Approval, inbox: str) -> dict[str, Any]:
    """An elicitation in URL mode that leads to the inbox."""
    message = f"{held.subject.tool} waits for approval by {', '.join(held.routes)}."
    return {"mode": "url", "url": f"{inbox}/requests/{held.id}", "message": message}
