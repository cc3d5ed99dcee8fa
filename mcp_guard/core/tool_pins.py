"""Pins: which definition of a tool was agreed to, and what differs from it. Pure. Stored by `ledger/tool_pins.py`.

A hash covers the whole definition, as the agent is shown it, but for members that the operator took out of it for one
upstream (`unsafe_unpinned`); why nothing is left out by default: docs/decisions/0024. What is hashed is the sorted
JSON that orjson writes, not RFC 8785: schemas may hold numbers that it has no form for.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from mcp_guard.core import canonical
from mcp_guard.core.model import Json

PROMISED = ("name", "title", "description", "annotations", "inputSchema", "outputSchema")
"""Members that no configuration can take out of the hash (promise P6)."""

MAX_DEFINITION_BYTES, MAX_DEFINITION_DEPTH, MAX_TOOLS = 256 * 1024, 64, 2000
"""Bounds on one definition, and on how many tools one upstream may list: what is beyond them is not listed."""


class FirstUse(StrEnum):
    """What becomes of a tool that was never seen before."""

    LISTING = "first-listing"
    """What an upstream lists when it is seen for the first time is pinned; what it adds later is asked for."""
    PIN = "pin"
    ASK = "ask"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class PinRule:
    """What the operator's config says of one upstream's definitions; members in `unpinned` are not hashed."""

    first_use: FirstUse = FirstUse.LISTING
    unpinned: tuple[str, ...] = ()


class PinState(StrEnum):
    """What has been decided of one definition. A tool has one that is pinned, or none."""

    PINNED = "pinned"
    QUARANTINED = "quarantined"
    REFUSED = "refused"
    RETIRED = "retired"
    """Was pinned, until another was accepted in its place."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One definition of one tool. `receipt` is the latest that speaks of it; `why` says how it came to its state."""

    upstream: str
    tool: str
    hash: str
    state: PinState
    definition: Json
    receipt: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a listed tool is kept from use; `pinned` is the definition agreed to, if there is one."""

    because: str
    pinned: Json | None = None


def hashed_members(definition: Json, unpinned: Collection[str] = ()) -> Json:
    """The part of a definition that its hash is of: all of it, unless the operator says otherwise."""
    return {name: value for name, value in definition.items() if name not in unpinned} if unpinned else definition


def definition_text(definition: Json) -> bytes:
    return orjson.dumps(definition, option=orjson.OPT_SORT_KEYS)


def definition_hash(definition: Json, unpinned: Collection[str] = ()) -> str:
    return canonical.digest(definition_text(hashed_members(definition, unpinned)))


def exceeded_limit(definition: Json) -> str | None:
    """What is too much of it, if anything: no tool's definition has a need to be that large."""
    deep = f"its definition is nested over {MAX_DEFINITION_DEPTH} deep"
    try:
        size = len(orjson.dumps(definition))
    except orjson.JSONEncodeError:  # over its own limit, which is greater
        return deep
    if size > MAX_DEFINITION_BYTES:
        return f"its definition has {size} bytes, over {MAX_DEFINITION_BYTES}"
    level: list[Any] = [definition]
    for _ in range(MAX_DEFINITION_DEPTH):
        level = [inner for each in level if isinstance(each, dict | list) for inner in _members(each)]
        if not level:
            return None
    return deep


def _members(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def differing_members(before: Json, after: Json) -> tuple[str, ...]:
    """Names of the members that are not the same, those that are missing on one side included."""
    absent = object()
    names = sorted(before.keys() | after.keys())
    return tuple(name for name in names if not _same(before.get(name, absent), after.get(name, absent)))


def _same(one: Any, other: Any) -> bool:
    """By their JSON, in which `1` is neither `true` nor `1.0`."""
    if type(one) is object or type(other) is object:  # absent on one side
        return False
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)
