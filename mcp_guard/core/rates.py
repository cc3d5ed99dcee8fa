"""Rates: how much a call adds to each counter, and under which key. Exact integers throughout, never floats. Pure.

A counter counts calls, or sums an amount in their arguments in ten-thousandths (the four digits of a Cedar decimal).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from mcp_guard.core.canonical import read_pointer
from mcp_guard.core.model import Call, RateCounter

DECIMAL_DIGITS = 4
MAX_TOTAL = 922_337_203_685_477_5807
"""The largest value of a Cedar decimal, in ten-thousandths; also the largest integer in SQLite."""

RateValue = int | Decimal
"""A counter's value as policies see it: a count, or an exact sum."""


@dataclass(frozen=True, slots=True)
class RateIncrement:
    """What a call adds to one counter: 1 for a count, ten-thousandths for a sum, 0 if the call does not count."""

    counter: RateCounter
    key: str
    amount: int

    def value(self, before: int) -> RateValue:
        """The value including this call; `before` is the total without it. Raises: ValueError if too large."""
        total = before + self.amount
        if total > MAX_TOTAL:
            raise ValueError(f"rate `{self.counter.name}` exceeds the range that policies can compare")
        return Decimal(total).scaleb(-DECIMAL_DIGITS) if self.counter.sum is not None else total


@dataclass(frozen=True, slots=True)
class RecordedUse:
    """An increment that is in the ledger, as `id`, since the time `at`."""

    id: int
    counter: str
    key: str
    at: int
    amount: int


def rate_increments(call: Call, counters: Iterable[RateCounter]) -> list[RateIncrement]:
    """What the call adds to each counter. Raises: ValueError if it has no amount that can be summed exactly."""
    return [RateIncrement(counter, counter_key(counter, call), counted_amount(counter, call)) for counter in counters]


def is_counted(counter: RateCounter, call: Call) -> bool:
    assert call.tool is not None
    return call.tool.effect in counter.effects and (not counter.tools or call.tool.listed_as in counter.tools)


def counted_amount(counter: RateCounter, call: Call) -> int:
    """Raises: ValueError. A missing amount does not count as zero: the call is denied."""
    if not is_counted(counter, call):
        return 0
    if counter.sum is None:
        return 1
    try:
        value = read_pointer(call.arguments, counter.sum)
    except KeyError:
        raise ValueError(f"rate `{counter.name}` sums `{counter.sum}`, which is missing in this call") from None
    return ten_thousandths(counter, value)


def ten_thousandths(counter: RateCounter, value: Any) -> int:
    """The absolute amount: a negative payment must not lower the total."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"rate `{counter.name}` sums `{counter.sum}`, which is not a number in this call")
    scaled = abs(Decimal(str(value))).scaleb(DECIMAL_DIGITS)
    if scaled != scaled.to_integral_value() or scaled > MAX_TOTAL:
        raise ValueError(
            f"rate `{counter.name}`: {value} cannot be summed exactly (more than four decimal places, or too large)"
        )
    return int(scaled)


def counter_key(counter: RateCounter, call: Call) -> str:
    """The key under which calls are counted together: one part for each thing that the counter is grouped by."""
    return "\x1f".join(_KEY_PARTS[part](call) for part in counter.by)


def _user(call: Call) -> str:
    return call.instance.on_behalf_of or f"agent:{call.instance.agent.name}"


_KEY_PARTS: Mapping[str, Callable[[Call], str]] = {
    "instance": lambda call: call.instance.id,
    "agent": lambda call: call.instance.agent.name,
    "user": _user,
    "tool": lambda call: call.name,
    "resource": lambda call: f"{call.resource.type}::{call.resource.id}",
}
COUNTED_BY = tuple(_KEY_PARTS)


def counts_as_json(values: Mapping[str, RateValue]) -> dict[str, int | str]:
    """The values as stored in receipts: sums as text, because JSON numbers are not decimals."""
    return {name: value if isinstance(value, int) else f"{value:f}" for name, value in values.items()}
