"""Drills: requests known to be wrong, which are put before the approvers of a route now and then. Pure.

A drill is a request that people approved before, with something changed that makes it wrong. No call waits for it. What
its approvers sign has a decision hash of a form that no decision about a call has, so it permits nothing; and because
that hash commits to the drill from the start, no other request can be called a drill later.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from mcp_guard.core import canonical
from mcp_guard.core.exact_json import to_decimal
from mcp_guard.core.model import SECOND, Json, Micros

COMMITMENT_TYPE = "mcp-guard/drill/v1"
MAX_DELAY: Micros = 300 * SECOND
"""How long after the request that makes it due a drill is put, at most: a random time, so that they look unrelated."""
MAX_DUE = 3
"""How many drills of a route wait for a request to be made of, so that they do not come all at once."""


@dataclass(frozen=True, slots=True)
class DrillRule:
    """How a request for a tool is made wrong: arguments get other values, or so many times the number, or what another
    request has there. `why` says what is wrong about it."""

    tool: str
    why: str
    arguments: Mapping[str, Any]
    multiply: Mapping[str, int | float]
    borrow: tuple[str, ...]

    def changed(self, given: Json, other: Json | None) -> Json | None:
        """The new values; None if this request does not have what is to be changed, or has it so already. `other` are
        the arguments of another request."""
        values = dict(self.arguments)
        for name, factor in self.multiply.items():
            if (product := _multiplied(given.get(name), factor)) is None:
                return None
            values[name] = product
        for name in self.borrow:
            if other is None or name not in other or name not in given:
                return None
            values[name] = other[name]
        return None if any(name in given and given[name] == value for name, value in values.items()) else values


@dataclass(frozen=True, slots=True)
class Drills:
    """The drills of a route: one for so many requests, by one of the rules."""

    one_in: int
    rules: tuple[DrillRule, ...]


def _multiplied(value: object, factor: float) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = to_decimal(value)
    product = None if number is None else number * Decimal(str(factor))
    if product is None or not abs(product) <= canonical.MAX_SAFE_INTEGER:
        return None
    return int(product) if isinstance(value, int) and product == int(product) else float(product)


# The rate


@dataclass(frozen=True, slots=True)
class DrillCount:
    """The requests of a route, in blocks of `size`. In each block one drill falls due, with the request `drawn`, so the
    rate is exact, and nobody can tell when. `due` are the times of those that were not put yet."""

    size: int
    drawn: int
    counted: int = 0
    due: tuple[Micros, ...] = ()

    def to_json(self) -> Json:
        return {"size": self.size, "drawn": self.drawn, "counted": self.counted, "due": list(self.due)}

    @classmethod
    def from_json(cls, document: Json) -> "DrillCount":
        return cls(**document | {"due": tuple(document["due"])})


def count_request(count: DrillCount | None, one_in: int, draw: Callable[[int], int], now: Micros) -> DrillCount:
    """The count after one more request. `draw` gives a random number below another."""
    if count is None or count.counted == count.size:
        count = DrillCount(one_in, draw(one_in) + 1, due=count.due if count else ())
    count = replace(count, counted=count.counted + 1)
    if count.counted != count.drawn:
        return count
    return replace(count, due=(*count.due, now + draw(MAX_DELAY))[-MAX_DUE:])


# What is signed


def drill_hash(approval: str, drill: Json) -> str:
    """The decision hash of a drill: it commits to all that `drill` says, and to the request that approvers see."""
    return canonical.digest_json({"type": COMMITMENT_TYPE, "approval": approval, **drill})
