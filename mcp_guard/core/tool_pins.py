"""Pins: the accepted definition of each tool, and how another definition differs from it. Pure. Stored by
`ledger/tool_pins.py`.

The hash covers the whole definition that the agent is shown, except members that the operator excludes for one upstream
(`unsafe_unpinned`). Why nothing is excluded by default: docs/decisions/0024. The hashed bytes are orjson's sorted JSON,
not RFC 8785, because schemas may hold numbers that RFC 8785 cannot write.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from mcp_guard.core import canonical, exact_json
from mcp_guard.core.model import Json, Tool

PROMISED = ("name", "title", "description", "annotations", "inputSchema", "outputSchema")
"""Members that no configuration can take out of the hash (promise P6)."""

MAX_DEFINITION_BYTES, MAX_DEFINITION_DEPTH, MAX_TOOLS = 256 * 1024, 64, 2000
"""Limits of one definition, and of the number of tools of one upstream. Whatever exceeds them is not listed."""


SHOWING = (
    ("elicitation",),
    ("elicitation", "url"),
    ("roots",),
    ("sampling",),
    ("sampling", "tools"),
    ("extensions", "io.modelcontextprotocol/ui"),
)
"""The capabilities of clients that make some servers list more tools. INVARIANT: a fixed list, because a client may
announce whatever it likes."""


def showing_capabilities(capabilities: Json) -> frozenset[str]:
    """Those of a client's capabilities that make some servers list more tools, as paths."""
    return frozenset("/".join(path) for path in SHOWING if _has(capabilities, path))


def _has(value: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True


class FirstUse(StrEnum):
    """What happens to a tool that was never seen before."""

    LISTING = "first-listing"
    """Tools of an upstream's very first listing are pinned, and of the first to a client with a capability that no
    client before had; later ones wait for an operator."""
    PIN = "pin"
    ASK = "ask"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class PinRule:
    """The configuration for one upstream's definitions; members in `unpinned` are not hashed."""

    first_use: FirstUse = FirstUse.LISTING
    unpinned: tuple[str, ...] = ()


class PinState(StrEnum):
    """The state of one definition. A tool has at most one that is pinned."""

    PINNED = "pinned"
    QUARANTINED = "quarantined"
    REFUSED = "refused"
    RETIRED = "retired"
    """Was pinned until another definition was accepted in its place."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One definition of one tool. `receipt` is the latest receipt about it; `why` is the reason for its state."""

    upstream: str
    tool: str
    hash: str
    state: PinState
    definition: Json
    receipt: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a listed tool must not be used; `pinned` is the accepted definition, if there is one."""

    because: str
    pinned: Json | None = None


def find_quarantined(tools: Iterable[Tool], pins: Collection[Pin], rules: Mapping[str, PinRule]) -> frozenset[str]:
    """The listed names of the tools whose definition is not accepted, or will not be at their next listing without an
    operator. `rules` are by upstream. Nothing is recorded; a client's capabilities, which may make a new tool trusted,
    are not known here.
    """
    from mcp_guard.core.hidden_characters import find_hidden  # not at start-up

    states = {(pin.upstream, pin.tool, pin.hash): pin.state for pin in pins}
    known = {(pin.upstream, pin.tool) for pin in pins}
    upstreams = {pin.upstream for pin in pins}

    def is_accepted(tool: Tool) -> bool:
        if (tool.server, tool.name) in known:
            return states.get((tool.server, tool.name, tool.definition_hash)) is PinState.PINNED
        first_use = rules[tool.server].first_use
        is_first_listing = first_use is FirstUse.LISTING and tool.server not in upstreams
        return (first_use is FirstUse.PIN or is_first_listing) and not any(find_hidden(tool.definition))

    return frozenset(tool.listed_as for tool in tools if not is_accepted(tool))


def hashed_members(definition: Json, unpinned: Collection[str] = ()) -> Json:
    """The part of a definition that the hash covers: all of it, except the `unpinned` members."""
    return {name: value for name, value in definition.items() if name not in unpinned} if unpinned else definition


def definition_text(definition: Json) -> bytes:
    return exact_json.dumps(definition, orjson.OPT_SORT_KEYS)


def definition_hash(definition: Json, unpinned: Collection[str] = ()) -> str:
    return canonical.digest(definition_text(hashed_members(definition, unpinned)))


def exceeded_limit(definition: Json) -> str | None:
    """Which limit the definition exceeds, in words, or None."""
    deep = f"its definition is nested over {MAX_DEFINITION_DEPTH} deep"
    try:
        text = exact_json.dumps(definition)
    except orjson.JSONEncodeError:  # over its own limit, which is greater
        return deep
    if len(text) > MAX_DEFINITION_BYTES:
        return f"its definition has {len(text)} bytes, over {MAX_DEFINITION_BYTES}"
    if text.count(b"{") + text.count(b"[") <= MAX_DEFINITION_DEPTH:
        return None
    level: list[Any] = [definition]
    for _ in range(MAX_DEFINITION_DEPTH):
        level = [inner for value in level if isinstance(value, dict | list) for inner in _members(value)]
        if not level:
            return None
    return deep


def _members(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def differing_members(before: Json, after: Json) -> tuple[str, ...]:
    """Names of the members that differ, including those that one side does not have."""
    absent = object()
    names = sorted(before.keys() | after.keys())
    return tuple(name for name in names if not _same(before.get(name, absent), after.get(name, absent)))


def _same(one: Any, other: Any) -> bool:
    """Compares JSON texts, in which `1` is neither `true` nor `1.0`."""
    if type(one) is object or type(other) is object:  # absent on one side
        return False
    return exact_json.dumps(one, orjson.OPT_SORT_KEYS) == exact_json.dumps(other, orjson.OPT_SORT_KEYS)
