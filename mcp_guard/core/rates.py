"""Rates: how much a call adds to each counter, and under which keys. Exact integers throughout, never floats. Pure.

A counter counts calls, or sums an amount in their arguments in ten-thousandths (the four digits of a Cedar decimal).
One that is grouped by an argument which holds a list counts the call for each of its elements.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from typing import Any

from mcp_guard.core.canonical import read_pointer
from mcp_guard.core.exact_json import to_decimal
from mcp_guard.core.model import Call, RateCounter
from mcp_guard.core.normal_form import normalize
from mcp_guard.core.visible_text import is_hidden

DECIMAL_DIGITS = 4
MAX_TOTAL = 922_337_203_685_477_5807
"""The largest value of a Cedar decimal, in ten-thousandths; also the largest integer in SQLite."""
ARGUMENT = "argument:"
"""What a counter is grouped by, if it is the value of an argument: followed by a JSON pointer."""
MAX_KEYS = 100
"""How many counterparties one call may have."""

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
    """What the call adds to each counter. Raises: ValueError if it has no amount that can be summed exactly, or lacks
    an argument that it is counted by."""
    increments = []
    for counter in counters:
        amount = counted_amount(counter, call)
        times = Counter(counter_keys(counter, call))
        increments += [RateIncrement(counter, key, amount * count) for key, count in times.items()]
    return increments


def counted_values(uses: Iterable[tuple[RateIncrement, int]]) -> dict[str, RateValue]:
    """The value of each counter, from its increments and the totals before them: under several keys, the largest."""
    values: dict[str, RateValue] = {}
    for use, before in uses:
        value, name = use.value(before), use.counter.name
        values[name] = max(value, values[name]) if name in values else value
    return values


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
    amount = to_decimal(value)
    scaled = None if amount is None else abs(amount).scaleb(DECIMAL_DIGITS)
    if scaled is None or scaled != scaled.to_integral_value() or scaled > MAX_TOTAL:
        raise ValueError(
            f"rate `{counter.name}`: {value} cannot be summed exactly (more than four decimal places, or too large)"
        )
    return int(scaled)


def counter_keys(counter: RateCounter, call: Call) -> list[str]:
    """The keys under which calls are counted together: one part for each thing that the counter is grouped by. A key is
    there as often as the call names it: who is in a list twice may be paid twice.

    Raises: ValueError.
    """
    if not any(part.startswith(ARGUMENT) for part in counter.by):
        return ["\x1f".join(KEY_PARTS[part](call) for part in counter.by)]
    if not is_counted(counter, call):
        return [""]
    parts = [
        _argument_keys(counter, part.removeprefix(ARGUMENT), call)
        if part.startswith(ARGUMENT)
        else [KEY_PARTS[part](call)]
        for part in counter.by
    ]
    keys = ["\x1f".join(key) for key in product(*parts)]
    if len(keys) > MAX_KEYS:
        raise ValueError(f"rate `{counter.name}` counts a call under at most {MAX_KEYS} values at once")
    return keys


def _argument_keys(counter: RateCounter, pointer: str, call: Call) -> list[str]:
    """A hash of the value, or of each element of a list: the ledger keeps keys, and no values of arguments in clear."""
    try:
        value = read_pointer(call.arguments, pointer)
    except KeyError:
        value = None
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(item, str | int | float) and not isinstance(item, bool) for item in values):
        raise ValueError(
            f"rate `{counter.name}` counts by `{pointer}`, which is no text or number, nor a list of them, in this call"
        )
    return [hash_text(folded_value(item)) for item in values]


def hash_text(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


_NUMBER = re.compile(r"[+-]?(\d*)(?:\.(\d*))?(?:e([+-]?\d{1,3}))?")
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
MAX_DECODINGS, MAX_DECODED = 3, 4096
"""How often percent codes are decoded, and in texts of how many characters; no longer one is read as a number."""


def folded_value(value: str | float) -> str:
    """The value without case, accents, spaces, punctuation and leading zeros, so that another spelling of it is no new
    counterparty: `A-7`, `a%2D007` and `a7`; 1000, `1e3` and `1,000`."""
    text = plain_value(value)
    is_short = len(text) <= MAX_DECODED
    if "%" in text and is_short:
        from urllib.parse import unquote

        for _ in range(MAX_DECODINGS):
            text = unquote(text)
    if not text.isascii():
        text = normalize("NFKD", text)
    text = text.strip().casefold()
    number = _NUMBER.fullmatch(text) if is_short else None
    if number and (number[1] or number[2]):
        text = _digits(number[1], number[2] or "", int(number[3] or 0))
    return _LEADING_ZEROS.sub("", text.translate({ord(c): _folded_character(c) for c in set(text)})) or text


def _folded_character(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    return character if character.isalnum() and not is_hidden(character) else ""


def _digits(whole: str, fraction: str, exponent: int) -> str:
    """The digits of a number without a point, as if it had been written without an exponent."""
    digits, point = whole + fraction, len(whole) + exponent
    padded = "0" * -point + digits + "0" * (point - len(digits))
    point = max(point, 0)
    return (padded[:point].lstrip("0") or "0") + padded[point:].rstrip("0")


def plain_value(value: str | float) -> str:
    """The value as text; that of 2 and 2.0 is the same."""
    return value if isinstance(value, str) else str(int(value) if value == int(value) else value)


def _user(call: Call) -> str:
    return call.instance.on_behalf_of or f"agent:{call.instance.agent.name}"


KEY_PARTS: Mapping[str, Callable[[Call], str]] = {
    "instance": lambda call: call.instance.id,
    "agent": lambda call: call.instance.agent.name,
    "user": _user,
    "tool": lambda call: call.name,
    "resource": lambda call: f"{call.resource.type}::{folded_value(call.resource.id)}",
}


def counts_as_json(values: Mapping[str, RateValue]) -> dict[str, int | str]:
    """The values as stored in receipts: sums as text, because JSON numbers are not decimals. Without the booleans,
    which are no rates (`core.sequences`)."""
    return {
        name: value if isinstance(value, int) else f"{value:f}"
        for name, value in values.items()
        if not isinstance(value, bool)
    }
