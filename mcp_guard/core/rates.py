"""Rates: what one call adds to each counter, and whose counter that is. Exact integers throughout, never floats. Pure.

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
"""The greatest sum that a Cedar decimal can hold, in ten-thousandths; SQLite's integers end there too."""

RateValue = int | Decimal
"""A counter's value as policies see it: a count, or an exact sum."""


@dataclass(frozen=True, slots=True)
class RateIncrement:
    """What a call adds to one counter. `amount` is 1, or ten-thousandths of a sum; 0 if the call does not count."""

    counter: RateCounter
    key: str
    amount: int

    def value(self, before: int) -> RateValue:
        """The counter's value with this call, after all that was counted before it. Raises: ValueError if too great."""
        total = before + self.amount
        if total > MAX_TOTAL:
            raise ValueError(f"rate `{self.counter.name}` is beyond what a policy can compare")
        return Decimal(total).scaleb(-DECIMAL_DIGITS) if self.counter.sum is not None else total


def rate_increments(call: Call, counters: Iterable[RateCounter]) -> list[RateIncrement]:
    """What the call adds to each counter. Raises: ValueError if an amount that is to be counted cannot be."""
    return [RateIncrement(counter, counter_key(counter, call), counted_amount(counter, call)) for counter in counters]


def counted_amount(counter: RateCounter, call: Call) -> int:
    """Raises: ValueError. What has no amount is not taken for zero: the call is denied."""
    assert call.tool is not None
    if call.tool.effect not in counter.effects or (counter.tools and call.tool.listed_as not in counter.tools):
        return 0
    if counter.sum is None:
        return 1
    try:
        found = read_pointer(call.arguments, counter.sum)
    except KeyError:
        raise ValueError(f"rate `{counter.name}` sums `{counter.sum}`, which the call does not have") from None
    return ten_thousandths(counter, found)


def ten_thousandths(counter: RateCounter, found: Any) -> int:
    """An amount, by its absolute value: paying a negative amount back does not lower what was paid."""
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ValueError(f"rate `{counter.name}` sums `{counter.sum}`, which is no number in this call")
    scaled = abs(Decimal(str(found))).scaleb(DECIMAL_DIGITS)
    if scaled != scaled.to_integral_value() or scaled > MAX_TOTAL:
        raise ValueError(f"rate `{counter.name}`: {found} cannot be summed exactly (over four digits, or too great)")
    return int(scaled)


def counter_key(counter: RateCounter, call: Call) -> str:
    """Whose uses are counted together: one name for each thing that the counter goes by."""
    return "\x1f".join(_NAMES[each](call) for each in counter.by)


def _user(call: Call) -> str:
    return call.instance.on_behalf_of or f"agent:{call.instance.agent.name}"


_NAMES: Mapping[str, Callable[[Call], str]] = {
    "instance": lambda call: call.instance.id,
    "agent": lambda call: call.instance.agent.name,
    "user": _user,
    "tool": lambda call: call.name,
    "resource": lambda call: f"{call.resource.type}::{call.resource.id}",
}
COUNTED_BY = tuple(_NAMES)


def counts_as_json(values: Mapping[str, RateValue]) -> dict[str, int | str]:
    """The values as receipts hold them: sums as text, for JSON numbers are no decimals."""
    return {name: value if isinstance(value, int) else f"{value:f}" for name, value in values.items()}
